// Counter-based random numbers, the same as in engine/random.py.
#pragma once
#include <array>
#include <cstdint>

namespace pellucid::sampling {

// Philox4x32-10 (Salmon et al., SC11).
inline std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> c, uint32_t k0, uint32_t k1) {
    for (int round = 0; round < 10; round++) {
        const uint64_t p0 = 0xD2511F53ull * c[0], p1 = 0xCD9E8D57ull * c[2];
        c = {(uint32_t)(p1 >> 32) ^ c[1] ^ k0, (uint32_t)p1, (uint32_t)(p0 >> 32) ^ c[3] ^ k1, (uint32_t)p0};
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    return c;
}

struct Uniform {
    double token, xtc;  // in [0, 1), with 53 random bits each
};

// The numbers that belong to answer `index` of a request at `position`.
inline Uniform uniform(uint64_t seed, uint32_t index, uint64_t position) {
    const auto w =
        philox4x32({(uint32_t)position, (uint32_t)(position >> 32), index, 0}, (uint32_t)seed, (uint32_t)(seed >> 32));
    const auto join = [](uint32_t high, uint32_t low) { return (double)((uint64_t)high << 21 | low >> 11) * 0x1p-53; };
    return {join(w[0], w[1]), join(w[2], w[3])};
}

}  // namespace pellucid::sampling
