// Linear layers of the profile with bfloat16 activations: what matrix tiles (AMX) compute, bit for bit.
//
// Activations and weights of any type are rounded to bfloat16 (nearest, ties to even). Inputs are taken in blocks of
// 32, those past the last being zero: a chain of fused multiply-adds over the even ones and one over the odd ones, each
// from zero, then even + odd, then the sum so far plus that; float32, denormals zero. This is the order of TDPBF16PS
// (Intel 64 and IA-32 Software Developer's Manual, volume 2), so every kernel and number of rows gives the same bits.
// The product of two bfloat16 numbers is exact in float32: where it neither overflows nor underflows, a multiplication
// and an addition are the fused multiply-add.
//
// A panel is expanded to pairs once, in the order of a tile: for inputs 2p and 2p + 1 sixteen lanes of two bfloat16.
#pragma once

namespace PELLUCID_ISA {

static constexpr int64_t kPairBytes = 1024;  // of a block of 32 inputs for 16 outputs

// Finite numbers, none of them denormal, to the nearest (ties to even) whose lower 16 bits are zero.
PELLUCID_INLINE vi nearest(vf a) {
    const vi bits = as_int(a);
    return iand(iadd(iadd(bits, iset(0x7fff)), iand(srl32<16>(bits), iset(1))), iset((int32_t)0xffff0000));
}

// Two vectors as the lower and upper halves of each lane, rounded.
PELLUCID_INLINE vi round_pairs(vf even, vf odd) { return ior(srl32<16>(nearest(even)), nearest(odd)); }

// The weights of a panel, a block of 32 inputs at a time.
template <Type T>
struct Pairs {
    using C = Codec<T>;
    Packed<C> in;
    PELLUCID_INLINE_MEMBER Pairs(const uint8_t* panel, int64_t) : in(panel) {}
    PELLUCID_INLINE_MEMBER void expand(uint8_t* out) {
        in.begin();
        unroll<0, C::parts>([&]<int Part>() PELLUCID_INLINED {
            constexpr int steps = 16 / C::parts;
            const vf scale = in.scale(Part);
            unroll<Part * steps, (Part + 1) * steps>([&]<int P>() PELLUCID_INLINED {
                const vi codes = isub16(in.template code<P>(), mask16(iset(-1), C::offset));
                const auto weights = [&](vi code) PELLUCID_INLINED {
                    if constexpr (C::has_min)
                        return fma(to_float(code), scale, in.min(Part));
                    else
                        return mul(to_float(code), scale);
                };
                istore(out + 64 * P, round_pairs(weights(sra32<16>(sll32<16>(codes))), weights(sra32<16>(codes))));
            });
        });
        in.end();
    }
};
template <Type T>
    requires(pellucid::is_float(T))
struct Pairs<T> {
    const uint8_t* panel;
    int64_t k, at = 0;
    PELLUCID_INLINE_MEMBER Pairs(const uint8_t* panel, int64_t k) : panel(panel), k(k) {}
    PELLUCID_INLINE_MEMBER void expand(uint8_t* out) {
        // Adding zero makes denormals zero.
        const auto weights = [&](int64_t i) PELLUCID_INLINED {
            return i < k ? add(load_weights<T>(panel, i), set(0.0f)) : set(0.0f);
        };
        for (int p = 0; p < 16; p++, at += 2) istore(out + 64 * p, round_pairs(weights(at), weights(at + 1)));
    }
};

static constexpr int64_t blocks_of_32(int64_t k) { return (k + 31) / 32; }

// Rows [row, row + M) of a panel.
template <int M>
PELLUCID_INLINE void tile_bf16(const uint8_t* pairs, const Activations& a, int row, vf (&acc)[M]) {
    const int64_t blocks = blocks_of_32(a.k), stride = blocks * 32;
    const float* x = (const float*)a.rounded + row * stride;
    PELLUCID_UNROLL
    for (int m = 0; m < M; m++) acc[m] = set(0.0f);
    for (int64_t b = 0; b < blocks; b++, x += 32, pairs += kPairBytes) {
        vf sum[2][M];
        unroll<0, 2>([&]<int Odd>() PELLUCID_INLINED {
            unroll<0, 16>([&]<int P>() PELLUCID_INLINED {
                const vi both = iload(pairs + 64 * P);
                const vf w = as_float(Odd ? iand(both, iset((int32_t)0xffff0000)) : sll32<16>(both));
                PELLUCID_UNROLL
                for (int m = 0; m < M; m++) {
                    const vf v = set(x[m * stride + 2 * P + Odd]);
                    sum[Odd][m] = P == 0 ? mul(w, v) : fma(w, v, sum[Odd][m]);
                }
            });
        });
        PELLUCID_UNROLL
        for (int m = 0; m < M; m++) acc[m] = add(acc[m], add(sum[0][m], sum[1][m]));
    }
}

// All rows, from the panel that the scratch holds; the same for every type.
static void multiply_pairs(const LinearTask& t) {
    in_tiles<kAttendRows>(
        t, 0, [&]<int M>(int row, vf(&acc)[M]) PELLUCID_INLINED { tile_bf16<M>(t.scratch, t.in, row, acc); });
}

template <Type T>
void linear_bf16(const LinearTask& t) {
    const FlushDenormals flushed;
    Pairs<T> in(t.panel, t.in.k);
    for (int64_t b = 0; b < blocks_of_32(t.in.k); b++) in.expand(t.scratch + b * kPairBytes);
    multiply_pairs(t);
}

// Inputs [i, i + 16) of a row, zero from `k` on, as the nearest bfloat16; what is not finite as NaN, so that it shows.
PELLUCID_INLINE vf rounded_lanes(const float* x, int64_t k, int64_t i) {
    float lanes[16] = {0};
    if (i + 16 > k)
        for (int64_t j = i; j < k; j++) lanes[j - i] = x[j];
    const vf given = i + 16 > k ? load(lanes) : load(x + i);
    return add(as_float(nearest(add(given, set(0.0f)))), mul(given, set(0.0f)));
}

// Row `row` to its place: here float32, whole blocks.
static void round_row(const float* x, int64_t k, int64_t row, uint8_t* rounded) {
    const FlushDenormals flushed;
    const int64_t width = blocks_of_32(k) * 32;
    float* out = (float*)rounded + row * width;
    for (int64_t i = 0; i < width; i += 16) store(out + i, rounded_lanes(x, k, i));
}

}  // namespace PELLUCID_ISA
