// The engine, compiled to WebAssembly: csrc/engine behind the C interface of include/biprop.h.

// A module with two instructions on vectors, which a browser without WebAssembly's SIMD refuses.
const SIMD_MODULE = [
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15, 253, 98, 11,
];
const NHWC = 1; // of biprop.h

function hasSimd() {
  return WebAssembly.validate(new Uint8Array(SIMD_MODULE));
}

// What the C++ library asks of an operating system: a clock, and an environment, which is empty.
function systemFor(instance) {
  const view = () => new DataView(instance().exports.memory.buffer);
  const writeZeros = (first, second) => {
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
      environ_sizes_get: writeZeros,
      environ_get: () => 0,
      proc_exit(code) {
        throw new Error(`the engine ended with code ${code}`);
      },
    },
  };
}

// Starts the engine (the bytes of its module) with a network (the bytes of its program).
//
// The result has the shape of the network, { channels, height, width, outputs }, and a function run(images): bytes
// [count, height, width, channels] to logits, a Float32Array [count, outputs].
async function startEngine(moduleBytes, program) {
  let instance = null;
  ({ instance } = await WebAssembly.instantiate(moduleBytes, systemFor(() => instance)));
  const core = instance.exports;
  core._initialize();
  const numbersAt = (place, count) => new Int32Array(core.memory.buffer, place, count);

  function copyIn(bytes) {
    const place = core.malloc(bytes.length);
    if (!place) throw new Error("the engine has not enough memory");
    new Uint8Array(core.memory.buffer).set(bytes, place);
    return place;
  }

  function check(error) {
    if (error) throw new Error(`the engine reports error ${error}`);
  }

  const place = copyIn(program);
  const numbers = core.malloc(16);
  check(core.biprop_load(place, program.length, 1, numbers));
  core.free(place);
  const network = numbersAt(numbers, 1)[0];
  core.biprop_shape(network, numbers, numbers + 4, numbers + 8, numbers + 12);
  const [channels, height, width, outputs] = numbersAt(numbers, 4);

  function run(images) {
    const count = images.length / (channels * height * width);
    const from = copyIn(images);
    const to = core.malloc(4 * count * outputs);
    check(core.biprop_run_u8(network, from, BigInt(count), NHWC, to)); // an int64_t is a BigInt
    const logits = new Float32Array(core.memory.buffer, to, count * outputs).slice();
    core.free(from);
    core.free(to);
    return logits;
  }

  return { channels, height, width, outputs, run };
}
