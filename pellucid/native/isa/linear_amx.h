// The bfloat16 profile on matrix tiles: what linear_bf16.h computes, 16 rows × 16 outputs × 32 inputs an instruction.
//
// Any number of rows takes tiles, one row too: expanding weights to their order costs no more instructions than using
// them one by one, and no result rests on the tiles' rounding being that of other instructions.
//
// Two panels and 32 rows make four tiles of sums, so that each tile loaded is used twice: as much is then read as the
// second-level cache gives. Panels are expanded in pieces of 512 inputs, which stay in the first-level cache; the
// sums of all rows wait in memory between pieces. A piece is long enough that its stores are done when it is read.
//
// Ladder: none yet. It was written without a machine that has AMX, and checked bit for bit in emulation: decision 9.
#pragma once

namespace PELLUCID_ISA {

using pellucid::kTiledRows;

constexpr int kPiece = 16;  // blocks of 32 inputs

// Tiles 0 to 3 are sums (those of the second panel odd, those of rows 16 to 31 above 1), 4 and 5 rows of activations,
// 6 and 7 pairs of weights.
static void configure_tiles(int rows) {
    TileConfig config;
    for (int tile = 0; tile < 8; tile++) {
        const bool second = tile == 2 || tile == 3 || tile == 5, weights = tile >= 6;
        const int left = second ? rows - 16 : rows;
        config.rows[tile] = (uint8_t)(weights || left > 16 ? 16 : left > 0 ? left : 0);
        config.row_bytes[tile] = config.rows[tile] ? 64 : 0;
    }
    tile_configure(config);
}

// sums [16 * Halves, 32] += rows × a piece of `blocks`. Rows 16 to 31 lie `half` bytes behind the first.
template <int Halves, int Panels>
void multiply_tiles(const uint8_t* rows, int64_t half, const uint8_t* pairs, int blocks, float* sums, bool first) {
    const auto each_sum = [&](auto&& f) PELLUCID_INLINED {
        unroll<0, Halves>([&]<int H>() PELLUCID_INLINED {
            unroll<0, Panels>([&]<int P>()
                                  PELLUCID_INLINED { f.template operator()<2 * H + P>(sums + 512 * H + 16 * P); });
        });
    };
    each_sum([&]<int Tile>(float* at) PELLUCID_INLINED { first ? tile_zero<Tile>() : tile_load<Tile>(at, 128); });
    for (int b = 0; b < blocks; b++, rows += kPairBytes, pairs += kPairBytes) {
        unroll<0, Panels>([&]<int P>() PELLUCID_INLINED { tile_load<6 + P>(pairs + P * kPiece * kPairBytes, 64); });
        unroll<0, Halves>([&]<int H>() PELLUCID_INLINED { tile_load<4 + H>(rows + H * half, 64); });
        each_sum([&]<int Tile>(float*) PELLUCID_INLINED { tile_multiply<Tile, 4 + Tile / 2, 6 + Tile % 2>(); });
    }
    each_sum([&]<int Tile>(float* at) PELLUCID_INLINED { tile_store<Tile>(at, 128); });
}

template <Type T>
void linear_tiles(const LinearTask& t) {
    const FlushDenormals flushed;
    const int64_t blocks = blocks_of_32(t.in.k), half = blocks * kPairBytes;
    const int panels = t.cols > 16 ? 2 : 1;
    uint8_t* pairs = t.scratch;
    float* sums = (float*)(t.scratch + 2 * kPiece * kPairBytes);
    int configured = 0;
    for (int first = 0; first < t.rows; first += kTiledRows) {
        const int rows = t.rows - first < kTiledRows ? t.rows - first : kTiledRows;
        Pairs<T> in[2] = {{t.panel, t.in.k}, {t.panel + pellucid::panel_bytes(T, t.in.k), t.in.k}};
        for (int64_t block = 0; block < blocks; block += kPiece) {
            const int count = (int)(blocks - block < kPiece ? blocks - block : kPiece);
            for (int p = 0; p < panels; p++)
                for (int b = 0; b < count; b++) in[p].expand(pairs + (p * kPiece + b) * kPairBytes);
            for (int row = 0; row < rows; row += 32) {
                const int some = rows - row < 32 ? rows - row : 32;
                if (some != configured) configure_tiles(configured = some);
                const auto multiply = some > 16 ? (panels == 2 ? multiply_tiles<2, 2> : multiply_tiles<2, 1>)
                                                : (panels == 2 ? multiply_tiles<1, 2> : multiply_tiles<1, 1>);
                multiply(t.in.rounded + (first + row) / 16 * half + block * kPairBytes, half, pairs, count,
                         sums + row * 32, block == 0);
            }
        }
        LinearTask part = t;
        for (int p = 0; p < panels; p++) {
            part.cols = t.cols - 16 * p < 16 ? t.cols - 16 * p : 16;
            part.out = t.out + 16 * p;
            part.bias = t.bias ? t.bias + 16 * p : nullptr;
            part.residual = t.residual ? t.residual + 16 * p : nullptr;
            for (int row = 0; row < rows; row++) finish(part, first + row, load(sums + row * 32 + 16 * p));
        }
    }
    tile_release();
}

// Row `row` to its place in tiles: of 16 rows, each 32 inputs in turn.
static void round_row_to_tiles(const float* x, int64_t k, int64_t row, uint8_t* rounded) {
    const FlushDenormals flushed;
    uint8_t* out = rounded + row / 16 * blocks_of_32(k) * kPairBytes + row % 16 * 64;
    for (int64_t i = 0; i < k; i += 32, out += kPairBytes)
        for (int h = 0; h < 2; h++)
            store_i16((int16_t*)out + 16 * h, sra32<16>(as_int(rounded_lanes(x, k, i + 16 * h))));
}

}  // namespace PELLUCID_ISA
