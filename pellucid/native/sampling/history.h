// The tokens so far, as the samplers that look back need them.
#pragma once
#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace pellucid::sampling {

// How often each token is among the last tokens.
class TokenCounts {
  public:
    struct Count {
        int32_t token;
        int32_t total;   // in prompt and answer
        int32_t answer;  // in the answer
    };

    void add(int32_t token, bool answer, int by);
    const std::vector<Count>& counts() const { return counts_; }  // some of them may be 0

  private:
    std::unordered_map<int32_t, std::size_t> places_;
    std::vector<Count> counts_;
};

// Prompt and answer, in order.
class History {
  public:
    // `window`: how many of the last tokens are counted, -1 for all.
    explicit History(int64_t window) : window_(window) {}

    void add(int32_t token, bool answer, bool breaks);

    const TokenCounts& counts() const { return counts_; }
    // True when the answer ends with the first `count` of `tokens`.
    bool answer_ends_with(const std::vector<int32_t>& tokens, std::size_t count) const;

    struct Repeat {
        int32_t next;    // the token that followed an earlier occurrence
        int64_t length;  // of what precedes it there and ends the history here, at least `shortest`
        bool breaks;
    };
    // Every earlier place whose preceding tokens are those that the history ends with (Z algorithm, linear time).
    std::vector<Repeat> repeats(int64_t shortest) const;
    int64_t since_break() const { return since_break_; }  // tokens after the last sequence breaker

  private:
    const int64_t window_;
    std::vector<int32_t> tokens_;
    std::vector<bool> breaks_;  // a sequence breaker of DRY ends in this token
    int64_t num_prompt_ = 0, since_break_ = 0;
    TokenCounts counts_;
};

}  // namespace pellucid::sampling
