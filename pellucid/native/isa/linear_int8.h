// Linear layers of the profile with int8 activations: linear.h with one byte for each code and activation.
//
// Codes are unsigned bytes and activations signed ones; the products of four inputs are summed in one 32-bit lane. AVX2
// has no such instruction: it sums pairs in int16, and adds as many pairs there as cannot overflow before it widens.
// Either way a block's sum is exact, and scaled in input order as in linear.h: batches change no bit. Offsets are part
// of the minimum here: a weight is scale * code + min.
//
// Types with signed codes (Q8_0, IQ4, MXFP4) stay with linear.h: 2 * 127 * 128 leaves no room to add pairs, so that
// AVX2 gains nothing over pairs of int16.
//
// Ladder (AVX2 on a Zen 3 core, one thread's tile on 512 rows, billions of multiply-adds a second of CPU time on a busy
// machine; Q4_K and Q6_K of 2,048 inputs, Q4_1 of 576):
//   linear.h                                                                66,  64 and  65
//   this file                                                              110,  81 and 108
//   tiles of 6 rows: no register is left for the sums of blocks             14 to 20 % less
//   pieces of 512 inputs, so that an expanded panel stays in L1              0 to 10 % less
// One row, its panel read as packed: 34, 22 and 39 with linear.h, 55, 32 and 64 with this file.
#pragma once

namespace PELLUCID_ISA {

using pellucid::Block8;

// Four bytes of an activation block in every lane.
PELLUCID_INLINE vi quad(const int8_t* q) {
    int32_t bits;
    __builtin_memcpy(&bits, q, 4);
    return iset(bits);
}

// Products of four that may be added in int16: two of them share each half of a lane.
constexpr int quad_sums(int largest_code, int steps) {
    const int fit = 32767 / (2 * 127 * largest_code);
    return fit < steps ? fit : steps;
}

template <class C>
struct PackedBytes : Packed<C> {
    using Packed<C>::Packed;
    static constexpr int sums = quad_sums(C::largest, 8 / C::parts);
    template <int S>
    PELLUCID_INLINE_MEMBER vi code() const {
        return C::template quad_codes<S>(this->at + Packed<C>::layout.scales);
    }
    PELLUCID_INLINE_MEMBER vf min(int part) const {
        if constexpr (C::has_min)
            return this->codec.min(this->at, part);
        else
            return mul(this->codec.scale(this->at, part), set(-C::offset));
    }
};

template <int Parts, int Sums>
struct ExpandedBytes {
    static constexpr int parts = Parts, sums = Sums;
    static constexpr int bytes = 512 + Parts * 128;
    const uint8_t* at;
    PELLUCID_INLINE_MEMBER explicit ExpandedBytes(const uint8_t* scratch) : at(scratch) {}
    PELLUCID_INLINE_MEMBER void begin() {}
    template <int S>
    PELLUCID_INLINE_MEMBER vi code() const {
        return iload(at + 64 * S);
    }
    PELLUCID_INLINE_MEMBER vf scale(int part) const { return load((const float*)(at + 512 + 64 * part)); }
    PELLUCID_INLINE_MEMBER vf min(int part) const { return load((const float*)(at + 512 + 64 * (Parts + part))); }
    PELLUCID_INLINE_MEMBER void end() { at += bytes; }
};

template <class C>
PELLUCID_INLINE void expand_bytes(const uint8_t* panel, int64_t k, uint8_t* scratch) {
    PackedBytes<C> in(panel);
    for (int64_t g = 0; g < k / 32; g++) {
        in.begin();
        unroll<0, 8>([&]<int S>() PELLUCID_INLINED { istore(scratch + 64 * S, in.template code<S>()); });
        for (int part = 0; part < C::parts; part++) {
            store((float*)(scratch + 512 + 64 * part), in.scale(part));
            store((float*)(scratch + 512 + 64 * (C::parts + part)), in.min(part));
        }
        in.end();
        scratch += ExpandedBytes<C::parts, PackedBytes<C>::sums>::bytes;
    }
}

// Rows [row, row + M) of a panel.
template <int M, class S>
PELLUCID_INLINE void tile_int8(S in, const Activations& a, int row, vf (&acc)[M]) {
    const int64_t groups = a.k / 32;
    const Block8* block = a.q8 + block_index(row, 0, groups);
    PELLUCID_UNROLL
    for (int m = 0; m < M; m++) acc[m] = set(0.0f);
    for (int64_t g = 0; g < groups; g++, block += kBlockRows) {
        in.begin();
        unroll<0, S::parts>([&]<int Part>() PELLUCID_INLINED {
            constexpr int steps = 8 / S::parts;
            vi total[M];
            PELLUCID_UNROLL
            for (int m = 0; m < M; m++) total[m] = iset(0);
            unroll<0, steps / S::sums>([&]<int J>() PELLUCID_INLINED {
                vi sum[M];
                PELLUCID_UNROLL
                for (int m = 0; m < M; m++) sum[m] = iset(0);
                unroll<0, S::sums>([&]<int I>() PELLUCID_INLINED {
                    constexpr int P = Part * steps + J * S::sums + I;
                    const vi w = in.template code<P>();
                    PELLUCID_UNROLL
                    for (int m = 0; m < M; m++) sum[m] = dot4(sum[m], w, quad(row_block(block, m, groups).q + 4 * P));
                });
                PELLUCID_UNROLL
                for (int m = 0; m < M; m++) total[m] = add_dot4(total[m], sum[m]);
            });
            const vf scale = in.scale(Part), min = in.min(Part);
            PELLUCID_UNROLL
            for (int m = 0; m < M; m++) {
                const Block8& x = row_block(block, m, groups);
                acc[m] = fma(to_float(total[m]), mul(scale, set(x.scale)), acc[m]);
                acc[m] = fma(min, set(S::parts == 2 ? x.halves[Part] : x.total), acc[m]);
            }
        });
        in.end();
    }
}

template <class C>
void linear_int8(const LinearTask& t) {
    if (t.rows <= unpacked_rows<C>) {
        in_tiles<kMaxRows>(t, 0, [&]<int M>(int row, vf(&acc)[M]) PELLUCID_INLINED {
            tile_int8<M>(PackedBytes<C>(t.panel), t.in, row, acc);
        });
        return;
    }
    expand_bytes<C>(t.panel, t.in.k, t.scratch);
    using Source = ExpandedBytes<C::parts, PackedBytes<C>::sums>;
    in_tiles<kMaxRows>(
        t, 0, [&]<int M>(int row, vf(&acc)[M]) PELLUCID_INLINED { tile_int8<M>(Source(t.scratch), t.in, row, acc); });
}

static void quantize_row_int8(const float* x, int64_t k, Block8* out) {
    for (int64_t g = 0; g < k / 32; g++, x += 32, out += kBlockRows) {
        int16_t q[32];
        out->scale = quantize_block(x, 127.0f, q);
        int32_t sum[2] = {0, 0};
        for (int h = 0; h < 2; h++)
            for (int i = 0; i < 16; i++) sum[h] += q[16 * h + i];
        out->total = out->scale * (float)(sum[0] + sum[1]);
        for (int h = 0; h < 2; h++) out->halves[h] = out->scale * (float)sum[h];
        // The low bytes of four numbers and of the next four, in turn: the order of quad_codes (codecs.h). In words,
        // since byte by byte it took five times as long and a seventh of a small model's prefill.
        for (int e = 0; e < 4; e++) {
            constexpr uint64_t low = 0x00ff00ff00ff00ff;
            uint64_t fours[2];
            __builtin_memcpy(fours, q + 8 * e, 16);
            const uint64_t eight = (fours[0] & low) | (fours[1] & low) << 8;
            __builtin_memcpy(out->q + 8 * e, &eight, 8);
        }
    }
}

}  // namespace PELLUCID_ISA
