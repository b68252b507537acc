#define PELLUCID_ISA pellucid_avx512
#include "isa/simd_avx512.h"
#include "isa/table.h"

namespace pellucid {
static constexpr Kernels table = PELLUCID_ISA::make_table("avx512");
const Kernels& avx512_kernels() { return table; }
}  // namespace pellucid
