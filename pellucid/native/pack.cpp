#define PELLUCID_PACK portable
#include <sys/mman.h>
#include <unistd.h>
#include <algorithm>
#include <cstring>
#include <new>
#include <utility>
#include "pack_code.h"

namespace pellucid {

Memory::Memory(size_t bytes, Pages pages) : size_(bytes) {
    if (bytes == 0) return;
    // A huge page begins at a multiple of its size: more addresses are asked for, and those before it given back.
    const size_t align = pages == Pages::huge ? 2u << 20 : 1;
    mapped_ = bytes + align - 1;
    void* p = mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    const size_t before = -(uintptr_t)p & (align - 1);
    if (before) munmap(p, before);
    mapped_ -= before;
    data_ = static_cast<uint8_t*>(p) + before;
#ifdef MADV_HUGEPAGE
    if (pages == Pages::huge) madvise(data_, bytes, MADV_HUGEPAGE);
#endif
}
Memory::~Memory() {
    if (data_) munmap(data_, mapped_);
}
Memory::Memory(Memory&& other) noexcept { *this = std::move(other); }
Memory& Memory::operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(mapped_, other.mapped_);
    return *this;
}

void give_back(const uint8_t* data, size_t bytes) {
#ifdef MADV_DONTNEED
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), at = (uintptr_t)data;
    const uintptr_t start = (at + page - 1) / page * page, end = (at + bytes) / page * page;
    if (start < end) madvise(reinterpret_cast<void*>(start), end - start, MADV_DONTNEED);
#endif
}

#ifdef PELLUCID_X86
PackPanel avx2_packer_of(Type type);  // pack_avx2.cpp
#endif

PackPanel packer_of(Type type, Isa isa) {
#ifdef PELLUCID_X86
    if (isa >= Isa::avx2) return avx2_packer_of(type);
#endif
    return portable::packer_of(type);
}

int64_t stored_row_bytes(Type type, int64_t k) {
    if (type == Type::F32) return 4 * k;
    if (is_float(type)) return 2 * k;
    return k / 32 / layout_of(type).groups * stored_block_bytes(type);
}

int64_t pack(const uint8_t* stored, const Matrix& m, int64_t first, int64_t rows, Isa isa, ThreadPool& pool) {
    const PackPanel packer = packer_of(m.type, isa);
    const int64_t row_bytes = stored_row_bytes(m.type, m.k), num_panels = (rows + kLanes - 1) / kLanes;
    const int64_t row_blocks = is_float(m.type) ? m.k : m.k / 32 / layout_of(m.type).groups;
    uint8_t* panels = m.panels + first / kLanes * panel_bytes(m.type, m.k);
    std::atomic<int64_t> next{0}, first_bad{kAllFinite};
    pool.run([&](int) {
        constexpr int64_t chunk = 4;
        int64_t bad = kAllFinite;
        for (int64_t i; (i = next.fetch_add(chunk)) < num_panels;)
            for (int64_t p = i; p < i + chunk && p < num_panels; p++) {
                const int64_t row = p * kLanes, lanes = std::min<int64_t>(rows - row, kLanes);
                const int64_t found =
                    packer(stored + row * row_bytes, lanes, m.k, panels + p * panel_bytes(m.type, m.k));
                if (found != kAllFinite) bad = std::min(bad, (first + row) * row_blocks + found);
            }
        for (int64_t seen = first_bad; bad < seen && !first_bad.compare_exchange_weak(seen, bad);) {
        }
    });
    return first_bad == kAllFinite ? -1 : first_bad.load();
}

}  // namespace pellucid
