// The loops over a whole vocabulary, in one table for each instruction set.
//
// Every function gives the same bits on every instruction set, at every alignment: sums run over 16 lanes in a fixed
// order, the last chunk is padded, and nothing is fused that is not written so (-ffp-contract=off).
#pragma once
#include <cstdint>

namespace pellucid::sampling {

constexpr int kWidth = 16;       // lanes
constexpr int64_t kChunk = 512;  // values whose sum is kept, and whose maxima are, lane by lane

constexpr int64_t num_chunks(int64_t n) { return (n + kChunk - 1) / kChunk; }

// The scale on which logits become weights: weight = exp((x - max) / temperature), with nothing below exp(-87).
struct Scale {
    float max, temperature;
};

struct Sums {
    double weight;     // Σ w
    double weighted;   // Σ w·y with y = log w
    int64_t possible;  // values above -inf
};

struct Moments {  // of the differences to `shift`, over the values above -inf
    double sum, squares;
    int64_t count;
};

struct Walks {
    // maxima[chunk, lane] is the largest of the chunk's values at places ≡ lane (mod 16), -inf where there is none.
    // False if a value is NaN or infinite.
    bool (*scan)(const float* x, int64_t n, float* maxima);
    // -inf where bit i % 32 of bits[i / 32] is not set, or there is no such word.
    void (*mask)(float* x, int64_t n, const uint32_t* bits, int64_t num_words);
    // Indices of values above `threshold` and of the first `equals` values equal to it, ascending; how many. `maxima`
    // are those of `scan`.
    int64_t (*collect)(const float* x, int64_t n, const float* maxima, float threshold, int64_t equals, int32_t* out);
    // Values above `value`, and values equal to it before index `before`.
    int64_t (*rank)(const float* x, int64_t n, float value, int64_t before);
    void (*weigh)(const float* x, int64_t n, Scale scale, float* weights);
    // The sum of weights, also of each chunk.
    double (*weigh_chunks)(const float* x, int64_t n, Scale scale, double* chunk_sums);
    Sums (*sums)(const float* x, int64_t n, Scale scale);
    Moments (*moments)(const float* x, int64_t n, float shift);
};

const Walks& portable_walks();
const Walks& avx2_walks();
const Walks& best_walks();  // the fastest that this machine has

}  // namespace pellucid::sampling
