// What one answer asks of its sampler: pellucid/sampling.py's SamplingParams, resolved for one model.
#pragma once
#include <cstdint>
#include <vector>

namespace pellucid::sampling {

// The steps that have an order of their own; engine/sampler.py names those that do something, in the order asked for.
enum class Stage : int {
    penalties,
    dry,
    greedy,  // temperature 0
    temperature,
    dynamic_temperature,
    top_k,
    typical_p,
    top_p,
    min_p,
    top_n_sigma,
    xtc,
    mirostat1,
    mirostat2,
};

struct Settings {
    uint64_t seed = 0;
    uint32_t index = 0;  // which of n answers
    std::vector<int> stages;

    std::vector<uint32_t> allowed;  // allowed_token_ids as bits; empty: all
    std::vector<int32_t> end_token_ids;
    int64_t min_tokens = 0;
    std::vector<std::vector<int32_t>> bad_words;
    int64_t no_repeat_ngram_size = 0;
    std::vector<int32_t> bias_ids;
    std::vector<float> bias;

    float repetition_penalty = 1, frequency_penalty = 0, presence_penalty = 0;
    int64_t repeat_last_n = -1;
    double dry_multiplier = 0, dry_base = 1.75;
    int64_t dry_allowed_length = 2;

    double temperature = 1, lowest_temperature = 0, dynatemp_range = 0, dynatemp_exponent = 1;
    int64_t top_k = 0;
    double typical_p = 1, top_p = 1, min_p = 0, top_n_sigma = 0;
    double xtc_probability = 0, xtc_threshold = 0.1;
    double mirostat_tau = 5, mirostat_eta = 0.1;
};

}  // namespace pellucid::sampling
