// Runs a calibrated program on every instruction set of this machine, one image at a time and all at once:
//
//     calibrated PROGRAM IMAGES COUNT LOGITS
//
// IMAGES are floats [COUNT][channel][row][column]. Prints a line for each instruction set, its name and its kernels for
// one image, and writes the logits of the last one, the scalar one; fails where another one gives other logits.
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

std::vector<float> logits_of(const std::string& program, const std::string& name, const float* images, int count) {
    biprop_network* network = nullptr;
    require_ok(biprop_load_with(program.data(), program.size(), 1, name.c_str(), &network));
    int channels, height, width, outputs;
    biprop_shape(network, &channels, &height, &width, &outputs);
    require_ok(biprop_calibrate(network, images, count, BIPROP_NCHW));
    std::vector<float> all(size_t(count) * outputs), one(all.size());
    require_ok(biprop_run_f32(network, images, count, BIPROP_NCHW, all.data()));
    const size_t image = size_t(channels) * height * width;
    for (int i = 0; i < count; ++i)
        require_ok(biprop_run_f32(network, images + i * image, 1, BIPROP_NCHW, &one[size_t(i) * outputs]));
    std::vector<char> text(biprop_explain(network, 1, nullptr, 0) + 4096);
    biprop_explain(network, 1, text.data(), text.size());
    std::string kernels(text.data());
    for (char& c : kernels) c = c == '\n' ? ';' : c;
    std::printf("%s\n", kernels.c_str());
    biprop_free(network);
    require(all == one, "one image gives other logits than many");
    return all;
}

}  // namespace

int main(int, char** arguments) {
    const std::string program = bytes_of(arguments[1]), images = bytes_of(arguments[2]);
    std::istringstream names(biprop_instruction_sets());
    std::vector<std::vector<float>> logits;
    for (std::string name; names >> name;)
        logits.push_back(
            logits_of(program, name, reinterpret_cast<const float*>(images.data()), std::atoi(arguments[3])));
    for (const auto& own : logits) require(own == logits.back(), "instruction sets give different logits");
    std::ofstream(arguments[4], std::ios::binary)
        .write(reinterpret_cast<const char*>(logits.back().data()), std::streamsize(logits.back().size() * 4));
}
