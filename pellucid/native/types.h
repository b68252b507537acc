// Stored weight types, numbered as in GGUF, and the layout their weights are repacked into.
//
// Packed layout, the same for every instruction set: a matrix of N outputs and K inputs is cut into panels of 16
// outputs (the lanes). A panel holds, for each block of `groups` groups of 32 inputs: a header (super-scales of 16
// lanes), then for each group its scales and its codes. Codes are grouped in steps of two inputs: step p of a group
// yields, in each 32-bit lane, the codes of inputs 2p and 2p+1 as two int16, ready for a multiply-add of pairs; those
// of steps p and p+2 lie a byte apart, ready for one of four bytes. The bits are the file's own; only their order
// changes. Float types hold one row of 16 weights for each input.
#pragma once
#include <stdint.h>

namespace pellucid {

enum class Type : int {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q2_K = 10,
    Q3_K = 11,
    Q4_K = 12,
    Q5_K = 13,
    Q6_K = 14,
    IQ4_NL = 20,
    IQ4_XS = 23,
    BF16 = 30,
    MXFP4 = 39
};
constexpr int kNumTypes = 40;
constexpr int kLanes = 16;

struct Layout {
    int groups;  // groups of 32 inputs that share a header; 0 for float types
    int header;  // bytes of 16 lanes
    int scales;  // bytes of 16 lanes, for each group
    int codes;   // bytes of 16 lanes, for each group
};

// Bytes of the bit planes of one group: 32 inputs × 16 lanes.
constexpr int kPlane1 = 64, kPlane2 = 128, kPlane4 = 256, kPlane8 = 512;

static constexpr Layout layout_of(Type type) {
    switch (type) {
        case Type::Q4_0:
            return {1, 32, 0, kPlane4};
        case Type::Q4_1:
            return {1, 64, 0, kPlane4};
        case Type::Q5_0:
            return {1, 32, 0, kPlane4 + kPlane1};
        case Type::Q5_1:
            return {1, 64, 0, kPlane4 + kPlane1};
        case Type::Q8_0:
            return {1, 32, 0, kPlane8};
        case Type::Q2_K:
            return {8, 64, 32, kPlane2};
        case Type::Q3_K:
            return {8, 32, 32, kPlane2 + kPlane1};
        case Type::Q4_K:
            return {8, 64, 32, kPlane4};
        case Type::Q5_K:
            return {8, 64, 32, kPlane4 + kPlane1};
        case Type::Q6_K:
            return {8, 32, 32, kPlane4 + kPlane2};
        case Type::IQ4_NL:
            return {1, 32, 0, kPlane4};
        case Type::IQ4_XS:
            return {8, 32, 16, kPlane4};
        case Type::MXFP4:
            return {1, 32, 0, kPlane4};  // header: 2^(e-128) as bfloat16, which holds it exactly
        default:
            return {0, 0, 0, 0};
    }
}

static constexpr bool is_float(Type type) { return type == Type::F32 || type == Type::F16 || type == Type::BF16; }

static constexpr int64_t panel_bytes(Type type, int64_t k) {
    if (type == Type::F32) return k * 64;
    if (is_float(type)) return k * 32;
    const Layout l = layout_of(type);
    return k / 32 / l.groups * (l.header + (int64_t)l.groups * (l.scales + l.codes));
}

// Codebooks of the four-bit lookup types; MXFP4's values are doubled to be whole numbers.
alignas(16) constexpr int8_t kIq4Values[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                               1,    13,   25,  38,  53,  69,  89,  113};
alignas(16) constexpr int8_t kMxfp4Values[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

}  // namespace pellucid
