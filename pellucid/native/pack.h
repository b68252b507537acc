// Weights in the order the kernels read them (types.h), and the memory they live in.
#pragma once
#include <cstddef>
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

struct Matrix {
    Type type;
    int64_t n, k;  // outputs, inputs
    uint8_t* panels = nullptr;
    int64_t num_panels() const { return (n + kLanes - 1) / kLanes; }
    size_t nbytes() const { return (size_t)(num_panels() * panel_bytes(type, k)); }
    const uint8_t* panel(int64_t i) const { return panels + i * panel_bytes(type, k); }
};

// Bytes of one row of `k` weights as stored in a file.
int64_t stored_row_bytes(Type type, int64_t k);

// Repacks `rows` stored rows of a matrix [n, k], row-major, from row `first` on (a multiple of kLanes), into its
// panels, on all threads of the pool. Returns the matrix's first block among them, counted along its rows, that holds a
// NaN or an infinity (formats/finite.py), or -1: the bytes are read once for both.
int64_t pack(const uint8_t* stored, const Matrix& m, int64_t first, int64_t rows, ThreadPool& pool);

}  // namespace pellucid
