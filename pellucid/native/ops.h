// The operators of graph/ir.py, made ready: weights packed, constants resolved, values placed.
#pragma once
#include <optional>
#include "program.h"

namespace pellucid {

std::unique_ptr<Op> make_embed(const Matrix& weight, bool by_position, float scale, View out);

struct Norm {  // fused before a linear, or on its own
    enum Kind : int { none = 0, rms = 1, layer = 2 } kind = none;
    std::vector<float> weight, bias;
    float eps = 0;
};
struct Part {  // one of the matrices stacked along the outputs
    const Matrix* matrix;
    std::vector<float> bias;  // empty, or padded to whole panels
};
std::unique_ptr<Op> make_linear(View x, std::vector<Part> parts, Norm norm, std::optional<View> residual, View out);
std::unique_ptr<Op> make_norm(View x, Norm norm, View out);
std::unique_ptr<Op> make_rope_table(int table);
std::unique_ptr<Op> make_rope(View x, int table, int head_size, bool interleaved, View out);

struct AttentionShape {
    int cache, num_heads, num_kv_heads, head_size, window;
    float scale, softcap;
};
std::unique_ptr<Op> make_attention(View q, View k, View v, AttentionShape shape, View out);
std::unique_ptr<Op> make_glu(View gate, View up, Act act, View out);
std::unique_ptr<Op> make_activate(View x, Act act, View out);
std::unique_ptr<Op> make_add(View a, View b, View out);
std::unique_ptr<Op> make_softcap(View x, float cap, View out);
std::unique_ptr<Op> make_select(View x, View out);
std::unique_ptr<Op> make_copy(View x, View out);

int64_t linear_scratch(const std::vector<Part>& parts);

}  // namespace pellucid
