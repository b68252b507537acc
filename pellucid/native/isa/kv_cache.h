// Keys and values as the cache holds them: conversions, and the way of a token's numbers to their slot (kernels.h has
// the layout of a block).
#pragma once

namespace PELLUCID_ISA {

using pellucid::kv_head_bytes;
using pellucid::KvKind;
using pellucid::padded_head;

// What a cached key or value is stored as. `Eighth` is a code of eight bits; 32 of them, of one token and head, share a
// float32 scale, and the scales of a head's block stand behind its codes, [groups of 32, 16] for keys and for values.
struct Half {
    uint16_t bits;
};
struct Brain {
    uint16_t bits;
};
struct Eighth {
    int8_t code;
};
template <class KV>
constexpr KvKind kind_of = KvKind::float32;
template <>
constexpr KvKind kind_of<Half> = KvKind::float16;
template <>
constexpr KvKind kind_of<Brain> = KvKind::bfloat16;
template <>
constexpr KvKind kind_of<Eighth> = KvKind::q8_0;
template <class KV>
constexpr bool is_scaled = kind_of<KV> == KvKind::q8_0;

PELLUCID_INLINE vf load_kv(const float* p) { return load(p); }
PELLUCID_INLINE vf load_kv(const Half* p) { return load_f16(p); }
PELLUCID_INLINE vf load_kv(const Brain* p) { return load_bf16(p); }
PELLUCID_INLINE vf load_kv(const Eighth* p) { return to_float(load_i8((const uint8_t*)p)); }
// The scales of 16 slots, for columns [32 group, 32 group + 32) of a head's block.
PELLUCID_INLINE const float* scales_of(const Eighth* codes, int columns, int group) {
    return (const float*)(codes + 16 * columns) + 16 * group;
}

PELLUCID_INLINE void store_element(float* p, float x) { *p = x; }
PELLUCID_INLINE void store_element(Half* p, float x) { p->bits = to_f16(x); }
PELLUCID_INLINE void store_element(Brain* p, float x) {  // nearest, ties to even
    uint32_t bits;
    __builtin_memcpy(&bits, &x, 4);
    p->bits = (uint16_t)(x != x ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

// `count` numbers, `stride` codes apart, with a scale for each 32, 16 scales apart.
template <class KV>
PELLUCID_INLINE void store_numbers(const float* x, int count, KV* to, int stride, float* scales) {
    if constexpr (!is_scaled<KV>) {
        for (int d = 0; d < count; d++) store_element(to + d * stride, x[d]);
    } else {
        for (int first = 0; first < count; first += 32, scales += 16) {
            const int end = first + 32 < count ? first + 32 : count;
            float largest = 0.0f;
            for (int d = first; d < end; d++) {
                const float size = __builtin_fabsf(x[d]);
                if (size > largest || size != size) largest = size;
            }
            const bool finite = largest < __builtin_inff(), tiny = largest < 1e-30f;
            const float scale = tiny ? 0.0f : largest / 127.0f;
            *scales = scale;
            for (int d = first; d < end; d++) {
                // Adding 1.5 * 2^23 rounds to a whole number. What is not finite is so again when it is read.
                const float whole = finite && !tiny ? x[d] / scale + 12582912.0f - 12582912.0f : 0.0f;
                to[d * stride].code = finite ? (int8_t)(int)whole : 1;
            }
        }
    }
}

template <class KV>
void store_kv(const float* k, const float* v, void* keys, void* values, int64_t slot, int64_t cache_blocks,
              int num_kv_heads, int head_size) {
    const int padded = padded_head(head_size), offset = (int)(slot % 16);
    for (int h = 0; h < num_kv_heads; h++, k += head_size, v += head_size) {
        const int64_t block = h * cache_blocks + slot / 16;
        KV* ks = (KV*)((uint8_t*)keys + block * kv_head_bytes(kind_of<KV>, head_size));
        KV* vs = (KV*)((uint8_t*)values + block * kv_head_bytes(kind_of<KV>, padded));
        store_numbers(k, head_size, ks + offset, 16, (float*)(ks + 16 * head_size) + offset);
        store_numbers(v, head_size, vs + offset * padded, 1, (float*)(vs + 16 * padded) + offset);
    }
}

}  // namespace PELLUCID_ISA
