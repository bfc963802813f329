#include "machine_code.h"

#include <cstring>

#if BIPROP_MACHINE_CODE
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace biprop {

namespace {

constexpr int kOut = 7, kIn = 6;  // rdi, rsi
constexpr int kLoad = 0x10, kStore = 0x11, kXor = 0x57, kAdd = 0x58, kSubtract = 0x5C;

}  // namespace

void CodeWriter::zero(int to) { between_registers(kXor, to, 0, 0); }
void CodeWriter::add(int to, int x) { between_registers(kAdd, to, to, x); }
void CodeWriter::subtract(int to, int x) { between_registers(kSubtract, to, to, x); }
void CodeWriter::load(int to, int32_t distance) { with_memory(kLoad, to, kIn, distance); }
void CodeWriter::store(int from, int32_t distance) { with_memory(kStore, from, kOut, distance); }

// What runs next may use the older instructions, which wait for registers whose upper halves are in use.
void CodeWriter::end() {
    for (const int byte : {0xC5, 0xF8, 0x77, 0xC3}) write(byte);  // vzeroupper; ret
}

// to = first (operation) second
void CodeWriter::between_registers(int opcode, int to, int first, int second) {
    start(opcode, to, first);
    write(0xC0 | (to & 7) << 3 | second);
}

void CodeWriter::with_memory(int opcode, int vector, int base, int32_t distance) {
    start(opcode, vector, 0);
    write(0x80 | (vector & 7) << 3 | base);
    for (int i = 0; i < 4; ++i) write(int(uint32_t(distance) >> (8 * i)) & 255);
}

// The prefix, in which the upper bits of registers are inverted, and the opcode.
void CodeWriter::start(int opcode, int to, int first) {
    const int upper = to & 8 ? 0 : 0x80, inverted = (~first & 15) << 3;
    if (wide_) {
        write(0x62);
        write(upper | 0x60 | (to & 16 ? 0 : 0x10) | 1);
        write(inverted | 4);
        write(0x40 | (first & 16 ? 0 : 8));
    } else {
        write(0xC5);
        write(upper | inverted | 4);
    }
    write(opcode);
}

std::unique_ptr<MachineCode> MachineCode::of(const std::vector<uint8_t>& bytes) {
#if BIPROP_MACHINE_CODE
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
#if BIPROP_MACHINE_CODE
    munmap(memory_, size_);
#endif
}

}  // namespace biprop
