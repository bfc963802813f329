#include "dispatch.h"

#include "../instructions.h"

#if defined(__x86_64__) || defined(_M_X64)
#define BIPROP_X86 1
#endif

#if defined(BIPROP_X86) && defined(__GNUC__)
#include <cpuid.h>
#endif
#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace biprop {

namespace {

using Found = std::vector<const Kernels*>;

// The kernels of `base` with other products of matrices.
[[maybe_unused]] Kernels with_products(const Kernels& base, const char* name, const MatrixKernels& products) {
    Kernels kernels = base;
    kernels.name = name;
    kernels.matrices = &products;
    return kernels;
}

#if defined(BIPROP_X86) && defined(__GNUC__)
[[maybe_unused]] bool have_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("avx512vpopcntdq") &&
           __builtin_cpu_supports("bmi2");
}

// Compilers of 2021 do not know its name.
[[maybe_unused]] bool have_avxvnni() {
    unsigned a, b, c, d;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 4) != 0;
}

[[maybe_unused]] void add_avx512([[maybe_unused]] Found& found) {
#ifdef BIPROP_AVX512
    if (!have_avx512()) return;
#ifdef BIPROP_AMX
    if (have_amx()) {
        static const Kernels amx = with_products(kAvx512, "amx", kAmx);
        found.push_back(&amx);
    }
#endif
#ifdef BIPROP_AVX512VNNI
    if (__builtin_cpu_supports("avx512vnni")) {
        static const Kernels vnni = with_products(kAvx512, "avx512vnni", kAvx512Vnni);
        found.push_back(&vnni);
    }
#endif
    found.push_back(&kAvx512);
#endif
}

[[maybe_unused]] void add_avx2([[maybe_unused]] Found& found) {
#ifdef BIPROP_AVX2
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return;
#ifdef BIPROP_AVXVNNI
    if (have_avxvnni()) {
        static const Kernels vnni = with_products(kAvx2, "avxvnni", kAvxVnni);
        found.push_back(&vnni);
    }
#endif
#ifdef BIPROP_AVX512VNNI
    // The same instruction, as AVX-512 encodes it.
    if (!have_avxvnni() && have_avx512() && __builtin_cpu_supports("avx512vnni")) {
        static const Kernels vnni = with_products(kAvx2, "avxvnni", kVnni256);
        found.push_back(&vnni);
    }
#endif
    found.push_back(&kAvx2);
#endif
}
#endif

#if defined(__aarch64__)
// The operating system's name for it: a bit of HWCAP or HWCAP2 on Linux, a variable on macOS.
[[maybe_unused]] bool have_feature([[maybe_unused]] unsigned long type, [[maybe_unused]] unsigned long bit,
                                   [[maybe_unused]] const char* variable) {
#if defined(__linux__)
    return (getauxval(type) & bit) != 0;
#elif defined(__APPLE__)
    int there = 0;
    size_t bytes = sizeof there;
    return sysctlbyname(variable, &there, &bytes, nullptr, 0) == 0 && there;
#else
    return false;
#endif
}
#endif

[[maybe_unused]] void add_neon([[maybe_unused]] Found& found) {
#ifdef BIPROP_NEON
    [[maybe_unused]] constexpr unsigned long hwcap = 16, hwcap2 = 26;  // AT_HWCAP, AT_HWCAP2
#ifdef BIPROP_I8MM
    if (have_feature(hwcap2, 1ul << 13, "hw.optional.arm.FEAT_I8MM")) {
        static const Kernels i8mm = with_products(kNeon, "i8mm", kI8mm);
        found.push_back(&i8mm);
    }
#endif
#ifdef BIPROP_DOTPROD
    if (have_feature(hwcap, 1ul << 20, "hw.optional.arm.FEAT_DotProd")) {
        static const Kernels dotprod = with_products(kNeon, "dotprod", kDotProd);
        found.push_back(&dotprod);
    }
#endif
    found.push_back(&kNeon);
#endif
}

Found available_kernels() {
    Found found;
#if defined(BIPROP_X86) && defined(__GNUC__)
    __builtin_cpu_init();
    add_avx512(found);
    add_avx2(found);
#endif
    add_neon(found);
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
