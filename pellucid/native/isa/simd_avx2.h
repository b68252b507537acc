// Sixteen lanes on AVX2 + FMA + F16C: two 256-bit halves.
#pragma once
#include <immintrin.h>
#include <stdint.h>

#define PELLUCID_INLINE static inline __attribute__((always_inline))
#define PELLUCID_INLINE_MEMBER inline __attribute__((always_inline))

namespace PELLUCID_ISA {

constexpr int kMaxRows = 4;     // rows of one register tile: 8 accumulators + 2 weights + broadcasts fit 16 registers
constexpr int kAttendRows = 6;  // queries of one attention tile: 12 sums, 2 keys, 1 broadcast

struct vf {  // 16 float
    __m256 lo, hi;
};
struct vi {  // 16 int32, or 32 int16 as pairs in 32-bit lanes
    __m256i lo, hi;
};

PELLUCID_INLINE vf load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
PELLUCID_INLINE void store(float* p, vf a) {
    _mm256_storeu_ps(p, a.lo);
    _mm256_storeu_ps(p + 8, a.hi);
}
PELLUCID_INLINE vf set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
PELLUCID_INLINE vf add(vf a, vf b) { return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)}; }
PELLUCID_INLINE vf sub(vf a, vf b) { return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)}; }
PELLUCID_INLINE vf mul(vf a, vf b) { return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)}; }
PELLUCID_INLINE vf div(vf a, vf b) { return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)}; }
PELLUCID_INLINE vf fma(vf a, vf b, vf c) {
    return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
PELLUCID_INLINE vf max(vf a, vf b) { return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)}; }
PELLUCID_INLINE vf min(vf a, vf b) { return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)}; }
PELLUCID_INLINE vf abs(vf a) {
    const __m256 m = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    return {_mm256_and_ps(a.lo, m), _mm256_and_ps(a.hi, m)};
}
// Reductions over the 16 lanes, always in the same tree.
PELLUCID_INLINE float hsum(vf a) {
    __m256 s = _mm256_add_ps(a.lo, a.hi);
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}
PELLUCID_INLINE float hmax(vf a) {
    __m256 s = _mm256_max_ps(a.lo, a.hi);
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_shuffle_ps(q, q, 1)));
}

PELLUCID_INLINE vi iload(const void* p) {
    const __m256i* q = (const __m256i*)p;
    return {_mm256_loadu_si256(q), _mm256_loadu_si256(q + 1)};
}
PELLUCID_INLINE void istore(void* p, vi a) {
    __m256i* q = (__m256i*)p;
    _mm256_storeu_si256(q, a.lo);
    _mm256_storeu_si256(q + 1, a.hi);
}
PELLUCID_INLINE vi iset(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
PELLUCID_INLINE vi iadd(vi a, vi b) { return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)}; }
PELLUCID_INLINE vi imul(vi a, vi b) { return {_mm256_mullo_epi32(a.lo, b.lo), _mm256_mullo_epi32(a.hi, b.hi)}; }
PELLUCID_INLINE vi imul16(vi a, vi b) { return {_mm256_mullo_epi16(a.lo, b.lo), _mm256_mullo_epi16(a.hi, b.hi)}; }
PELLUCID_INLINE vi isub16(vi a, vi b) { return {_mm256_sub_epi16(a.lo, b.lo), _mm256_sub_epi16(a.hi, b.hi)}; }
PELLUCID_INLINE vi iand(vi a, vi b) { return {_mm256_and_si256(a.lo, b.lo), _mm256_and_si256(a.hi, b.hi)}; }
PELLUCID_INLINE vi ior(vi a, vi b) { return {_mm256_or_si256(a.lo, b.lo), _mm256_or_si256(a.hi, b.hi)}; }
template <int N>
PELLUCID_INLINE vi sll16(vi a) {
    return {_mm256_slli_epi16(a.lo, N), _mm256_slli_epi16(a.hi, N)};
}
template <int N>
PELLUCID_INLINE vi srl16(vi a) {
    return {_mm256_srli_epi16(a.lo, N), _mm256_srli_epi16(a.hi, N)};
}
template <int N>
PELLUCID_INLINE vi sra16(vi a) {
    return {_mm256_srai_epi16(a.lo, N), _mm256_srai_epi16(a.hi, N)};
}
template <int N>
PELLUCID_INLINE vi sll32(vi a) {
    return {_mm256_slli_epi32(a.lo, N), _mm256_slli_epi32(a.hi, N)};
}
template <int N>
PELLUCID_INLINE vi srl32(vi a) {
    return {_mm256_srli_epi32(a.lo, N), _mm256_srli_epi32(a.hi, N)};
}
template <int N>
PELLUCID_INLINE vi sra32(vi a) {
    return {_mm256_srai_epi32(a.lo, N), _mm256_srai_epi32(a.hi, N)};
}
// acc + a0*b0 + a1*b1 in each 32-bit lane; exact.
PELLUCID_INLINE vi dot2(vi acc, vi a, vi b) {
    vi r = {_mm256_add_epi32(acc.lo, _mm256_madd_epi16(a.lo, b.lo)),
            _mm256_add_epi32(acc.hi, _mm256_madd_epi16(a.hi, b.hi))};
    // Integer sums may be regrouped, and GCC does: it computes all products first and spills them. The barrier keeps
    // one chain.
    __asm__("" : "+x"(r.lo), "+x"(r.hi));
    return r;
}
// Products of four bytes in each lane, unsigned by signed: dot4 adds them as two pairs in its halves, which must not
// overflow; add_dot4 adds what it gathered to an int32 in each lane.
PELLUCID_INLINE vi dot4(vi acc, vi a, vi b) {
    vi r = {_mm256_add_epi16(acc.lo, _mm256_maddubs_epi16(a.lo, b.lo)),
            _mm256_add_epi16(acc.hi, _mm256_maddubs_epi16(a.hi, b.hi))};
    __asm__("" : "+x"(r.lo), "+x"(r.hi));  // as in dot2
    return r;
}
PELLUCID_INLINE vi add_dot4(vi total, vi acc) {
    const __m256i one = _mm256_set1_epi16(1);
    return {_mm256_add_epi32(total.lo, _mm256_madd_epi16(acc.lo, one)),
            _mm256_add_epi32(total.hi, _mm256_madd_epi16(acc.hi, one))};
}
// table[low byte of each int16], sign-extended; the low byte must be 0…15 and the high byte 0.
PELLUCID_INLINE vi lookup(const int8_t* table, vi index) {
    const __m256i t = _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i*)table));
    const __m256i high = _mm256_set1_epi16((short)0x8000);
    const vi found = {_mm256_shuffle_epi8(t, _mm256_or_si256(index.lo, high)),
                      _mm256_shuffle_epi8(t, _mm256_or_si256(index.hi, high))};
    return sra16<8>(sll16<8>(found));
}
PELLUCID_INLINE vf to_float(vi a) { return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)}; }
PELLUCID_INLINE vi to_int(vf a) {
    return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)};
}  // nearest, ties to even
PELLUCID_INLINE vf as_float(vi a) { return {_mm256_castsi256_ps(a.lo), _mm256_castsi256_ps(a.hi)}; }
PELLUCID_INLINE vi as_int(vf a) { return {_mm256_castps_si256(a.lo), _mm256_castps_si256(a.hi)}; }
PELLUCID_INLINE void store_i16(int16_t* p, vi a) {  // values must fit
    const __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi32(a.lo, a.hi), 0xd8);
    _mm256_storeu_si256((__m256i*)p, packed);
}
PELLUCID_INLINE vi load_u8(const uint8_t* p) {
    const __m128i b = _mm_loadu_si128((const __m128i*)p);
    return {_mm256_cvtepu8_epi32(b), _mm256_cvtepu8_epi32(_mm_srli_si128(b, 8))};
}
PELLUCID_INLINE vi load_i8(const uint8_t* p) {
    // Two loads: the conversions take them as operands, where shifting one load would need a register and an operation.
    return {_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)),
            _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)(p + 8)))};
}
PELLUCID_INLINE vf load_f16(const void* p) {
    const __m128i* q = (const __m128i*)p;
    return {_mm256_cvtph_ps(_mm_loadu_si128(q)), _mm256_cvtph_ps(_mm_loadu_si128(q + 1))};
}
PELLUCID_INLINE vf load_bf16(const void* p) {
    const __m128i* q = (const __m128i*)p;
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(q)), 16)),
            _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(q + 1)), 16))};
}
PELLUCID_INLINE uint16_t to_f16(float x) { return (uint16_t)_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT); }

}  // namespace PELLUCID_ISA
