/* biprop's engine: runs a compiled network ("program", written by `biprop compile` or Engine.save_program) on a CPU.
 *
 *     biprop_network *network;
 *     int error = biprop_load_file("digits.bprog", 1, &network);
 *     if (!error) error = biprop_run_u8(network, images, count, BIPROP_NHWC, logits);
 *     if (error) fprintf(stderr, "%s\n", biprop_message(error));
 *     biprop_free(network);
 *
 * A network may be used by many threads at once. No function keeps a pointer to its arguments. Results do not depend on
 * the number of threads.
 */
#ifndef BIPROP_H
#define BIPROP_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define BIPROP_API __declspec(dllexport)
#else
#define BIPROP_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

typedef struct biprop_network biprop_network;

enum biprop_error {
    BIPROP_OK = 0,
    BIPROP_BAD_FILE = 1, /* the file cannot be read */
    BIPROP_BAD_PROGRAM = 2, /* damaged, or of another version */
    BIPROP_BAD_ARGUMENT = 3, /* a null pointer, a negative count, an unknown layout or instruction set */
    BIPROP_NOT_FINITE = 4, /* a pixel is NaN or infinite */
    BIPROP_NO_MEMORY = 5, /* or no more threads */
    BIPROP_TOO_LARGE = 6, /* a layer with more inputs than the kernels count (65,533), or a map of 2^25 numbers */
    BIPROP_INTERNAL = 7, /* a bug: please report it */
    BIPROP_NO_SUCH_INSTRUCTION_SET = 8
};

enum biprop_layout { BIPROP_NCHW = 0, BIPROP_NHWC = 1 };

/* Loads a program from memory or a file; threads >= 1. *network is set only on success. */
BIPROP_API int biprop_load(const void* program, size_t size, int threads, biprop_network** network);
BIPROP_API int biprop_load_file(const char* path, int threads, biprop_network** network);
BIPROP_API void biprop_free(biprop_network* network); /* null is fine */

/* The same from memory, for an instruction set of biprop_instruction_sets(); "" is the default. */
BIPROP_API int biprop_load_with(const void* program, size_t size, int threads, const char* instruction_set,
                                biprop_network** network);

/* The shapes of input and output: images of channels x height x width, logits of `outputs` floats an image. A network
 * of a user's own may take other samples, with their numbers in C order (of one axis: channels; of two: channels and
 * width; of more than three, all but the first and the last make the height), and give other results, in C order. */
BIPROP_API void biprop_shape(const biprop_network* network, int* channels, int* height, int* width, int* outputs);

/* Images to logits [count][outputs]. Pixels are 0 .. 255, or floats in 0 .. 1; normalisation is part of the program. */
BIPROP_API int biprop_run_u8(biprop_network* network, const uint8_t* images, int64_t count, int layout, float* logits);
BIPROP_API int biprop_run_f32(biprop_network* network, const float* images, int64_t count, int layout, float* logits);

/* From now on quantises activations between layers, where they are floats, to 8 bits, for the ranges that they have on
 * these images (some dozens from the data set are enough). Faster and a little less accurate; binary activations stay
 * binary. No other thread may run the network meanwhile. */
BIPROP_API int biprop_calibrate(biprop_network* network, const float* images, int64_t count, int layout);

/* Which kernel each layer uses for a batch, and its estimated and measured time, as text: up to size - 1 bytes; returns
 * the bytes it needs. */
BIPROP_API size_t biprop_explain(biprop_network* network, int64_t batch, char* text, size_t size);

/* The bytes of the network. `working` (or null) receives how many of them are for activations: 0 before it has run. */
BIPROP_API size_t biprop_memory(const biprop_network* network, size_t* working);

/* The instruction sets of this machine that were compiled in, best first, separated by spaces. The default is the
 * first, or the one that BIPROP_ISA in the environment names (read once, when it is first needed). */
BIPROP_API const char* biprop_instruction_sets(void);

/* Sets the instruction set for networks that biprop_load and biprop_load_file load from now on; "" is the default
 * again. Any thread may call it at any time, but the choice is that of the process: for a choice of its own, a thread
 * calls biprop_load_with. */
BIPROP_API int biprop_use_instruction_set(const char* name);

BIPROP_API const char* biprop_message(int error);

#ifdef __cplusplus
}
#endif
#endif
