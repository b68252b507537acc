// What the arithmetic units can do at most: chains of multiply-adds that touch no memory, as many side by side as hide
// their latency. No model runs here; `pellucid bench` states speeds beside it.
#pragma once

namespace PELLUCID_ISA {

// As many vectors as an attention tile sums at once: what the registers hold.
constexpr int kChains = kAttendRows;

static void multiply_floats(int64_t rounds, float* out) {
    vf sums[kChains];
    PELLUCID_UNROLL
    for (int c = 0; c < kChains; c++) sums[c] = set((float)c);
    const vf a = set(0.5f), b = set(1.0f);
    for (int64_t i = 0; i < rounds; i++) {
        PELLUCID_UNROLL
        for (int c = 0; c < kChains; c++) sums[c] = fma(sums[c], a, b);
    }
    vf total = sums[0];
    for (int c = 1; c < kChains; c++) total = add(total, sums[c]);
    store(out, total);
}

// The multiply-adds of pairs of 16-bit integers that quantised weights take.
static void multiply_integers(int64_t rounds, int32_t* out) {
    vi sums[kChains];
    PELLUCID_UNROLL
    for (int c = 0; c < kChains; c++) sums[c] = iset(c);
    const vi b = iset(0xffff);  // minus the low half: a sum becomes 0 and stays there, but no compiler knows
    for (int64_t i = 0; i < rounds; i++) {
        PELLUCID_UNROLL
        for (int c = 0; c < kChains; c++) sums[c] = dot2(sums[c], sums[c], b);
    }
    vi total = sums[0];
    for (int c = 1; c < kChains; c++) total = iadd(total, sums[c]);
    istore(out, total);
}

}  // namespace PELLUCID_ISA
