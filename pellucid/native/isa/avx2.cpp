#define PELLUCID_ISA pellucid_avx2
#include "isa/simd_avx2.h"
#include "isa/table.h"

namespace pellucid {
static constexpr Kernels table = PELLUCID_ISA::make_table("avx2");
const Kernels& avx2_kernels() { return table; }
}  // namespace pellucid
