// The kernels of AVX-512 VNNI, and matrix tiles for the bfloat16 profile.
#define PELLUCID_ISA pellucid_amx
#include "isa/simd_avx512.h"
// clang-format off
#include "isa/table.h"
#include "isa/tiles.h"
#include "isa/linear_amx.h"
// clang-format on

namespace PELLUCID_ISA {

template <Type... T>
static pellucid::Kernels with_tiles(Types<T...>) {
    pellucid::Kernels k = pellucid::avx512vnni_kernels();
    k.name = "amx";
    ((k.linear_bf16[(int)T] = linear_tiles<T>), ...);
    k.round_row = round_row_to_tiles;
    k.bf16_panels = 2;
    return k;
}

}  // namespace PELLUCID_ISA

namespace pellucid {
const Kernels& amx_kernels() {
    static const Kernels table = PELLUCID_ISA::with_tiles(PELLUCID_ISA::StoredTypes());
    return table;
}
}  // namespace pellucid
