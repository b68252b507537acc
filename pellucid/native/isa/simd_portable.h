// Sixteen lanes in portable C++: four 128-bit vectors of the compilers' vector extension, which becomes SSE2, NEON or
// plain code. Runs anywhere, and is what the other instruction sets are compared with.
#pragma once
#include <stdint.h>
#include <string.h>
#if defined(__SSE2__)
#include <emmintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define PELLUCID_INLINE static inline __attribute__((always_inline))
#define PELLUCID_INLINE_MEMBER inline __attribute__((always_inline))

namespace PELLUCID_ISA {

constexpr int kMaxRows = 4;     // rows of one register tile
constexpr int kAttendRows = 3;  // queries of one attention tile

typedef float f4 __attribute__((vector_size(16)));
typedef int32_t i4 __attribute__((vector_size(16)));
typedef uint32_t w4 __attribute__((vector_size(16)));
typedef int16_t h8 __attribute__((vector_size(16)));
typedef uint16_t u8 __attribute__((vector_size(16)));

struct vf {  // 16 float
    f4 v[4];
};
struct vi {  // 16 int32, or 32 int16 as pairs in 32-bit lanes
    i4 v[4];
};

#define PELLUCID_QUARTERS(type, expression)                            \
    return type {                                                      \
        {                                                              \
            expression(0), expression(1), expression(2), expression(3) \
        }                                                              \
    }

PELLUCID_INLINE vf load(const float* p) {
    vf r;
    memcpy(&r, p, sizeof r);
    return r;
}
PELLUCID_INLINE void store(float* p, vf a) { memcpy(p, &a, sizeof a); }
PELLUCID_INLINE vf set(float x) {
    const f4 q = {x, x, x, x};
    return {{q, q, q, q}};
}
#define E(i) a.v[i] + b.v[i]
PELLUCID_INLINE vf add(vf a, vf b) { PELLUCID_QUARTERS(vf, E); }
PELLUCID_INLINE vi iadd(vi a, vi b) { PELLUCID_QUARTERS(vi, E); }
#undef E
#define E(i) a.v[i] - b.v[i]
PELLUCID_INLINE vf sub(vf a, vf b) { PELLUCID_QUARTERS(vf, E); }
#undef E
#define E(i) a.v[i] * b.v[i]
PELLUCID_INLINE vf mul(vf a, vf b) { PELLUCID_QUARTERS(vf, E); }
PELLUCID_INLINE vi imul(vi a, vi b) { PELLUCID_QUARTERS(vi, E); }
#undef E
#define E(i) a.v[i] / b.v[i]
PELLUCID_INLINE vf div(vf a, vf b) { PELLUCID_QUARTERS(vf, E); }
#undef E
// Two roundings: fmaf() without hardware behind it would be a hundred times slower.
#define E(i) a.v[i] * b.v[i] + c.v[i]
PELLUCID_INLINE vf fma(vf a, vf b, vf c) { PELLUCID_QUARTERS(vf, E); }
#undef E
#define E(i) a.v[i] > b.v[i] ? a.v[i] : b.v[i]
PELLUCID_INLINE vf max(vf a, vf b) { PELLUCID_QUARTERS(vf, E); }
#undef E
#define E(i) a.v[i] < b.v[i] ? a.v[i] : b.v[i]
PELLUCID_INLINE vf min(vf a, vf b) { PELLUCID_QUARTERS(vf, E); }
#undef E
#define E(i) (f4)((i4)a.v[i] & 0x7fffffff)
PELLUCID_INLINE vf abs(vf a) { PELLUCID_QUARTERS(vf, E); }
#undef E
// Reductions over the 16 lanes, always in the same tree (that of the AVX2 file).
PELLUCID_INLINE float hsum(vf a) {
    const f4 q = (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]);
    return (q[0] + q[2]) + (q[1] + q[3]);
}
PELLUCID_INLINE float hmax(vf a) {
    float lanes[16], r;
    store(lanes, a);
    r = lanes[0];
    for (int i = 1; i < 16; i++) r = r > lanes[i] ? r : lanes[i];
    return r;
}

PELLUCID_INLINE vi iload(const void* p) {
    vi r;
    memcpy(&r, p, sizeof r);
    return r;
}
PELLUCID_INLINE void istore(void* p, vi a) { memcpy(p, &a, sizeof a); }
PELLUCID_INLINE vi iset(int32_t x) {
    const i4 q = {x, x, x, x};
    return {{q, q, q, q}};
}
#define E(i) (i4)((u8)a.v[i] - (u8)b.v[i])
PELLUCID_INLINE vi isub16(vi a, vi b) { PELLUCID_QUARTERS(vi, E); }
#undef E
#define E(i) (i4)((u8)a.v[i] * (u8)b.v[i])
PELLUCID_INLINE vi imul16(vi a, vi b) { PELLUCID_QUARTERS(vi, E); }
#undef E
#define E(i) a.v[i] & b.v[i]
PELLUCID_INLINE vi iand(vi a, vi b) { PELLUCID_QUARTERS(vi, E); }
#undef E
#define E(i) a.v[i] | b.v[i]
PELLUCID_INLINE vi ior(vi a, vi b) { PELLUCID_QUARTERS(vi, E); }
#undef E
#define E(i) (i4)((u8)a.v[i] << N)
template <int N>
PELLUCID_INLINE vi sll16(vi a) {
    PELLUCID_QUARTERS(vi, E);
}
#undef E
#define E(i) (i4)((u8)a.v[i] >> N)
template <int N>
PELLUCID_INLINE vi srl16(vi a) {
    PELLUCID_QUARTERS(vi, E);
}
#undef E
#define E(i) (i4)((h8)a.v[i] >> N)
template <int N>
PELLUCID_INLINE vi sra16(vi a) {
    PELLUCID_QUARTERS(vi, E);
}
#undef E
#define E(i) a.v[i] << N
template <int N>
PELLUCID_INLINE vi sll32(vi a) {
    PELLUCID_QUARTERS(vi, E);
}
#undef E
#define E(i) (i4)((w4)a.v[i] >> N)
template <int N>
PELLUCID_INLINE vi srl32(vi a) {
    PELLUCID_QUARTERS(vi, E);
}
#undef E
#define E(i) a.v[i] >> N
template <int N>
PELLUCID_INLINE vi sra32(vi a) {
    PELLUCID_QUARTERS(vi, E);
}
#undef E
// acc + a0*b0 + a1*b1 in each 32-bit lane; exact.
#if defined(__SSE2__)
#define E(i) acc.v[i] + (i4)_mm_madd_epi16((__m128i)a.v[i], (__m128i)b.v[i])
#elif defined(__aarch64__)
PELLUCID_INLINE i4 pairs(int16x8_t a, int16x8_t b) {
    return (i4)vpaddq_s32(vmull_s16(vget_low_s16(a), vget_low_s16(b)), vmull_high_s16(a, b));
}
#define E(i) acc.v[i] + pairs((int16x8_t)a.v[i], (int16x8_t)b.v[i])
#else
#define E(i) acc.v[i] + (a.v[i] << 16 >> 16) * (b.v[i] << 16 >> 16) + (a.v[i] >> 16) * (b.v[i] >> 16)
#endif
PELLUCID_INLINE vi dot2(vi acc, vi a, vi b) { PELLUCID_QUARTERS(vi, E); }
#undef E
// Products of four bytes in each lane, unsigned by signed: dot4 adds them, add_dot4 adds what it gathered to a total.
PELLUCID_INLINE vi dot4(vi acc, vi a, vi b) {
    const vi even = dot2(acc, iand(a, iset(0x00ff00ff)), sra16<8>(sll16<8>(b)));
    return dot2(even, srl16<8>(a), sra16<8>(b));
}
PELLUCID_INLINE vi add_dot4(vi total, vi acc) { return iadd(total, acc); }
// table[low byte of each int16], sign-extended; the low byte must be 0…15 and the high byte 0.
PELLUCID_INLINE vi lookup(const int8_t* table, vi index) {
    int16_t h[32];
    istore(h, index);
    for (int i = 0; i < 32; i++) h[i] = table[h[i] & 15];
    return iload(h);
}
#define E(i) __builtin_convertvector(a.v[i], f4)
PELLUCID_INLINE vf to_float(vi a) { PELLUCID_QUARTERS(vf, E); }
#undef E
// Nearest, ties to even, for |x| < 2^22: adding 1.5 * 2^23 pushes the fraction out of the mantissa.
#define E(i) (i4)(a.v[i] + 12582912.0f) - 0x4b400000
PELLUCID_INLINE vi to_int(vf a) { PELLUCID_QUARTERS(vi, E); }
#undef E
#define E(i) (f4) a.v[i]
PELLUCID_INLINE vf as_float(vi a) { PELLUCID_QUARTERS(vf, E); }
#undef E
#define E(i) (i4) a.v[i]
PELLUCID_INLINE vi as_int(vf a) { PELLUCID_QUARTERS(vi, E); }
#undef E
PELLUCID_INLINE void store_i16(int16_t* p, vi a) {  // values must fit
    int32_t t[16];
    istore(t, a);
    for (int i = 0; i < 16; i++) p[i] = (int16_t)t[i];
}
template <class T>
PELLUCID_INLINE vi widen(const T* p) {
    int32_t t[16];
    for (int i = 0; i < 16; i++) t[i] = p[i];
    return iload(t);
}
PELLUCID_INLINE vi load_u8(const uint8_t* p) { return widen(p); }
PELLUCID_INLINE vi load_i8(const uint8_t* p) { return widen((const int8_t*)p); }
// IEEE half to single: the bits in place and the exponent raised by 112, twice for Inf and NaN. Subnormals are
// multiplied out from integers: as float32 bits they would be denormal, which counts as zero under FlushDenormals.
#define E(i) half_to_single(h.v[i])
PELLUCID_INLINE f4 half_to_single(i4 h) {
    const i4 size = h & 0x7fff;
    const i4 subnormal = (i4)(__builtin_convertvector(size, f4) * 0x1p-24f);
    const i4 normal = (size << 13) + 0x38000000 + ((size >= 0x7c00) & 0x38000000);
    return (f4)(((size < 0x400) & subnormal) | ((size >= 0x400) & normal) | (h & 0x8000) << 16);
}
PELLUCID_INLINE vf load_f16(const void* p) {
    const vi h = widen((const uint16_t*)p);
    PELLUCID_QUARTERS(vf, E);
}
#undef E
#define E(i) (f4)(h.v[i] << 16)
PELLUCID_INLINE vf load_bf16(const void* p) {
    const vi h = widen((const uint16_t*)p);
    PELLUCID_QUARTERS(vf, E);
}
#undef E
// Single to half, nearest even.
PELLUCID_INLINE uint16_t to_f16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    const uint16_t sign = (uint16_t)((bits >> 16) & 0x8000);
    bits &= 0x7fffffff;
    if (bits > 0x7f800000) return (uint16_t)(sign | 0x7e00);
    if (bits >= 0x477ff000) return (uint16_t)(sign | 0x7c00);
    if (bits < 0x38800000) {  // subnormal half: let the float adder round at 2^-24
        float f;
        memcpy(&f, &bits, 4);
        f += 0.5f;
        memcpy(&bits, &f, 4);
        return (uint16_t)(sign | (bits - 0x3f000000));
    }
    bits += 0xc8000fff + ((bits >> 13) & 1);
    return (uint16_t)(sign | (bits >> 13));
}
#undef PELLUCID_QUARTERS

}  // namespace PELLUCID_ISA
