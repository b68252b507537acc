#define PELLUCID_ISA pellucid_avx512vnni
#include "isa/simd_avx512.h"
#include "isa/table.h"

namespace pellucid {
static constexpr Kernels table = PELLUCID_ISA::make_table("avx512vnni");
const Kernels& avx512vnni_kernels() { return table; }
}  // namespace pellucid
