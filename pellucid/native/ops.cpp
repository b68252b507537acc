#include "ops.h"
#include <algorithm>
#include <cmath>
#include <cstring>

namespace pellucid {

namespace {

// Rows in tasks of about 16 thousand elements, so that small steps are not cut finer than they are worth.
struct RowTasks {
    int64_t rows, per_task;
    RowTasks(int64_t rows, int64_t width)
        : rows(rows), per_task(std::max<int64_t>(1, 16384 / std::max<int64_t>(1, width))) {}
    int64_t count() const { return (rows + per_task - 1) / per_task; }
    template <class F>
    void each(int64_t task, F&& f) const {
        for (int64_t r = task * per_task; r < std::min(rows, (task + 1) * per_task); r++) f(r);
    }
};

// An operator that makes each output row from the same row of its inputs.
template <class F>
class RowOp : public Op {
  public:
    RowOp(View out, F row) : out_(out), row_(std::move(row)) {}
    int64_t num_tasks(const Step& s, const Context&, int) const override {
        return RowTasks(s.rows_of(out_), out_.width).count();
    }
    void run(const Step& s, Context& c, int, int64_t task, int) const override {
        float* out = s.at(out_);
        RowTasks(s.rows_of(out_), out_.width).each(task, [&](int64_t r) { row_(s, c, r, out + r * out_.stride); });
    }

  private:
    View out_;
    F row_;
};
template <class F>
std::unique_ptr<Op> row_op(View out, F row) {
    return std::make_unique<RowOp<F>>(out, std::move(row));
}

const float* row_of(const Step& s, const View& v, int64_t r) { return s.at(v) + r * v.stride; }

void apply(const Norm& norm, const Kernels& k, const float* x, int64_t n, float* out) {
    if (norm.kind == Norm::rms)
        k.rms_norm(x, norm.weight.data(), n, norm.eps, out);
    else
        k.layer_norm(x, norm.weight.data(), norm.bias.empty() ? nullptr : norm.bias.data(), n, norm.eps, out);
}

class Linear : public Op {
  public:
    Linear(View x, std::vector<Part> parts, Norm norm, std::optional<View> residual, View out)
        : x_(x), out_(out), residual_(residual), parts_(std::move(parts)), norm_(std::move(norm)) {
        for (const Part& p : parts_) panels_ += p.matrix->num_panels();
    }

    // First the input rows are normalised and quantised, then panels of outputs are computed from them.
    int num_phases() const override { return 2; }
    int64_t num_tasks(const Step& s, const Context& c, int phase) const override {
        const int64_t rows = s.rows_of(out_);
        if (rows == 0) return 0;
        const bool prepared = reads_int16(c) || reads_int8(c) || c.reads_bf16() || norm_.kind != Norm::none;
        if (phase == 0) return prepared ? RowTasks(rows, x_.width).count() : 0;
        return (rows + rows_per_task(c, rows) - 1) / rows_per_task(c, rows) * panel_tasks(c, rows);
    }
    void run(const Step& s, Context& c, int phase, int64_t task, int thread) const override {
        if (phase == 0)
            RowTasks(s.rows_of(out_), x_.width).each(task, [&](int64_t r) { prepare(s, c, r); });
        else
            compute(s, c, task, thread);
    }
    void reserve(const Step& s, Context& c) const override {
        const int64_t rows = s.rows_of(out_), k = x_.width;
        auto grow = [](auto& v, int64_t n) {
            if (v.size() < (size_t)n) v.resize((size_t)n);
        };
        if (norm_.kind != Norm::none) grow(c.normed, rows * k);
        if (reads_int8(c)) grow(c.q8, num_blocks(rows, k));
        if (reads_int16(c)) grow(c.q16, num_blocks(rows, k));
        const size_t rounded = c.reads_bf16() ? (size_t)rounded_bytes(rows, k) : 0;
        if (c.rounded.size() < rounded) c.rounded = Memory(rounded);
    }

  private:
    bool reads_int8(const Context& c) const {
        return std::any_of(parts_.begin(), parts_.end(), [&](const Part& p) { return c.reads_int8(p.matrix->type); });
    }
    bool reads_int16(const Context& c) const {
        return !c.reads_bf16() && std::any_of(parts_.begin(), parts_.end(), [&](const Part& p) {
            return !is_float(p.matrix->type) && !c.reads_int8(p.matrix->type);
        });
    }
    // More rows than these do not stay in a core's share of the cache from one panel to the next: with 8,192 inputs,
    // 512 rows at once took 8 % longer.
    static constexpr int64_t kRowsPerTask = 256;
    static_assert(kRowsPerTask % kBlockRows == 0);
    // Kernels of bfloat16 take all rows of a step, and divide them as suits what they expand.
    static int64_t rows_per_task(const Context& c, int64_t rows) { return c.reads_bf16() ? rows : kRowsPerTask; }
    static int panels_at_once(const Context& c) { return c.reads_bf16() ? c.kernels->bf16_panels : 1; }
    int64_t panels_per_task(const Context& c, int64_t rows) const {
        // About 32 thousand weights × rows a task: long enough to hide claiming it, short enough to even out the
        // threads.
        const int64_t at_once = panels_at_once(c);
        return std::max<int64_t>(1, 32768 / (kLanes * x_.width * rows * at_once)) * at_once;
    }
    int64_t panel_tasks(const Context& c, int64_t rows) const {
        return (panels_ + panels_per_task(c, rows) - 1) / panels_per_task(c, rows);
    }
    void prepare(const Step& s, Context& c, int64_t r) const {
        const int64_t k = x_.width;
        const float* x = row_of(s, x_, r);
        if (norm_.kind != Norm::none) {
            float* normed = c.normed.data() + r * k;
            apply(norm_, *c.kernels, x, k, normed);
            x = normed;
        }
        if (c.reads_bf16()) c.kernels->round_row(x, k, r, c.rounded.data());
        const int64_t first = block_index(r, 0, k / 32);
        if (reads_int8(c)) c.kernels->quantize_row_int8(x, k, c.q8.data() + first);
        if (reads_int16(c)) c.kernels->quantize_row(x, k, c.q16.data() + first);
    }
    void compute(const Step& s, const Context& c, int64_t task, int thread) const {
        const int64_t k = x_.width, rows = s.rows_of(out_), per_task = panels_per_task(c, rows);
        const int64_t row = task / panel_tasks(c, rows) * rows_per_task(c, rows);
        const int64_t panel_task = task % panel_tasks(c, rows);
        const bool normed = norm_.kind != Norm::none;
        LinearTask t{};
        t.in.x = normed ? c.normed.data() + row * k : row_of(s, x_, row);
        t.in.x_stride = normed ? k : x_.stride;
        t.in.k = k;
        if (reads_int16(c)) t.in.q16 = c.q16.data() + block_index(row, 0, k / 32);
        if (reads_int8(c)) t.in.q8 = c.q8.data() + block_index(row, 0, k / 32);
        if (c.reads_bf16()) t.in.rounded = c.rounded.data();
        t.rows = (int)std::min(rows_per_task(c, rows), rows - row);
        const auto& kernels = c.reads_bf16() ? c.kernels->linear_bf16 : c.kernels->linear;
        t.out_stride = out_.stride;
        t.residual_stride = residual_ ? residual_->stride : 0;
        t.scratch = c.thread_scratch[(size_t)thread].data();
        int64_t first_panel = 0, first_out = 0;
        for (const Part& p : parts_) {
            const Matrix& m = *p.matrix;
            const int64_t from = std::max(panel_task * per_task, first_panel);
            const int64_t to = std::min((panel_task + 1) * per_task, first_panel + m.num_panels());
            for (int64_t i = from, next; i < to; i = next) {
                next = std::min(i + panels_at_once(c), to);
                const int64_t n = (i - first_panel) * kLanes;
                t.panel = m.panel(i - first_panel);
                t.cols = (int)std::min((next - i) * kLanes, m.n - n);
                t.bias = p.bias.empty() ? nullptr : p.bias.data() + n;
                t.out = s.at(out_) + row * out_.stride + first_out + n;
                t.residual = residual_ ? row_of(s, *residual_, row) + first_out + n : nullptr;
                (c.reads_int8(m.type) ? c.kernels->linear_int8 : kernels)[(int)m.type](t);
            }
            first_panel += m.num_panels();
            first_out += m.n;
        }
    }

    View x_, out_;
    std::optional<View> residual_;
    std::vector<Part> parts_;
    Norm norm_;
    int64_t panels_ = 0;
};

// Fills one table of angles for the step's positions.
class RopeTableOp : public Op {
  public:
    explicit RopeTableOp(int table) : table_((size_t)table) {}
    int64_t num_tasks(const Step& s, const Context& c, int) const override { return tasks(s, c).count(); }
    void run(const Step& s, Context& c, int, int64_t task, int) const override {
        Context::RopeTable& t = c.ropes[table_];
        const size_t half = t.inv_freq.size();
        tasks(s, c).each(task, [&](int64_t r) {
            for (size_t i = 0; i < half; i++) {
                // In double: at position 100,000 a float product can already be off by 0.004.
                const double angle = (double)s.positions[r] * (double)t.inv_freq[i];
                t.cos[(size_t)r * half + i] = (float)std::cos(angle) * t.scale;
                t.sin[(size_t)r * half + i] = (float)std::sin(angle) * t.scale;
            }
        });
    }
    void reserve(const Step& s, Context& c) const override {
        Context::RopeTable& t = c.ropes[table_];
        const size_t n = (size_t)s.num_tokens * t.inv_freq.size();
        if (t.cos.size() < n) t.cos.resize(n), t.sin.resize(n);
    }

  private:
    RowTasks tasks(const Step& s, const Context& c) const {
        return RowTasks(s.num_tokens,
                        16 * (int64_t)c.ropes[table_].inv_freq.size());  // a cosine costs about 16 plain elements
    }
    size_t table_;
};

class Attention : public Op {
  public:
    Attention(View q, View k, View v, AttentionShape shape, View out) : q_(q), k_(k), v_(v), out_(out), shape_(shape) {}

    // First the step's keys and values go to their slots, then each group of rows reads them with the heads that share
    // a kv head; few rows with many keys do so part by part, merged at the end.
    int num_phases() const override { return 3; }
    int64_t num_tasks(const Step& s, const Context& c, int phase) const override {
        if (phase == 0) return RowTasks(s.num_tokens, 2 * k_.width).count();
        const int64_t units = num_units(s), parts = num_parts(s, c);
        return phase == 1 ? units * parts : parts > 1 ? units : 0;
    }
    void run(const Step& s, Context& c, int phase, int64_t task, int thread) const override {
        if (phase == 0) return RowTasks(s.num_tokens, 2 * k_.width).each(task, [&](int64_t r) { store(s, c, r); });
        const int64_t parts = num_parts(s, c), unit = phase == 1 ? task / parts : task;
        AttendTask t = task_of(s, c, unit);
        t.scratch = (float*)c.thread_scratch[(size_t)thread].data();
        if (parts > 1) {
            t.part_stride = partial_floats();
            t.partial = c.attend_parts.data() + unit * parts * t.part_stride;
        }
        if (phase == 2) return c.kernels->merge_parts(t);
        t.part = task % parts;
        if (t.partial) t.partial += t.part * t.part_stride;
        c.kernels->attend[(int)c.kv_kind](t);
    }
    void reserve(const Step& s, Context& c) const override {
        const int64_t parts = num_parts(s, c);
        const size_t floats = parts > 1 ? (size_t)(num_units(s) * parts * partial_floats()) : 0;
        if (c.attend_parts.size() < floats) c.attend_parts.resize(floats);
    }

  private:
    int group() const { return shape_.num_heads / shape_.num_kv_heads; }
    int64_t row_groups(const Step& s, int64_t b) const {
        const int64_t rows = attend_rows(group());
        return (s.query_start[b + 1] - s.query_start[b] + rows - 1) / rows;
    }
    int64_t num_units(const Step& s) const {
        int64_t groups = 0;
        for (int64_t b = 0; b < s.num_seqs; b++) groups += row_groups(s, b);
        return groups * shape_.num_kv_heads;
    }
    int64_t partial_floats() const {
        return (int64_t)attend_rows(group()) * group() * (padded_head(shape_.head_size) + 2);
    }
    // Parts of keys that are tasks of their own: one, unless there are too few units to keep all threads busy. The
    // result is the same either way.
    int64_t num_parts(const Step& s, const Context& c) const {
        const int64_t threads = (int64_t)c.thread_scratch.size();
        if (threads == 1 || num_units(s) >= 4 * threads) return 1;
        int64_t highest = 0;
        for (int64_t b = 0; b < s.num_seqs; b++)
            highest = std::max<int64_t>(highest, s.positions[s.query_start[b + 1] - 1]);
        return highest / kKeyPart + 1;
    }
    void store(const Step& s, Context& c, int64_t r) const {
        Context::Cache& cache = c.caches[(size_t)shape_.cache];
        c.kernels->store_kv[(int)c.kv_kind](row_of(s, k_, r), row_of(s, v_, r), cache.keys.data(), cache.values.data(),
                                            s.slot_mapping[cache.group * s.num_tokens + r], blocks_of(c, cache),
                                            shape_.num_kv_heads, shape_.head_size);
    }
    static int64_t blocks_of(const Context& c, const Context::Cache& cache) {
        return c.num_blocks[(size_t)cache.group];
    }
    AttendTask task_of(const Step& s, const Context& c, int64_t unit) const {
        // The longest contexts are usually last in a sequence; claim those row groups first.
        int64_t groups = unit / shape_.num_kv_heads, b = 0;
        const int kv_head = (int)(unit % shape_.num_kv_heads), max_rows = attend_rows(group());
        while (groups >= row_groups(s, b)) groups -= row_groups(s, b++);
        const int64_t row = s.query_start[b] + (row_groups(s, b) - 1 - groups) * max_rows;
        const int64_t column = (int64_t)kv_head * group() * shape_.head_size;
        AttendTask t{};
        t.q = row_of(s, q_, row) + column;
        t.q_stride = q_.stride;
        t.out = s.at(out_) + row * out_.stride + column;
        t.out_stride = out_.stride;
        t.positions = s.positions + row;
        t.rows = (int)std::min<int64_t>(max_rows, s.query_start[b + 1] - row);
        t.group = group();
        const Context::Cache& cache = c.caches[(size_t)shape_.cache];
        t.keys = cache.keys.data();
        t.values = cache.values.data();
        t.cache_blocks = blocks_of(c, cache);
        t.block_table = s.block_tables + (cache.group * s.num_seqs + b) * s.max_blocks;
        t.num_blocks = s.max_blocks;
        t.kv_head = kv_head;
        t.head_size = shape_.head_size;
        t.scale = shape_.scale;
        t.softcap = shape_.softcap;
        t.window = shape_.window;
        return t;
    }

    View q_, k_, v_, out_;
    AttentionShape shape_;
};

}  // namespace

std::unique_ptr<Op> make_embed(const Matrix& weight, bool by_position, float scale, View out) {
    return row_op(out, [&weight, by_position, scale](const Step& s, Context& c, int64_t r, float* to) {
        const int32_t id = by_position ? s.positions[r] : s.token_ids[r];
        c.kernels->weight_row[(int)weight.type](weight.panel(id / kLanes), weight.k, id % kLanes, scale, to);
    });
}

std::unique_ptr<Op> make_linear(View x, std::vector<Part> parts, Norm norm, std::optional<View> residual, View out) {
    return std::make_unique<Linear>(x, std::move(parts), std::move(norm), residual, out);
}

std::unique_ptr<Op> make_norm(View x, Norm norm, View out) {
    return row_op(out, [x, norm = std::move(norm)](const Step& s, Context& c, int64_t r, float* to) {
        const int64_t n = (int64_t)norm.weight.size();
        for (int64_t i = 0; i < x.width; i += n) apply(norm, *c.kernels, row_of(s, x, r) + i, n, to + i);
    });
}

std::unique_ptr<Op> make_rope_table(int table) { return std::make_unique<RopeTableOp>(table); }

std::unique_ptr<Op> make_rope(View x, int table, int head_size, bool interleaved, View out) {
    return row_op(out, [=](const Step& s, Context& c, int64_t r, float* to) {
        const Context::RopeTable& t = c.ropes[(size_t)table];
        const int64_t half = (int64_t)t.inv_freq.size();
        c.kernels->rope(row_of(s, x, r), t.cos.data() + r * half, t.sin.data() + r * half, x.width, head_size,
                        (int)(2 * half), interleaved, to);
    });
}

std::unique_ptr<Op> make_attention(View q, View k, View v, AttentionShape shape, View out) {
    return std::make_unique<Attention>(q, k, v, shape, out);
}

std::unique_ptr<Op> make_glu(View gate, View up, Act act, View out) {
    return row_op(out, [=](const Step& s, Context& c, int64_t r, float* to) {
        c.kernels->glu(row_of(s, gate, r), row_of(s, up, r), out.width, act, to);
    });
}
std::unique_ptr<Op> make_activate(View x, Act act, View out) {
    return row_op(out, [=](const Step& s, Context& c, int64_t r, float* to) {
        c.kernels->activate(row_of(s, x, r), out.width, act, to);
    });
}
std::unique_ptr<Op> make_add(View a, View b, View out) {
    return row_op(out, [=](const Step& s, Context& c, int64_t r, float* to) {
        c.kernels->add(row_of(s, a, r), row_of(s, b, r), out.width, to);
    });
}
std::unique_ptr<Op> make_softcap(View x, float cap, View out) {
    return row_op(out, [=](const Step& s, Context& c, int64_t r, float* to) {
        c.kernels->softcap(row_of(s, x, r), out.width, cap, to);
    });
}
std::unique_ptr<Op> make_select(View x, View out) {
    const bool hidden = (int)out.space % kNumArenas == (int)Space::hidden;
    return row_op(out, [=](const Step& s, Context&, int64_t r, float* to) {
        const int32_t* rows = hidden ? s.hidden_rows : s.logit_rows;
        std::memcpy(to, row_of(s, x, rows[r]), (size_t)x.width * sizeof(float));
    });
}

std::unique_ptr<Op> make_copy(View x, View out) {
    return row_op(out, [=](const Step& s, Context&, int64_t r, float* to) {
        std::memcpy(to, row_of(s, x, r), (size_t)x.width * sizeof(float));
    });
}

int64_t linear_scratch(const std::vector<Part>& parts) {
    int64_t bytes = 0;
    for (const Part& p : parts) bytes = std::max(bytes, linear_scratch_bytes(p.matrix->k));
    return bytes;
}

}  // namespace pellucid
