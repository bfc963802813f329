// The C interface of the engine, biprop.h. Exceptions end here and become error codes.
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>
#include <system_error>
#include <vector>

#include "biprop.h"
#include "dispatch.h"
#include "network.h"
#include "pixels.h"

struct biprop_network {
    biprop::Network network;
};

namespace {

// Set by biprop_use_instruction_set; null stands for the default.
std::atomic<const biprop::Kernels*> chosen_kernels{nullptr};

template <class Body>
int catch_errors(const Body& body) {
    try {
        body();
        return BIPROP_OK;
    } catch (const biprop::ProgramError&) {
        return BIPROP_BAD_PROGRAM;
    } catch (const biprop::TooLarge&) {
        return BIPROP_TOO_LARGE;
    } catch (const biprop::NoSuchInstructionSet&) {
        return BIPROP_NO_SUCH_INSTRUCTION_SET;
    } catch (const biprop::NotFinite&) {
        return BIPROP_NOT_FINITE;
    } catch (const std::bad_alloc&) {
        return BIPROP_NO_MEMORY;
    } catch (const std::length_error&) {  // more elements than a vector can ever hold
        return BIPROP_NO_MEMORY;
    } catch (const std::system_error&) {  // a thread could not be started
        return BIPROP_NO_MEMORY;
    } catch (...) {
        return BIPROP_INTERNAL;
    }
}

// A null name stands for what biprop_use_instruction_set chose, an empty one for the default.
const biprop::Kernels* kernels_for(const char* name) {
    const auto* chosen = name ? nullptr : chosen_kernels.load();
    if (name && *name) chosen = biprop::kernels_named(name);
    if (name && *name && !chosen) throw biprop::NoSuchInstructionSet(name);
    return chosen ? chosen : biprop::default_kernels();
}

bool is_layout(int layout) { return layout == BIPROP_NCHW || layout == BIPROP_NHWC; }

template <class Pixel>
int run(biprop_network* network, const Pixel* images, int64_t count, int layout, float* logits) {
    if (!network || count < 0 || (count && (!images || !logits)) || !is_layout(layout)) return BIPROP_BAD_ARGUMENT;
    return catch_errors([&] { network->network.run(images, count, layout == BIPROP_NHWC, logits); });
}

// Returns false where the file cannot be read.
bool read_file(const char* path, std::vector<uint8_t>& bytes) {
    std::FILE* file = std::fopen(path, "rb");
    if (!file) return false;
    uint8_t chunk[1 << 16];
    for (size_t count; (count = std::fread(chunk, 1, sizeof chunk, file)) > 0;)
        bytes.insert(bytes.end(), chunk, chunk + count);
    const bool is_read = !std::ferror(file);
    std::fclose(file);
    return is_read;
}

}  // namespace

// ---- loading ----

int biprop_load(const void* program, size_t size, int threads, biprop_network** network) {
    return biprop_load_with(program, size, threads, nullptr, network);
}

int biprop_load_with(const void* program, size_t size, int threads, const char* instruction_set,
                     biprop_network** network) {
    if (!program || !network || threads < 1 || threads > 1024) return BIPROP_BAD_ARGUMENT;
    return catch_errors([&] {
        const auto* kernels = kernels_for(instruction_set);
        const auto* bytes = static_cast<const uint8_t*>(program);
        *network = new biprop_network{{biprop::Program::read(bytes, size), threads, kernels}};
    });
}

int biprop_load_file(const char* path, int threads, biprop_network** network) {
    if (!path || !network) return BIPROP_BAD_ARGUMENT;
    std::vector<uint8_t> bytes;
    bool is_read = false;
    if (const int error = catch_errors([&] { is_read = read_file(path, bytes); })) return error;
    if (!is_read) return BIPROP_BAD_FILE;
    const void* program = bytes.empty() ? static_cast<const void*>("") : bytes.data();
    return biprop_load(program, bytes.size(), threads, network);
}

void biprop_free(biprop_network* network) { delete network; }

// ---- running ----

void biprop_shape(const biprop_network* network, int* channels, int* height, int* width, int* outputs) {
    if (!network) return;
    const auto& input = network->network.input();
    *channels = input.channels;
    *height = input.height;
    *width = input.width;
    *outputs = network->network.outputs();
}

int biprop_run_u8(biprop_network* network, const uint8_t* images, int64_t count, int layout, float* logits) {
    return run(network, images, count, layout, logits);
}

int biprop_run_f32(biprop_network* network, const float* images, int64_t count, int layout, float* logits) {
    return run(network, images, count, layout, logits);
}

int biprop_calibrate(biprop_network* network, const float* images, int64_t count, int layout) {
    if (!network || count < 1 || !images || !is_layout(layout)) return BIPROP_BAD_ARGUMENT;
    return catch_errors([&] { network->network.calibrate(images, count, layout == BIPROP_NHWC); });
}

size_t biprop_explain(biprop_network* network, int64_t batch, char* text, size_t size) {
    std::string whole;
    if (!network || catch_errors([&] { whole = network->network.explain(batch); })) return 0;
    if (size && text) {
        const size_t count = std::min(size - 1, whole.size());
        std::memcpy(text, whole.data(), count);
        text[count] = 0;
    }
    return whole.size();
}

size_t biprop_memory(const biprop_network* network, size_t* working) {
    std::pair<size_t, size_t> bytes;
    if (network) catch_errors([&] { bytes = network->network.memory(); });
    if (working) *working = bytes.second;
    return bytes.first + bytes.second;
}

// ---- instruction sets and messages ----

const char* biprop_instruction_sets(void) {
    static const std::string names = [] {
        std::string joined;
        for (const auto* kernels : biprop::all_kernels())
            joined += (joined.empty() ? "" : " ") + std::string(kernels->name);
        return joined;
    }();
    return names.c_str();
}

int biprop_use_instruction_set(const char* name) {
    if (!name) return BIPROP_BAD_ARGUMENT;
    const biprop::Kernels* kernels = nullptr;
    if (const int error = catch_errors([&] { kernels = biprop::kernels_named(name); })) return error;
    if (*name && !kernels) return BIPROP_BAD_ARGUMENT;
    chosen_kernels = kernels;  // null for an empty name
    return BIPROP_OK;
}

const char* biprop_message(int error) {
    switch (error) {
        case BIPROP_OK: return "no error";
        case BIPROP_BAD_FILE: return "the file cannot be read";
        case BIPROP_BAD_PROGRAM: return "not a program of this version, or a damaged one";
        case BIPROP_BAD_ARGUMENT: return "an argument is not valid";
        case BIPROP_NOT_FINITE: return "a pixel is NaN or infinite";
        case BIPROP_NO_MEMORY: return "out of memory, or of threads";
        case BIPROP_TOO_LARGE:
            return "a layer has more than 65533 inputs, or a map more numbers than the kernels count";
        case BIPROP_NO_SUCH_INSTRUCTION_SET:
            return "no such instruction set in this machine or library (an argument, or BIPROP_ISA in the environment)";
        default: return "an internal error; please report it";
    }
}
