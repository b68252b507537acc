#include "program.h"
#include <chrono>
#include <cstring>
#include <stdexcept>

namespace pellucid {

Program::Program(Isa isa, int threads, int cores, std::vector<int64_t> num_blocks, KvKind kv_kind, Rounding rounding)
    : isa_(isa), pool_(threads, cores) {
    context_.kernels = &kernels_of(isa);
    context_.kv_kind = kv_kind;
    context_.rounding = rounding;
    context_.num_blocks = std::move(num_blocks);
    context_.thread_scratch.resize((size_t)threads);
}

int Program::add_matrix(Type type, int64_t n, int64_t k) {
    if (weights_.data()) throw std::logic_error("a matrix is added after the first was packed");
    matrices_.push_back(std::make_unique<Matrix>(Matrix{type, n, k, {}}));
    return (int)matrices_.size() - 1;
}

int Program::add_cache(int group, int num_kv_heads, int head_size) {
    const int64_t heads = context_.num_blocks.at((size_t)group) * num_kv_heads;
    const auto bytes = [&](int columns) { return (size_t)(heads * kv_head_bytes(context_.kv_kind, columns)); };
    context_.caches.push_back({group, num_kv_heads, Memory(bytes(head_size)), Memory(bytes(padded_head(head_size)))});
    return (int)context_.caches.size() - 1;
}

int Program::add_rope_table(std::vector<float> inv_freq, float scale) {
    context_.ropes.push_back({std::move(inv_freq), {}, {}, scale});
    return (int)context_.ropes.size() - 1;
}

void Program::need_scratch(int64_t bytes) {
    for (Memory& m : context_.thread_scratch)
        if ((int64_t)m.size() < bytes) m = Memory((size_t)bytes);
}

int64_t Program::pack(int id, const uint8_t* stored, int64_t first, int64_t rows) {
    if (!weights_.data()) {
        weights_ = Memory((size_t)weight_bytes(), Pages::huge);
        uint8_t* at = weights_.data();
        for (const auto& m : matrices_) {
            m->panels = at;
            at += m->nbytes();
        }
    }
    return pellucid::pack(stored, matrix(id), first, rows, isa_, pool_);
}

void Program::copy_blocks(const BlockCopy* copies, int64_t count) {
    for (Context::Cache& cache : context_.caches) {
        const int64_t blocks = context_.num_blocks[(size_t)cache.group];
        for (Memory* m : {&cache.keys, &cache.values}) {
            const size_t bytes = m->size() / (size_t)(blocks * cache.num_kv_heads);
            const auto at = [&](int64_t head, int64_t block) {
                return m->data() + (size_t)(head * blocks + block) * bytes;
            };
            for (const BlockCopy* c = copies; c < copies + count; c++)
                for (int64_t head = 0; c->group == cache.group && head < cache.num_kv_heads; head++)
                    std::memcpy(at(head, c->destination), at(head, c->source), bytes);
        }
    }
}

int64_t Program::weight_bytes() const {
    int64_t total = 0;
    for (const auto& m : matrices_) total += (int64_t)m->nbytes();
    return total;
}

int Program::num_phases() const {
    int total = 0;
    for (const auto& op : ops_) total += op->num_phases();
    return total;
}

void Program::run(Step& step) {
    const int64_t rows[kNumArenas] = {step.num_tokens, step.num_rows, step.num_hidden};
    for (size_t i = 0; i < kNumArenas; i++) {
        if ((int64_t)arena_[i].size() < columns_[i] * rows[i]) arena_[i].resize((size_t)(columns_[i] * rows[i]));
        step.arena[i] = arena_[i].data();
    }
    if (!matrices_.empty() && !weights_.data()) throw std::logic_error("no matrix has been packed");
    for (const auto& op : ops_) op->reserve(step, context_);
    for (auto i = (int)phases_.size(); i < num_phases(); i++) phases_.emplace_back(pool_.size());
    for (Phase& phase : phases_) phase.claims.reset(), phase.done = 0;

    // Tasks are claimed, not dealt out: which thread computes a task changes no bit.
    using Clock = std::chrono::steady_clock;
    pool_.run([&](int thread) {
        const bool timed = thread == 0 && !profile_.empty();
        Clock::time_point before = timed ? Clock::now() : Clock::time_point{};
        auto at = phases_.begin();
        for (const auto& op : ops_)
            for (int phase = 0; phase < op->num_phases(); phase++, at++) {
                const long tasks = (long)op->num_tasks(step, context_, phase);
                const long mine =
                    at->claims.each(tasks, thread, [&](long task) { op->run(step, context_, phase, task, thread); });
                if (mine > 0) at->done.fetch_add(mine, std::memory_order_release);
                pool_.wait_for(at->done, tasks);
                if (!timed) continue;
                const Clock::time_point now = Clock::now();
                profile_[(size_t)(at - phases_.begin())] += std::chrono::duration<double>(now - before).count();
                before = now;
            }
    });
}

}  // namespace pellucid
