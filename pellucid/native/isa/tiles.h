// Instructions of AMX, as GCC 12's intrinsics get them wrong: to its optimiser `_tile_loadconfig` reads 8 bytes of 64,
// and a tile's load none at all, so that stores before them may be dropped or come later.
#pragma once
#include <stdint.h>

namespace PELLUCID_ISA {

struct alignas(64) TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
};
static inline void tile_configure(const TileConfig& config) {
    __asm__ volatile("ldtilecfg %0" : : "m"(config) : "memory");
}
static inline void tile_release() { __asm__ volatile("tilerelease"); }
template <int Tile>
static inline void tile_zero() {
    __asm__ volatile("tilezero %%tmm%c0" : : "i"(Tile));
}
template <int Tile>
static inline void tile_load(const void* rows, int64_t stride) {
    __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(rows), "r"(stride), "i"(Tile) : "memory");
}
template <int Tile>
static inline void tile_store(void* rows, int64_t stride) {
    __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(rows), "r"(stride), "i"(Tile) : "memory");
}
// Sums += A × B, where A is rows of bfloat16 and B's rows are pairs of A's columns, 16 outputs side by side.
template <int Sums, int A, int B>
static inline void tile_multiply() {
    __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sums), "i"(A), "i"(B));
}

}  // namespace PELLUCID_ISA
