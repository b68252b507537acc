// The tokens that can still be chosen, and each sampler that leaves fewer of them.
#pragma once
#include <cstdint>
#include <span>
#include <vector>

#include "sampling/walks.h"

namespace pellucid::sampling {

// A set of tokens by ascending id with their logits: at first the whole row, later what the samplers left. An index is
// a place in this set. Weights are exp((logit - max) / temperature), so the most likely token weighs 1; probabilities
// are weights over their sum. Of equally likely tokens those with smaller ids count as the more likely ones. Tokens at
// -inf are never chosen. docs/sampling.md has each sampler's definition and source.
class Candidates {
  public:
    explicit Candidates(const Walks& walks) : walks_(walks) {}

    // Begin with a row of logits [n], which is read until a sampler has left some out, and written to only by `logit`
    // and `bake_temperature`. False if one of them is NaN or infinite; they may be -inf all the same.
    bool begin(float* row, int64_t n);
    void begin_like(const Candidates& other);  // with the same row, which `other` has begun with and not cut

    bool empty() const;        // nothing is above -inf
    bool valid() const;        // something is, and nothing is infinite
    float* logit(int32_t id);  // to be changed, and `changed` to be called then; null if the token is not in the set
    void changed();
    void bake_temperature();  // into the logits, so that changes of them come after it

    void set_temperature(float temperature) {
        scale_.temperature = temperature;
        sum_ = 0;
    }
    void set_dynamic_temperature(double temperature, double range, double exponent, double lowest);
    void top_k(int64_t k);
    void top_p(double p);
    void min_p(double p);
    void typical_p(double p);
    void top_n_sigma(double n);
    void xtc(double threshold);
    // Both give the sum of weights before anything was left out.
    double mirostat1(double mu, int64_t vocab_size);
    double mirostat2(double mu);

    // The index at which the running sum of weights first exceeds u of the whole, u in [0, 1).
    int64_t draw(double u);
    std::vector<int64_t> ranking(int64_t count);  // indices of the most likely tokens, most likely first
    double weight_sum();
    double weight(int64_t index) const;
    float value(int64_t index) const { return row_[index]; }
    int32_t id(int64_t index) const { return ids_.empty() ? (int32_t)index : ids_[(size_t)index]; }
    float max() const { return scale_.max; }
    const float* values() const { return row_; }  // [size]
    int64_t size() const { return n_; }

  private:
    using Indices = std::span<const int32_t>;  // ascending; those of `collect` are valid until it is called again

    Indices collect(float threshold, int64_t equals);
    Indices heavy(double weight);  // at least all that weigh so much
    std::vector<int32_t> largest(int64_t count);
    std::vector<float> weights(Indices indices) const;
    float log_weight(int64_t index) const { return (row_[index] - scale_.max) / scale_.temperature; }
    void keep(Indices indices);

    const Walks& walks_;
    float* row_ = nullptr;  // [n_]
    int64_t n_ = 0;
    std::vector<int32_t> ids_, next_ids_;  // [n_], empty while the set is the whole row
    std::vector<float> values_, next_values_;
    std::vector<float> maxima_;  // [chunks, 16]
    std::vector<double> chunk_sums_;
    std::vector<int32_t> found_;
    Scale scale_{0, 1};
    double sum_ = 0;  // of weights; 0 when it is not known
};

}  // namespace pellucid::sampling
