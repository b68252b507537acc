// Which of many weighted values are the first to reach a given sum, without sorting them.
#pragma once
#include <cstdint>
#include <vector>

namespace pellucid::sampling {

// Takes values by ascending `keys` [n] (finite), equal keys by ascending index, until their `weights` (1 each if
// null) add up to `target`; all of them if they never do. The indices taken, ascending, at least one if n > 0.
std::vector<int32_t> smallest_reaching(const float* keys, const float* weights, int64_t n, double target);

}  // namespace pellucid::sampling
