// Causal attention over the paged cache, with an online softmax (Milakov & Gimelshein 2018; Dao et al. 2022).
//
// Keys are summed in chunks of 64 at absolute positions, so a row's result depends on its position and cache alone. A
// key block is stored [head_size, 16]: lanes are keys and a score is one chain of multiply-adds; a value block is
// stored [16, head_size]: lanes are channels. Keys a row may not see are never multiplied in: a slot that another
// request left behind may hold anything.
#pragma once

namespace PELLUCID_ISA {

using pellucid::AttendTask;
using pellucid::kKeyChunk;
using pellucid::padded_head;

PELLUCID_INLINE vf load_kv(const float* p) { return load(p); }
PELLUCID_INLINE vf load_kv(const uint16_t* p) { return load_f16(p); }
PELLUCID_INLINE void store_element(float* p, float x) { *p = x; }
PELLUCID_INLINE void store_element(uint16_t* p, float x) { *p = to_f16(x); }

template <class KV>
void store_kv(const float* k, const float* v, void* keys, void* values, int offset, int num_kv_heads, int head_size) {
    const int padded = padded_head(head_size);
    KV *ks = (KV*)keys + offset, *vs = (KV*)values + offset * padded;
    for (int h = 0; h < num_kv_heads; h++, k += head_size, v += head_size, ks += head_size * 16, vs += 16 * padded) {
        for (int d = 0; d < head_size; d++) store_element(ks + d * 16, k[d]);
        for (int d = 0; d < head_size; d++) store_element(vs + d, v[d]);
    }
}

// acc[0:head] += sum over keys [from, to) of p[key] * V[key], in key order.
template <int N, class KV>
PELLUCID_INLINE void add_values(const AttendTask& t, int64_t block, int from, int to, const float* p, int d,
                                float* acc) {
    const int padded = padded_head(t.head_size);
    vf sum[N];
    PELLUCID_UNROLL
    for (int n = 0; n < N; n++) sum[n] = load(acc + d + 16 * n);
    for (int j = from; j < to; j++) {
        const KV* v = (const KV*)t.values +
                      ((t.block_table[block + j / 16] * (int64_t)t.num_kv_heads + t.kv_head) * 16 + j % 16) * padded +
                      d;
        PELLUCID_UNROLL
        for (int n = 0; n < N; n++) sum[n] = fma(set(p[j]), load_kv(v + 16 * n), sum[n]);
    }
    PELLUCID_UNROLL
    for (int n = 0; n < N; n++) store(acc + d + 16 * n, sum[n]);
}

// scores[16 i] of N consecutive key blocks.
template <int N, class KV>
PELLUCID_INLINE void score_blocks(const AttendTask& t, int64_t block, const float* q, float* scores) {
    const KV* k[N];
    vf s[N];
    PELLUCID_UNROLL
    for (int n = 0; n < N; n++) {
        k[n] = (const KV*)t.keys + (t.block_table[block + n] * (int64_t)t.num_kv_heads + t.kv_head) * t.head_size * 16;
        s[n] = set(0.0f);
    }
    for (int d = 0; d < t.head_size; d++) {
        const vf qd = set(q[d]);
        PELLUCID_UNROLL
        for (int n = 0; n < N; n++) s[n] = fma(qd, load_kv(k[n] + 16 * d), s[n]);
    }
    PELLUCID_UNROLL
    for (int n = 0; n < N; n++) store(scores + 16 * n, s[n]);
}

// One row and the keys [from, to) of the chunk that starts at `start`; state is the running maximum, sum and output.
template <class KV>
PELLUCID_INLINE void attend_chunk(const AttendTask& t, const float* q, int64_t start, int from, int to, float& top,
                                  float& sum, float* acc) {
    const int64_t block = start / 16;
    alignas(64) float s[kKeyChunk];
    const int first = from / 16, last = (to + 15) / 16;
    int n = first;
    if (last - first == 4) n += 4, score_blocks<4, KV>(t, block, q, s);
    for (; n + 2 <= last; n += 2) score_blocks<2, KV>(t, block + n, q, s + 16 * n);
    for (; n < last; n++) score_blocks<1, KV>(t, block + n, q, s + 16 * n);
    if (t.softcap > 0.0f)
        for (n = first; n < last; n++)
            store(s + 16 * n, mul(set(t.softcap), tanh(mul(load(s + 16 * n), set(1.0f / t.softcap)))));
    for (int j = first * 16; j < from; j++) s[j] = -__builtin_inff();
    for (int j = to; j < last * 16; j++) s[j] = -__builtin_inff();
    vf largest = load(s + 16 * first);
    for (n = first + 1; n < last; n++) largest = max(largest, load(s + 16 * n));
    const float chunk_top = hmax(largest);
    const float new_top = top > chunk_top ? top : chunk_top;
    float keep[16];
    store(keep, exp(set(top - new_top)));
    const float decay = sum > 0.0f || sum != sum ? keep[0] : 0.0f;
    vf total = set(0.0f);
    for (n = first; n < last; n++) {
        store(s + 16 * n, exp(sub(load(s + 16 * n), set(new_top))));
        for (int j = 16 * n; j < from; j++) s[j] = 0.0f;
        for (int j = to; j < 16 * (n + 1); j++) s[j] = 0.0f;
        total = add(total, load(s + 16 * n));
    }
    sum = sum * decay + hsum(total);
    top = new_top;
    const int padded = padded_head(t.head_size);
    int d = 0;
    if (decay != 1.0f)
        for (d = 0; d < padded; d += 16) store(acc + d, mul(load(acc + d), set(decay)));
    for (d = 0; d + 64 <= padded; d += 64) add_values<4, KV>(t, block, from, to, s, d, acc);
    for (; d < padded; d += 16) add_values<1, KV>(t, block, from, to, s, d, acc);
}

template <class KV>
void attend(const AttendTask& t) {
    const int padded = padded_head(t.head_size);
    float *queries = t.scratch, *outs = queries + t.rows * padded, *tops = outs + t.rows * padded,
          *sums = tops + t.rows;
    int64_t lowest = t.positions[0], highest = t.positions[0];
    for (int r = 0; r < t.rows; r++) {
        for (int d = 0; d < t.head_size; d++) queries[r * padded + d] = t.q[r * t.q_stride + d] * t.scale;
        for (int d = 0; d < padded; d++) outs[r * padded + d] = 0.0f;
        tops[r] = -__builtin_inff();
        sums[r] = 0.0f;
        const int64_t p = t.positions[r];
        const int64_t low = t.window > 0 && p >= t.window ? p - t.window + 1 : 0;
        if (r == 0 || low < lowest) lowest = low;
        if (p > highest) highest = p;
    }
    for (int64_t start = lowest / kKeyChunk * kKeyChunk; start <= highest; start += kKeyChunk)
        for (int r = 0; r < t.rows; r++) {
            const int64_t p = t.positions[r];
            const int64_t low = t.window > 0 && p >= t.window ? p - t.window + 1 : 0;
            const int from = (int)(low > start ? low - start : 0);
            const int to = (int)(p + 1 < start + kKeyChunk ? p + 1 - start : kKeyChunk);
            if (from < to)
                attend_chunk<KV>(t, queries + r * padded, start, from, to, tops[r], sums[r], outs + r * padded);
        }
    for (int r = 0; r < t.rows; r++) {
        const float inverse = 1.0f / sums[r];
        for (int d = 0; d < t.head_size; d++) t.out[r * t.out_stride + d] = outs[r * padded + d] * inverse;
    }
}

}  // namespace PELLUCID_ISA
