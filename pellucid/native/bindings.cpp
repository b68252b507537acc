// The Python face of the native program. Python lowers a graph with it once (executors/cpu.py); a step is one call
// without the GIL.
#include "sampling/bindings.h"
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>
#include <stdexcept>
#include "machine_limits.h"
#include "ops.h"
#include "text_bindings.h"

namespace nb = nanobind;
using namespace pellucid;

namespace {

template <class T>
using Array = nb::ndarray<T, nb::c_contig, nb::device::cpu>;
template <class T>
using Vector = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ViewTuple = std::tuple<int, int64_t, int64_t, int64_t, int64_t>;  // space, column, stride, offset, width

View view(const ViewTuple& t) {
    return {(Space)std::get<0>(t), std::get<1>(t), std::get<2>(t), std::get<3>(t), std::get<4>(t)};
}
std::vector<float> floats(const Vector<const float>& a) { return {a.data(), a.data() + a.size()}; }

Norm norm_of(int kind, const Vector<const float>& weight, const std::optional<Vector<const float>>& bias, float eps) {
    return {(Norm::Kind)kind, floats(weight), bias ? floats(*bias) : std::vector<float>{}, eps};
}

// Rows of a matrix: its number, the first row, the stored rows from there on, and whether those are a mapped file's.
using Rows = std::tuple<int, int64_t, Vector<const uint8_t>, bool>;

// Packs them in one call without the GIL, and gives a mapped file's pages back behind each. Returns the first block
// that is not finite of each (-1: none).
std::vector<int64_t> pack_rows(Program& p, const std::vector<Rows>& parts) {
    std::vector<int64_t> counts, bad;
    for (const auto& [id, first, stored, mapped] : parts) {
        const Matrix& m = p.matrix(id);
        const int64_t row_bytes = stored_row_bytes(m.type, m.k), rows = (int64_t)stored.size() / row_bytes;
        const bool whole = first % kLanes == 0 && (rows % kLanes == 0 || first + rows == m.n);
        if (first < 0 || first + rows > m.n || rows * row_bytes != (int64_t)stored.size() || !whole)
            throw std::invalid_argument("not rows of whole panels");
        counts.push_back(rows);
    }
    nb::gil_scoped_release released;
    for (size_t i = 0; i < parts.size(); i++) {
        const auto& [id, first, stored, mapped] = parts[i];
        bad.push_back(p.pack(id, stored.data(), first, counts[i]));
        if (mapped) give_back(stored.data(), stored.size());
    }
    return bad;
}

void run(Program& p, const Vector<const int32_t>& token_ids, const Vector<const int32_t>& positions,
         const nb::ndarray<const int64_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>& slot_mapping,
         const nb::ndarray<const int32_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>& block_tables,
         const Vector<const int32_t>& query_start, const Vector<const int32_t>& seq_lens,
         const Vector<const int32_t>& logit_rows, const Vector<const int32_t>& hidden_rows,
         const std::vector<Array<float>>& outputs) {
    Step s{};
    s.num_tokens = (int64_t)token_ids.size();
    s.num_rows = (int64_t)logit_rows.size();
    s.num_hidden = (int64_t)hidden_rows.size();
    s.num_seqs = (int64_t)seq_lens.size();
    s.max_blocks = (int64_t)block_tables.shape(2);
    s.token_ids = token_ids.data();
    s.positions = positions.data();
    s.slot_mapping = slot_mapping.data();
    s.block_tables = block_tables.data();
    s.query_start = query_start.data();
    s.logit_rows = logit_rows.data();
    s.hidden_rows = hidden_rows.data();
    for (const Array<float>& a : outputs) s.outputs.push_back(a.data());
    nb::gil_scoped_release released;
    p.run(s);
}

}  // namespace

NB_MODULE(_native, m) {
    nb::set_leak_warnings(false);  // what a program still holds when it ends is the system's to free
    m.doc() = "Pellucid's native kernels; use pellucid.executors.cpu.";
    m.def("available_isas", [] {
        std::vector<std::string> names;
        for (int i = 0; i < kNumIsas; i++)
            if (has_isa((Isa)i)) names.push_back(kernels_of((Isa)i).name);
        return names;
    });

    m.def("kv_head_nbytes", [](int kind, int64_t columns) { return kv_head_bytes((KvKind)kind, columns); });
    bind_limits(m);
    bind_text(m);
    nb::class_<Program>(m, "Program")
        .def(
            "__init__",
            [](Program* self, const std::string& isa, int threads, int cores, std::vector<int64_t> num_blocks,
               int kv_kind, int rounding) {
                if (kv_kind < 0 || kv_kind >= kNumKvKinds) throw std::invalid_argument("unknown kind of KV cache");
                if (rounding < 0 || rounding >= kNumRoundings) throw std::invalid_argument("unknown rounding");
                new (self)
                    Program(isa_of(isa), threads, cores, std::move(num_blocks), (KvKind)kv_kind, (Rounding)rounding);
            },
            nb::arg("isa"), nb::arg("threads"), nb::arg("cores"), nb::arg("num_blocks"), nb::arg("kv_kind"),
            nb::arg("rounding"))
        .def("add_matrix",
             [](Program& p, int type, int64_t n, int64_t k) {
                 if (type < 0 || type >= kNumTypes || !p.context().kernels->linear[type])
                     throw std::invalid_argument("unknown type");
                 return p.add_matrix((Type)type, n, k);
             })
        .def("pack", &pack_rows)
        .def("add_cache", &Program::add_cache)
        .def("set_arena", &Program::set_arena)
        .def_prop_ro("weight_nbytes", &Program::weight_bytes)
        .def_prop_ro("num_phases", &Program::num_phases)
        .def("start_profile", &Program::start_profile)
        .def("profile", &Program::profile)
        .def("rope_table",
             [](Program& p, const Vector<const float>& inv_freq, float scale) {
                 const int table = p.add_rope_table(floats(inv_freq), scale);
                 p.add(make_rope_table(table));
                 return table;
             })
        .def("embed", [](Program& p, int weight, bool by_position, float scale,
                         ViewTuple out) { p.add(make_embed(p.matrix(weight), by_position, scale, view(out))); })
        .def(
            "linear",
            [](Program& p, ViewTuple x, const std::vector<int>& matrices,
               const std::vector<std::optional<Vector<const float>>>& biases, int norm,
               std::optional<Vector<const float>> norm_weight, std::optional<Vector<const float>> norm_bias, float eps,
               std::optional<ViewTuple> residual, ViewTuple out) {
                std::vector<Part> parts;
                for (size_t i = 0; i < matrices.size(); i++) {
                    Part part{&p.matrix(matrices[i]), {}};
                    if (biases[i]) {
                        part.bias = floats(*biases[i]);
                        part.bias.resize((size_t)(part.matrix->num_panels() * kLanes));
                    }
                    parts.push_back(std::move(part));
                }
                p.need_scratch(linear_scratch(parts));
                Norm fused;
                if (norm_weight) fused = norm_of(norm, *norm_weight, norm_bias, eps);
                p.add(make_linear(view(x), std::move(parts), std::move(fused),
                                  residual ? std::optional(view(*residual)) : std::nullopt, view(out)));
            },
            nb::arg("x"), nb::arg("matrices"), nb::arg("biases"), nb::arg("norm"), nb::arg("norm_weight").none(),
            nb::arg("norm_bias").none(), nb::arg("eps"), nb::arg("residual").none(), nb::arg("out"))
        .def(
            "norm",
            [](Program& p, ViewTuple x, int kind, const Vector<const float>& weight,
               std::optional<Vector<const float>> bias, float eps,
               ViewTuple out) { p.add(make_norm(view(x), norm_of(kind, weight, bias, eps), view(out))); },
            nb::arg("x"), nb::arg("kind"), nb::arg("weight"), nb::arg("bias").none(), nb::arg("eps"), nb::arg("out"))
        .def("rope", [](Program& p, ViewTuple x, int table, int head_size, bool interleaved,
                        ViewTuple out) { p.add(make_rope(view(x), table, head_size, interleaved, view(out))); })
        .def(
            "attention",
            [](Program& p, ViewTuple q, ViewTuple k, ViewTuple v, int cache, int num_heads, int num_kv_heads,
               int head_size, int window, float scale, float softcap, ViewTuple out) {
                p.need_scratch(attend_scratch_bytes(num_heads / num_kv_heads, head_size));
                p.add(make_attention(view(q), view(k), view(v),
                                     {cache, num_heads, num_kv_heads, head_size, window, scale, softcap}, view(out)));
            },
            nb::arg("q"), nb::arg("k"), nb::arg("v"), nb::arg("cache"), nb::arg("num_heads"), nb::arg("num_kv_heads"),
            nb::arg("head_size"), nb::arg("window"), nb::arg("scale"), nb::arg("softcap"), nb::arg("out"))
        .def("glu", [](Program& p, ViewTuple gate, ViewTuple up, int act,
                       ViewTuple out) { p.add(make_glu(view(gate), view(up), (Act)act, view(out))); })
        .def("act", [](Program& p, ViewTuple x, int act,
                       ViewTuple out) { p.add(make_activate(view(x), (Act)act, view(out))); })
        .def("add",
             [](Program& p, ViewTuple a, ViewTuple b, ViewTuple out) { p.add(make_add(view(a), view(b), view(out))); })
        .def("softcap",
             [](Program& p, ViewTuple x, float cap, ViewTuple out) { p.add(make_softcap(view(x), cap, view(out))); })
        .def("select", [](Program& p, ViewTuple x, ViewTuple out) { p.add(make_select(view(x), view(out))); })
        .def("copy", [](Program& p, ViewTuple x, ViewTuple out) { p.add(make_copy(view(x), view(out))); })
        .def("copy_blocks",
             [](Program& p, const nb::ndarray<const int32_t, nb::shape<-1, 3>, nb::c_contig, nb::device::cpu>& copies) {
                 static_assert(sizeof(Program::BlockCopy) == 3 * sizeof(int32_t));
                 nb::gil_scoped_release released;
                 p.copy_blocks((const Program::BlockCopy*)copies.data(), (int64_t)copies.shape(0));
             })
        .def("run", &run, nb::arg("token_ids"), nb::arg("positions"), nb::arg("slot_mapping"), nb::arg("block_tables"),
             nb::arg("query_start"), nb::arg("seq_lens"), nb::arg("logit_rows"), nb::arg("hidden_rows"),
             nb::arg("outputs"));

    sampling::bind(m);
}
