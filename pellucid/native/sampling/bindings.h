#pragma once
#include <nanobind/nanobind.h>

namespace pellucid::sampling {

void bind(nanobind::module_& m);

}  // namespace pellucid::sampling
