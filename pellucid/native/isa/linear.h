// Linear layers: out = x Wᵀ (+ bias) (+ residual) for one panel of 16 outputs and any number of rows.
//
// Quantised weights meet activations of 14 bits and a sign: codes and activations are int16, multiplied in pairs and
// summed in int32 over a block of 32 inputs, exactly; then one float multiply-add a block, in input order. An integer
// sum has no order, so a kernel for one row and one for eight give the same bits, and a panel may be expanded first or
// not.
//
// Ladder (AVX2 on a Zen 3 core, SmolLM2 Q4_1; prefill of 512 tokens, tokens per second of CPU time of one thread):
//   lanes are outputs, codes as pairs of int16, a tile of 4 rows, panel expanded once for more rows      220
//   the same with the integer sums pinned to one chain (GCC regrouped them and spilled every product)    333
// One thread's tile on 128 rows of 2,048 inputs, billions of multiply-adds a second of CPU time on a busy machine (a
// pair product and its sum make 104 at most), Q4_1 and Q4_K:
//   as above                                                   52 and  52
//   a row's share of the minima computed once, not by panel    58 and  59
//   lambdas forced inline (GCC kept sums in memory for them)   68 and  67
//   activations in the order of tiles, not row by row          69 and  68   (8,192 inputs: 60 to 61)
// Tried there and dropped: pieces of 512 inputs, so that an expanded panel stays in L1 (3 to 15 % less: activations
// then come from further away); half the multiplications by adding first, (a + y)(b + x) = ab + ax + by + xy (in a loop
// of its own up to 12 % more, in the tile nothing). Without the float part of a block the tile makes 79, and a loop of
// nothing but pair products from cache and their sums 82: the sums take turns with the products in the same units.
// Eight rows, each tile unpacking for itself instead of expanding first: 57 to 64 and 56 to 61.
// Of SmolLM2's prefill, 81 % is this file's, 13 % attention; of a 1B shape's 95 % and 3 %. Decode waits for memory; two
// threads, tokens per second of SmolLM2 and Gemma 3 270M Q4_K_M:
//   as above                                                  139 and  64
//   huge pages for weights, and fetching 2 KiB ahead          201 and  91
// The naive version is the reference executor's `linear`; isa=portable runs this one without intrinsics.
// Figures: docs/performance.md.
#pragma once

namespace PELLUCID_ISA {

using pellucid::Activations;
using pellucid::Block16;
using pellucid::block_index;
using pellucid::kBlockRows;
using pellucid::LinearTask;

// Rows of a tile live in registers: their loops must be unrolled at any optimisation level.
#define PELLUCID_UNROLL _Pragma("GCC unroll 8")
// GCC leaves large lambdas out of line, and everything that lives in registers with them.
#define PELLUCID_INLINED __attribute__((always_inline))

template <int I, int N, class F>
PELLUCID_INLINE void unroll(F&& f) {
    if constexpr (I < N) {
        f.template operator()<I>();
        unroll<I + 1, N>(f);
    }
}

// Bytes between what is unpacked and what is fetched from memory for later.
constexpr int kPrefetch = 2048;

// Where a tile reads a group's codes, scales and minima from: the packed panel itself …
template <class C>
struct Packed {
    static constexpr int parts = C::parts, offset = C::offset;
    static constexpr bool has_min = C::has_min;
    static constexpr pellucid::Layout layout = pellucid::layout_of(C::type);
    C codec;
    const uint8_t* at;
    int left = 0;
    PELLUCID_INLINE_MEMBER explicit Packed(const uint8_t* panel) : at(panel) {}
    PELLUCID_INLINE_MEMBER void begin() {
        for (int i = 0; i < layout.scales + layout.codes; i += 64) __builtin_prefetch(at + kPrefetch + i);
        if (layout.groups == 1 || left == 0) {
            codec.begin(at);
            at += layout.header;
            left = layout.groups;
        }
    }
    template <int P>
    PELLUCID_INLINE_MEMBER vi code() const {
        return C::template code<P>(at + layout.scales);
    }
    PELLUCID_INLINE_MEMBER vf scale(int part) const { return codec.scale(at, part); }
    PELLUCID_INLINE_MEMBER vf min(int part) const { return codec.min(at, part); }
    PELLUCID_INLINE_MEMBER void end() {
        at += layout.scales + layout.codes;
        left--;
    }
};

// … or the scratch it was expanded to, with the offset already subtracted.
template <bool Min>
struct Expanded {
    static constexpr int offset = 0;
    static constexpr bool has_min = Min;
    static constexpr int bytes = 1024 + (Min ? 128 : 64);
    const uint8_t* at;
    PELLUCID_INLINE_MEMBER explicit Expanded(const uint8_t* scratch) : at(scratch) {}
    PELLUCID_INLINE_MEMBER void begin() {}
    template <int P>
    PELLUCID_INLINE_MEMBER vi code() const {
        return iload(at + 64 * P);
    }
    PELLUCID_INLINE_MEMBER vf scale(int) const { return load((const float*)(at + 1024)); }
    PELLUCID_INLINE_MEMBER vf min(int) const { return load((const float*)(at + 1024 + 64)); }
    PELLUCID_INLINE_MEMBER void end() { at += bytes; }
};

template <class C>
PELLUCID_INLINE void expand(const uint8_t* panel, int64_t k, uint8_t* scratch) {
    Packed<C> in(panel);
    for (int64_t g = 0; g < k / 32; g++) {
        in.begin();
        unroll<0, 16>([&]<int P>() PELLUCID_INLINED {
            istore(scratch + 64 * P, isub16(in.template code<P>(), mask16(iset(-1), C::offset)));
        });
        store((float*)(scratch + 1024), in.scale(0));
        if constexpr (C::has_min) store((float*)(scratch + 1024 + 64), in.min(0));
        in.end();
        scratch += Expanded<C::has_min>::bytes;
    }
}

PELLUCID_INLINE vi pair(const int16_t* q) {
    int32_t bits;
    __builtin_memcpy(&bits, q, 4);
    return iset(bits);
}

// The block of the m-th row of a tile whose first row is a multiple of its rows, at `block`.
template <class B>
PELLUCID_INLINE const B& row_block(const B* block, int m, int64_t groups) {
    return block[m / kBlockRows * (kBlockRows * groups) + m % kBlockRows];
}

// Rows [row, row + M) of a panel.
template <int M, class S>
PELLUCID_INLINE void tile(S in, const Activations& a, int row, vf (&acc)[M]) {
    const int64_t groups = a.k / 32;
    const Block16* block = a.q16 + block_index(row, 0, groups);
    PELLUCID_UNROLL
    for (int m = 0; m < M; m++) acc[m] = set(0.0f);
    for (int64_t g = 0; g < groups; g++, block += kBlockRows) {
        in.begin();
        vi total[M];
        PELLUCID_UNROLL
        for (int m = 0; m < M; m++) {
            const int32_t* sums = row_block(block, m, groups).sums;
            total[m] = S::offset == 0 ? iset(0) : iset(-S::offset * (sums[0] + sums[1]));
        }
        unroll<0, 16>([&]<int P>() PELLUCID_INLINED {
            const vi w = in.template code<P>();
            PELLUCID_UNROLL
            for (int m = 0; m < M; m++) total[m] = dot2(total[m], w, pair(row_block(block, m, groups).q + 2 * P));
        });
        const vf ws = in.scale(0);
        PELLUCID_UNROLL
        for (int m = 0; m < M; m++) {
            const Block16& x = row_block(block, m, groups);
            acc[m] = fma(to_float(total[m]), mul(ws, set(x.scale)), acc[m]);
            if constexpr (S::has_min) acc[m] = fma(in.min(0), set(x.total), acc[m]);
        }
        in.end();
    }
}

PELLUCID_INLINE void finish(const LinearTask& t, int row, vf acc) {
    if (t.bias) acc = add(acc, load(t.bias));
    float* out = t.out + row * t.out_stride;
    const float* residual = t.residual ? t.residual + row * t.residual_stride : nullptr;
    if (t.cols == 16) {
        store(out, residual ? add(load(residual), acc) : acc);
        return;
    }
    float lanes[16];
    store(lanes, acc);
    for (int i = 0; i < t.cols; i++) out[i] = residual ? residual[i] + lanes[i] : lanes[i];
}

// All rows in tiles of at most kMaxRows; `tile_of` computes rows [row, row + M).
template <int M, class F>
PELLUCID_INLINE void in_tiles(const LinearTask& t, int row, F&& tile_of) {
    for (; row + M <= t.rows; row += M) {
        vf acc[M];
        tile_of.template operator()<M>(row, acc);
        PELLUCID_UNROLL
        for (int m = 0; m < M; m++) finish(t, row + m, acc[m]);
    }
    if constexpr (M > 1) in_tiles<M / 2>(t, row, tile_of);
}

// Rows up to which each tile unpacks codes for itself; for more the panel is expanded first.
template <class C>
constexpr int unpacked_rows = C::one_field ? 2 * kMaxRows : kMaxRows;

template <class C>
void linear_quantized(const LinearTask& t) {
    if (t.rows <= unpacked_rows<C>) {
        in_tiles<kMaxRows>(
            t, 0, [&]<int M>(int row, vf(&acc)[M]) PELLUCID_INLINED { tile<M>(Packed<C>(t.panel), t.in, row, acc); });
        return;
    }
    expand<C>(t.panel, t.in.k, t.scratch);
    using Source = Expanded<C::has_min>;
    in_tiles<kMaxRows>(
        t, 0, [&]<int M>(int row, vf(&acc)[M]) PELLUCID_INLINED { tile<M>(Source(t.scratch), t.in, row, acc); });
}

template <Type T>
PELLUCID_INLINE vf load_weights(const uint8_t* panel, int64_t k) {
    if constexpr (T == Type::F32)
        return load((const float*)panel + 16 * k);
    else if constexpr (T == Type::F16)
        return load_f16(panel + 32 * k);
    else
        return load_bf16(panel + 32 * k);
}

// Float weights: one chain of multiply-adds for each output, in input order.
template <Type T>
void linear_float(const LinearTask& t) {
    in_tiles<kMaxRows>(t, 0, [&]<int M>(int row, vf(&acc)[M]) PELLUCID_INLINED {
        const float* x = t.in.x + row * t.in.x_stride;
        PELLUCID_UNROLL
        for (int m = 0; m < M; m++) acc[m] = set(0.0f);
        for (int64_t k = 0; k < t.in.k; k++) {
            const vf w = load_weights<T>(t.panel, k);
            PELLUCID_UNROLL
            for (int m = 0; m < M; m++) acc[m] = fma(set(x[m * t.in.x_stride + k]), w, acc[m]);
        }
    });
}

template <class C>
void weight_row_quantized(const uint8_t* panel, int64_t k, int lane, float factor, float* out) {
    Packed<C> in(panel);
    for (int64_t g = 0; g < k / 32; g++, out += 32) {
        in.begin();
        unroll<0, 16>([&]<int P>() PELLUCID_INLINED {
            alignas(64) int16_t codes[32];
            istore(codes, isub16(in.template code<P>(), mask16(iset(-1), C::offset)));
            out[2 * P] = codes[2 * lane];
            out[2 * P + 1] = codes[2 * lane + 1];
        });
        for (int part = 0; part < C::parts; part++) {
            float scale[16], min[16] = {0};
            store(scale, in.scale(part));
            if constexpr (C::has_min) store(min, in.min(part));
            for (int i = 0; i < 32 / C::parts; i++) {
                float& w = out[part * 16 + i];
                w = (scale[lane] * w + min[lane]) * factor;
            }
        }
        in.end();
    }
}

template <Type T>
void weight_row_float(const uint8_t* panel, int64_t k, int lane, float factor, float* out) {
    for (int64_t i = 0; i < k; i++) {
        float lanes[16];
        store(lanes, load_weights<T>(panel, i));
        out[i] = lanes[lane] * factor;
    }
}

// A block of 32 inputs as integers up to `most`; returns its scale. A block that holds NaN or Inf gets a NaN scale, so
// that damage shows instead of rounding.
PELLUCID_INLINE float quantize_block(const float* x, float most, int16_t* q) {
    const vf a = load(x), b = load(x + 16);
    const float largest = hmax(max(abs(a), abs(b)));
    const float damage = hsum(add(mul(a, set(0.0f)), mul(b, set(0.0f))));
    const float inverse = largest > 0.0f ? most / largest : 0.0f;
    // A largest value below 1e-34 would overflow its inverse; such a block is zero.
    const bool tiny = !(inverse < 3.0e38f);
    const vf by = set(tiny ? 0.0f : inverse);
    store_i16(q, to_int(mul(a, by)));
    store_i16(q + 16, to_int(mul(b, by)));
    return largest / most + damage;
}

static void quantize_row(const float* x, int64_t k, Block16* out) {
    for (int64_t g = 0; g < k / 32; g++, x += 32, out += kBlockRows) {
        out->scale = quantize_block(x, (float)pellucid::kLargestInput, out->q);
        for (int h = 0; h < 2; h++) {
            int32_t sum = 0;
            for (int i = 0; i < 16; i++) sum += out->q[16 * h + i];
            out->sums[h] = sum;
        }
        out->total = out->scale * (float)(out->sums[0] + out->sums[1]);
    }
}

}  // namespace PELLUCID_ISA
