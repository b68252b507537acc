// A step as a flat list of operators over an arena, run by all threads together without returning to Python in between.
//
// What may not enter here: requests, scheduling, sampling, model names. A new operator goes to ops.cpp, a new kernel to
// isa/.
#pragma once
#include <array>
#include <deque>
#include <memory>
#include <string>
#include <vector>
#include "claims.h"
#include "isa/kernels.h"
#include "pack.h"
#include "threads.h"

namespace pellucid {

// Where a value lives: in the arena of values with T, R or P rows, or in an array that the step hands out.
// Arena columns are per row: a value of width w at column c of an arena used by n rows starts at c * n floats and its
// rows are `stride` floats apart. A slice is its parent's view with an offset.
enum class Space : int { tokens = 0, rows = 1, hidden = 2, output_tokens = 3, output_rows = 4, output_hidden = 5 };
constexpr int kNumArenas = 3;

struct View {
    Space space;
    int64_t column;  // in the output spaces: the output's index
    int64_t stride, offset, width;
};

// One step's input, as in executors/base.py: Batch.
struct Step {
    int64_t num_tokens, num_rows, num_hidden, num_seqs, max_blocks;
    const int32_t *token_ids, *positions;
    const int64_t* slot_mapping;  // [G, T]
    const int32_t* block_tables;  // [G, B, max_blocks]
    const int32_t *query_start, *logit_rows, *hidden_rows;
    std::vector<float*> outputs;
    std::array<float*, kNumArenas> arena;

    int64_t rows_of(const View& v) const {
        const int64_t rows[kNumArenas] = {num_tokens, num_rows, num_hidden};
        return rows[(int)v.space % kNumArenas];
    }
    float* at(const View& v) const {
        const bool in_arena = (int)v.space < kNumArenas;
        return (in_arena ? arena[(size_t)v.space] + v.column * rows_of(v) : outputs[(size_t)v.column]) + v.offset;
    }
};

// What operators share: kernels, the caches, and scratch sized for the step before it starts.
struct Context {
    const Kernels* kernels;
    KvKind kv_kind;
    Rounding rounding;                // to int8 only for types that Kernels::linear_int8 has, else to int16
    std::vector<int64_t> num_blocks;  // of each KV group
    struct Cache {
        int group, num_kv_heads;
        Memory keys, values;  // of each kv head all blocks, one after the other
    };
    std::vector<Cache> caches;
    std::vector<Memory> thread_scratch;
    std::vector<float> attend_parts;  // the current attention's, where its keys are divided over threads
    // The current linear's prepared input.
    std::vector<float> normed;
    std::vector<Block16> q16;
    std::vector<Block8> q8;
    Memory rounded;
    // cos and sin [T, rotary / 2] of each rope table.
    struct RopeTable {
        std::vector<float> inv_freq, cos, sin;
        float scale;
    };
    std::vector<RopeTable> ropes;

    bool reads_int8(Type type) const { return rounding == Rounding::int8 && kernels->linear_int8[(int)type]; }
    bool reads_bf16() const { return rounding == Rounding::bfloat16; }
};

// An operator is one or more phases; a phase is a number of tasks that threads claim one by one, in any order.
class Op {
  public:
    virtual ~Op() = default;
    virtual int num_phases() const { return 1; }
    virtual int64_t num_tasks(const Step&, const Context&, int phase) const = 0;
    virtual void run(const Step&, Context&, int phase, int64_t task, int thread) const = 0;
    // Grows the context's scratch for this step; called by one thread before any task runs.
    virtual void reserve(const Step&, Context&) const {}
};

class Program {
  public:
    Program(Isa isa, int threads, int cores, std::vector<int64_t> num_blocks, KvKind kv_kind, Rounding rounding);

    // A matrix whose weights `pack` brings, before the first run.
    int add_matrix(Type type, int64_t n, int64_t k);
    // Returns the first block that is not finite, or -1 (pack.h).
    int64_t pack(int id, const uint8_t* stored, int64_t first, int64_t rows);
    const Matrix& matrix(int id) const { return *matrices_.at((size_t)id); }
    void set_arena(int64_t token_columns, int64_t row_columns, int64_t hidden_columns) {
        columns_ = {token_columns, row_columns, hidden_columns};
    }
    int add_cache(int group, int num_kv_heads, int head_size);
    int add_rope_table(std::vector<float> inv_freq, float scale);
    void add(std::unique_ptr<Op> op) { ops_.push_back(std::move(op)); }
    // Room for one task of any operator, for each thread.
    void need_scratch(int64_t bytes);

    // In order: a later copy reads what an earlier one wrote.
    struct BlockCopy {
        int32_t group, source, destination;
    };
    void copy_blocks(const BlockCopy* copies, int64_t count);
    // Throws std::bad_alloc before anything is computed.
    void run(Step& step);

    int num_phases() const;  // of all operators
    // From now on, seconds that runs spend in each phase of each operator, in order, as the calling thread sees them:
    // waiting for other threads counts. Nothing is read from a clock before.
    void start_profile() { profile_.assign((size_t)num_phases(), 0.0); }
    const std::vector<double>& profile() const { return profile_; }

    const Context& context() const { return context_; }
    int64_t weight_bytes() const;

  private:
    const Isa isa_;
    ThreadPool pool_;
    Context context_;
    std::vector<std::unique_ptr<Matrix>> matrices_;
    Memory weights_;  // of all matrices side by side, so that huge pages hold small ones too
    std::vector<std::unique_ptr<Op>> ops_;
    std::array<int64_t, kNumArenas> columns_{};
    std::array<std::vector<float>, kNumArenas> arena_;
    struct Phase {
        explicit Phase(int threads) : claims(threads) {}
        Claims claims;
        std::atomic<long> done{0};  // tasks
    };
    std::deque<Phase> phases_;
    std::vector<double> profile_;
};

const Kernels& kernels_of(Isa isa);
bool has_isa(Isa isa);  // whether this machine can run it
// By the name in its kernel table. Throws std::invalid_argument for one that this machine cannot run.
Isa isa_of(const std::string& name);

}  // namespace pellucid
