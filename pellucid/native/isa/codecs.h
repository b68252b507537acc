// How each stored type yields integer codes and float scales from its packed panel (layout: types.h).
//
// A codec has: `code<P>(codes)`, step P (inputs 2P and 2P+1) of one group; `parts`, the number of scales in a group (1
// or 2); `offset`, subtracted from every code; `has_min`, whether a constant is added to every weight of a part; and a
// reader of scales: `begin(header)`, then `scale(scales, part)` and `min(scales, part)`. A weight is scale * (code -
// offset) + min. In super-blocks a scale is `d` times the integer `factor(scales, part)`. `one_field` tells that a code
// is read with a shift and a mask alone. Where codes are unsigned, also `largest`, the largest of them, and
// `quad_codes<S>(codes)`, step S of four inputs as bytes.
#pragma once

namespace PELLUCID_ISA {

using pellucid::Type;

// Bit field of the planes: shift right by N, or left by -N, and mask.
template <int N>
PELLUCID_INLINE vi shift(vi a) {
    if constexpr (N > 0)
        return srl16<N>(a);
    else if constexpr (N < 0)
        return sll16<-N>(a);
    else
        return a;
}
PELLUCID_INLINE vi mask16(vi a, int m) { return iand(a, iset(m | m << 16)); }

// Where step P lies in its word, in fields of `Bits` bits: steps P and P + 2 are a byte apart (pack_code.h).
template <int Bits, int P>
constexpr int place = P % 4 / 2 * (8 / Bits) + P % (16 / Bits) / 4 * 2 + P % 2;

// The field of step P in each int16, placed at bit `At`; Both: that of step P + 2 as well, in the upper byte.
template <int Bits, int P, int At, bool Both = false>
PELLUCID_INLINE vi plane(const uint8_t* c) {
    constexpr int field = ((1 << Bits) - 1) << At;
    return mask16(shift<Bits * place<Bits, P> - At>(iload(c + 64 * (P / (16 / Bits)))), Both ? field * 0x101 : field);
}
template <int P>
PELLUCID_INLINE vi plane8(const uint8_t* c) {
    const vi w = iload(c + 64 * (P / 2));
    if constexpr (P % 2 == 0)
        return sra16<8>(sll16<8>(w));
    else
        return sra16<8>(w);
}

// Unsigned codes of `Low` bits, and `High` bits above them in a plane of their own.
template <int Low, int High>
struct Planes {
    static constexpr int largest = (1 << (Low + High)) - 1;
    static constexpr bool one_field = High == 0;
    template <int P, bool Both = false>
    PELLUCID_INLINE vi code(const uint8_t* c) {
        if constexpr (High == 0)
            return plane<Low, P, 0, Both>(c);
        else
            return ior(plane<Low, P, 0, Both>(c), plane<High, P, Low, Both>(c + 64 * Low));
    }
    // Step S of four inputs: those of steps P and P + 2, as the bytes 0, 2 and 1, 3 of each lane.
    template <int S>
    PELLUCID_INLINE vi quad_codes(const uint8_t* c) {
        return code<S / 2 * 4 + S % 2, true>(c);
    }
};
struct Codes8 {
    static constexpr bool one_field = true;
    template <int P>
    PELLUCID_INLINE vi code(const uint8_t* c) {
        return plane8<P>(c);
    }
};
struct CodesIq4 {
    static constexpr bool one_field = false;
    template <int P>
    PELLUCID_INLINE vi code(const uint8_t* c) {
        return lookup(pellucid::kIq4Values, plane<4, P, 0>(c));
    }
};
struct CodesMxfp4 {
    static constexpr bool one_field = false;
    template <int P>
    PELLUCID_INLINE vi code(const uint8_t* c) {
        return lookup(pellucid::kMxfp4Values, plane<4, P, 0>(c));
    }
};

template <Type T, class C, int Parts, int Offset, bool Min>
struct Base : C {
    static constexpr Type type = T;
    static constexpr int parts = Parts, offset = Offset;
    static constexpr bool has_min = Min;
};

// One float16 scale a block.
template <Type T, class C, int Offset>
struct Simple : Base<T, C, 1, Offset, false> {
    vf d;
    PELLUCID_INLINE_MEMBER void begin(const uint8_t* h) { d = load_f16(h); }
    PELLUCID_INLINE_MEMBER vf scale(const uint8_t*, int) const { return d; }
};
// A float16 scale and minimum a block.
template <Type T, class C>
struct Affine : Base<T, C, 1, 0, true> {
    vf d, m;
    PELLUCID_INLINE_MEMBER void begin(const uint8_t* h) {
        d = load_f16(h);
        m = load_f16(h + 32);
    }
    PELLUCID_INLINE_MEMBER vf scale(const uint8_t*, int) const { return d; }
    PELLUCID_INLINE_MEMBER vf min(const uint8_t*, int) const { return m; }
};
// Super-blocks of 256 with six-bit scales and minima for each 32: Q4_K, Q5_K.
template <Type T, class C>
struct SuperAffine : Base<T, C, 1, 0, true> {
    vf d, dmin;
    PELLUCID_INLINE_MEMBER void begin(const uint8_t* h) {
        d = load_f16(h);
        dmin = sub(set(0.0f), load_f16(h + 32));
    }
    PELLUCID_INLINE_MEMBER vi factor(const uint8_t* s, int) const { return load_u8(s); }
    PELLUCID_INLINE_MEMBER vf scale(const uint8_t* s, int part) const { return mul(d, to_float(factor(s, part))); }
    PELLUCID_INLINE_MEMBER vf min(const uint8_t* s, int) const { return mul(dmin, to_float(load_u8(s + 16))); }
};
// Super-blocks of 256 with signed scales for each 16 (two parts) or 32 (one): Q3_K, Q6_K, IQ4_XS.
template <Type T, class C, int Parts, int Offset>
struct SuperSigned : Base<T, C, Parts, Offset, false> {
    vf d;
    PELLUCID_INLINE_MEMBER void begin(const uint8_t* h) { d = load_f16(h); }
    PELLUCID_INLINE_MEMBER vi factor(const uint8_t* s, int part) const { return load_i8(s + 16 * part); }
    PELLUCID_INLINE_MEMBER vf scale(const uint8_t* s, int part) const { return mul(d, to_float(factor(s, part))); }
};

template <Type T>
struct Codec;
template <>
struct Codec<Type::Q4_0> : Simple<Type::Q4_0, Planes<4, 0>, 8> {};
template <>
struct Codec<Type::Q5_0> : Simple<Type::Q5_0, Planes<4, 1>, 16> {};
template <>
struct Codec<Type::Q8_0> : Simple<Type::Q8_0, Codes8, 0> {};
template <>
struct Codec<Type::IQ4_NL> : Simple<Type::IQ4_NL, CodesIq4, 0> {};
template <>
struct Codec<Type::Q4_1> : Affine<Type::Q4_1, Planes<4, 0>> {};
template <>
struct Codec<Type::Q5_1> : Affine<Type::Q5_1, Planes<4, 1>> {};
template <>
struct Codec<Type::Q4_K> : SuperAffine<Type::Q4_K, Planes<4, 0>> {};
template <>
struct Codec<Type::Q5_K> : SuperAffine<Type::Q5_K, Planes<4, 1>> {};
template <>
struct Codec<Type::Q3_K> : SuperSigned<Type::Q3_K, Planes<2, 1>, 2, 4> {};
template <>
struct Codec<Type::Q6_K> : SuperSigned<Type::Q6_K, Planes<4, 2>, 2, 32> {};
template <>
struct Codec<Type::IQ4_XS> : SuperSigned<Type::IQ4_XS, CodesIq4, 1, 0> {};
// Power-of-two scales, kept as bfloat16; the codebook is doubled, the scale halved.
template <>
struct Codec<Type::MXFP4> : Base<Type::MXFP4, CodesMxfp4, 1, 0, false> {
    vf d;
    PELLUCID_INLINE_MEMBER void begin(const uint8_t* h) { d = load_bf16(h); }
    PELLUCID_INLINE_MEMBER vf scale(const uint8_t*, int) const { return d; }
};
// Super-blocks of 256 with a nibble of scale and one of minimum for each 16.
template <>
struct Codec<Type::Q2_K> : Base<Type::Q2_K, Planes<2, 0>, 2, 0, true> {
    vf d, dmin;
    PELLUCID_INLINE_MEMBER void begin(const uint8_t* h) {
        d = load_f16(h);
        dmin = sub(set(0.0f), load_f16(h + 32));
    }
    PELLUCID_INLINE_MEMBER vi factor(const uint8_t* s, int part) const { return mask16(load_u8(s + 16 * part), 0x0f); }
    PELLUCID_INLINE_MEMBER vf scale(const uint8_t* s, int part) const { return mul(d, to_float(factor(s, part))); }
    PELLUCID_INLINE_MEMBER vf min(const uint8_t* s, int part) const {
        return mul(dmin, to_float(srl16<4>(load_u8(s + 16 * part))));
    }
};

}  // namespace PELLUCID_ISA
