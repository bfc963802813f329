#define _GNU_SOURCE  // the names of registers
// Answers the invalid instructions that hide_avx512.py puts where a library asks the processor for
// its features (cpuid): with the processor's own answer, but without AVX-512, AVX-VNNI and AMX.
#include <cpuid.h>
#include <signal.h>
#include <string.h>
#include <ucontext.h>

enum { INSTRUCTION_BYTES = 2, FEATURES = 7 };

static const unsigned char INVALID[INSTRUCTION_BYTES] = {0x0F, 0xFF};  // ud0; cpuid is 0F A2

// The bits of leaf 7 (Intel, "Software Developer's Manual", volume 2A, CPUID).
static const unsigned AVX512_EBX = 1u << 16 | 1u << 17 | 1u << 21 | 3u << 26 | 1u << 28 | 3u << 30;
static const unsigned AVX512_ECX = 1u << 1 | 1u << 6 | 1u << 11 | 1u << 12 | 1u << 14;
static const unsigned AVX512_AMX_EDX = 3u << 2 | 1u << 8 | 7u << 22 | 1u << 25;
static const unsigned VNNI_BF16_FP16_EAX = 3u << 4 | 1u << 21;  // subleaf 1
static const unsigned VNNI_AMX_EDX = 3u << 4 | 1u << 8 | 1u << 10 | 1u << 19;

static void answer(int signal_number, siginfo_t* info, void* context) {
    (void)info;
    greg_t* registers = ((ucontext_t*)context)->uc_mcontext.gregs;
    if (memcmp((const void*)registers[REG_RIP], INVALID, INSTRUCTION_BYTES) != 0) {
        signal(signal_number, SIG_DFL);  // a true invalid instruction: it runs again, and ends the process
        return;
    }
    const unsigned leaf = (unsigned)registers[REG_RAX];
    const unsigned subleaf = (unsigned)registers[REG_RCX];
    unsigned eax, ebx, ecx, edx;
    __cpuid_count(leaf, subleaf, eax, ebx, ecx, edx);
    if (leaf == FEATURES && subleaf == 0) {
        ebx &= ~AVX512_EBX;
        ecx &= ~AVX512_ECX;
        edx &= ~AVX512_AMX_EDX;
    } else if (leaf == FEATURES) {
        eax &= ~VNNI_BF16_FP16_EAX;
        edx &= ~VNNI_AMX_EDX;
    }
    registers[REG_RAX] = eax;
    registers[REG_RBX] = ebx;
    registers[REG_RCX] = ecx;
    registers[REG_RDX] = edx;
    registers[REG_RIP] += INSTRUCTION_BYTES;
}

__attribute__((constructor)) static void install(void) {
    struct sigaction action = {.sa_sigaction = answer, .sa_flags = SA_SIGINFO | SA_NODEFER};
    sigaction(SIGILL, &action, NULL);
}
