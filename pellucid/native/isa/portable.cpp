#define PELLUCID_ISA pellucid_portable
#include "isa/simd_portable.h"
#include "isa/table.h"

namespace pellucid {
static constexpr Kernels table = PELLUCID_ISA::make_table("portable");
const Kernels& portable_kernels() { return table; }
}  // namespace pellucid
