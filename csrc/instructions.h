// The instruction set that the functions of the core use.
#pragma once

#include <utility>

#include "core.h"

namespace biprop {

// The value of BIPROP_ISA in the environment when the core was first used ("scalar", "avx2", "avxvnni", "avx512",
// "avx512vnni", "amx", "neon", "dotprod", "i8mm"); "" where it is not set.
const char* forced_instruction_set();

// The generations of processors that functions outside the engine are compiled for. The best one that the processor
// supports is used, unless BIPROP_ISA names a lower one.
enum class Generation { baseline, avx2, avx512 };
Generation generation();

#if defined(__x86_64__) && defined(__GNUC__)
template <auto body, class... Arguments>
__attribute__((target("avx512f"))) void run_avx512(Arguments... arguments) {
    body(arguments...);
}
template <auto body, class... Arguments>
__attribute__((target("avx2"))) void run_avx2(Arguments... arguments) {
    body(arguments...);
}
// body(arguments...), compiled for each generation of processors; `body` is a function that is always inlined.
template <auto body, class... Arguments>
void run_fastest(Arguments... arguments) {
    switch (generation()) {
        case Generation::avx512: return run_avx512<body, Arguments...>(arguments...);
        case Generation::avx2: return run_avx2<body, Arguments...>(arguments...);
        case Generation::baseline: return body(arguments...);
    }
}
#else
template <auto body, class... Arguments>
void run_fastest(Arguments... arguments) {
    body(arguments...);
}
#endif

}  // namespace biprop
