#include "machine_code.h"

#include <cstring>

// Functions follow the calling convention of System V, as on Linux and macOS.
#if defined(__x86_64__) && (defined(__linux__) || defined(__APPLE__))
#define BIPROP_MACHINE_CODE
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace biprop {

namespace {

constexpr int kOut = 7, kIn = 6;  // rdi, rsi
constexpr int kLoad = 0x10, kStore = 0x11, kAdd = 0x58, kSubtract = 0x5C, kXor = 0xEF;

}  // namespace

void CodeWriter::zero(int to) { between_registers(kXor, to, to, Prefix::operand_size); }
void CodeWriter::add(int to, int x) { between_registers(kAdd, to, x, Prefix::none); }
void CodeWriter::subtract(int to, int x) { between_registers(kSubtract, to, x, Prefix::none); }
void CodeWriter::load(int to, int32_t distance) { with_memory(kLoad, to, kIn, distance); }
void CodeWriter::store(int from, int32_t distance) { with_memory(kStore, from, kOut, distance); }

// What runs next may use the older instructions, which wait for registers whose upper halves are in use.
void CodeWriter::end() {
    for (const int byte : {0xC5, 0xF8, 0x77, 0xC3}) write(byte);  // vzeroupper; ret
}

// to = to (operation) x
void CodeWriter::between_registers(int opcode, int to, int x, Prefix prefix) {
    if (wide_) {
        start_wide(opcode, to, to, x, prefix);
    } else {
        const int upper = (to < 8 ? 0x80 : 0), first = (~to & 15) << 3;
        if (x < 8) {  // two bytes instead of three
            write(0xC5);
            write(upper | first | 4 | int(prefix));
        } else {
            write(0xC4);
            write(upper | 0x40 | 1);
            write(first | 4 | int(prefix));
        }
        write(opcode);
    }
    write(0xC0 | (to & 7) << 3 | (x & 7));
}

void CodeWriter::with_memory(int opcode, int vector, int base, int32_t distance) {
    if (wide_) {
        start_wide(opcode, vector, 0, 0, Prefix::none);
    } else {
        write(0xC5);
        write((vector < 8 ? 0x80 : 0) | 15 << 3 | 4);
        write(opcode);
    }
    write(0x80 | (vector & 7) << 3 | base);
    for (int i = 0; i < 4; ++i) write(int(uint32_t(distance) >> (8 * i)) & 255);
}

// The prefix of 64-byte vectors, in which the upper bits of registers are inverted, and the opcode.
void CodeWriter::start_wide(int opcode, int to, int first, int second, Prefix prefix) {
    write(0x62);
    write((to & 8 ? 0 : 0x80) | (second & 16 ? 0 : 0x40) | (second & 8 ? 0 : 0x20) | (to & 16 ? 0 : 0x10) | 1);
    write((~first & 15) << 3 | 4 | int(prefix));
    write(0x40 | (first & 16 ? 0 : 8));
    write(opcode);
}

std::unique_ptr<MachineCode> MachineCode::of(const std::vector<uint8_t>& bytes) {
#ifdef BIPROP_MACHINE_CODE
    const auto page = size_t(sysconf(_SC_PAGESIZE));
    const size_t size = (bytes.size() + page - 1) / page * page;
    void* const memory = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return nullptr;
    std::memcpy(memory, bytes.data(), bytes.size());
    if (mprotect(memory, size, PROT_READ | PROT_EXEC)) {
        munmap(memory, size);
        return nullptr;
    }
    return std::unique_ptr<MachineCode>(new MachineCode(static_cast<uint8_t*>(memory), size));
#else
    (void)bytes;
    return nullptr;
#endif
}

MachineCode::~MachineCode() {
#ifdef BIPROP_MACHINE_CODE
    munmap(memory_, size_);
#endif
}

}  // namespace biprop
