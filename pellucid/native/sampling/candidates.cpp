#include "sampling/candidates.h"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <functional>
#include <limits>

#include "sampling/mass.h"

namespace pellucid::sampling {

bool Candidates::begin(float* row, int64_t n) {
    row_ = row;
    n_ = n;
    ids_.clear();
    scale_.temperature = 1;
    sum_ = 0;
    maxima_.resize((size_t)(num_chunks(n) * kWidth));
    const bool finite = walks_.scan(row, n, maxima_.data());
    scale_.max = *std::max_element(maxima_.begin(), maxima_.end());
    return finite;
}

void Candidates::begin_like(const Candidates& other) {
    row_ = other.row_;
    n_ = other.n_;
    ids_.clear();
    maxima_ = other.maxima_;
    scale_ = other.scale_;
    sum_ = 0;
}

bool Candidates::empty() const { return !(scale_.max >= -FLT_MAX); }

bool Candidates::valid() const { return !empty() && scale_.max <= FLT_MAX; }

float* Candidates::logit(int32_t id) {
    if (ids_.empty()) return id < n_ ? row_ + id : nullptr;
    const auto at = std::lower_bound(ids_.begin(), ids_.end(), id);
    return at != ids_.end() && *at == id ? row_ + (at - ids_.begin()) : nullptr;
}

void Candidates::changed() {
    maxima_.resize((size_t)(num_chunks(n_) * kWidth));
    walks_.scan(row_, n_, maxima_.data());
    sum_ = 0;
    scale_.max = *std::max_element(maxima_.begin(), maxima_.end());
}

void Candidates::bake_temperature() {
    if (scale_.temperature == 1) return;
    for (int64_t i = 0; i < n_; i++) row_[i] = log_weight(i);
    scale_.temperature = 1;
    changed();
}

void Candidates::keep(Indices indices) {
    if ((int64_t)indices.size() == n_) return;
    next_ids_.resize(indices.size());
    next_values_.resize(indices.size());
    for (size_t i = 0; i < indices.size(); i++) {
        next_ids_[i] = id(indices[i]);
        next_values_[i] = row_[indices[i]];
    }
    ids_.swap(next_ids_);
    values_.swap(next_values_);
    row_ = values_.data();
    n_ = (int64_t)values_.size();
    changed();
}

Candidates::Indices Candidates::collect(float threshold, int64_t equals) {
    if ((int64_t)found_.size() <= n_) found_.resize((size_t)n_ + 1);  // the walk writes before it counts
    return {found_.data(), (size_t)walks_.collect(row_, n_, maxima_.data(), threshold, equals, found_.data())};
}

Candidates::Indices Candidates::heavy(double weight) {
    // A little lower than the logit of that weight, for the rounding of all that is between the two.
    const double log_weight = std::log(weight) * 1.0001 - 0.001;
    const double logit = (double)scale_.max + (double)scale_.temperature * log_weight;
    return collect((float)std::max((double)-FLT_MAX, logit - 1e-6 * std::abs((double)scale_.max)), n_);
}

std::vector<float> Candidates::weights(Indices indices) const {
    std::vector<float> w(indices.size());
    for (size_t i = 0; i < indices.size(); i++) w[i] = row_[indices[i]];
    walks_.weigh(w.data(), (int64_t)w.size(), scale_, w.data());
    return w;
}

double Candidates::weight_sum() {
    if (sum_ > 0) return sum_;
    chunk_sums_.resize((size_t)num_chunks(n_));
    return sum_ = walks_.weigh_chunks(row_, n_, scale_, chunk_sums_.data());
}

double Candidates::weight(int64_t index) const {
    float w = row_[index];
    walks_.weigh(&w, 1, scale_, &w);
    return (double)w;
}

// The count-th largest of the maxima of disjoint parts is a lower bound of the count-th largest value, and few values
// reach it. The parts are chunks where they are many more than `count`, else lanes of chunks.
std::vector<int32_t> Candidates::largest(int64_t count) {
    float bound = -FLT_MAX;
    int64_t equals = n_;
    if (count == 1) {
        bound = scale_.max;
        equals = 1;
    } else if (count < (int64_t)maxima_.size()) {
        std::vector<float> sorted = maxima_;
        if (count * 8 <= num_chunks(n_)) {
            sorted.resize((size_t)num_chunks(n_));
            for (size_t c = 0; c < sorted.size(); c++) {
                const float* lanes = maxima_.data() + c * kWidth;
                sorted[c] = *std::max_element(lanes, lanes + kWidth);
            }
        }
        std::nth_element(sorted.begin(), sorted.begin() + (count - 1), sorted.end(), std::greater<float>());
        bound = std::max(bound, sorted[(size_t)count - 1]);
        equals = count;
    }
    const Indices found = collect(bound, equals);
    if ((int64_t)found.size() <= count) return {found.begin(), found.end()};
    std::vector<float> keys(found.size());
    for (size_t i = 0; i < found.size(); i++) keys[i] = -row_[found[i]];
    std::vector<int32_t> best = smallest_reaching(keys.data(), nullptr, (int64_t)keys.size(), (double)count);
    for (int32_t& i : best) i = found[(size_t)i];
    return best;
}

std::vector<int64_t> Candidates::ranking(int64_t count) {
    const std::vector<int32_t> best = largest(count);
    std::vector<int64_t> ranked(best.begin(), best.end());
    std::sort(ranked.begin(), ranked.end(),
              [&](int64_t a, int64_t b) { return row_[a] != row_[b] ? row_[a] > row_[b] : a < b; });
    return ranked;
}

void Candidates::set_dynamic_temperature(double temperature, double range, double exponent, double lowest) {
    const Sums s = walks_.sums(row_, n_, scale_);
    const double entropy = std::log(s.weight) - s.weighted / s.weight;
    const double share = s.possible > 1 ? std::clamp(entropy / std::log((double)s.possible), 0.0, 1.0) : 0.0;
    set_temperature((float)std::max(lowest, temperature - range + 2 * range * std::pow(share, exponent)));
}

void Candidates::top_k(int64_t k) {
    if (k < n_) keep(largest(k));
}

void Candidates::top_p(double p) {
    const double target = p * weight_sum();
    for (const double depth : {2, 4, 7, 10, 13, 17, 90}) {  // nothing weighs less than exp(-87)
        const Indices found = heavy(std::exp(-depth));
        const std::vector<float> w = weights(found);
        double sum = 0;
        for (const float v : w) sum += (double)v;
        if (sum < target && depth < 90) continue;
        std::vector<float> keys(found.size());
        for (size_t i = 0; i < found.size(); i++) keys[i] = -row_[found[i]];
        std::vector<int32_t> kept = smallest_reaching(keys.data(), w.data(), (int64_t)w.size(), target);
        for (int32_t& i : kept) i = found[(size_t)i];
        return keep(kept);
    }
}

void Candidates::min_p(double p) {
    const Indices found = heavy(p);
    const std::vector<float> w = weights(found);
    std::vector<int32_t> kept;
    for (size_t i = 0; i < found.size(); i++)
        if (w[i] >= (float)p) kept.push_back(found[i]);
    keep(kept);
}

// |-log p - entropy| is the distance of the logarithm of the weight from its mean.
void Candidates::typical_p(double p) {
    const Sums s = walks_.sums(row_, n_, scale_);
    const double target = p * s.weight, mean = s.weighted / s.weight;
    for (const double reach : {0.5, 1.0, 2.0, 4.0, 8.0, 100.0}) {
        std::vector<int32_t> near;
        std::vector<float> keys;
        for (const int32_t i : heavy(std::exp(mean - reach))) {
            const double key = std::abs((double)log_weight(i) - mean);
            if (key > reach) continue;
            near.push_back(i);
            keys.push_back((float)key);
        }
        const std::vector<float> w = weights(near);
        double sum = 0;
        for (const float v : w) sum += (double)v;
        if (sum < target && reach < 100) continue;
        std::vector<int32_t> kept = smallest_reaching(keys.data(), w.data(), (int64_t)w.size(), target);
        for (int32_t& i : kept) i = near[(size_t)i];
        return keep(kept);
    }
}

void Candidates::top_n_sigma(double n) {
    const Moments m = walks_.moments(row_, n_, scale_.max);
    const double mean = m.sum / (double)m.count;
    const double deviation = std::sqrt(std::max(0.0, m.squares / (double)m.count - mean * mean));
    const double lowest = (double)scale_.max - n * deviation;
    float threshold = (float)std::max((double)-FLT_MAX, lowest);
    if ((double)threshold < lowest) threshold = std::nextafter(threshold, scale_.max);
    keep(collect(threshold, n_));
}

void Candidates::xtc(double threshold) {
    const double least = threshold * weight_sum();
    const Indices found = heavy(std::min(1.0, least));
    const std::vector<float> w = weights(found);
    std::vector<int32_t> likely;
    for (size_t i = 0; i < found.size(); i++)
        if ((double)w[i] >= least) likely.push_back(found[i]);
    if (likely.size() < 2) return;
    int32_t last = likely[0];  // the least likely of them
    for (const int32_t i : likely)
        if (row_[i] <= row_[last]) last = i;
    if (row_ != values_.data()) {
        values_.assign(row_, row_ + n_);
        row_ = values_.data();
    }
    for (const int32_t i : likely)
        if (i != last) row_[i] = -std::numeric_limits<float>::infinity();
    changed();
}

double Candidates::mirostat1(double mu, int64_t vocab_size) {
    constexpr int64_t kEstimated = 100;  // tokens from which the exponent of Zipf's law is estimated
    const double sum = weight_sum();
    const std::vector<int64_t> best = ranking(kEstimated);
    double tb = 0, tt = 0;
    for (size_t i = 0; i + 1 < best.size(); i++) {
        const double t = std::log((double)(i + 2) / (double)(i + 1));
        const double b = (double)log_weight(best[i]) - (double)log_weight(best[i + 1]);
        if (!std::isfinite(b)) break;
        tb += t * b;
        tt += t * t;
    }
    if (tt == 0) return top_k(1), sum;
    const double s = tb / tt, epsilon = s - 1;
    // (1 - N^-ε) / ε, whose limit for ε → 0 is log N
    const double log_n = std::log((double)vocab_size);
    const double divisor = std::abs(epsilon) < 1e-9 ? log_n : -std::expm1(-epsilon * log_n) / epsilon;
    const double k = std::pow(std::exp2(mu) / divisor, 1 / s);
    top_k(k >= 1 ? (int64_t)std::min(k, (double)n_) : 1);
    return sum;
}

double Candidates::mirostat2(double mu) {
    const double sum = weight_sum(), least = sum * std::exp2(-mu);
    if (least > 1) return top_k(1), sum;
    const Indices found = heavy(least);
    const std::vector<float> w = weights(found);
    std::vector<int32_t> kept;
    for (size_t i = 0; i < found.size(); i++)
        if ((double)w[i] >= least) kept.push_back(found[i]);
    keep(kept);
    return sum;
}

int64_t Candidates::draw(double u) {
    const double target = u * weight_sum();
    size_t chunk = 0;  // the one that holds the target, or rounding aside, the last that has any weight
    double before = 0, sum = 0;
    for (size_t c = 0; c < chunk_sums_.size() && sum <= target; c++) {
        if (!(chunk_sums_[c] > 0)) continue;
        chunk = c;
        before = sum;
        sum += chunk_sums_[c];
    }
    const int64_t from = (int64_t)chunk * kChunk, count = std::min(kChunk, n_ - from);
    float w[kChunk];
    walks_.weigh(row_ + from, count, scale_, w);
    int64_t last = 0;
    for (int64_t i = 0; i < count; i++) {
        if (w[i] > 0) last = i;
        if ((before += (double)w[i]) > target) return from + i;
    }
    return from + last;  // the two sums round differently
}

}  // namespace pellucid::sampling
