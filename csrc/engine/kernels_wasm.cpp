// WebAssembly with its vectors of 16 bytes (-msimd128).
#include <wasm_simd128.h>

#include "vectors16-inl.h"

namespace {

// The ones of each half, as two 64-bit numbers.
v128_t ones(v128_t x) {
    const v128_t pairs = wasm_u16x8_extadd_pairwise_u8x16(wasm_i8x16_popcnt(x));
    const v128_t quarters = wasm_u32x4_extadd_pairwise_u16x8(pairs);
    return wasm_i64x2_add(wasm_v128_and(quarters, wasm_i64x2_const_splat(0xffffffff)), wasm_u64x2_shr(quarters, 32));
}

v128_t counted(v128_t x, v128_t mask, v128_t sign) { return ones(wasm_v128_andnot(mask, wasm_v128_xor(x, sign))); }

void popcounts(const uint64_t* x, int positions, const uint64_t* mask, const uint64_t* sign, int words,
               int16_t* counts) {
    for (int p = 0; p < positions; p += 2) {
        v128_t sum = wasm_i64x2_const_splat(0);
        for (int w = 0; w < words; ++w) {
            const v128_t here = wasm_v128_load(x + size_t(w) * positions + p);
            sum =
                wasm_i64x2_add(sum, counted(here, wasm_v128_load64_splat(mask + w), wasm_v128_load64_splat(sign + w)));
        }
        counts[p] = int16_t(wasm_i64x2_extract_lane(sum, 0));
        counts[p + 1] = int16_t(wasm_i64x2_extract_lane(sum, 1));
    }
}

void popcount(const uint64_t* x, const uint64_t* mask, const uint64_t* sign, int words, int16_t* count) {
    v128_t sum = wasm_i64x2_const_splat(0);
    for (int w = 0; w < words; w += 2)
        sum = wasm_i64x2_add(sum, counted(wasm_v128_load(x + w), wasm_v128_load(mask + w), wasm_v128_load(sign + w)));
    *count = int16_t(wasm_i64x2_extract_lane(sum, 0) + wasm_i64x2_extract_lane(sum, 1));
}

Floats multiply_add(Floats a, Floats b, Floats c) { return a * b + c; }

unsigned signs_of(Floats x) { return wasm_i32x4_bitmask(wasm_f32x4_ge((v128_t)x, wasm_f32x4_const_splat(0))); }
constexpr auto compare = generic_compare;
using Vectors = VectorsOfBits<GenericBits<16>, GenericBits<8>>;

}  // namespace

#include "kernels-inl.h"

namespace {

constexpr biprop::Kernels wasm_kernels() {
    biprop::Kernels table = shared_kernels(Vectors());
    table.name = "wasm";
    table.cycles_per_plane[0] = 1.2f;
    table.cycles_per_plane[1] = 1.2f;
    table.cycles_per_popcount = 8.0f;
    table.cycles_per_load = 0.6f;
    // Pages do not calibrate networks (biprop_calibrate is not exported), and are smaller without these.
    table.sum_quantised = nullptr;
    table.finish_quantised = nullptr;
    table.pool_quantised = nullptr;
    return table;
}

}  // namespace

constexpr biprop::Kernels biprop::kWasm = wasm_kernels();
