// Fills the kernel table from the templates, for the instruction set of the including translation unit.
//
// Nothing here may use inline functions of the standard library: the linker keeps one copy of them for the whole
// module, and it could be the copy made with instructions that the machine does not have.
#pragma once
#include "isa/kernels.h"
// clang-format off
#include "isa/math.h"
#include "isa/codecs.h"
#include "isa/linear.h"
#include "isa/linear_super.h"
#include "isa/linear_int8.h"
#include "isa/flush.h"
#include "isa/linear_bf16.h"
#include "isa/kv_cache.h"
#include "isa/attention.h"
#include "isa/rows.h"
#include "isa/peak.h"
// clang-format on

namespace PELLUCID_ISA {

template <Type... T>
struct Types {};
using StoredTypes =
    Types<Type::F32, Type::F16, Type::BF16, Type::Q4_0, Type::Q4_1, Type::Q5_0, Type::Q5_1, Type::Q8_0, Type::Q2_K,
          Type::Q3_K, Type::Q4_K, Type::Q5_K, Type::Q6_K, Type::IQ4_NL, Type::IQ4_XS, Type::MXFP4>;

template <Type T>
constexpr void add_type(pellucid::Kernels& k) {
    if constexpr (pellucid::is_float(T)) {
        k.linear[(int)T] = linear_float<T>;
        k.weight_row[(int)T] = weight_row_float<T>;
    } else {
        if constexpr (pellucid::layout_of(T).groups > 1)
            k.linear[(int)T] = linear_super<Codec<T>>;
        else
            k.linear[(int)T] = linear_quantized<Codec<T>>;
        if constexpr (requires { Codec<T>::largest; }) k.linear_int8[(int)T] = linear_int8<Codec<T>>;
        k.weight_row[(int)T] = weight_row_quantized<Codec<T>>;
    }
    k.linear_bf16[(int)T] = linear_bf16<T>;
}
template <Type... T>
constexpr void add_types(pellucid::Kernels& k, Types<T...>) {
    (add_type<T>(k), ...);
}

template <class KV>
constexpr void add_kv(pellucid::Kernels& k) {
    k.store_kv[(int)kind_of<KV>] = store_kv<KV>;
    k.attend[(int)kind_of<KV>] = attend<KV>;
}

constexpr pellucid::Kernels make_table(const char* name) {
    pellucid::Kernels k{};
    k.name = name;
    add_types(k, StoredTypes());
    k.quantize_row = quantize_row;
    k.quantize_row_int8 = quantize_row_int8;
    k.round_row = round_row;
    k.bf16_panels = 1;
    k.rms_norm = rms_norm;
    k.layer_norm = layer_norm;
    k.rope = rope;
    k.glu = glu;
    k.activate = activate;
    k.add = add_rows;
    k.softcap = softcap;
    add_kv<float>(k), add_kv<Half>(k), add_kv<Brain>(k), add_kv<Eighth>(k);
    k.merge_parts = merge_parts;
    k.multiply_floats = multiply_floats;
    k.multiply_integers = multiply_integers;
    k.chains = kChains;
    return k;
}

}  // namespace PELLUCID_ISA
