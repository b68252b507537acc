#include "pack.h"
#include <sys/mman.h>
#include <algorithm>
#include <cstring>
#include <new>
#include <utility>

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

namespace {

// One stored block, taken apart: a code a byte, up to two float16 bit patterns, up to two scale bytes for each 32
// codes.
struct Block {
    uint8_t codes[256];
    uint16_t header[2];
    uint8_t scales[8][2];
};

uint16_t read16(const uint8_t* p) {
    uint16_t x;
    std::memcpy(&x, p, 2);
    return x;
}
uint32_t read32(const uint8_t* p) {
    uint32_t x;
    std::memcpy(&x, p, 4);
    return x;
}

// Low nibbles are the first half, high nibbles the second.
void split_nibbles(const uint8_t* q, int bytes, uint8_t* codes) {
    for (int i = 0; i < bytes; i++) {
        codes[i] = q[i] & 15;
        codes[i + bytes] = q[i] >> 4;
    }
}

// The twelve bytes of six-bit scales and minima that Q4_K and Q5_K share.
void split_scales(const uint8_t* s, Block& b) {
    for (int g = 0; g < 4; g++) {
        b.scales[g][0] = s[g] & 63;
        b.scales[g][1] = s[g + 4] & 63;
        b.scales[g + 4][0] = (uint8_t)((s[g + 8] & 15) | (s[g] >> 6) << 4);
        b.scales[g + 4][1] = (uint8_t)((s[g + 8] >> 4) | (s[g + 4] >> 6) << 4);
    }
}

// Block layouts as formats/quant.py documents them; the tests compare the two.
template <Type T>
void take_apart(const uint8_t* p, Block& b) {
    if constexpr (T == Type::Q4_0 || T == Type::IQ4_NL) {
        b.header[0] = read16(p);
        split_nibbles(p + 2, 16, b.codes);
    } else if constexpr (T == Type::Q4_1) {
        b.header[0] = read16(p), b.header[1] = read16(p + 2);
        split_nibbles(p + 4, 16, b.codes);
    } else if constexpr (T == Type::Q5_0 || T == Type::Q5_1) {
        b.header[0] = read16(p);
        if constexpr (T == Type::Q5_1) b.header[1] = read16(p + 2), p += 2;
        const uint32_t high = read32(p + 2);
        split_nibbles(p + 6, 16, b.codes);
        for (int i = 0; i < 32; i++) b.codes[i] |= (uint8_t)((high >> i & 1) << 4);
    } else if constexpr (T == Type::Q8_0) {
        b.header[0] = read16(p);
        std::memcpy(b.codes, p + 2, 32);
    } else if constexpr (T == Type::MXFP4) {
        // 2^(e - 128) as bfloat16; the two smallest are subnormal.
        b.header[0] = p[0] >= 2 ? (uint16_t)((p[0] - 1) << 7) : (uint16_t)(0x20 << p[0]);
        split_nibbles(p + 1, 16, b.codes);
    } else if constexpr (T == Type::Q2_K) {
        b.header[0] = read16(p + 80), b.header[1] = read16(p + 82);
        std::memcpy(b.scales, p, 16);
        for (int i = 0; i < 256; i++) b.codes[i] = p[16 + i / 128 * 32 + i % 32] >> 2 * (i / 32 % 4) & 3;
    } else if constexpr (T == Type::Q3_K) {
        b.header[0] = read16(p + 108);
        const uint8_t* s = p + 96;
        for (int i = 0; i < 16; i++) {
            const int low = i < 8 ? s[i] & 15 : s[i - 8] >> 4;
            b.scales[i / 2][i % 2] = (uint8_t)((low | (s[8 + i % 4] >> 2 * (i / 4) & 3) << 4) - 32);
        }
        for (int i = 0; i < 256; i++) {
            const int low = p[32 + i / 128 * 32 + i % 32] >> 2 * (i / 32 % 4) & 3;
            b.codes[i] = (uint8_t)(low | (p[i % 32] >> (i / 32) & 1) << 2);
        }
    } else if constexpr (T == Type::Q4_K || T == Type::Q5_K) {
        b.header[0] = read16(p), b.header[1] = read16(p + 2);
        split_scales(p + 4, b);
        const uint8_t *high = p + 16, *q = T == Type::Q5_K ? p + 48 : p + 16;
        for (int i = 0; i < 4; i++) split_nibbles(q + 32 * i, 32, b.codes + 64 * i);
        if constexpr (T == Type::Q5_K)
            for (int i = 0; i < 256; i++) b.codes[i] |= (uint8_t)((high[i % 32] >> (i / 32) & 1) << 4);
    } else if constexpr (T == Type::Q6_K) {
        b.header[0] = read16(p + 208);
        std::memcpy(b.scales, p + 192, 16);
        for (int half = 0; half < 2; half++)
            for (int l = 0; l < 32; l++) {
                const uint8_t* low = p + 64 * half + l;
                const int high = p[128 + 32 * half + l];
                uint8_t* c = b.codes + 128 * half + l;
                c[0] = (uint8_t)((low[0] & 15) | (high & 3) << 4);
                c[32] = (uint8_t)((low[32] & 15) | (high >> 2 & 3) << 4);
                c[64] = (uint8_t)(low[0] >> 4 | (high >> 4 & 3) << 4);
                c[96] = (uint8_t)(low[32] >> 4 | (high >> 6 & 3) << 4);
            }
    } else if constexpr (T == Type::IQ4_XS) {
        b.header[0] = read16(p);
        const int high = read16(p + 2);
        for (int g = 0; g < 8; g++) {
            const int low = p[4 + g / 2] >> 4 * (g % 2) & 15;
            b.scales[g][0] = (uint8_t)((low | (high >> 2 * g & 3) << 4) - 32);
            split_nibbles(p + 8 + 16 * g, 16, b.codes + 32 * g);
        }
    }
}

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

// The `Bits` lowest bits of eight bytes: those of bytes 0, 2, 4, 6 side by side in the low half of the result, those of
// bytes 1, 3, 5, 7 in the high half.
template <int Bits>
uint32_t gather_pairs(uint64_t codes) {
    constexpr uint64_t lowest = 0x0001000100010001 * ((1u << Bits) - 1);
    uint64_t even = codes & lowest, odd = codes >> 8 & lowest;
    even |= even >> (16 - Bits), odd |= odd >> (16 - Bits);
    even |= even >> (32 - 2 * Bits), odd |= odd >> (32 - 2 * Bits);
    constexpr uint32_t mask = (1u << 4 * Bits) - 1;
    return ((uint32_t)even & mask) | ((uint32_t)odd & mask) << 16;
}
// Fields of `Bits` bits, the pair of a step in the halves of a 32-bit word; steps P and P + 2 are a byte apart (place
// in codecs.h). `c` is the lane's first word.
template <int Bits>
void write_plane(const uint8_t* codes, int from_bit, uint8_t* c) {
    constexpr int eights = 4 / Bits;                             // of codes, in one word
    constexpr uint32_t two = ((1u << 2 * Bits) - 1) * 0x10001u;  // steps
    for (int w = 0; w < Bits; w++) {
        uint32_t word = 0;
        for (int e = 0; e < eights; e++) {
            uint64_t eight;
            std::memcpy(&eight, codes + 8 * (w * eights + e), 8);
            const uint32_t steps = gather_pairs<Bits>(eight >> from_bit);
            word |= ((steps & two) | (steps >> 2 * Bits & two) << 8) << 2 * Bits * e;
        }
        std::memcpy(c + 64 * w, &word, 4);
    }
}
// Bytes: step 2j is bytes 0 and 2 of word j, step 2j + 1 is bytes 1 and 3 (codecs.h, plane8).
void write_bytes(const uint8_t* codes, uint8_t* c) {
    for (int w = 0; w < 8; w++) {
        const uint32_t q = read32(codes + 4 * w);
        const uint32_t word = (q & 0xff0000ff) | (q & 0xff00) << 8 | (q >> 8 & 0xff00);
        std::memcpy(c + 64 * w, &word, 4);
    }
}

template <int CodeBytes>
void write_codes(const uint8_t* codes, uint8_t* c) {
    if constexpr (CodeBytes == kPlane8) {
        write_bytes(codes, c);
    } else if constexpr (CodeBytes >= kPlane4) {
        write_plane<4>(codes, 0, c);
        if constexpr (CodeBytes == kPlane4 + kPlane1) write_plane<1>(codes, 4, c + kPlane4);
        if constexpr (CodeBytes == kPlane4 + kPlane2) write_plane<2>(codes, 4, c + kPlane4);
    } else {
        write_plane<2>(codes, 0, c);
        if constexpr (CodeBytes == kPlane2 + kPlane1) write_plane<1>(codes, 2, c + kPlane2);
    }
}

// Whether a block's scales are finite numbers; its codes always are.
template <Type T>
bool is_finite(const uint8_t* stored, const Block& b) {
    if constexpr (T == Type::MXFP4) return stored[0] <= 252;  // 255 is NaN; 253 and 254 pass float32 with large codes
    for (int h = 0; h < layout_of(T).header / 32; h++)
        if ((b.header[h] & 0x7c00) == 0x7c00) return false;
    return true;
}

// Packers return the panel's first block that is not finite, counted along the rows, or kAllFinite.
constexpr int64_t kAllFinite = INT64_MAX;

template <Type T>
int64_t pack_panel(const uint8_t* stored, int64_t lanes, int64_t k, uint8_t* panel) {
    constexpr Layout l = layout_of(T);
    const int64_t blocks = k / 32 / l.groups, row_bytes = blocks * stored_block_bytes(T);
    int64_t bad = kAllFinite;
    for (int64_t b = 0; b < blocks; b++) {
        for (int64_t lane = 0; lane < lanes; lane++) {
            const uint8_t* from = stored + lane * row_bytes + b * stored_block_bytes(T);
            Block block;
            take_apart<T>(from, block);
            if (!is_finite<T>(from, block)) bad = std::min(bad, lane * blocks + b);
            for (int h = 0; h < l.header / 32; h++) std::memcpy(panel + 32 * h + 2 * lane, &block.header[h], 2);
            uint8_t* at = panel + l.header;
            for (int g = 0; g < l.groups; g++, at += l.scales + l.codes) {
                for (int s = 0; s < l.scales / 16; s++) at[16 * s + lane] = block.scales[g][s];
                write_codes<l.codes>(block.codes + 32 * g, at + l.scales + 4 * lane);
            }
        }
        panel += l.header + l.groups * (l.scales + l.codes);
    }
    return bad;
}

// Bits: an unsigned integer of the weights' size. Exponent: its bits that are all ones in NaN and infinity.
template <class Bits, Bits Exponent>
int64_t pack_panel_float(const uint8_t* stored, int64_t lanes, int64_t k, uint8_t* panel) {
    int64_t bad = kAllFinite;
    for (int64_t lane = 0; lane < lanes; lane++)
        for (int64_t i = 0; i < k; i++) {
            Bits x;
            std::memcpy(&x, stored + (lane * k + i) * (int64_t)sizeof x, sizeof x);
            if ((x & Exponent) == Exponent) bad = std::min(bad, lane * k + i);
            std::memcpy(panel + (i * kLanes + lane) * (int64_t)sizeof x, &x, sizeof x);
        }
    return bad;
}

using PackPanel = int64_t (*)(const uint8_t*, int64_t, int64_t, uint8_t*);
PackPanel packer_of(Type type) {
    switch (type) {
        case Type::F32:
            return pack_panel_float<uint32_t, 0x7f800000>;
        case Type::F16:
            return pack_panel_float<uint16_t, 0x7c00>;
        case Type::BF16:
            return pack_panel_float<uint16_t, 0x7f80>;
        case Type::Q4_0:
            return pack_panel<Type::Q4_0>;
        case Type::Q4_1:
            return pack_panel<Type::Q4_1>;
        case Type::Q5_0:
            return pack_panel<Type::Q5_0>;
        case Type::Q5_1:
            return pack_panel<Type::Q5_1>;
        case Type::Q8_0:
            return pack_panel<Type::Q8_0>;
        case Type::Q2_K:
            return pack_panel<Type::Q2_K>;
        case Type::Q3_K:
            return pack_panel<Type::Q3_K>;
        case Type::Q4_K:
            return pack_panel<Type::Q4_K>;
        case Type::Q5_K:
            return pack_panel<Type::Q5_K>;
        case Type::Q6_K:
            return pack_panel<Type::Q6_K>;
        case Type::IQ4_NL:
            return pack_panel<Type::IQ4_NL>;
        case Type::IQ4_XS:
            return pack_panel<Type::IQ4_XS>;
        case Type::MXFP4:
            return pack_panel<Type::MXFP4>;
    }
    return nullptr;
}

}  // namespace

int64_t stored_row_bytes(Type type, int64_t k) {
    if (type == Type::F32) return 4 * k;
    if (is_float(type)) return 2 * k;
    return k / 32 / layout_of(type).groups * stored_block_bytes(type);
}

int64_t pack(const uint8_t* stored, const Matrix& m, int64_t first, int64_t rows, ThreadPool& pool) {
    const PackPanel packer = packer_of(m.type);
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
