// The Python face of the samplers; pellucid/executors/sampling.py is the only one to use it.
#include "sampling/bindings.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <stdexcept>

#include "sampling/sampler.h"

namespace nb = nanobind;

namespace pellucid::sampling {
namespace {

template <class T>
using Vector = nb::ndarray<T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Matrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using RankedTuple = std::tuple<int32_t, double, int64_t>;

const Walks& walks_of(bool portable) { return portable ? portable_walks() : best_walks(); }

std::vector<RankedTuple> tuples(const std::vector<Ranked>& ranked) {
    std::vector<RankedTuple> result;
    for (const Ranked& r : ranked) result.emplace_back(r.token, r.logprob, r.rank);
    return result;
}

// (sampler, logits, processed or None, mask or None, num_output_tokens, position, num_logprobs)
Row row_of(const nb::tuple& t) {
    const auto logits = nb::cast<Vector<const float>>(t[1]);
    Row row{};
    row.sampler = nb::cast<const Sampler*>(t[0]);
    row.logits = row.processed = logits.data();
    row.vocab_size = (int64_t)logits.size();
    if (!t[2].is_none()) {
        const auto processed = nb::cast<Vector<const float>>(t[2]);
        if (processed.size() != logits.size()) throw std::invalid_argument("sizes of logits differ");
        row.processed = processed.data();
    }
    if (!t[3].is_none()) {
        const auto mask = nb::cast<Vector<const uint32_t>>(t[3]);
        row.mask = mask.data();
        row.mask_words = (int64_t)mask.size();
    }
    row.num_output_tokens = nb::cast<int64_t>(t[4]);
    row.position = nb::cast<int64_t>(t[5]);
    row.num_logprobs = nb::cast<int>(t[6]);
    if (!row.sampler || row.vocab_size == 0) throw std::invalid_argument("a row without sampler or logits");
    return row;
}

nb::list choose_list(const nb::list& list, int threads, bool portable) {
    std::vector<Row> rows;
    for (const nb::handle entry : list) rows.push_back(row_of(nb::cast<nb::tuple>(entry)));
    std::vector<Choice> choices;
    {
        nb::gil_scoped_release released;
        choices = choose_rows(rows, threads, walks_of(portable));
    }
    nb::list result;
    for (const Choice& c : choices)
        result.append(nb::make_tuple(c.token, c.surprise, c.num_invalid, tuples(c.logprobs)));
    return result;
}

std::vector<std::vector<RankedTuple>> rank_rows(const Matrix& logits, const std::vector<int32_t>& tokens, int count,
                                                bool portable) {
    const int64_t n = (int64_t)logits.shape(1);
    if (logits.shape(0) != tokens.size()) throw std::invalid_argument("a token for each row");
    for (const int32_t token : tokens)
        if (token < 0 || token >= n) throw std::invalid_argument("no such token");
    std::vector<std::vector<RankedTuple>> result;
    nb::gil_scoped_release released;
    const Walks& walks = walks_of(portable);
    Candidates raw(walks);
    for (size_t r = 0; r < tokens.size(); r++) {
        const bool finite = raw.begin(const_cast<float*>(logits.data()) + (int64_t)r * n, n);
        result.push_back(finite ? tuples(rank(raw, tokens[r], count, walks)) : std::vector<RankedTuple>{});
    }
    return result;
}

}  // namespace

void bind(nb::module_& m) {
    nb::class_<Settings>(m, "SamplerSettings")
        .def(nb::init<>())
        .def_rw("seed", &Settings::seed)
        .def_rw("index", &Settings::index)
        .def_rw("stages", &Settings::stages)
        .def_rw("allowed", &Settings::allowed)
        .def_rw("end_token_ids", &Settings::end_token_ids)
        .def_rw("min_tokens", &Settings::min_tokens)
        .def_rw("bad_words", &Settings::bad_words)
        .def_rw("no_repeat_ngram_size", &Settings::no_repeat_ngram_size)
        .def_rw("bias_ids", &Settings::bias_ids)
        .def_rw("bias", &Settings::bias)
        .def_rw("repetition_penalty", &Settings::repetition_penalty)
        .def_rw("frequency_penalty", &Settings::frequency_penalty)
        .def_rw("presence_penalty", &Settings::presence_penalty)
        .def_rw("repeat_last_n", &Settings::repeat_last_n)
        .def_rw("dry_multiplier", &Settings::dry_multiplier)
        .def_rw("dry_base", &Settings::dry_base)
        .def_rw("dry_allowed_length", &Settings::dry_allowed_length)
        .def_rw("temperature", &Settings::temperature)
        .def_rw("lowest_temperature", &Settings::lowest_temperature)
        .def_rw("dynatemp_range", &Settings::dynatemp_range)
        .def_rw("dynatemp_exponent", &Settings::dynatemp_exponent)
        .def_rw("top_k", &Settings::top_k)
        .def_rw("typical_p", &Settings::typical_p)
        .def_rw("top_p", &Settings::top_p)
        .def_rw("min_p", &Settings::min_p)
        .def_rw("top_n_sigma", &Settings::top_n_sigma)
        .def_rw("xtc_probability", &Settings::xtc_probability)
        .def_rw("xtc_threshold", &Settings::xtc_threshold)
        .def_rw("mirostat_tau", &Settings::mirostat_tau)
        .def_rw("mirostat_eta", &Settings::mirostat_eta);

    nb::class_<Sampler>(m, "Sampler")
        .def("__init__",
             [](Sampler* self, const Settings& s) {
                 const auto ids_are_valid = [](const std::vector<int32_t>& ids) {
                     for (const int32_t id : ids)
                         if (id < 0) return false;
                     return true;
                 };
                 bool valid =
                     s.bias.size() == s.bias_ids.size() && ids_are_valid(s.bias_ids) && ids_are_valid(s.end_token_ids);
                 for (const auto& word : s.bad_words) valid &= !word.empty() && ids_are_valid(word);
                 if (!valid) throw std::invalid_argument("token ids of a sampler");
                 new (self) Sampler(s);
             })
        .def("add_prompt",
             [](Sampler& s, const Vector<const int32_t>& tokens, const Vector<const uint8_t>& breaks) {
                 if (tokens.size() != breaks.size()) throw std::invalid_argument("tokens and breaks differ in length");
                 for (size_t i = 0; i < tokens.size(); i++)
                     if (tokens.data()[i] < 0) throw std::invalid_argument("token ids of a prompt");
                 nb::gil_scoped_release released;
                 s.add_prompt(tokens.data(), breaks.data(), (int64_t)tokens.size());
             })
        .def("accept", [](Sampler& s, int32_t token, bool breaks, double surprise) {
            if (token < 0) throw std::invalid_argument("a token id");
            s.accept(token, breaks, surprise);
        });

    m.def("choose_rows", &choose_list, nb::arg("rows"), nb::arg("threads") = 1, nb::arg("portable") = false);
    m.def("rank_rows", &rank_rows, nb::arg("logits"), nb::arg("tokens"), nb::arg("count"), nb::arg("portable") = false);
    m.def("sampler_uniform", [](uint64_t seed, uint32_t index, uint64_t position) {
        const Uniform u = uniform(seed, index, position);
        return std::make_pair(u.token, u.xtc);
    });
}

}  // namespace pellucid::sampling
