#pragma once
#include <nanobind/nanobind.h>

namespace pellucid {

void bind_limits(nanobind::module_& m);

}  // namespace pellucid
