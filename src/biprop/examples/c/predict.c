/* Which class is in each image: a program of biprop's engine, run from C.
 *
 *     python -c 'import biprop; biprop.Engine("digits.mpt").save_program("digits.bprog")'
 *     D=$(python -c 'import biprop; print(biprop.include_dir().parent)')
 *     cc -std=c99 -I "$D/include" "$D/examples/c/predict.c" "$D/_core.so" -Wl,-rpath,"$D" -o predict
 *     ./predict digits.bprog pixels.raw
 *
 * or with CMake, see CMakeLists.txt beside this file.
 *
 * pixels.raw holds images as bytes 0 .. 255, one after the other: rows, of each its pixels, of each its channels
 * (NHWC). One line an image is printed: the class, and its logit. A third argument, a file, takes the logits as floats.
 */
#include <stdio.h>
#include <stdlib.h>

#include "biprop.h"

static int fail(const char* what, const char* why) {
    fprintf(stderr, "predict: %s: %s\n", what, why);
    return 1;
}

int main(int count, char** arguments) {
    biprop_network* network = NULL;
    int channels, height, width, outputs, error, result = 1;
    if (count < 3) {
        fprintf(stderr, "usage: predict PROGRAM PIXELS [LOGITS]\n");
        return 2;
    }

    /* A network is loaded once, with the number of threads that a call may use, and can then be called from many
     * threads. */
    error = biprop_load_file(arguments[1], 1, &network);
    if (error) return fail(arguments[1], biprop_message(error));
    biprop_shape(network, &channels, &height, &width, &outputs);

    FILE *pixels = fopen(arguments[2], "rb"), *file = count > 3 ? fopen(arguments[3], "wb") : NULL;
    const size_t size = (size_t)channels * (size_t)height * (size_t)width,
                 most = 64; /* images at a time; 64 share a word */
    uint8_t* images = malloc(most * size);
    float* logits = malloc(most * (size_t)outputs * sizeof *logits);
    if (!pixels || (count > 3 && !file) || !images || !logits) {
        fail(arguments[2], "cannot be read, or there is no memory");
        goto end;
    }

    for (size_t got; (got = fread(images, 1, most * size, pixels)) > 0;) {
        if (got % size) {
            fail(arguments[2], "does not hold a whole number of images");
            goto end;
        }
        error = biprop_run_u8(network, images, (int64_t)(got / size), BIPROP_NHWC, logits);
        if (error) {
            fail(arguments[2], biprop_message(error));
            goto end;
        }
        for (size_t i = 0; i < got / size; ++i) {
            const float* own = logits + i * (size_t)outputs;
            int best = 0;
            for (int k = 1; k < outputs; ++k)
                if (own[k] > own[best]) best = k;
            printf("%d %g\n", best, own[best]);
        }
        if (file &&
            fwrite(logits, sizeof *logits, got / size * (size_t)outputs, file) != got / size * (size_t)outputs) {
            fail(arguments[3], "cannot be written");
            goto end;
        }
    }
    result = ferror(pixels) ? fail(arguments[2], "cannot be read") : 0;

end: /* all of these take null */
    free(logits);
    free(images);
    biprop_free(network);
    if (pixels) fclose(pixels);
    if (file && fclose(file)) result = fail(arguments[3], "cannot be written");
    return result;
}
