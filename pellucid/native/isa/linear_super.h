// Linear layers of types with super-blocks (Q2_K … Q6_K, IQ4_XS): linear.h for weights of factor * code, where the
// factors of 32 or 16 inputs are integers too, and one float scale serves 256.
//
// An expanded panel holds codes that are multiplied by their factors already, so a block of 32 costs one conversion and
// one multiply-add; the scale comes once for 256. A panel read as packed multiplies the sums of codes instead: the same
// integer. It fits: codes times factors are at most 4,096 (Q6_K: 32 * 128), and 32 of them times inputs of at most
// kLargestInput stay below 2^31.
//
// Ladder (AVX2 on a Zen 3 core, one thread's panels of 2,048 inputs on 256 rows, billions of multiply-adds a second;
// Q4_K and Q6_K):
//   as in linear.h: a float scale, and a minimum, every 32 or 16 inputs              64 and 60
//   codes multiplied by their factors                                                67 and 72
//   the minima of 256 inputs one after the other, while sums are in registers        68 and 72
// Tried there and dropped: one integer sum over 256 inputs, with one activation scale for them (up to 75 with
// activations from L1 or L2, but no more than this where they come from L3); the same in pieces of 256 or 512 inputs,
// activations in the order of pieces (65, 64).
#pragma once

namespace PELLUCID_ISA {

using pellucid::kLargestInput;

// Sources of a tile, as in linear.h; `times_factor` makes of a part's sum of codes that of weights without their scale.
template <class C>
struct PackedSuper : Packed<C> {
    using Packed<C>::Packed;
    static constexpr int sums = C::parts, mins = C::has_min ? C::parts : 0;
    PELLUCID_INLINE_MEMBER vi times_factor(vi sum, int part) const {
        return imul(sum, this->codec.factor(this->at, part));
    }
    // Once the super-block's groups have been read: its scale, and the minimum of a part of one.
    PELLUCID_INLINE_MEMBER vf scale() const { return this->codec.d; }
    PELLUCID_INLINE_MEMBER vf min(int group, int part) const {
        constexpr int bytes = Packed<C>::layout.scales + Packed<C>::layout.codes;
        return this->codec.min(this->at - (8 - group) * bytes, part);
    }
    PELLUCID_INLINE_MEMBER void end_super() {}
};

// Expanded: the codes of eight groups, the scale, the minima.
template <class C>
struct ExpandedSuper {
    static constexpr int offset = 0, sums = 1, mins = PackedSuper<C>::mins;
    const uint8_t* at;
    PELLUCID_INLINE_MEMBER explicit ExpandedSuper(const uint8_t* scratch) : at(scratch) {}
    PELLUCID_INLINE_MEMBER void begin() {}
    template <int P>
    PELLUCID_INLINE_MEMBER vi code() const {
        return iload(at + 64 * P);
    }
    PELLUCID_INLINE_MEMBER vi times_factor(vi sum, int) const { return sum; }
    PELLUCID_INLINE_MEMBER void end() { at += 1024; }
    PELLUCID_INLINE_MEMBER vf scale() const { return load((const float*)at); }
    PELLUCID_INLINE_MEMBER vf min(int group, int part) const {
        return load((const float*)(at + 64 * (1 + group * mins + part)));
    }
    PELLUCID_INLINE_MEMBER void end_super() { at += 64 * (1 + 8 * mins); }
};

template <class C>
PELLUCID_INLINE void expand_super(const uint8_t* panel, int64_t k, uint8_t* out) {
    PackedSuper<C> in(panel);
    constexpr int mins = PackedSuper<C>::mins;
    for (int64_t s = 0; s < k / 256; s++) {
        for (int g = 0; g < 8; g++, out += 1024) {
            in.begin();
            unroll<0, C::parts>([&]<int Part>() PELLUCID_INLINED {
                constexpr int steps = 16 / C::parts;
                const vi factor = in.codec.factor(in.at, Part);
                const vi both = ior(iand(factor, iset(0xffff)), sll32<16>(factor));
                unroll<Part * steps, (Part + 1) * steps>([&]<int P>() PELLUCID_INLINED {
                    const vi code = isub16(in.template code<P>(), mask16(iset(-1), C::offset));
                    istore(out + 64 * P, imul16(code, both));
                });
            });
            in.end();
        }
        store((float*)out, in.scale());
        out += 64;
        if constexpr (mins > 0)
            for (int i = 0; i < 8 * mins; i++, out += 64) store((float*)out, in.min(i / mins, i % mins));
    }
}

// Rows [row, row + M) of a panel.
template <int M, class S>
PELLUCID_INLINE void tile_super(S in, const Activations& a, int row, vf (&acc)[M]) {
    const int64_t groups = a.k / 32;
    const Block16* block = a.q16 + block_index(row, 0, groups);
    PELLUCID_UNROLL
    for (int m = 0; m < M; m++) acc[m] = set(0.0f);
    for (int64_t s = 0; s < groups / 8; s++) {
        vf scaled[M];
        PELLUCID_UNROLL
        for (int m = 0; m < M; m++) scaled[m] = set(0.0f);
        for (int g = 0; g < 8; g++, block += kBlockRows) {
            in.begin();
            vi total[M];
            unroll<0, S::sums>([&]<int Part>() PELLUCID_INLINED {
                constexpr int steps = 16 / S::sums;
                vi sum[M];
                PELLUCID_UNROLL
                for (int m = 0; m < M; m++) {
                    const int32_t* sums = row_block(block, m, groups).sums;
                    sum[m] =
                        S::offset == 0 ? iset(0) : iset(-S::offset * (S::sums == 2 ? sums[Part] : sums[0] + sums[1]));
                }
                unroll<Part * steps, (Part + 1) * steps>([&]<int P>() PELLUCID_INLINED {
                    const vi w = in.template code<P>();
                    PELLUCID_UNROLL
                    for (int m = 0; m < M; m++) sum[m] = dot2(sum[m], w, pair(row_block(block, m, groups).q + 2 * P));
                });
                PELLUCID_UNROLL
                for (int m = 0; m < M; m++) {
                    const vi part = in.times_factor(sum[m], Part);
                    total[m] = Part == 0 ? part : iadd(total[m], part);
                }
            });
            PELLUCID_UNROLL
            for (int m = 0; m < M; m++) {
                const Block16& x = row_block(block, m, groups);
                scaled[m] = fma(to_float(total[m]), set(x.scale), scaled[m]);
            }
            in.end();
        }
        const vf scale = in.scale();
        PELLUCID_UNROLL
        for (int m = 0; m < M; m++) acc[m] = fma(scale, scaled[m], acc[m]);
        if constexpr (S::mins > 0) PELLUCID_UNROLL
        for (int i = 0; i < 8 * S::mins; i++) {
            const vf min = in.min(i / S::mins, i % S::mins);
            PELLUCID_UNROLL
            for (int m = 0; m < M; m++) {
                const Block16& x = row_block(block + (i / S::mins - 8) * kBlockRows, m, groups);
                acc[m] = fma(min, set(S::mins == 2 ? x.scale * (float)x.sums[i % S::mins] : x.total), acc[m]);
            }
        }
        in.end_super();
    }
}

template <class C>
void linear_super(const LinearTask& t) {
    if (t.rows <= unpacked_rows<C>) {
        in_tiles<kMaxRows>(t, 0, [&]<int M>(int row, vf(&acc)[M]) PELLUCID_INLINED {
            tile_super<M>(PackedSuper<C>(t.panel), t.in, row, acc);
        });
        return;
    }
    expand_super<C>(t.panel, t.in.k, t.scratch);
    in_tiles<kMaxRows>(t, 0, [&]<int M>(int row, vf(&acc)[M]) PELLUCID_INLINED {
        tile_super<M>(ExpandedSuper<C>(t.scratch), t.in, row, acc);
    });
}

}  // namespace PELLUCID_ISA
