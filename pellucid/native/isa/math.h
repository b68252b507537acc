// Elementary functions on 16 lanes. NaN in, NaN out: max and min return their second operand when one is NaN, so it is
// x.
#pragma once

namespace PELLUCID_ISA {

// e^x by range reduction to |r| ≤ ln2/2 and a degree-7 polynomial (Cephes' expf); relative error < 2e-7. Saturates at
// e^±87.
PELLUCID_INLINE vf exp(vf x) {
    x = min(set(88.0f), max(set(-87.3f), x));
    const vi n = to_int(mul(x, set(1.44269504f)));
    const vf nf = to_float(n);
    vf r = fma(nf, set(-0.693359375f), x);
    r = fma(nf, set(2.12194440e-4f), r);
    vf p = fma(set(1.9875691500e-4f), r, set(1.3981999507e-3f));
    p = fma(p, r, set(8.3334519073e-3f));
    p = fma(p, r, set(4.1665795894e-2f));
    p = fma(p, r, set(1.6666665459e-1f));
    p = fma(p, r, set(5.0000001201e-1f));
    p = add(fma(p, mul(r, r), r), set(1.0f));
    return mul(p, as_float(sll32<23>(iadd(n, iset(127)))));
}

// 2^x for x ≤ 100, in fewer steps than e^x: x less its nearest integer is exact. A minimax polynomial of degree 5 on
// |r| ≤ 1/2; relative error < 2e-7. Stays at 2^-125 below it.
PELLUCID_INLINE vf exp2(vf x) {
    x = max(set(-125.0f), x);
    const vi n = to_int(x);
    const vf r = sub(x, to_float(n));
    vf p = fma(set(1.326472731e-3f), r, set(9.671512991e-3f));
    p = fma(p, r, set(5.550733581e-2f));
    p = fma(p, r, set(2.402224243e-1f));
    p = fma(p, r, set(6.931470037e-1f));
    p = fma(p, r, set(1.0f));
    return mul(p, as_float(sll32<23>(iadd(n, iset(127)))));
}

PELLUCID_INLINE vf sigmoid(vf x) { return div(set(1.0f), add(set(1.0f), exp(sub(set(0.0f), x)))); }
PELLUCID_INLINE vf tanh(vf x) { return sub(set(1.0f), div(set(2.0f), add(set(1.0f), exp(add(x, x))))); }
PELLUCID_INLINE vf silu(vf x) { return mul(x, sigmoid(x)); }
// 0.5 x (1 + tanh(z)) = x sigmoid(2z), z = sqrt(2/pi) (x + 0.044715 x³)  (Hendrycks & Gimpel 2016)
PELLUCID_INLINE vf gelu_tanh(vf x) {
    const vf z2 = mul(set(1.5957691216f), fma(mul(mul(x, x), x), set(0.044715f), x));
    return mul(x, sigmoid(z2));
}
PELLUCID_INLINE vf gelu(vf x) {  // 0.5 x (1 + erf(x / sqrt 2)), exact form
    float t[16];
    store(t, x);
    for (int i = 0; i < 16; i++) t[i] = 0.5f * t[i] * (1.0f + __builtin_erff(t[i] * 0.70710678f));
    return load(t);
}

}  // namespace PELLUCID_ISA
