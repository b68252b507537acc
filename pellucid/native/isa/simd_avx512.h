// Sixteen lanes on AVX-512 (F, BW, DQ, VL): one 512-bit register; with VNNI when the translation unit has it.
#pragma once
#include <immintrin.h>
#include <stdint.h>

#define PELLUCID_INLINE static inline __attribute__((always_inline))
#define PELLUCID_INLINE_MEMBER inline __attribute__((always_inline))

namespace PELLUCID_ISA {

constexpr int kMaxRows = 8;      // rows of one register tile
constexpr int kAttendRows = 12;  // queries of one attention tile

struct vf {  // 16 float
    __m512 v;
};
struct vi {  // 16 int32, or 32 int16 as pairs in 32-bit lanes
    __m512i v;
};

PELLUCID_INLINE vf load(const float* p) { return {_mm512_loadu_ps(p)}; }
PELLUCID_INLINE void store(float* p, vf a) { _mm512_storeu_ps(p, a.v); }
PELLUCID_INLINE vf set(float x) { return {_mm512_set1_ps(x)}; }
PELLUCID_INLINE vf add(vf a, vf b) { return {_mm512_add_ps(a.v, b.v)}; }
PELLUCID_INLINE vf sub(vf a, vf b) { return {_mm512_sub_ps(a.v, b.v)}; }
PELLUCID_INLINE vf mul(vf a, vf b) { return {_mm512_mul_ps(a.v, b.v)}; }
PELLUCID_INLINE vf div(vf a, vf b) { return {_mm512_div_ps(a.v, b.v)}; }
PELLUCID_INLINE vf fma(vf a, vf b, vf c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
PELLUCID_INLINE vf max(vf a, vf b) { return {_mm512_max_ps(a.v, b.v)}; }
PELLUCID_INLINE vf min(vf a, vf b) { return {_mm512_min_ps(a.v, b.v)}; }
PELLUCID_INLINE vf abs(vf a) { return {_mm512_abs_ps(a.v)}; }
// Reductions over the 16 lanes, always in the same tree (that of the AVX2 file).
PELLUCID_INLINE float hsum(vf a) {
    const __m256 s =
        _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a.v), 1)));
    __m128 q = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    q = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(q, _mm_shuffle_ps(q, q, 1)));
}
PELLUCID_INLINE float hmax(vf a) {
    const __m256 s =
        _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(a.v), 1)));
    __m128 q = _mm_max_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    q = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(q, _mm_shuffle_ps(q, q, 1)));
}

PELLUCID_INLINE vi iload(const void* p) { return {_mm512_loadu_si512(p)}; }
PELLUCID_INLINE void istore(void* p, vi a) { _mm512_storeu_si512(p, a.v); }
PELLUCID_INLINE vi iset(int32_t x) { return {_mm512_set1_epi32(x)}; }
PELLUCID_INLINE vi iadd(vi a, vi b) { return {_mm512_add_epi32(a.v, b.v)}; }
PELLUCID_INLINE vi imul(vi a, vi b) { return {_mm512_mullo_epi32(a.v, b.v)}; }
PELLUCID_INLINE vi imul16(vi a, vi b) { return {_mm512_mullo_epi16(a.v, b.v)}; }
PELLUCID_INLINE vi isub16(vi a, vi b) { return {_mm512_sub_epi16(a.v, b.v)}; }
PELLUCID_INLINE vi iand(vi a, vi b) { return {_mm512_and_si512(a.v, b.v)}; }
PELLUCID_INLINE vi ior(vi a, vi b) { return {_mm512_or_si512(a.v, b.v)}; }
template <int N>
PELLUCID_INLINE vi sll16(vi a) {
    return {_mm512_slli_epi16(a.v, N)};
}
template <int N>
PELLUCID_INLINE vi srl16(vi a) {
    return {_mm512_srli_epi16(a.v, N)};
}
template <int N>
PELLUCID_INLINE vi sra16(vi a) {
    return {_mm512_srai_epi16(a.v, N)};
}
template <int N>
PELLUCID_INLINE vi sll32(vi a) {
    return {_mm512_slli_epi32(a.v, N)};
}
template <int N>
PELLUCID_INLINE vi srl32(vi a) {
    return {_mm512_srli_epi32(a.v, N)};
}
template <int N>
PELLUCID_INLINE vi sra32(vi a) {
    return {_mm512_srai_epi32(a.v, N)};
}
// acc + a0*b0 + a1*b1 in each 32-bit lane; exact, so VNNI and the pair of instructions give the same bits.
PELLUCID_INLINE vi dot2(vi acc, vi a, vi b) {
#ifdef __AVX512VNNI__
    return {_mm512_dpwssd_epi32(acc.v, a.v, b.v)};
#else
    vi r = {_mm512_add_epi32(acc.v, _mm512_madd_epi16(a.v, b.v))};
    __asm__("" : "+v"(r.v));  // keeps one chain of sums, as in the AVX2 file
    return r;
#endif
}
// Products of four bytes in each lane, unsigned by signed: dot4 adds them in int32 with VNNI, else as two pairs in its
// halves, which must not overflow; add_dot4 adds what it gathered to an int32 in each lane.
PELLUCID_INLINE vi dot4(vi acc, vi a, vi b) {
#ifdef __AVX512VNNI__
    return {_mm512_dpbusd_epi32(acc.v, a.v, b.v)};
#else
    vi r = {_mm512_add_epi16(acc.v, _mm512_maddubs_epi16(a.v, b.v))};
    __asm__("" : "+v"(r.v));  // as in dot2
    return r;
#endif
}
PELLUCID_INLINE vi add_dot4(vi total, vi acc) {
#ifdef __AVX512VNNI__
    return iadd(total, acc);
#else
    return {_mm512_add_epi32(total.v, _mm512_madd_epi16(acc.v, _mm512_set1_epi16(1)))};
#endif
}
// table[low byte of each int16], sign-extended; the low byte must be 0…15 and the high byte 0.
PELLUCID_INLINE vi lookup(const int8_t* table, vi index) {
    const __m512i t = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i*)table));
    const vi found = {_mm512_shuffle_epi8(t, _mm512_or_si512(index.v, _mm512_set1_epi16((short)0x8000)))};
    return sra16<8>(sll16<8>(found));
}
PELLUCID_INLINE vf to_float(vi a) { return {_mm512_cvtepi32_ps(a.v)}; }
PELLUCID_INLINE vi to_int(vf a) { return {_mm512_cvtps_epi32(a.v)}; }  // nearest, ties to even
PELLUCID_INLINE vf as_float(vi a) { return {_mm512_castsi512_ps(a.v)}; }
PELLUCID_INLINE vi as_int(vf a) { return {_mm512_castps_si512(a.v)}; }
PELLUCID_INLINE void store_i16(int16_t* p, vi a) { _mm256_storeu_si256((__m256i*)p, _mm512_cvtsepi32_epi16(a.v)); }
PELLUCID_INLINE vi load_u8(const uint8_t* p) { return {_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p))}; }
PELLUCID_INLINE vi load_i8(const uint8_t* p) { return {_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p))}; }
PELLUCID_INLINE vf load_f16(const void* p) { return {_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p))}; }
PELLUCID_INLINE vf load_bf16(const void* p) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16))};
}
PELLUCID_INLINE uint16_t to_f16(float x) { return (uint16_t)_cvtss_sh(x, _MM_FROUND_TO_NEAREST_INT); }

}  // namespace PELLUCID_ISA
