#include "instructions.h"

#include <cstdlib>
#include <string>

namespace biprop {

namespace {

Generation chosen_generation() {
#if defined(__x86_64__) && defined(__GNUC__)
    const std::string forced = forced_instruction_set();
    if (forced == "scalar") return Generation::baseline;
    __builtin_cpu_init();
    if (forced != "avx2" && forced != "avxvnni" && __builtin_cpu_supports("avx512f")) return Generation::avx512;
    if (__builtin_cpu_supports("avx2")) return Generation::avx2;
#endif
    return Generation::baseline;
}

}  // namespace

const char* forced_instruction_set() {
    static const std::string name = [] {
        const char* value = std::getenv("BIPROP_ISA");
        return std::string(value ? value : "");
    }();
    return name.c_str();
}

Generation generation() {
    static const Generation chosen = chosen_generation();
    return chosen;
}

}  // namespace biprop

// "avx512", "avx2" or "baseline": the generation that functions outside the engine use.
BIPROP_EXPORT const char* biprop_core_generation() {
    static const char* const names[] = {"baseline", "avx2", "avx512"};
    return names[int(biprop::generation())];
}
