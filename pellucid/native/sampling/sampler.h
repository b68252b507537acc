// One answer's sampler, and the call that takes a token from each of many rows of logits.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

#include "sampling/candidates.h"
#include "sampling/history.h"
#include "sampling/philox.h"
#include "sampling/settings.h"

namespace pellucid::sampling {

struct Ranked {
    int32_t token;
    double logprob;
    int64_t rank;
};

struct Row {
    const class Sampler* sampler;
    const float* logits;     // [V], as the model made them
    const float* processed;  // [V], what logits processors made of them; the same pointer without any
    int64_t vocab_size;
    const uint32_t* mask;  // a constraint's, or null
    int64_t mask_words;
    int64_t num_output_tokens, position;
    int num_logprobs;  // -1: none are wanted
};

struct Choice {
    int32_t token = -1;
    double surprise = 0;      // of the token in bits, for mirostat
    int64_t num_invalid = 0;  // NaN or infinite logits; if any, there is no token. No token and 0: none is allowed
    std::vector<Ranked> logprobs;
};

// Room that is used again from row to row.
struct Workspace {
    explicit Workspace(const Walks& walks) : walks(walks), raw(walks), candidates(walks) {}
    const Walks& walks;
    Candidates raw;  // the logits as the model made them, of which none is ever left out
    Candidates candidates;
    std::vector<float> row;
};

// The state changes only in `add_prompt` and `accept`; `choose` may be called from any thread.
class Sampler {
  public:
    explicit Sampler(Settings settings);

    // `breaks`: whether one of DRY's sequence breakers ends in the token.
    void add_prompt(const int32_t* tokens, const uint8_t* breaks, int64_t n);
    void accept(int32_t token, bool breaks, double surprise);
    Choice choose(const Row& row, Workspace& space) const;

  private:
    bool edits(const Row& row) const;
    void edit(const Row& row, const Walks& walks, float* x) const;
    void penalise(Candidates& candidates) const;
    void dry(Candidates& candidates) const;
    double run_stages(const Row& row, const Uniform& u, Candidates& candidates) const;

    const Settings settings_;
    History history_;
    double mu_;
};

// A choice for each row, on up to `threads` threads. Which thread takes a row changes no bit.
std::vector<Choice> choose_rows(const std::vector<Row>& rows, int threads, const Walks& walks);

// `token` first, then the `count` most likely tokens without it; log p of the logits that `raw` has begun with.
std::vector<Ranked> rank(Candidates& raw, int32_t token, int count, const Walks& walks);

}  // namespace pellucid::sampling
