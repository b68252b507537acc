#include "sampling/history.h"

#include <algorithm>

namespace pellucid::sampling {

void TokenCounts::add(int32_t token, bool answer, int by) {
    const auto [place, is_new] = places_.try_emplace(token, counts_.size());
    if (is_new) counts_.push_back({token, 0, 0});
    Count& count = counts_[place->second];
    count.total += by;
    if (answer) count.answer += by;
}

void History::add(int32_t token, bool answer, bool breaks) {
    tokens_.push_back(token);
    breaks_.push_back(breaks);
    if (!answer) num_prompt_++;
    since_break_ = breaks ? 0 : since_break_ + 1;
    counts_.add(token, answer, 1);
    const int64_t left = window_ < 0 ? -1 : (int64_t)tokens_.size() - 1 - window_;
    if (left >= 0) counts_.add(tokens_[(size_t)left], left >= num_prompt_, -1);
}

bool History::answer_ends_with(const std::vector<int32_t>& tokens, size_t count) const {
    if (tokens_.size() - (size_t)num_prompt_ < count) return false;
    return std::equal(tokens.begin(), tokens.begin() + (int64_t)count, tokens_.end() - (int64_t)count);
}

std::vector<History::Repeat> History::repeats(int64_t shortest) const {
    const int64_t n = (int64_t)tokens_.size();
    const auto reversed = [&](int64_t i) { return tokens_[(size_t)(n - 1 - i)]; };
    std::vector<Repeat> found;
    // lengths[i]: how far the history, read backwards, agrees with itself from i on
    std::vector<int32_t> lengths((size_t)n + 1);
    for (int64_t i = 1, left = 0, right = 0; i <= n; i++) {
        int64_t length = i < right ? std::min(right - i, (int64_t)lengths[(size_t)(i - left)]) : 0;
        while (i + length < n && reversed(length) == reversed(i + length)) length++;
        lengths[(size_t)i] = (int32_t)length;
        if (i + length > right) {
            left = i;
            right = i + length;
        }
        const size_t next = (size_t)(n - i);
        if (length >= shortest) found.push_back({tokens_[next], length, breaks_[next]});
    }
    return found;
}

}  // namespace pellucid::sampling
