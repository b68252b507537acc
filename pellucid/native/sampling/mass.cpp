#include "sampling/mass.h"

#include <algorithm>
#include <numeric>

namespace pellucid::sampling {

// A histogram over the keys tells which bin holds the last value; that bin alone is looked at again, with finer bins,
// until it is small enough to sort or all its keys are equal. The smallest and the largest key never share a bin, so
// it ends.
std::vector<int32_t> smallest_reaching(const float* keys, const float* weights, int64_t n, double target) {
    constexpr int kBins = 1024;
    constexpr size_t kSmall = 64;
    const auto weight = [&](int32_t i) { return weights ? (double)weights[i] : 1.0; };
    std::vector<int32_t> open((size_t)n);
    std::vector<uint16_t> bins((size_t)n);
    std::vector<uint8_t> takes((size_t)n);
    std::iota(open.begin(), open.end(), 0);
    double sum = 0;
    while (!open.empty()) {
        float low = keys[open[0]], high = low;
        for (const int32_t i : open) {
            low = std::min(low, keys[i]);
            high = std::max(high, keys[i]);
        }
        if (open.size() <= kSmall || low == high) {
            std::sort(open.begin(), open.end(),
                      [&](int32_t a, int32_t b) { return keys[a] != keys[b] ? keys[a] < keys[b] : a < b; });
            for (const int32_t i : open) {
                takes[(size_t)i] = 1;
                if ((sum += weight(i)) >= target) break;
            }
            break;
        }
        const double scale = kBins / ((double)high - (double)low);
        double sums[kBins] = {};
        for (size_t j = 0; j < open.size(); j++) {
            const int bin = std::min(kBins - 1, (int)(((double)keys[open[j]] - (double)low) * scale));
            bins[j] = (uint16_t)bin;
            sums[bin] += weight(open[j]);
        }
        int last = 0;
        while (last < kBins && sum + sums[last] < target) sum += sums[last++];
        size_t num_inside = 0;  // without branches: the bins come in no order that could be guessed
        for (size_t j = 0; j < open.size(); j++) {
            const int32_t i = open[j];
            takes[(size_t)i] = bins[j] < last;
            open[num_inside] = i;
            num_inside += bins[j] == last;
        }
        open.resize(num_inside);
    }
    std::vector<int32_t> taken((size_t)n);
    size_t num_taken = 0;
    for (int64_t i = 0; i < n; i++) {
        taken[num_taken] = (int32_t)i;
        num_taken += takes[(size_t)i];
    }
    taken.resize(num_taken);
    return taken;
}

}  // namespace pellucid::sampling
