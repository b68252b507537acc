// Operators on one row: norms, rotary positions, activations.
#pragma once

namespace PELLUCID_ISA {

using pellucid::Act;

// Calls f(offset, lanes used) for 16 elements at a time.
template <class F>
PELLUCID_INLINE void by_lanes(int64_t n, F&& f) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) f(i, 16);
    if (i < n) f(i, (int)(n - i));
}
PELLUCID_INLINE vf load_part(const float* p, int lanes) {
    if (lanes == 16) return load(p);
    float t[16] = {0};
    for (int i = 0; i < lanes; i++) t[i] = p[i];
    return load(t);
}
PELLUCID_INLINE void store_part(float* p, vf a, int lanes) {
    if (lanes == 16) return store(p, a);
    float t[16];
    store(t, a);
    for (int i = 0; i < lanes; i++) p[i] = t[i];
}

// x / sqrt(mean(x²) + eps) * weight (Zhang & Sennrich 2019)
static void rms_norm(const float* x, const float* weight, int64_t n, float eps, float* out) {
    vf squares = set(0.0f);
    by_lanes(n, [&](int64_t i, int lanes) {
        const vf a = load_part(x + i, lanes);
        squares = fma(a, a, squares);
    });
    const vf by = set(1.0f / __builtin_sqrtf(hsum(squares) / (float)n + eps));
    by_lanes(n, [&](int64_t i, int lanes) {
        store_part(out + i, mul(mul(load_part(x + i, lanes), by), load_part(weight + i, lanes)), lanes);
    });
}

// (x - mean) / sqrt(variance + eps) * weight + bias (Ba et al. 2016)
static void layer_norm(const float* x, const float* weight, const float* bias, int64_t n, float eps, float* out) {
    vf sum = set(0.0f);
    by_lanes(n, [&](int64_t i, int lanes) { sum = add(sum, load_part(x + i, lanes)); });
    const float mean = hsum(sum) / (float)n;
    float squares = 0.0f;
    vf total = set(0.0f);
    by_lanes(n, [&](int64_t i, int lanes) {
        if (lanes == 16) {
            const vf a = sub(load(x + i), set(mean));
            total = fma(a, a, total);
        } else {
            for (int j = 0; j < lanes; j++) squares += (x[i + j] - mean) * (x[i + j] - mean);
        }
    });
    const vf by = set(1.0f / __builtin_sqrtf((hsum(total) + squares) / (float)n + eps));
    by_lanes(n, [&](int64_t i, int lanes) {
        vf y = mul(mul(sub(load_part(x + i, lanes), set(mean)), by), load_part(weight + i, lanes));
        if (bias) y = add(y, load_part(bias + i, lanes));
        store_part(out + i, y, lanes);
    });
}

// Rotates pairs of each head's first `rotary` channels (Su et al. 2021); the others pass through.
static void rope(const float* x, const float* cos, const float* sin, int64_t width, int head_size, int rotary,
                 bool interleaved, float* out) {
    const int half = rotary / 2;
    for (int64_t h = 0; h < width; h += head_size, x += head_size, out += head_size) {
        if (interleaved)
            for (int i = 0; i < half; i++) {
                const float a = x[2 * i], b = x[2 * i + 1];
                out[2 * i] = a * cos[i] - b * sin[i];
                out[2 * i + 1] = b * cos[i] + a * sin[i];
            }
        else
            for (int i = 0; i < half; i++) {
                const float a = x[i], b = x[i + half];
                out[i] = a * cos[i] - b * sin[i];
                out[i + half] = b * cos[i] + a * sin[i];
            }
        for (int i = rotary; i < head_size; i++) out[i] = x[i];
    }
}

PELLUCID_INLINE vf activation(vf x, Act act) {
    return act == Act::silu ? silu(x) : act == Act::gelu_tanh ? gelu_tanh(x) : gelu(x);
}

static void glu(const float* gate, const float* up, int64_t n, Act act, float* out) {
    by_lanes(n, [&](int64_t i, int lanes) {
        store_part(out + i, mul(activation(load_part(gate + i, lanes), act), load_part(up + i, lanes)), lanes);
    });
}
static void activate(const float* x, int64_t n, Act act, float* out) {
    by_lanes(n, [&](int64_t i, int lanes) { store_part(out + i, activation(load_part(x + i, lanes), act), lanes); });
}
static void add_rows(const float* a, const float* b, int64_t n, float* out) {
    by_lanes(n, [&](int64_t i, int lanes) {
        store_part(out + i, add(load_part(a + i, lanes), load_part(b + i, lanes)), lanes);
    });
}
static void softcap(const float* x, int64_t n, float cap, float* out) {
    by_lanes(n, [&](int64_t i, int lanes) {
        store_part(out + i, mul(set(cap), tanh(mul(load_part(x + i, lanes), set(1.0f / cap)))), lanes);
    });
}

}  // namespace PELLUCID_ISA
