#include "dispatch.h"

#include "../instructions.h"

#if defined(__x86_64__) || defined(_M_X64)
#define BIPROP_X86 1
#endif

namespace biprop {

namespace {

std::vector<const Kernels*> available_kernels() {
    std::vector<const Kernels*> found;
#if defined(BIPROP_X86) && defined(__GNUC__)
    __builtin_cpu_init();
#ifdef BIPROP_AVX512
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vbmi2") &&
        __builtin_cpu_supports("avx512vpopcntdq") && __builtin_cpu_supports("bmi2"))
        found.push_back(&kAvx512);
#ifdef BIPROP_AMX
    if (!found.empty() && have_amx()) {
        static Kernels amx = kAvx512;
        amx.name = "amx";
        amx.matrices = &kAmx;
        found.insert(found.begin(), &amx);
    }
#endif
#endif
#ifdef BIPROP_AVX2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) found.push_back(&kAvx2);
#endif
#endif
#ifdef BIPROP_NEON
    found.push_back(&kNeon);
#endif
#ifdef BIPROP_WASM
    found.push_back(&kWasm);  // alone: browsers without SIMD get a module of their own, with the scalar ones
#else
    found.push_back(&kScalar);
#endif
    return found;
}

}  // namespace

const std::vector<const Kernels*>& all_kernels() {
    static const std::vector<const Kernels*> kernels = available_kernels();
    return kernels;
}

const Kernels* kernels_named(const std::string& name) {
    for (const auto* kernels : all_kernels())
        if (name == kernels->name) return kernels;
    return nullptr;
}

const Kernels* default_kernels() {
    const std::string forced = forced_instruction_set();
    if (forced.empty()) return all_kernels().front();
    if (const auto* kernels = kernels_named(forced)) return kernels;
    throw NoSuchInstructionSet("BIPROP_ISA");
}

}  // namespace biprop
