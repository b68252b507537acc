// How each stored type yields integer codes and float scales from its packed panel (layout: types.h).
//
// A codec has: `code<P>(codes)`, step P (inputs 2P and 2P+1) of one group; `parts`, the number of scales in a group (1
// or 2); `offset`, subtracted from every code; `has_min`, whether a constant is added to every weight of a part; and a
// reader of scales: `begin(header)`, then `scale(scales, part)` and `min(scales, part)`. A weight is scale * (code -
// offset) + min.
#pragma once

namespace PELLUCID_ISA {

using pellucid::kPlane1;
using pellucid::kPlane2;
using pellucid::kPlane4;
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

template <int P>
PELLUCID_INLINE vi plane4(const uint8_t* c) {
    return mask16(shift<4 * (P % 4)>(iload(c + 64 * (P / 4))), 0x0f);
}
// Two bits of step P, placed at bit `At`.
template <int P, int At>
PELLUCID_INLINE vi plane2(const uint8_t* c) {
    return mask16(shift<2 * (P % 8) - At>(iload(c + 64 * (P / 8))), 3 << At);
}
template <int P, int At>
PELLUCID_INLINE vi plane1(const uint8_t* c) {
    return mask16(shift<P - At>(iload(c)), 1 << At);
}
template <int P>
PELLUCID_INLINE vi plane8(const uint8_t* c) {
    const vi w = iload(c + 64 * (P / 2));
    if constexpr (P % 2 == 0)
        return sra16<8>(sll16<8>(w));
    else
        return sra16<8>(w);
}

struct Codes4 {
    template <int P>
    PELLUCID_INLINE vi code(const uint8_t* c) {
        return plane4<P>(c);
    }
};
struct Codes5 {
    template <int P>
    PELLUCID_INLINE vi code(const uint8_t* c) {
        return ior(plane4<P>(c), plane1<P, 4>(c + kPlane4));
    }
};
struct Codes6 {
    template <int P>
    PELLUCID_INLINE vi code(const uint8_t* c) {
        return ior(plane4<P>(c), plane2<P, 4>(c + kPlane4));
    }
};
struct Codes2 {
    template <int P>
    PELLUCID_INLINE vi code(const uint8_t* c) {
        return plane2<P, 0>(c);
    }
};
struct Codes3 {
    template <int P>
    PELLUCID_INLINE vi code(const uint8_t* c) {
        return ior(plane2<P, 0>(c), plane1<P, 2>(c + kPlane2));
    }
};
struct Codes8 {
    template <int P>
    PELLUCID_INLINE vi code(const uint8_t* c) {
        return plane8<P>(c);
    }
};
struct CodesIq4 {
    template <int P>
    PELLUCID_INLINE vi code(const uint8_t* c) {
        return lookup(pellucid::kIq4Values, plane4<P>(c));
    }
};
struct CodesMxfp4 {
    template <int P>
    PELLUCID_INLINE vi code(const uint8_t* c) {
        return lookup(pellucid::kMxfp4Values, plane4<P>(c));
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
    PELLUCID_INLINE_MEMBER vf scale(const uint8_t* s, int) const { return mul(d, to_float(load_u8(s))); }
    PELLUCID_INLINE_MEMBER vf min(const uint8_t* s, int) const { return mul(dmin, to_float(load_u8(s + 16))); }
};
// Super-blocks of 256 with signed scales for each 16 (two parts) or 32 (one): Q3_K, Q6_K, IQ4_XS.
template <Type T, class C, int Parts, int Offset>
struct SuperSigned : Base<T, C, Parts, Offset, false> {
    vf d;
    PELLUCID_INLINE_MEMBER void begin(const uint8_t* h) { d = load_f16(h); }
    PELLUCID_INLINE_MEMBER vf scale(const uint8_t* s, int part) const {
        return mul(d, to_float(load_i8(s + 16 * part)));
    }
};

template <Type T>
struct Codec;
template <>
struct Codec<Type::Q4_0> : Simple<Type::Q4_0, Codes4, 8> {};
template <>
struct Codec<Type::Q5_0> : Simple<Type::Q5_0, Codes5, 16> {};
template <>
struct Codec<Type::Q8_0> : Simple<Type::Q8_0, Codes8, 0> {};
template <>
struct Codec<Type::IQ4_NL> : Simple<Type::IQ4_NL, CodesIq4, 0> {};
template <>
struct Codec<Type::Q4_1> : Affine<Type::Q4_1, Codes4> {};
template <>
struct Codec<Type::Q5_1> : Affine<Type::Q5_1, Codes5> {};
template <>
struct Codec<Type::Q4_K> : SuperAffine<Type::Q4_K, Codes4> {};
template <>
struct Codec<Type::Q5_K> : SuperAffine<Type::Q5_K, Codes5> {};
template <>
struct Codec<Type::Q3_K> : SuperSigned<Type::Q3_K, Codes3, 2, 4> {};
template <>
struct Codec<Type::Q6_K> : SuperSigned<Type::Q6_K, Codes6, 2, 32> {};
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
struct Codec<Type::Q2_K> : Base<Type::Q2_K, Codes2, 2, 0, true> {
    vf d, dmin;
    PELLUCID_INLINE_MEMBER void begin(const uint8_t* h) {
        d = load_f16(h);
        dmin = sub(set(0.0f), load_f16(h + 32));
    }
    PELLUCID_INLINE_MEMBER vf scale(const uint8_t* s, int part) const {
        return mul(d, to_float(mask16(load_u8(s + 16 * part), 0x0f)));
    }
    PELLUCID_INLINE_MEMBER vf min(const uint8_t* s, int part) const {
        return mul(dmin, to_float(srl16<4>(load_u8(s + 16 * part))));
    }
};

}  // namespace PELLUCID_ISA
