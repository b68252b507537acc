// Causal attention over the paged cache, with an online softmax (Milakov & Gimelshein 2018; Dao et al. 2022).
//
// Keys are summed in chunks of 64 and chunks in parts of 512, both at absolute positions; parts are merged in order. So
// a row's result depends on its position and cache alone, and a few rows with a long context can be divided over
// threads. A key block is stored [head_size, 16]: lanes are keys and a score is one chain of multiply-adds; a value
// block is stored [16, head_size]: lanes are channels. Keys a row may not see are never multiplied in: a slot that
// another request left behind may hold anything.
//
// A tile is up to kAttendRows queries of one kv head (rows of the sequence × the heads that share its keys): a vector
// of keys or values is loaded and converted once for all of them. The queries of a tile lie interleaved, [head_size,
// rows].
//
// Ladder (AVX2 on a Zen 3 core, 32 query heads over 8 kv heads of 64, float16 cache; billions of multiply-adds a second
// of one thread's CPU time on a busy machine; eight lanes twice a cycle make 51, the loop over one tile alone 50; for
// 1 row, where a byte is read for every 2 multiply-adds, the memory's 36 GB/s for two threads make 36):
//                                                  64 rows at 8,192   512 rows from 0   1 row at 8,192
//   one row and one head at a time                        18                18                10
//   tiles of 6 queries                                    30                28                17
//   the next chunk fetched while one is read              32                29                23
//   a head's blocks side by side in memory                36                31                27
//   powers of 2, sums of weights in lanes, chunks         39                32                28
//     that all rows see whole
//   rows rescaled only by more than 2^16                  40                33                30
//   values fetched during scores, the next keys           40                34                35
//     in the order of memory during values
// Tiles of 3 queries (one row of 9 heads over 3 kv heads) spilled sums until `reload`: 20 to 37 from the cache, and 18
// to 24 at 2,048 from memory. Of many rows' time the two loops over a tile are four fifths now, at 49, whether float16
// is converted in them or not; a tenth is the softmax.
//
// Dropped: fetching ahead in bursts before each block (1 row: 20 where it was 23), in every tile instead of the first
// (heads of 256: 30 instead of 34), not at all (17), two chunks ahead (no change), or the next keys in the order in
// which values are read (30 instead of 35; heads of 256: 26 instead of 36). Chunks of 128 keys (no change; 1 row: 28
// instead of 30). Loops unrolled by 2 and by 4 (no change). Huge pages and heads apart (23 where it was 21, but a cache
// that is hardly used would take 2 MiB for the keys and for the values of each layer).
//
// q8_0, where a code must be widened, converted and scaled:
//   a scale on each code                                  24                20                18
//   a scale on each sum of 32 codes, and on each weight   25                21                19
//   codes widened as they are loaded (simd_avx2.h)        30                24                20
//   a head's blocks side by side in memory                31                27                28
//   the last lines of float16                             35                30                33
// bfloat16 by these: 34 to 37, 29 to 32, 26 to 32.
#pragma once

namespace PELLUCID_ISA {

using pellucid::AttendTask;
using pellucid::kKeyChunk;
using pellucid::kKeyPart;

// Vectors side by side in a tile of M rows: enough sums to keep the multipliers busy, no more than there are registers.
constexpr int tile_vectors(int m) { return 4 * m <= kAttendRows ? 4 : 2 * m <= kAttendRows ? 2 : 1; }

// Calls f<M>() for the M that equals m, 1…Most.
template <int Most, class F>
PELLUCID_INLINE void with_rows(int m, F&& f) {
    if constexpr (Most > 1) {
        if (m < Most) return with_rows<Most - 1>(m, f);
    }
    f.template operator()<Most>();
}

template <class KV>
PELLUCID_INLINE const KV* head_block(const AttendTask& t, const void* cache, int64_t block, int columns) {
    const int64_t index = t.kv_head * t.cache_blocks + t.block_table[block];
    return (const KV*)((const uint8_t*)cache + index * kv_head_bytes(kind_of<KV>, columns));
}
template <class KV>
PELLUCID_INLINE const KV* key_block(const AttendTask& t, int64_t block) {
    return head_block<KV>(t, t.keys, block, t.head_size);
}
template <class KV>
PELLUCID_INLINE const KV* value_block(const AttendTask& t, int64_t block) {
    return head_block<KV>(t, t.values, block, padded_head(t.head_size));
}
// A chunk's first tile fetches from memory what is needed next: the chunk's values while it computes scores, then the
// next chunk's keys, as many for each channel of values as there are. The other tiles find theirs in the cache.
template <class KV>
PELLUCID_INLINE const KV* keys_ahead(const AttendTask& t, int64_t block, int channel, bool first) {
    if (!first) return value_block<KV>(t, block);
    const int size = 16 * padded_head(t.head_size), at = kKeyChunk * channel;
    const int64_t next = block + kKeyChunk / 16 + at / size;
    return next < t.num_blocks ? key_block<KV>(t, next) + at % size : value_block<KV>(t, block);
}

// Where sums fill the registers, each of N vectors is multiplied by numbers broadcast from memory again: GCC would keep
// the M of them in registers of their own, and spill sums.
template <int M, int N>
PELLUCID_INLINE void reload() {
    if constexpr (N > 1 && M * N == kAttendRows) __asm__ volatile("" ::: "memory");
}

// scores[row][0:16 N] of M rows and N consecutive key blocks.
template <int M, int N, class KV>
PELLUCID_INLINE void score_blocks(const AttendTask& t, int64_t block, bool first, const float* q, float* scores) {
    const KV *k[N], *next[N];
    vf s[N][M];
    PELLUCID_UNROLL
    for (int n = 0; n < N; n++) {
        k[n] = key_block<KV>(t, block + n);
        next[n] = first ? value_block<KV>(t, block + n) : k[n];
        PELLUCID_UNROLL
        for (int m = 0; m < M; m++) s[n][m] = set(0.0f);
    }
    const auto add_columns = [&](int from, int to) __attribute__((always_inline)) {
        for (int d = from; d < to; d++, q += M) {
            PELLUCID_UNROLL
            for (int n = 0; n < N; n++) {
                reload<M, N>();
                __builtin_prefetch(next[n] + 16 * d);
                const vf key = load_kv(k[n] + 16 * d);
                PELLUCID_UNROLL
                for (int m = 0; m < M; m++) s[n][m] = fma(set(q[m]), key, s[n][m]);
            }
        }
    };
    if constexpr (is_scaled<KV>) {
        // Codes are summed by themselves, 32 columns at a time, and multiplied by their scale once.
        vf total[N][M];
        PELLUCID_UNROLL
        for (int n = 0; n < N; n++) {
            PELLUCID_UNROLL
            for (int m = 0; m < M; m++) total[n][m] = set(0.0f);
        }
        for (int d = 0; d < t.head_size; d += 32) {
            add_columns(d, d + 32 < t.head_size ? d + 32 : t.head_size);
            PELLUCID_UNROLL
            for (int n = 0; n < N; n++) {
                const vf scale = load(scales_of(k[n], t.head_size, d / 32));
                PELLUCID_UNROLL
                for (int m = 0; m < M; m++) {
                    total[n][m] = fma(s[n][m], scale, total[n][m]);
                    s[n][m] = set(0.0f);
                }
            }
        }
        PELLUCID_UNROLL
        for (int n = 0; n < N; n++) {
            PELLUCID_UNROLL
            for (int m = 0; m < M; m++) s[n][m] = total[n][m];
        }
    } else {
        add_columns(0, t.head_size);
    }
    PELLUCID_UNROLL
    for (int n = 0; n < N; n++) {
        PELLUCID_UNROLL
        for (int m = 0; m < M; m++) store(scores + m * kKeyChunk + 16 * n, s[n][m]);
    }
}

// out[row][d : d + 16 N] = out * decay + sum over keys [from, to) of p[row][key] * V[key], in key order.
template <int M, int N, class KV>
PELLUCID_INLINE void add_channels(const AttendTask& t, int64_t block, bool first, int from, int to, const float* p,
                                  const float* decay, int d, float* out) {
    const int padded = padded_head(t.head_size), stride = padded + 16;
    vf sum[M][N];
    PELLUCID_UNROLL
    for (int m = 0; m < M; m++) {
        PELLUCID_UNROLL
        for (int n = 0; n < N; n++) sum[m][n] = mul(load(out + m * stride + d + 16 * n), set(decay[m]));
    }
    const KV* next = keys_ahead<KV>(t, block, d, first);
    for (int j = from; j < to;) {
        const int end = to < (j / 16 + 1) * 16 ? to : (j / 16 + 1) * 16;
        const int offset = j % 16 * padded + d;
        const KV* v = value_block<KV>(t, block + j / 16) + offset;
        for (; j < end; j++, v += padded, next += 16 * N) {
            __builtin_prefetch(next);
            PELLUCID_UNROLL
            for (int n = 0; n < N; n++) {
                reload<M, N>();
                const vf value = load_kv(v + 16 * n);
                PELLUCID_UNROLL
                for (int m = 0; m < M; m++) sum[m][n] = fma(set(p[m * kKeyChunk + j]), value, sum[m][n]);
            }
        }
    }
    PELLUCID_UNROLL
    for (int m = 0; m < M; m++) {
        PELLUCID_UNROLL
        for (int n = 0; n < N; n++) store(out + m * stride + d + 16 * n, sum[m][n]);
    }
}

template <int M, class KV>
PELLUCID_INLINE void add_values(const AttendTask& t, int64_t block, bool first, int from, int to, const float* p,
                                const float* decay, float* out) {
    constexpr int N = tile_vectors(M);
    const int padded = padded_head(t.head_size);
    int d = 0;
    if constexpr (is_scaled<KV>) {
        constexpr int Few = N < 2 ? N : 2;  // all channels of a tile have the same scales
        alignas(64) float scaled[M * kKeyChunk];
        for (; d < padded; d += 32) {
            for (int n = from / 16; n < (to + 15) / 16; n++) {
                const vf scale = load(scales_of(value_block<KV>(t, block + n), padded, d / 32));
                PELLUCID_UNROLL
                for (int m = 0; m < M; m++) {
                    const int at = m * kKeyChunk + 16 * n;
                    store(scaled + at, mul(load(p + at), scale));
                }
            }
            const int end = d + 32 < padded ? d + 32 : padded;
            int c = d;
            for (; c + 16 * Few <= end; c += 16 * Few)
                add_channels<M, Few, KV>(t, block, first, from, to, scaled, decay, c, out);
            if constexpr (Few > 1)
                for (; c < end; c += 16) add_channels<M, 1, KV>(t, block, first, from, to, scaled, decay, c, out);
        }
    } else {
        for (; d + 16 * N <= padded; d += 16 * N) add_channels<M, N, KV>(t, block, first, from, to, p, decay, d, out);
        for (; d < padded; d += 16) add_channels<M, 1, KV>(t, block, first, from, to, p, decay, d, out);
    }
}

// Scores are logarithms to base 2. What they are measured from follows the largest of a chunk only when it has been
// left behind by 2^kSlack, seldom once a row has seen a few keys: weights above 1 lose no precision.
constexpr float kLog2E = 1.44269504f;
constexpr float kSlack = 16.0f;

// Running softmax of one row: what scores are measured from, and the sum of powers; the weighted sum of values is
// beside them.
struct Running {
    float top, sum;
};
struct Keys {  // [from, to)
    int64_t from, to;
    PELLUCID_INLINE_MEMBER Keys within(int64_t start, int64_t length) const {
        const int64_t end = start + length;
        return {from > start ? from : start, to < end ? to : end};
    }
    PELLUCID_INLINE_MEMBER bool empty() const { return from >= to; }
};

// The scores of M rows become weights, 0 outside [from, to), and are added to the row's sums [16]; what a row has
// summed of values must be multiplied by its decay. Whole: all rows see all keys.
template <int M, bool Whole>
PELLUCID_INLINE void softmax_chunk(float softcap, const int* from, const int* to, float* scores, float* tops,
                                   float* sums, int stride, float* decay) {
    for (int m = 0; m < M; m++) {
        decay[m] = 1.0f;
        const int begin = Whole ? 0 : from[m], end = Whole ? kKeyChunk : to[m];
        if (begin >= end) continue;
        float* s = scores + m * kKeyChunk;
        const int first = begin / 16, last = (end + 15) / 16;
        if (softcap > 0.0f)
            for (int n = first; n < last; n++)
                store(s + 16 * n, mul(set(softcap * kLog2E), tanh(mul(load(s + 16 * n), set(1.0f / softcap)))));
        for (int j = first * 16; j < begin; j++) s[j] = -__builtin_inff();
        for (int j = end; j < last * 16; j++) s[j] = -__builtin_inff();
        vf largest = load(s + 16 * first);
        PELLUCID_UNROLL
        for (int n = first + 1; n < last; n++) largest = max(largest, load(s + 16 * n));
        if (const float top = hmax(largest); !(top <= tops[m] + kSlack)) {
            float keep[16];
            store(keep, exp2(set(tops[m] - top)));
            decay[m] = keep[0];
            tops[m] = top;
        }
        float* sum = sums + m * stride;
        vf total = mul(load(sum), set(decay[m]));
        PELLUCID_UNROLL
        for (int n = first; n < last; n++) {
            vf e = exp2(sub(load(s + 16 * n), set(tops[m])));
            store(s + 16 * n, e);
            if (16 * n < begin || 16 * (n + 1) > end) {
                for (int j = 16 * n; j < begin; j++) s[j] = 0.0f;
                for (int j = end; j < 16 * (n + 1); j++) s[j] = 0.0f;
                e = load(s + 16 * n);
            }
            total = add(total, e);
        }
        store(sum, total);
    }
}

// M rows and the chunk of keys that starts at `start`; seen[m] are the keys of row m. Each row of outs holds channels
// and behind them 16 lanes of its sum of weights.
template <int M, class KV>
PELLUCID_INLINE void attend_chunk(const AttendTask& t, const float* q, int64_t start, bool first, const Keys* seen,
                                  float* tops, float* outs) {
    const int64_t block = start / 16;
    const int padded = padded_head(t.head_size), stride = padded + 16;
    const bool whole = seen[0].to >= start + kKeyChunk && seen[M - 1].from <= start;  // positions ascend
    int from[M] = {}, to[M] = {}, lowest = 0, highest = kKeyChunk, common_from = 0, common_to = kKeyChunk;
    if (!whole) {
        lowest = kKeyChunk, highest = 0;
        for (int m = 0; m < M; m++) {
            const Keys keys = seen[m].within(start, kKeyChunk);
            from[m] = (int)(keys.from - start);
            to[m] = (int)(keys.to - start);
            common_from = from[m] > common_from ? from[m] : common_from;
            common_to = to[m] < common_to ? to[m] : common_to;
            if (keys.empty()) continue;
            lowest = from[m] < lowest ? from[m] : lowest;
            highest = to[m] > highest ? to[m] : highest;
        }
        if (lowest >= highest) return;
    }

    alignas(64) float s[M * kKeyChunk];
    constexpr int N = tile_vectors(M);
    const int last = (highest + 15) / 16;
    int n = lowest / 16;
    for (; n + N <= last; n += N) score_blocks<M, N, KV>(t, block + n, first, q, s + 16 * n);
    for (; n < last; n++) score_blocks<M, 1, KV>(t, block + n, first, q, s + 16 * n);

    float decay[M];
    const float one = 1.0f;
    const bool tiled = common_from < common_to;
    if (whole) {
        softmax_chunk<M, true>(t.softcap, from, to, s, tops, outs + padded, stride, decay);
    } else {
        softmax_chunk<M, false>(t.softcap, from, to, s, tops, outs + padded, stride, decay);
        for (int m = 0; m < M; m++) {
            // Keys before those that all rows see; without any, all the row's keys.
            const int end = tiled ? common_from : to[m];
            if (from[m] >= end) continue;  // as where it sees none
            add_values<1, KV>(t, block, false, from[m], end, s + m * kKeyChunk, decay + m, outs + m * stride);
            decay[m] = 1.0f;
        }
        if (!tiled) return;
    }
    add_values<M, KV>(t, block, first, common_from, common_to, s, decay, outs);
    if (whole) return;
    for (int m = 0; m < M; m++)
        if (common_to < to[m])
            add_values<1, KV>(t, block, false, common_to, to[m], s + m * kKeyChunk, &one, outs + m * stride);
}

// total = total ⊕ part, both as [padded] channels with their running softmax.
PELLUCID_INLINE void merge_part(int padded, const float* part, Running of_part, float* total, Running& state) {
    const float top = state.top > of_part.top ? state.top : of_part.top;
    float keep[16], gain[16];
    store(keep, exp2(set(state.top - top)));
    store(gain, exp2(set(of_part.top - top)));
    for (int d = 0; d < padded; d += 16)
        store(total + d, fma(load(part + d), set(gain[0]), mul(load(total + d), set(keep[0]))));
    state = {top, state.sum * keep[0] + of_part.sum * gain[0]};
}

PELLUCID_INLINE Keys keys_of(const AttendTask& t, int row) {
    const int64_t p = t.positions[row];
    return {t.window > 0 && p >= t.window ? p - t.window + 1 : 0, p + 1};
}

PELLUCID_INLINE void finish(const AttendTask& t, int query, const float* sums, float sum) {
    const float inverse = 1.0f / sum;
    float* out = t.out + query / t.group * t.out_stride + query % t.group * t.head_size;
    int d = 0;
    for (; d + 16 <= t.head_size; d += 16) store(out + d, mul(load(sums + d), set(inverse)));
    for (; d < t.head_size; d++) out[d] = sums[d] * inverse;
}

// The whole of the rows' keys, or one part of them, which goes to t.partial.
template <class KV>
void attend(const AttendTask& t) {
    const int padded = padded_head(t.head_size), stride = padded + 16, queries = t.rows * t.group;
    float *q = t.scratch, *sums = q + queries * padded, *totals = sums + queries * stride;
    float* tops = totals + queries * padded;
    Running* of_totals = (Running*)(tops + (queries + 1) / 2 * 2);
    Keys* seen = (Keys*)(of_totals + queries);
    Keys all{t.positions[0], 0};
    const float scale = t.softcap > 0.0f ? t.scale : t.scale * kLog2E;
    for (int i = 0; i < queries; i++) {
        const int first = i / kAttendRows * kAttendRows;
        const int tile = queries - first < kAttendRows ? queries - first : kAttendRows;
        const float* from = t.q + i / t.group * t.q_stride + i % t.group * t.head_size;
        for (int d = 0; d < t.head_size; d++) q[first * t.head_size + d * tile + i - first] = from[d] * scale;
        seen[i] = keys_of(t, i / t.group);
        all = {seen[i].from < all.from ? seen[i].from : all.from, seen[i].to > all.to ? seen[i].to : all.to};
    }
    if (t.partial) all = all.within(t.part * kKeyPart, kKeyPart);
    for (int64_t part = all.from / kKeyPart; part * kKeyPart < all.to; part++) {
        const Keys here = all.within(part * kKeyPart, kKeyPart);
        for (int i = 0; i < queries; i++) tops[i] = -__builtin_inff();
        for (int i = 0; i < queries * stride; i++) sums[i] = 0.0f;
        for (int64_t start = here.from / kKeyChunk * kKeyChunk; start < here.to; start += kKeyChunk)
            for (int i = 0; i < queries; i += kAttendRows)
                with_rows<kAttendRows>(queries - i < kAttendRows ? queries - i : kAttendRows, [&]<int M>() {
                    attend_chunk<M, KV>(t, q + i * t.head_size, start, i == 0, seen + i, tops + i, sums + i * stride);
                });
        for (int i = 0; i < queries; i++) {
            if (seen[i].within(part * kKeyPart, kKeyPart).empty()) continue;
            float *from = sums + i * stride, *total = totals + i * padded;
            const Running of_part{tops[i], hsum(load(from + padded))};
            if (t.partial) {
                total = t.partial + i * (padded + 2);
                total[padded] = of_part.top;
                total[padded + 1] = of_part.sum;
            }
            if (t.partial || seen[i].from >= part * kKeyPart) {
                for (int d = 0; d < padded; d += 16) store(total + d, load(from + d));
                of_totals[i] = of_part;
            } else {
                merge_part(padded, from, of_part, total, of_totals[i]);
            }
        }
    }
    if (t.partial) return;
    for (int i = 0; i < queries; i++) finish(t, i, totals + i * padded, of_totals[i].sum);
}

// What `attend` does over all parts, from the parts it has left in t.partial, part_stride floats apart.
static void merge_parts(const AttendTask& t) {
    const int padded = padded_head(t.head_size);
    for (int i = 0; i < t.rows * t.group; i++) {
        const Keys seen = keys_of(t, i / t.group);
        int64_t part = seen.from / kKeyPart;
        float* total = t.partial + part * t.part_stride + i * (padded + 2);
        Running state{total[padded], total[padded + 1]};
        for (part++; part * kKeyPart < seen.to; part++) {
            const float* from = t.partial + part * t.part_stride + i * (padded + 2);
            merge_part(padded, from, {from[padded], from[padded + 1]}, total, state);
        }
        finish(t, i, total, state.sum);
    }
}

}  // namespace PELLUCID_ISA
