// From stored blocks to panels (types.h). Included by pack.cpp and pack_avx2.cpp, with a namespace in PELLUCID_PACK.
//
// A block is taken apart into codes, one a byte, and those are written as bit planes.
//
// GB/s of stored bytes, one thread of a busy Zen 3              Q4_0  Q4_1  Q5_0  Q8_0  Q4_K  Q5_K  Q6_K  Q2_K  Q3_K
//   eight codes at a time in 64-bit words                        1.3   1.5   0.4   3.1   2.1   0.5   1.2   0.2   0.2
//   the same, codes taken apart group by group: shifts vectorise 1.3   1.5   0.4   3.1   2.1   1.3   1.4   1.3   0.7
//   32 codes at a time with AVX2                                 3.9   3.9   3.3   3.0   4.5   2.8   2.0   2.8   1.3
//
// The same written plainly and compiled for AVX2 was slower than without it (Q4_0: 0.6). Codes of eight bits are bound
// by memory: they are copied, word by word.
#pragma once
#include <algorithm>
#include <cstring>
#include "pack.h"
#ifdef __AVX2__
#include <immintrin.h>
#endif

namespace pellucid::PELLUCID_PACK {

// One stored block, taken apart: a code a byte, up to two float16 bit patterns, up to two scale bytes for each 32
// codes.
struct Block {
    alignas(32) uint8_t codes[256];
    uint16_t header[2];
    uint8_t scales[8][2];
};

inline uint16_t read16(const uint8_t* p) {
    uint16_t x;
    std::memcpy(&x, p, 2);
    return x;
}
inline uint32_t read32(const uint8_t* p) {
    uint32_t x;
    std::memcpy(&x, p, 4);
    return x;
}

// Low nibbles are the first half, high nibbles the second.
inline void split_nibbles32(const uint8_t* q, uint8_t* codes) {
    for (int i = 0; i < 32; i++) codes[i] = q[i] & 15;
    for (int i = 0; i < 32; i++) codes[i + 32] = q[i] >> 4;
}
inline void split_nibbles16(const uint8_t* q, uint8_t* codes) {
#ifdef __AVX2__
    const __m128i both = _mm_loadu_si128((const __m128i*)q);
    const __m256i low = _mm256_set_m128i(_mm_srli_epi16(both, 4), both);
    _mm256_store_si256((__m256i*)codes, _mm256_and_si256(low, _mm256_set1_epi8(15)));
#else
    for (int i = 0; i < 16; i++) codes[i] = q[i] & 15;
    for (int i = 0; i < 16; i++) codes[i + 16] = q[i] >> 4;
#endif
}

// Bit i of `high` becomes bit 4 of code i.
inline void add_fifth_bits(uint32_t high, uint8_t* codes) {
#ifdef __AVX2__
    const __m256i bytes =
        _mm256_shuffle_epi8(_mm256_set1_epi32((int)high),
                            _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303));
    const __m256i bit = _mm256_set1_epi64x((long long)0x8040201008040201);
    const __m256i set = _mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit);
    __m256i* c = (__m256i*)codes;
    _mm256_store_si256(c, _mm256_or_si256(_mm256_load_si256(c), _mm256_and_si256(set, _mm256_set1_epi8(16))));
#else
    for (int i = 0; i < 32; i++) codes[i] |= (uint8_t)((high >> i & 1) << 4);
#endif
}

// The twelve bytes of six-bit scales and minima that Q4_K and Q5_K share.
inline void split_scales(const uint8_t* s, Block& b) {
    for (int g = 0; g < 4; g++) {
        b.scales[g][0] = s[g] & 63;
        b.scales[g][1] = s[g + 4] & 63;
        b.scales[g + 4][0] = (uint8_t)((s[g + 8] & 15) | (s[g] >> 6) << 4);
        b.scales[g + 4][1] = (uint8_t)((s[g + 8] >> 4) | (s[g + 4] >> 6) << 4);
    }
}

// Block layouts as formats/quant.py documents them; the tests compare the two.
template <Type T>
void take_apart(const uint8_t* __restrict p, Block& __restrict b) {
    if constexpr (T == Type::Q4_0 || T == Type::IQ4_NL) {
        b.header[0] = read16(p);
        split_nibbles16(p + 2, b.codes);
    } else if constexpr (T == Type::Q4_1) {
        b.header[0] = read16(p), b.header[1] = read16(p + 2);
        split_nibbles16(p + 4, b.codes);
    } else if constexpr (T == Type::Q5_0 || T == Type::Q5_1) {
        b.header[0] = read16(p);
        if constexpr (T == Type::Q5_1) b.header[1] = read16(p + 2), p += 2;
        split_nibbles16(p + 6, b.codes);
        add_fifth_bits(read32(p + 2), b.codes);
    } else if constexpr (T == Type::Q8_0) {
        b.header[0] = read16(p);
        std::memcpy(b.codes, p + 2, 32);
    } else if constexpr (T == Type::MXFP4) {
        // 2^(e - 128) as bfloat16; the two smallest are subnormal.
        b.header[0] = p[0] >= 2 ? (uint16_t)((p[0] - 1) << 7) : (uint16_t)(0x20 << p[0]);
        split_nibbles16(p + 1, b.codes);
    } else if constexpr (T == Type::Q2_K) {
        b.header[0] = read16(p + 80), b.header[1] = read16(p + 82);
        std::memcpy(b.scales, p, 16);
        for (int g = 0; g < 8; g++)
            for (int i = 0; i < 32; i++) b.codes[32 * g + i] = p[16 + g / 4 * 32 + i] >> 2 * (g % 4) & 3;
    } else if constexpr (T == Type::Q3_K) {
        b.header[0] = read16(p + 108);
        const uint8_t* s = p + 96;
        for (int i = 0; i < 16; i++) {
            const int low = i < 8 ? s[i] & 15 : s[i - 8] >> 4;
            b.scales[i / 2][i % 2] = (uint8_t)((low | (s[8 + i % 4] >> 2 * (i / 4) & 3) << 4) - 32);
        }
        for (int g = 0; g < 8; g++)
            for (int i = 0; i < 32; i++) {
                const int low = p[32 + g / 4 * 32 + i] >> 2 * (g % 4) & 3;
                b.codes[32 * g + i] = (uint8_t)(low | (p[i] >> g & 1) << 2);
            }
    } else if constexpr (T == Type::Q4_K || T == Type::Q5_K) {
        b.header[0] = read16(p), b.header[1] = read16(p + 2);
        split_scales(p + 4, b);
        const uint8_t *high = p + 16, *q = T == Type::Q5_K ? p + 48 : p + 16;
        for (int i = 0; i < 4; i++) split_nibbles32(q + 32 * i, b.codes + 64 * i);
        if constexpr (T == Type::Q5_K)
            for (int g = 0; g < 8; g++)
                for (int i = 0; i < 32; i++) b.codes[32 * g + i] |= (uint8_t)((high[i] >> g & 1) << 4);
    } else if constexpr (T == Type::Q6_K) {
        b.header[0] = read16(p + 208);
        std::memcpy(b.scales, p + 192, 16);
        for (int g = 0; g < 8; g++) {
            const uint8_t *low = p + g / 4 * 64 + g % 2 * 32, *high = p + 128 + g / 4 * 32;
            for (int i = 0; i < 32; i++)
                b.codes[32 * g + i] = (uint8_t)((low[i] >> g % 4 / 2 * 4 & 15) | (high[i] >> 2 * (g % 4) & 3) << 4);
        }
    } else if constexpr (T == Type::IQ4_XS) {
        b.header[0] = read16(p);
        const int high = read16(p + 2);
        for (int g = 0; g < 8; g++) {
            const int low = p[4 + g / 2] >> 4 * (g % 2) & 15;
            b.scales[g][0] = (uint8_t)((low | (high >> 2 * g & 3) << 4) - 32);
            split_nibbles16(p + 8 + 16 * g, b.codes + 32 * g);
        }
    }
}

// Fields of `Bits` bits, the pair of a step in the halves of a 32-bit word; steps P and P + 2 are a byte apart (place
// in codecs.h). `c` is the lane's first word.
#ifdef __AVX2__
inline void put(__m128i words, int word, uint8_t* c) {
    const uint32_t value = (uint32_t)_mm_cvtsi128_si32(words);
    std::memcpy(c + 64 * word, &value, 4);
}
template <int Bits>
void write_plane(const uint8_t* codes, int from_bit, uint8_t* c) {
    const __m256i all = _mm256_load_si256((const __m256i*)codes);
    const __m256i field =
        _mm256_and_si256(_mm256_srl_epi16(all, _mm_cvtsi32_si128(from_bit)), _mm256_set1_epi8((1 << Bits) - 1));
    // Of each eight codes, two of a half-word's fields come together in the bytes 0, 1, 4 and 5.
    const __m256i pairs = _mm256_or_si256(field, _mm256_srli_epi64(field, 16 - Bits));
    const __m256i eights = _mm256_shuffle_epi8(
        pairs, _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 1, 5, 8, 12, 9, 13, -1, -1, -1, -1, -1, -1, -1, -1)));
    const __m128i first = _mm256_castsi256_si128(eights), second = _mm256_extracti128_si256(eights, 1);
    if constexpr (Bits == 4) {
        put(first, 0, c), put(_mm_srli_si128(first, 4), 1, c);
        put(second, 2, c), put(_mm_srli_si128(second, 4), 3, c);
    } else {
        const auto fold = [](__m128i x) { return _mm_or_si128(x, _mm_srli_epi64(x, 32 - 2 * Bits)); };
        if constexpr (Bits == 2)
            put(fold(first), 0, c), put(fold(second), 1, c);
        else
            put(_mm_or_si128(fold(first), _mm_slli_epi32(fold(second), 4)), 0, c);
    }
}
// Bytes: step 2j is bytes 0 and 2 of word j, step 2j + 1 is bytes 1 and 3 (codecs.h, plane8).
inline void write_bytes(const uint8_t* codes, uint8_t* c) {
    const __m256i all = _mm256_load_si256((const __m256i*)codes);
    const __m256i words = _mm256_shuffle_epi8(
        all, _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 2, 1, 3, 4, 6, 5, 7, 8, 10, 9, 11, 12, 14, 13, 15)));
    const __m128i first = _mm256_castsi256_si128(words), second = _mm256_extracti128_si256(words, 1);
    put(first, 0, c), put(_mm_srli_si128(first, 4), 1, c);
    put(_mm_srli_si128(first, 8), 2, c), put(_mm_srli_si128(first, 12), 3, c);
    put(second, 4, c), put(_mm_srli_si128(second, 4), 5, c);
    put(_mm_srli_si128(second, 8), 6, c), put(_mm_srli_si128(second, 12), 7, c);
}
#else
// The `Bits` lowest bits of eight bytes: those of bytes 0, 2, 4, 6 side by side in the low half of the result, those of
// bytes 1, 3, 5, 7 in the high half.
template <int Bits>
uint32_t gather_pairs(uint64_t codes) {
    constexpr uint64_t lowest = 0x0001000100010001 * ((1u << Bits) - 1);
    uint64_t even = codes & lowest, odd = codes >> 8 & lowest;
    even |= even >> (16 - Bits), odd |= odd >> (16 - Bits);
    even |= even >> (32 - 2 * Bits), odd |= odd >> (32 - 2 * Bits);
    constexpr uint32_t mask = (1u << 4 * Bits) - 1;
    return ((uint32_t)even & mask) | ((uint32_t)odd & mask) << 16;
}
template <int Bits>
void write_plane(const uint8_t* codes, int from_bit, uint8_t* c) {
    constexpr int eights = 4 / Bits;                             // of codes, in one word
    constexpr uint32_t two = ((1u << 2 * Bits) - 1) * 0x10001u;  // steps
    for (int w = 0; w < Bits; w++) {
        uint32_t word = 0;
        for (int e = 0; e < eights; e++) {
            uint64_t eight;
            std::memcpy(&eight, codes + 8 * (w * eights + e), 8);
            const uint32_t steps = gather_pairs<Bits>(eight >> from_bit);
            word |= ((steps & two) | (steps >> 2 * Bits & two) << 8) << 2 * Bits * e;
        }
        std::memcpy(c + 64 * w, &word, 4);
    }
}
inline void write_bytes(const uint8_t* codes, uint8_t* c) {
    for (int w = 0; w < 8; w++) {
        const uint32_t q = read32(codes + 4 * w);
        const uint32_t word = (q & 0xff0000ff) | (q & 0xff00) << 8 | (q >> 8 & 0xff00);
        std::memcpy(c + 64 * w, &word, 4);
    }
}
#endif

template <int CodeBytes>
void write_codes(const uint8_t* codes, uint8_t* c) {
    if constexpr (CodeBytes == kPlane8) {
        write_bytes(codes, c);
    } else if constexpr (CodeBytes >= kPlane4) {
        write_plane<4>(codes, 0, c);
        if constexpr (CodeBytes == kPlane4 + kPlane1) write_plane<1>(codes, 4, c + kPlane4);
        if constexpr (CodeBytes == kPlane4 + kPlane2) write_plane<2>(codes, 4, c + kPlane4);
    } else {
        write_plane<2>(codes, 0, c);
        if constexpr (CodeBytes == kPlane2 + kPlane1) write_plane<1>(codes, 2, c + kPlane2);
    }
}

// Whether a block's scales are finite numbers; its codes always are.
template <Type T>
bool is_finite(const uint8_t* stored, const Block& b) {
    if constexpr (T == Type::MXFP4) return stored[0] <= 252;  // 255 is NaN; 253 and 254 pass float32 with large codes
    for (int h = 0; h < layout_of(T).header / 32; h++)
        if ((b.header[h] & 0x7c00) == 0x7c00) return false;
    return true;
}

template <Type T>
int64_t pack_panel(const uint8_t* stored, int64_t lanes, int64_t k, uint8_t* panel) {
    constexpr Layout l = layout_of(T);
    const int64_t blocks = k / 32 / l.groups, row_bytes = blocks * stored_block_bytes(T);
    int64_t bad = kAllFinite;
    for (int64_t b = 0; b < blocks; b++) {
        for (int64_t lane = 0; lane < lanes; lane++) {
            const uint8_t* from = stored + lane * row_bytes + b * stored_block_bytes(T);
            Block block;
            take_apart<T>(from, block);
            if (!is_finite<T>(from, block)) bad = std::min(bad, lane * blocks + b);
            for (int h = 0; h < l.header / 32; h++) std::memcpy(panel + 32 * h + 2 * lane, &block.header[h], 2);
            uint8_t* at = panel + l.header;
            for (int g = 0; g < l.groups; g++, at += l.scales + l.codes) {
                for (int s = 0; s < l.scales / 16; s++) at[16 * s + lane] = block.scales[g][s];
                write_codes<l.codes>(block.codes + 32 * g, at + l.scales + 4 * lane);
            }
        }
        panel += l.header + l.groups * (l.scales + l.codes);
    }
    return bad;
}

// Bits: an unsigned integer of the weights' size. Exponent: its bits that are all ones in NaN and infinity.
template <class Bits, Bits Exponent>
int64_t pack_panel_float(const uint8_t* stored, int64_t lanes, int64_t k, uint8_t* panel) {
    int64_t bad = kAllFinite;
    for (int64_t lane = 0; lane < lanes; lane++)
        for (int64_t i = 0; i < k; i++) {
            Bits x;
            std::memcpy(&x, stored + (lane * k + i) * (int64_t)sizeof x, sizeof x);
            if ((x & Exponent) == Exponent) bad = std::min(bad, lane * k + i);
            std::memcpy(panel + (i * kLanes + lane) * (int64_t)sizeof x, &x, sizeof x);
        }
    return bad;
}

inline PackPanel packer_of(Type type) {
    switch (type) {
        case Type::F32:
            return pack_panel_float<uint32_t, 0x7f800000>;
        case Type::F16:
            return pack_panel_float<uint16_t, 0x7c00>;
        case Type::BF16:
            return pack_panel_float<uint16_t, 0x7f80>;
        case Type::Q4_0:
            return pack_panel<Type::Q4_0>;
        case Type::Q4_1:
            return pack_panel<Type::Q4_1>;
        case Type::Q5_0:
            return pack_panel<Type::Q5_0>;
        case Type::Q5_1:
            return pack_panel<Type::Q5_1>;
        case Type::Q8_0:
            return pack_panel<Type::Q8_0>;
        case Type::Q2_K:
            return pack_panel<Type::Q2_K>;
        case Type::Q3_K:
            return pack_panel<Type::Q3_K>;
        case Type::Q4_K:
            return pack_panel<Type::Q4_K>;
        case Type::Q5_K:
            return pack_panel<Type::Q5_K>;
        case Type::Q6_K:
            return pack_panel<Type::Q6_K>;
        case Type::IQ4_NL:
            return pack_panel<Type::IQ4_NL>;
        case Type::IQ4_XS:
            return pack_panel<Type::IQ4_XS>;
        case Type::MXFP4:
            return pack_panel<Type::MXFP4>;
    }
    return nullptr;
}

}  // namespace pellucid::PELLUCID_PACK
