#include "sampling/sampler.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <thread>

#include "ops.h"

namespace pellucid::sampling {

static constexpr float kForbidden = -std::numeric_limits<float>::infinity();

const Walks& best_walks() {
#ifdef PELLUCID_X86
    if (has_isa(Isa::avx2)) return avx2_walks();
#endif
    return portable_walks();
}

static bool has_stage(const Settings& s, Stage a, Stage b) {
    return std::any_of(s.stages.begin(), s.stages.end(),
                       [&](int stage) { return (Stage)stage == a || (Stage)stage == b; });
}

static bool looks_back(const Settings& s) {
    return has_stage(s, Stage::penalties, Stage::dry) || s.no_repeat_ngram_size > 0 || !s.bad_words.empty();
}

Sampler::Sampler(Settings settings)
    : settings_(std::move(settings)), history_(settings_.repeat_last_n), mu_(2 * settings_.mirostat_tau) {}

void Sampler::add_prompt(const int32_t* tokens, const uint8_t* breaks, int64_t n) {
    if (!looks_back(settings_)) return;
    for (int64_t i = 0; i < n; i++) history_.add(tokens[i], false, breaks[i]);
}

void Sampler::accept(int32_t token, bool breaks, double surprise) {
    if (looks_back(settings_)) history_.add(token, true, breaks);
    if (has_stage(settings_, Stage::mirostat1, Stage::mirostat2))
        mu_ -= settings_.mirostat_eta * (surprise - settings_.mirostat_tau);
}

bool Sampler::edits(const Row& row) const {
    const Settings& s = settings_;
    return row.processed != row.logits || row.mask || !s.allowed.empty() || !s.bias_ids.empty() ||
           !s.bad_words.empty() || s.no_repeat_ngram_size > 0 || row.num_output_tokens < s.min_tokens ||
           has_stage(s, Stage::penalties, Stage::dry);
}

// What comes before the stages: logit_bias, and all that forbids a token.
void Sampler::edit(const Row& row, const Walks& walks, float* x) const {
    const Settings& s = settings_;
    const int64_t n = row.vocab_size;
    const auto forbid = [&](int32_t token) {
        if (token < n) x[token] = kForbidden;
    };
    for (size_t i = 0; i < s.bias_ids.size(); i++)
        if (s.bias_ids[i] < n) x[s.bias_ids[i]] += s.bias[i];
    if (row.mask) walks.mask(x, n, row.mask, row.mask_words);
    if (!s.allowed.empty()) walks.mask(x, n, s.allowed.data(), (int64_t)s.allowed.size());
    for (const std::vector<int32_t>& word : s.bad_words)
        if (history_.answer_ends_with(word, word.size() - 1)) forbid(word.back());
    if (s.no_repeat_ngram_size > 0)
        for (const History::Repeat& repeat : history_.repeats(s.no_repeat_ngram_size - 1)) forbid(repeat.next);
    if (row.num_output_tokens < s.min_tokens)
        for (const int32_t token : s.end_token_ids) forbid(token);
}

void Sampler::penalise(Candidates& candidates) const {
    const Settings& s = settings_;
    for (const TokenCounts::Count& count : history_.counts().counts()) {
        float* x = count.total > 0 ? candidates.logit(count.token) : nullptr;
        if (!x) continue;
        *x = *x > 0 ? *x / s.repetition_penalty : *x * s.repetition_penalty;
        *x -= s.frequency_penalty * (float)count.answer;
        if (count.answer > 0) *x -= s.presence_penalty;
    }
    candidates.changed();
}

void Sampler::dry(Candidates& candidates) const {
    const Settings& s = settings_;
    std::unordered_map<int32_t, int64_t> longest;  // repetition that each token would go on with
    for (const History::Repeat& repeat : history_.repeats(s.dry_allowed_length)) {
        const int64_t length = std::min(repeat.length, history_.since_break());
        if (repeat.breaks || length < s.dry_allowed_length) continue;
        int64_t& known = longest[repeat.next];
        known = std::max(known, length);
    }
    for (const auto& [token, length] : longest) {
        const double penalty = s.dry_multiplier * std::pow(s.dry_base, (double)(length - s.dry_allowed_length));
        // Finite, so that the token can still be chosen if it is the only one.
        if (float* x = candidates.logit(token)) *x -= (float)std::min(penalty, 1e30);
    }
    candidates.changed();
}

// The sum of weights before mirostat's cut; 0 without mirostat.
double Sampler::run_stages(const Row& row, const Uniform& u, Candidates& candidates) const {
    const Settings& s = settings_;
    double sum = 0;
    for (const int stage : s.stages) {
        switch ((Stage)stage) {
            case Stage::penalties:
                candidates.bake_temperature();
                penalise(candidates);
                break;
            case Stage::dry:
                candidates.bake_temperature();
                dry(candidates);
                break;
            case Stage::greedy:
                candidates.top_k(1);
                break;
            case Stage::temperature:
                candidates.set_temperature((float)s.temperature);
                break;
            case Stage::dynamic_temperature:
                candidates.set_dynamic_temperature(s.temperature, s.dynatemp_range, s.dynatemp_exponent,
                                                   s.lowest_temperature);
                break;
            case Stage::top_n_sigma:
                candidates.top_n_sigma(s.top_n_sigma);
                break;
            case Stage::top_k:
                candidates.top_k(s.top_k);
                break;
            case Stage::typical_p:
                candidates.typical_p(s.typical_p);
                break;
            case Stage::top_p:
                candidates.top_p(s.top_p);
                break;
            case Stage::min_p:
                candidates.min_p(s.min_p);
                break;
            case Stage::xtc:
                if (u.xtc < s.xtc_probability) candidates.xtc(s.xtc_threshold);
                break;
            case Stage::mirostat1:
                sum = candidates.mirostat1(mu_, row.vocab_size);
                break;
            case Stage::mirostat2:
                sum = candidates.mirostat2(mu_);
                break;
        }
        if (!candidates.valid()) break;
    }
    return sum;
}

Choice Sampler::choose(const Row& row, Workspace& space) const {
    const auto num_invalid = [&](const float* x, float allowed) {
        return std::count_if(x, x + row.vocab_size, [&](float v) { return !std::isfinite(v) && v != allowed; });
    };
    Choice choice;
    if (!space.raw.begin(const_cast<float*>(row.logits), row.vocab_size)) {
        choice.num_invalid = num_invalid(row.logits, 0);
        return choice;
    }
    Candidates& candidates = settings_.stages.empty() && !edits(row) ? space.raw : space.candidates;
    if (edits(row)) {
        choice.num_invalid = row.processed == row.logits ? 0 : num_invalid(row.processed, kForbidden);
        if (choice.num_invalid) return choice;
        space.row.resize((size_t)row.vocab_size);
        std::memcpy(space.row.data(), row.processed, (size_t)row.vocab_size * sizeof(float));
        edit(row, space.walks, space.row.data());
        candidates.begin(space.row.data(), row.vocab_size);
    } else if (&candidates != &space.raw) {
        candidates.begin_like(space.raw);
    }
    if (!candidates.valid()) return choice;
    const Uniform u = uniform(settings_.seed, settings_.index, (uint64_t)row.position);
    const double sum = run_stages(row, u, candidates);
    if (!candidates.valid()) {  // penalties may overflow
        choice.num_invalid = !candidates.empty();
        return choice;
    }
    const int64_t index = candidates.draw(u.token);
    choice.token = candidates.id(index);
    if (sum > 0) choice.surprise = std::log2(sum / candidates.weight(index));
    if (row.num_logprobs >= 0) choice.logprobs = rank(space.raw, choice.token, row.num_logprobs, space.walks);
    return choice;
}

std::vector<Choice> choose_rows(const std::vector<Row>& rows, int threads, const Walks& walks) {
    constexpr size_t kFewRows = 4;  // a thread is worth starting for so many
    std::vector<Choice> choices(rows.size());
    std::atomic<size_t> next{0};
    const auto work = [&] {
        Workspace space(walks);
        for (size_t i; (i = next.fetch_add(1)) < rows.size();) choices[i] = rows[i].sampler->choose(rows[i], space);
    };
    std::vector<std::thread> others;
    while (others.size() + 1 < std::min((size_t)threads, rows.size() / kFewRows)) others.emplace_back(work);
    work();
    for (std::thread& other : others) other.join();
    return choices;
}

std::vector<Ranked> rank(Candidates& raw, int32_t token, int count, const Walks& walks) {
    const double log_sum = (double)raw.max() + std::log(raw.weight_sum());
    std::vector<Ranked> ranked{{token, (double)raw.value(token) - log_sum, 0}};
    int64_t place = 0;
    for (const int64_t i : count > 0 ? raw.ranking(count) : std::vector<int64_t>{}) {
        place++;
        if (i == token) {
            ranked[0].rank = place;
        } else {
            ranked.push_back({(int32_t)i, (double)raw.value(i) - log_sum, place});
        }
    }
    if (ranked[0].rank == 0) ranked[0].rank = 1 + walks.rank(raw.values(), raw.size(), raw.value(token), token);
    return ranked;
}

}  // namespace pellucid::sampling
