#pragma once
#include <nanobind/nanobind.h>

namespace pellucid {

void bind_text(nanobind::module_& m);

}  // namespace pellucid
