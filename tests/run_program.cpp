// Runs a program on every instruction set of this machine:
//
//     run_program PROGRAM IMAGES COUNT LOGITS [calibrated]
//
// IMAGES are floats [COUNT][channel][row][column]; with the last word, 8-bit activations are calibrated on them. Prints
// a line for each instruction set, its name and its kernels for one image, and writes its logits for all images at
// once and then for one after the other.
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string>
#include <vector>

#include "biprop.h"

namespace {

std::string bytes_of(const char* path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

void require(bool good, const char* what) {
    if (good) return;
    std::fprintf(stderr, "%s\n", what);
    std::exit(1);
}
void require_ok(int error) { require(error == BIPROP_OK, biprop_message(error)); }

// Appends the logits to `file`.
void run_on(const std::string& set, const std::string& program, const float* images, int count, bool calibrated,
            std::ofstream& file) {
    biprop_network* network = nullptr;
    require_ok(biprop_load_with(program.data(), program.size(), 1, set.c_str(), &network));
    int channels, height, width, outputs;
    biprop_shape(network, &channels, &height, &width, &outputs);
    if (calibrated) require_ok(biprop_calibrate(network, images, count, BIPROP_NCHW));
    const size_t image = size_t(channels) * height * width, all = size_t(count) * outputs;
    std::vector<float> logits(2 * all);
    require_ok(biprop_run_f32(network, images, count, BIPROP_NCHW, logits.data()));
    for (int i = 0; i < count; ++i)
        require_ok(biprop_run_f32(network, images + i * image, 1, BIPROP_NCHW, &logits[all + size_t(i) * outputs]));
    std::vector<char> text(biprop_explain(network, 1, nullptr, 0) + 4096);
    biprop_explain(network, 1, text.data(), text.size());
    std::string kernels(text.data());
    for (char& c : kernels) c = c == '\n' ? ';' : c;
    std::printf("%s\n", kernels.c_str());
    biprop_free(network);
    file.write(reinterpret_cast<const char*>(logits.data()), std::streamsize(logits.size() * sizeof(float)));
}

}  // namespace

int main(int count, char** arguments) {
    const std::string program = bytes_of(arguments[1]), images = bytes_of(arguments[2]);
    std::ofstream file(arguments[4], std::ios::binary);
    std::istringstream sets(biprop_instruction_sets());
    for (std::string set; sets >> set;)
        run_on(set, program, reinterpret_cast<const float*>(images.data()), std::atoi(arguments[3]), count > 5, file);
}
