// The code of walks.h, compiled once for each instruction set: the including file names the namespace PELLUCID_WALKS.
// Vectors are the compiler's own, of 8 values; an instruction set with narrower ones takes two for one. No function of
// the standard library is called here that is not built into the compiler: the linker keeps one copy of such a
// function, and it may be the one compiled for the better instruction set.
#pragma once
#include <cstring>

#include "sampling/walks.h"

namespace pellucid::sampling::PELLUCID_WALKS {

typedef float F8 __attribute__((vector_size(32)));
typedef int32_t I8 __attribute__((vector_size(32)));
typedef uint32_t U8 __attribute__((vector_size(32)));

static constexpr float kInfinity = __builtin_inff();

template <class V, class T>
static inline V load(const T* p) {
    V v;
    std::memcpy(&v, p, sizeof v);
    return v;
}
template <class V, class T>
static inline void store(T* p, V v) {
    std::memcpy(p, &v, sizeof v);
}
static inline F8 broadcast(float v) { return F8{} + v; }
static inline bool any(I8 v) {
    const I8 swapped = v | __builtin_shuffle(v, I8{4, 5, 6, 7, 0, 1, 2, 3});
    int64_t parts[2];
    std::memcpy(parts, &swapped, sizeof parts);
    return (parts[0] | parts[1]) != 0;
}

// exp((x - max) / temperature) for x ≤ max, 0 below exp(-87): 2^y of y = (x - max) · log₂e / temperature, whose integer
// part goes into the exponent and whose fraction into a polynomial (Cephes' exp2f, S. Moshier).
struct Weigher {
    float max, slope;

    explicit Weigher(Scale scale) : max(scale.max), slope(1.44269504f / scale.temperature) {}

    inline F8 operator()(F8 x) const {
        const F8 y = (x - max) * slope;
        const F8 lowest = broadcast(-125.5f);
        const F8 c = y < lowest ? lowest : y;
        const float shift = 12582912.0f;  // 1.5 · 2^23: adding it rounds to an integer, kept in the low bits
        const F8 shifted = c + shift;
        const F8 r = c - (shifted - shift);
        F8 p = r * 1.535336188319500e-4f + 1.339887440266574e-3f;
        p = p * r + 9.618437357674640e-3f;
        p = p * r + 5.550332471162809e-2f;
        p = p * r + 2.402264791363012e-1f;
        p = p * r + 6.931472028550421e-1f;
        p = p * r + 1.0f;
        const U8 power = ((U8)shifted << 23) + 0x3f800000u;
        return y < lowest ? F8{} : p * (F8)power;
    }
};

// Calls work(values, chunk) for each chunk; the last one is filled up with -inf.
template <class F>
static inline void for_chunks(const float* x, int64_t n, F&& work) {
    const int64_t full = n / kChunk;
    for (int64_t c = 0; c < full; c++) work(x + c * kChunk, c);
    if (n % kChunk) {
        float padded[kChunk];
        for (int64_t i = 0; i < kChunk; i++) padded[i] = full * kChunk + i < n ? x[full * kChunk + i] : -kInfinity;
        work(padded, full);
    }
}

static bool scan(const float* x, int64_t n, float* maxima) {
    I8 bad{};
    const int64_t full = n / kChunk;
    for (int64_t c = 0; c < full; c++) {
        const float* p = x + c * kChunk;
        F8 a = load<F8>(p), b = load<F8>(p + 8);
        for (int64_t i = 0; i < kChunk; i += kWidth) {
            const F8 v = load<F8>(p + i), w = load<F8>(p + i + 8);
            bad |= (I8)(((I8)v & 0x7f800000) == 0x7f800000) | (I8)(((I8)w & 0x7f800000) == 0x7f800000);
            a = v > a ? v : a;
            b = w > b ? w : b;
        }
        store(maxima + c * kWidth, a);
        store(maxima + c * kWidth + 8, b);
    }
    bool finite = !any(bad);
    for (int i = 0; n % kChunk && i < kWidth; i++) maxima[full * kWidth + i] = -kInfinity;
    for (int64_t i = full * kChunk; i < n; i++) {
        float& m = maxima[full * kWidth + i % kWidth];
        m = x[i] > m ? x[i] : m;
        finite &= __builtin_isfinite(x[i]);
    }
    return finite;
}

static void mask(float* x, int64_t n, const uint32_t* bits, int64_t num_words) {
    const U8 lane = {1, 2, 4, 8, 16, 32, 64, 128};
    const F8 forbidden = broadcast(-kInfinity);
    for (int64_t at = 0; at < n; at += 32) {
        const uint32_t word = at / 32 < num_words ? bits[at / 32] : 0;
        if (word == 0xffffffffu) continue;
        if (n - at < 32) {
            for (int64_t i = 0; i < n - at; i++)
                if (!(word >> i & 1)) x[at + i] = -kInfinity;
        } else {
            for (int part = 0; part < 4; part++) {
                const U8 allowed = (U8{} + (word >> 8 * part)) & lane;
                float* p = x + at + 8 * part;
                store(p, (I8)(allowed != 0) ? load<F8>(p) : forbidden);
            }
        }
    }
}

static int64_t collect(const float* x, int64_t n, const float* maxima, float threshold, int64_t equals, int32_t* out) {
    int64_t count = 0;
    const auto scalar = [&](int64_t from, int64_t to) {
        for (int64_t i = from; i < to; i++) {
            const bool equal = x[i] == threshold;
            out[count] = (int32_t)i;
            count += x[i] > threshold || (equal && equals > 0);
            equals -= equal;
        }
    };
    for (int64_t c = 0; c < num_chunks(n); c++) {
        const float* m = maxima + c * kWidth;
        if (!any((I8)(load<F8>(m) >= threshold) | (I8)(load<F8>(m + 8) >= threshold))) continue;
        const int64_t from = c * kChunk, to = from + kChunk < n ? from + kChunk : n;
        int64_t i = from;
        for (; i + 32 <= to; i += 32) {
            const I8 hit = (I8)(load<F8>(x + i) >= threshold) | (I8)(load<F8>(x + i + 8) >= threshold) |
                           (I8)(load<F8>(x + i + 16) >= threshold) | (I8)(load<F8>(x + i + 24) >= threshold);
            if (any(hit)) scalar(i, i + 32);
        }
        scalar(i, to);
    }
    return count;
}

static int64_t rank(const float* x, int64_t n, float value, int64_t before) {
    I8 above{}, equal{};
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) above -= (I8)(load<F8>(x + i) > value);
    int64_t count = 0;
    for (; i < n; i++) count += x[i] > value;
    for (i = 0; i + 8 <= before; i += 8) equal -= (I8)(load<F8>(x + i) == value);
    for (; i < before; i++) count += x[i] == value;
    for (int lane = 0; lane < 8; lane++) count += above[lane] + equal[lane];
    return count;
}

static void weigh(const float* x, int64_t n, Scale scale, float* weights) {
    const Weigher weigher(scale);
    int64_t i = 0;
    for (; i + 8 <= n; i += 8) store(weights + i, weigher(load<F8>(x + i)));
    if (i < n) {
        F8 rest = broadcast(-kInfinity);
        std::memcpy(&rest, x + i, (size_t)(n - i) * sizeof(float));
        rest = weigher(rest);
        std::memcpy(weights + i, &rest, (size_t)(n - i) * sizeof(float));
    }
}

// Sixteen running sums in double; float sums of at most 8 values go into them.
struct Lanes {
    double sums[kWidth] = {};

    inline void add(F8 low, F8 high) {
        float v[kWidth];
        store(v, low);
        store(v + 8, high);
        for (int i = 0; i < kWidth; i++) sums[i] += (double)v[i];
    }
    inline double total() const {
        double sum = 0;
        for (const double s : sums) sum += s;
        return sum;
    }
};

static double weigh_chunks(const float* x, int64_t n, Scale scale, double* chunk_sums) {
    const Weigher weigher(scale);
    double total = 0;
    for_chunks(x, n, [&](const float* p, int64_t c) {
        Lanes lanes;
        for (int64_t block = 0; block < kChunk; block += 8 * kWidth) {
            F8 low{}, high{};
            for (int64_t i = block; i < block + 8 * kWidth; i += kWidth) {
                low += weigher(load<F8>(p + i));
                high += weigher(load<F8>(p + i + 8));
            }
            lanes.add(low, high);
        }
        chunk_sums[c] = lanes.total();
        total += chunk_sums[c];
    });
    return total;
}

static Sums sums(const float* x, int64_t n, Scale scale) {
    Lanes weight, weighted;
    I8 possible{};
    const Weigher weigher(scale);
    const F8 lowest = broadcast(-87.0f);
    for_chunks(x, n, [&](const float* p, int64_t) {
        for (int64_t block = 0; block < kChunk; block += 8 * kWidth) {
            F8 w[2] = {}, wy[2] = {};
            for (int64_t i = block; i < block + 8 * kWidth; i += 8) {
                const F8 v = load<F8>(p + i), y = (v - scale.max) / scale.temperature, e = weigher(v);
                w[i / 8 % 2] += e;
                wy[i / 8 % 2] += e * (y < lowest ? lowest : y);
                possible -= (I8)(v > -kInfinity);
            }
            weight.add(w[0], w[1]);
            weighted.add(wy[0], wy[1]);
        }
    });
    int64_t count = 0;
    for (int lane = 0; lane < 8; lane++) count += possible[lane];
    return {weight.total(), weighted.total(), count};
}

static Moments moments(const float* x, int64_t n, float shift) {
    Lanes sum, squares, count;
    for_chunks(x, n, [&](const float* p, int64_t) {
        for (int64_t i = 0; i < kChunk; i += kWidth)
            for (int lane = 0; lane < kWidth; lane++) {
                const double d = (double)p[i + lane] - (double)shift, possible = p[i + lane] > -kInfinity;
                const double finite = possible > 0 ? d : 0;
                sum.sums[lane] += finite;
                squares.sums[lane] += finite * finite;
                count.sums[lane] += possible;
            }
    });
    return {sum.total(), squares.total(), (int64_t)count.total()};
}

static constexpr Walks table = {scan, mask, collect, rank, weigh, weigh_chunks, sums, moments};

}  // namespace pellucid::sampling::PELLUCID_WALKS
