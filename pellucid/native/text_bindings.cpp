// The Python face of the tokenizer (text/gguf_vocabulary.py).
#include "text_bindings.h"

#include <nanobind/ndarray.h>
#include <nanobind/stl/vector.h>
#include <stdexcept>
#include "sentencepiece.h"

namespace nb = nanobind;

namespace pellucid {

namespace {

template <class T>
using Vector = nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// UTF-8 of a Python string; a lone surrogate as if it were a character. Nothing is left in the string's own cache.
void append_utf8(nb::handle text, std::string& out) {
    const Py_ssize_t length = PyUnicode_GET_LENGTH(text.ptr());
    const int kind = PyUnicode_KIND(text.ptr());
    const void* data = PyUnicode_DATA(text.ptr());
    if (PyUnicode_IS_ASCII(text.ptr())) {
        out.append(static_cast<const char*>(data), (size_t)length);
        return;
    }
    for (Py_ssize_t i = 0; i < length; i++) {
        const Py_UCS4 c = PyUnicode_READ(kind, data, i);
        if (c < 0x80) {
            out += (char)c;
        } else if (c < 0x800) {
            out += (char)(0xC0 | c >> 6);
            out += (char)(0x80 | (c & 63));
        } else {
            if (c < 0x10000) {
                out += (char)(0xE0 | c >> 12);
            } else {
                out += (char)(0xF0 | c >> 18);
                out += (char)(0x80 | (c >> 12 & 63));
            }
            out += (char)(0x80 | (c >> 6 & 63));
            out += (char)(0x80 | (c & 63));
        }
    }
}

void make(SentencePiece* self, const nb::list& pieces, const Vector<float>& scores, const Vector<uint8_t>& kinds,
          int32_t unknown_id, bool adds_space) {
    const size_t count = pieces.size();
    if (scores.size() != count || kinds.size() != count || unknown_id < -1 || unknown_id >= (int64_t)count)
        throw std::invalid_argument("sizes differ");
    std::string text;
    std::vector<uint32_t> ends;
    ends.reserve(count);
    for (nb::handle piece : pieces) {
        if (!PyUnicode_Check(piece.ptr())) throw std::invalid_argument("a piece is not a string");
        append_utf8(piece, text);
        if (text.size() > UINT32_MAX) throw std::invalid_argument("too much text");
        ends.push_back((uint32_t)text.size());
    }
    std::vector<float> own_scores(scores.data(), scores.data() + count);
    std::vector<uint8_t> own_kinds(kinds.data(), kinds.data() + count);
    nb::gil_scoped_release released;
    new (self) SentencePiece(std::move(text), std::move(ends), std::move(own_scores), std::move(own_kinds), unknown_id,
                             adds_space);
}

std::vector<int32_t> encode(const SentencePiece& self, const nb::str& text) {
    std::string bytes;
    append_utf8(text, bytes);
    nb::gil_scoped_release released;
    return self.encode(bytes);
}

}  // namespace

void bind_text(nb::module_& m) {
    nb::class_<SentencePiece>(m, "SentencePiece")
        .def("__init__", &make, nb::arg("pieces"), nb::arg("scores"), nb::arg("kinds"), nb::arg("unknown_id"),
             nb::arg("adds_space"))
        .def_prop_ro("duplicate", &SentencePiece::duplicate)
        .def("encode", &encode);
}

}  // namespace pellucid
