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
    const auto key = [&](int32_t i) { return (double)keys[i]; };
    const auto weight = [&](int32_t i) { return weights ? (double)weights[i] : 1.0; };
    std::vector<int32_t> taken, open((size_t)n);
    std::iota(open.begin(), open.end(), 0);
    double sum = 0;
    while (!open.empty()) {
        double low = key(open[0]), high = low;
        for (const int32_t i : open) {
            low = std::min(low, key(i));
            high = std::max(high, key(i));
        }
        if (open.size() <= kSmall || low == high) {
            std::sort(open.begin(), open.end(),
                      [&](int32_t a, int32_t b) { return keys[a] != keys[b] ? keys[a] < keys[b] : a < b; });
            for (const int32_t i : open) {
                taken.push_back(i);
                if ((sum += weight(i)) >= target) break;
            }
            break;
        }
        const double scale = kBins / (high - low);
        const auto bin = [&](int32_t i) { return std::min(kBins - 1, (int)((key(i) - low) * scale)); };
        double sums[kBins] = {};
        for (const int32_t i : open) sums[bin(i)] += weight(i);
        int last = 0;
        while (last < kBins && sum + sums[last] < target) sum += sums[last++];
        std::vector<int32_t> inside;
        for (const int32_t i : open) {
            const int b = bin(i);
            if (b < last) taken.push_back(i);
            if (b == last) inside.push_back(i);
        }
        open = std::move(inside);
    }
    std::sort(taken.begin(), taken.end());
    return taken;
}

}  // namespace pellucid::sampling
