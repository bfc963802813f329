// Functions in machine code that are written while the program runs: sums and differences of vectors of floats, for
// x86-64 with AVX2 or AVX-512. Where the system forbids them, or the processor is another one, there are none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

// Functions follow the calling convention of System V, as on Linux and macOS.
#if defined(__x86_64__) && (defined(__linux__) || defined(__APPLE__))
#define BIPROP_MACHINE_CODE 1
#else
#define BIPROP_MACHINE_CODE 0
#endif

namespace biprop {

// A function: it reads vectors at fixed distances from `in`, and writes vectors at fixed distances from `out`.
using VectorFunction = void (*)(float* out, const float* in);

// Writes functions, one instruction after the other. Vectors have 8 floats (AVX2: 16 registers) or 16 (AVX-512: 32).
// Encodings: Intel, "Software Developer's Manual", volume 2A, sections 2.3 (VEX) and 2.7 (EVEX).
class CodeWriter {
  public:
    explicit CodeWriter(int floats) : wide_(floats == 16) {}

    void zero(int to);
    void load(int to, int32_t distance);  // in bytes, from `in`
    void store(int from, int32_t distance);  // in bytes, from `out`
    void add(int to, int x);  // to += x, which is one of the first eight registers
    void subtract(int to, int x);  // to -= x
    void end();  // of a function

    const std::vector<uint8_t>& bytes() const { return bytes_; }

  private:
    void between_registers(int opcode, int to, int first, int second);
    void with_memory(int opcode, int vector, int base, int32_t distance);
    void start(int opcode, int to, int first);
    void write(int byte) { bytes_.push_back(uint8_t(byte)); }

    const bool wide_;
    std::vector<uint8_t> bytes_;
};

// Code in memory that can be executed, and from then on not be changed.
class MachineCode {
  public:
    // Null where the system does not allow it.
    static std::unique_ptr<MachineCode> of(const std::vector<uint8_t>& bytes);
    ~MachineCode();
    MachineCode(const MachineCode&) = delete;
    MachineCode& operator=(const MachineCode&) = delete;

    VectorFunction function(size_t offset) const { return reinterpret_cast<VectorFunction>(memory_ + offset); }
    size_t bytes() const { return size_; }

  private:
    MachineCode(uint8_t* memory, size_t size) : memory_(memory), size_(size) {}
    uint8_t* const memory_;
    const size_t size_;  // whole pages
};

}  // namespace biprop
