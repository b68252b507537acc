// Weights in the order the kernels read them (types.h), and the memory they live in.
#pragma once
#include <cstddef>
#include "isa/kernels.h"
#include "threads.h"
#include "types.h"

namespace pellucid {

// Huge pages suit what is read from end to end (fewer translations, prefetching across pages); small ones what is
// filled bit by bit, as they are only taken from the system when touched.
enum class Pages { small, huge };

// Zeroed memory from the system, aligned to a page of its kind.
class Memory {
  public:
    Memory() = default;
    explicit Memory(size_t bytes, Pages pages = Pages::small);  // throws std::bad_alloc
    ~Memory();
    Memory(Memory&& other) noexcept;
    Memory& operator=(Memory&& other) noexcept;
    uint8_t* data() const { return data_; }
    size_t size() const { return size_; }

  private:
    uint8_t* data_ = nullptr;
    size_t size_ = 0, mapped_ = 0;
};

// Gives the memory of a mapped file's bytes back to the system, whole pages only: they are read again if needed.
void give_back(const uint8_t* data, size_t bytes);

struct Matrix {
    Type type;
    int64_t n, k;  // outputs, inputs
    uint8_t* panels = nullptr;
    int64_t num_panels() const { return (n + kLanes - 1) / kLanes; }
    size_t nbytes() const { return (size_t)(num_panels() * panel_bytes(type, k)); }
    const uint8_t* panel(int64_t i) const { return panels + i * panel_bytes(type, k); }
};

constexpr int stored_block_bytes(Type type) {
    switch (type) {
        case Type::Q4_0:
            return 18;
        case Type::Q4_1:
            return 20;
        case Type::Q5_0:
            return 22;
        case Type::Q5_1:
            return 24;
        case Type::Q8_0:
            return 34;
        case Type::Q2_K:
            return 84;
        case Type::Q3_K:
            return 110;
        case Type::Q4_K:
            return 144;
        case Type::Q5_K:
            return 176;
        case Type::Q6_K:
            return 210;
        case Type::IQ4_NL:
            return 18;
        case Type::IQ4_XS:
            return 136;
        case Type::MXFP4:
            return 17;
        default:
            return 0;
    }
}

// Bytes of one row of `k` weights as stored in a file.
int64_t stored_row_bytes(Type type, int64_t k);

// Repacks `rows` stored rows of a matrix [n, k], row-major, from row `first` on (a multiple of kLanes), into its
// panels, on all threads of the pool. Returns the matrix's first block among them, counted along its rows, that holds a
// NaN or an infinity (formats/finite.py), or -1: the bytes are read once for both.
int64_t pack(const uint8_t* stored, const Matrix& m, int64_t first, int64_t rows, Isa isa, ThreadPool& pool);

// Packs one panel, of `lanes` stored rows. Returns its first block that is not finite, counted along the rows, or
// kAllFinite. Every instruction set writes the same bytes.
using PackPanel = int64_t (*)(const uint8_t* stored, int64_t lanes, int64_t k, uint8_t* panel);
constexpr int64_t kAllFinite = INT64_MAX;
PackPanel packer_of(Type type, Isa isa);

}  // namespace pellucid
