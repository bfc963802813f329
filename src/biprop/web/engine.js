"use strict";
// The engine, compiled to WebAssembly: csrc/engine behind the C interface of include/biprop.h.

// A module with one vector of bytes: only a browser that has WebAssembly's SIMD instructions accepts it.
const SIMD_PROBE = [
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11,
];
const NHWC = 1;

function hasSimd() {
  return WebAssembly.validate(new Uint8Array(SIMD_PROBE));
}

// The few functions of an operating system that the C++ library asks for: a clock, and an empty environment.
function systemFor(memory) {
  const view = () => new DataView(memory().buffer);
  const zeros = (first, second) => {
    view().setUint32(first, 0, true);
    view().setUint32(second, 0, true);
    return 0;
  };
  return {
    env: { emscripten_notify_memory_growth() {} },
    wasi_snapshot_preview1: {
      clock_time_get(clock, precision, place) {
        view().setBigUint64(place, BigInt(Math.round(performance.now() * 1e6)), true);
        return 0;
      },
      environ_sizes_get: zeros,
      environ_get: () => 0,
      proc_exit(code) {
        throw new Error(`the engine has ended with code ${code}`);
      },
    },
  };
}

// Loads a program (Uint8Array) into an instance of the engine (Uint8Array of the module).
// Gives { channels, height, width, outputs, run }, where run takes the bytes of images, [count][height][width][channels],
// and gives their logits, a Float32Array [count * outputs].
async function loadEngine(module, program) {
  let exports = null;
  const { instance } = await WebAssembly.instantiate(module, systemFor(() => exports.memory));
  exports = instance.exports;
  exports._initialize();
  const copyOf = (bytes) => {
    const place = exports.malloc(bytes.length);
    new Uint8Array(exports.memory.buffer).set(bytes, place);
    return place;
  };
  const numbersAt = (place, count) => new Int32Array(exports.memory.buffer, place, count);
  const check = (error, what) => {
    if (error) throw new Error(`${what} fails with error ${error} of biprop.h`);
  };

  const numbers = exports.malloc(16);
  const at = copyOf(program);
  check(exports.biprop_load(at, program.length, 1, numbers), "loading the network");
  exports.free(at);
  const network = numbersAt(numbers, 1)[0];
  exports.biprop_shape(network, numbers, numbers + 4, numbers + 8, numbers + 12);
  const [channels, height, width, outputs] = numbersAt(numbers, 4);

  function run(images) {
    const count = images.length / (channels * height * width);
    const from = copyOf(images);
    const to = exports.malloc(4 * count * outputs);
    // The count is an int64_t: a BigInt here.
    check(exports.biprop_run_u8(network, from, BigInt(count), NHWC, to), "running the network");
    const logits = new Float32Array(exports.memory.buffer, to, count * outputs).slice();
    exports.free(from);
    exports.free(to);
    return logits;
  }
  return { channels, height, width, outputs, run };
}
