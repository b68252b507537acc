// The table of kernels that each instruction set fills in. Every function works on one task of one thread and keeps no
// state.
//
// Rules that make results independent of the batch (DESIGN §2.1): a kernel sums each output in one fixed order,
// whatever the number of rows it is called with; block sums of quantised weights are integers and exact; reductions
// over lanes use one tree.
#pragma once
#include "types.h"

namespace pellucid {

// Thirty-two inputs of a row as integers, x ≈ q * scale: an input keeps 14 bits within its block. Twice as many would
// overflow sums of weights with super-blocks (linear_super.h).
constexpr int kLargestInput = 16383;  // |q|
struct Block16 {
    float scale;
    float total;      // scale times the sum of q
    int32_t sums[2];  // of the q of each 16
    int16_t q[32];
};

// The same in the profile with int8 activations: |q| ≤ 127.
struct Block8 {
    float scale;
    float total, halves[2];  // scale times the sum of q: over all, and over each 16
    int8_t q[32];            // each eight as 0 4 1 5 2 6 3 7
};

// Blocks lie as tiles read them: the same block of four rows, then the next block of these rows. One row after the
// other, rows of a power of two would share their lines of cache.
constexpr int64_t kBlockRows = 4;
static constexpr int64_t block_index(int64_t row, int64_t block, int64_t blocks) {
    return (row / kBlockRows * blocks + block) * kBlockRows + row % kBlockRows;
}
static constexpr int64_t num_blocks(int64_t rows, int64_t k) {
    return (rows + kBlockRows - 1) / kBlockRows * kBlockRows * (k / 32);
}

// The input of a linear: float rows for float weights, blocks of integers for quantised ones.
struct Activations {
    const float* x;  // [rows, x_stride]
    int64_t x_stride;
    int64_t k;               // inputs; a multiple of 32 where blocks are used
    const Block16* q16;      // num_blocks(rows, k), in the order of block_index
    const Block8* q8;        // the same for kernels of `linear_int8`
    const uint8_t* rounded;  // for kernels of `linear_bf16`: what `round_row` made of the rows
};

struct LinearTask {  // one panel of up to 16 outputs (or `bf16_panels` of them), for all rows
    const uint8_t* panel;
    Activations in;
    int rows;
    float* out;  // [rows, out_stride]
    int64_t out_stride;
    int cols;               // outputs, 1…16 a panel
    const float* bias;      // [16] a panel, or null
    const float* residual;  // [rows, residual_stride] or null
    int64_t residual_stride;
    uint8_t* scratch;  // linear_scratch_bytes(k)
};

// A panel expanded to int16 codes and float scales, for use by many rows; or, on matrix tiles, parts of two panels as
// bfloat16 and their sums for kTiledRows rows, which an expansion serves.
constexpr int kTiledRows = 1024;
static constexpr int64_t linear_scratch_bytes(int64_t k) {
    const int64_t expanded = (k / 32 + 1) * (1024 + 4 * 64), tiled = 2 * 16384 + kTiledRows * 2 * 64;
    return expanded > tiled ? expanded : tiled;
}

constexpr int kKeyChunk = 64;    // keys summed at once; chunks start at absolute multiples of it
constexpr int kKeyPart = 512;    // keys between two merges of softmax states; parts start at absolute multiples of it
constexpr int kMaxQueries = 64;  // queries (rows × heads) of one attention task, unless one row has more

struct AttendTask {  // consecutive rows of one sequence, for the query heads that share one kv head
    const float* q;  // [rows, q_stride], first row's first head
    int64_t q_stride;
    float* out;  // [rows, out_stride]
    int64_t out_stride;
    const int32_t* positions;  // [rows]
    int rows, group;           // heads of a group are head_size apart
    const void* keys;          // this layer's cache, [num_kv_heads, cache_blocks, head_size, 16] (attention.h)
    const void* values;        // [num_kv_heads, cache_blocks, 16, padded head_size]
    int64_t cache_blocks;
    const int32_t* block_table;
    int64_t num_blocks;  // of the block table
    int kv_head, head_size;
    float scale, softcap;
    int window;
    float* scratch;  // attend_scratch_bytes(group, head_size)
    // Null for all keys at once. Otherwise [rows * group, padded head_size + 2]: sums of values, largest score, sum of
    // weights; `attend` fills those of one part, `merge_parts` reads all of them.
    float* partial;
    int64_t part, part_stride;
};

// What inputs of linears are rounded to: decisions 1, 8 and 9.
enum class Rounding : int { int16 = 0, int8 = 1, bfloat16 = 2 };
constexpr int kNumRoundings = 3;
// Room for rows rounded to bfloat16, however a kernel lays them out.
static constexpr int64_t rounded_bytes(int64_t rows, int64_t k) {
    return (rows + 15) / 16 * 16 * ((k + 31) / 32 * 32) * 4;
}

// What cached keys and values are stored as; the numbers index Kernels::store_kv and attend.
enum class KvKind : int { float32 = 0, float16 = 1, bfloat16 = 2, q8_0 = 3 };
constexpr int kNumKvKinds = 4;
// Bytes of one head's block of 16 slots with `columns` numbers each; 32 codes of q8_0 share a float32 scale.
static constexpr int64_t kv_head_bytes(KvKind kind, int64_t columns) {
    switch (kind) {
        case KvKind::float32:
            return 64 * columns;
        case KvKind::q8_0:
            return 16 * columns + 64 * ((columns + 31) / 32);
        default:
            return 32 * columns;
    }
}

static constexpr int padded_head(int head_size) { return (head_size + 15) / 16 * 16; }
static constexpr int attend_rows(int group) { return group < kMaxQueries ? kMaxQueries / group : 1; }
static constexpr int64_t attend_scratch_bytes(int group, int head_size) {
    return (int64_t)attend_rows(group) * group * (3 * 4 * padded_head(head_size) + 96);
}

enum class Act : int { silu = 0, gelu_tanh = 1, gelu = 2 };

struct Kernels {
    const char* name;
    void (*linear[kNumTypes])(const LinearTask&);
    void (*linear_int8[kNumTypes])(const LinearTask&);  // null for a type that has none
    void (*linear_bf16[kNumTypes])(const LinearTask&);
    int bf16_panels;  // that those take at once, side by side
    // One output row of a packed matrix in float32, times `scale`.
    void (*weight_row[kNumTypes])(const uint8_t* panel, int64_t k, int lane, float scale, float* out);
    // A row's blocks; `out` is its first, those after it are kBlockRows apart.
    void (*quantize_row)(const float* x, int64_t k, Block16* out);
    void (*quantize_row_int8)(const float* x, int64_t k, Block8* out);
    void (*round_row)(const float* x, int64_t k, int64_t row, uint8_t* rounded);
    void (*rms_norm)(const float* x, const float* weight, int64_t n, float eps, float* out);
    void (*layer_norm)(const float* x, const float* weight, const float* bias, int64_t n, float eps, float* out);
    // cos and sin are [rotary / 2] of one position.
    void (*rope)(const float* x, const float* cos, const float* sin, int64_t width, int head_size, int rotary,
                 bool interleaved, float* out);
    void (*glu)(const float* gate, const float* up, int64_t n, Act act, float* out);
    void (*activate)(const float* x, int64_t n, Act act, float* out);
    void (*add)(const float* a, const float* b, int64_t n, float* out);
    void (*softcap)(const float* x, int64_t n, float cap, float* out);
    // One token's key and value into its slot of a layer's cache, for all kv heads.
    void (*store_kv[kNumKvKinds])(const float* k, const float* v, void* keys, void* values, int64_t slot,
                                  int64_t cache_blocks, int num_kv_heads, int head_size);
    void (*attend[kNumKvKinds])(const AttendTask&);
    void (*merge_parts)(const AttendTask&);
    // Chains of multiply-adds for the measurement of limits: `chains` vectors of kLanes, each `rounds` times.
    void (*multiply_floats)(int64_t rounds, float* out);
    void (*multiply_integers)(int64_t rounds, int32_t* out);
    int chains;
};

enum class Isa { portable, avx2, avx512, avx512vnni, amx };
constexpr int kNumIsas = 5;
const Kernels& portable_kernels();
const Kernels& avx2_kernels();
const Kernels& avx512_kernels();
const Kernels& avx512vnni_kernels();
const Kernels& amx_kernels();

}  // namespace pellucid
