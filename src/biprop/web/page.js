// What the page does: it starts the engine, takes images and drawings, and shows classes and probabilities.

const MOST_ROWS = 10;
const PEN = 34; // pixels of 280: drawings are then as bright, on average, as the UCI digits
const STEP = 7; // pixels of an arrow key
const DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;/=>?@^_`{|}~";
const part = (id) => document.getElementById(id);

// ---- loading ----

// The inverse of as_text in packing.py: five digits of base 85 for four bytes.
function bytesOfText(text) {
  const values = new Uint8Array(128);
  [...DIGITS].forEach((digit, value) => (values[digit.charCodeAt(0)] = value));
  const missing = (5 - (text.length % 5)) % 5;
  const whole = text + "~".repeat(missing);
  const view = new DataView(new ArrayBuffer((whole.length / 5) * 4));
  for (let i = 0; i < whole.length; i += 5) {
    let number = 0;
    for (let k = 0; k < 5; k++) number = 85 * number + values[whole.charCodeAt(i + k)];
    view.setUint32((i / 5) * 4, number);
  }
  return new Uint8Array(view.buffer, 0, view.byteLength - missing);
}

async function unpacked(id) {
  const packed = bytesOfText(part(id).textContent);
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// The program as the engine reads it, of its parts (packing.py): those without planes, and for each layer two planes,
// the kept negative and the kept positive weights. They become a mask, "either of both", and signs.
function joined(rest, planes, places) {
  const program = new Uint8Array(rest.length + planes.length);
  let [used, next, end] = [0, 0, 0];
  for (const [start, size] of places) {
    program.set(rest.subarray(used, used + start - end), end);
    used += start - end;
    for (let i = 0; i < size; i++) program[start + i] = planes[next + i] | planes[next + size + i];
    program.set(planes.subarray(next + size, next + 2 * size), start + size);
    next += 2 * size;
    end = start + 2 * size;
  }
  program.set(rest.subarray(used), end);
  return program;
}

async function start() {
  const ticket = JSON.parse(part("ticket").textContent);
  const kind = hasSimd() && location.hash !== "#scalar" ? "simd" : "scalar";
  const names = [`engine-${kind}`, "program", "planes"];
  const [engineBytes, rest, planes] = await Promise.all(names.map(unpacked));
  const engine = await startEngine(engineBytes, joined(rest, planes, ticket.places));
  engine.run(new Uint8Array(engine.channels * engine.height * engine.width)); // the first run takes longer
  return { ticket, engine, kind };
}

// ---- showing ----

function probabilitiesOf(logits) {
  const largest = Math.max(...logits);
  const powers = Array.from(logits, (x) => Math.exp(x - largest));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((x) => x / sum);
}

function percent(probability) {
  return `${(100 * probability).toFixed(1)} %`;
}

function newElement(tag, text, attributes = {}) {
  const node = document.createElement(tag);
  node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

function rowOf(name, probability) {
  const row = document.createElement("tr");
  const bar = newElement("span", "", { class: "share" });
  bar.style.width = percent(probability).replace(" ", "");
  const cell = newElement("td", "", { class: "track", "aria-hidden": "true" });
  cell.append(bar);
  row.append(newElement("th", name, { scope: "row" }), cell, newElement("td", percent(probability)));
  return row;
}

function showProblem(text) {
  part("problem").textContent = text;
  part("problem").hidden = !text;
}

// What the network sees.
function paint(canvas, image) {
  [canvas.width, canvas.height] = [image.width, image.height];
  const context = canvas.getContext("2d");
  const pixels = context.createImageData(image.width, image.height);
  for (let i = 0, to = 0; i < image.data.length; i += image.channels) {
    for (let k = 0; k < 3; k++) pixels.data[to++] = image.data[i + (image.channels === 3 ? k : 0)];
    pixels.data[to++] = 255;
  }
  context.putImageData(pixels, 0, 0);
}

function fillTable(names, logits, milliseconds) {
  const probabilities = probabilitiesOf(logits);
  const order = probabilities.map((_, i) => i).sort((a, b) => probabilities[b] - probabilities[a] || a - b);
  const rows = order.slice(0, MOST_ROWS).map((i) => rowOf(names[i], probabilities[i]));
  part("rows").replaceChildren(...rows);
  const best = order[0];
  part("class").textContent = names[best];
  part("detail").textContent = `${percent(probabilities[best])}, ${milliseconds.toFixed(1)} ms`;
}

// ---- the parts of the page ----

function classifier({ ticket, engine }) {
  let source = null; // the image before it is inverted
  let isInvertible = false;

  function showResult(isThere) {
    part("result").hidden = !isThere;
    part("nothing").hidden = isThere;
  }

  function show() {
    if (!source) return;
    const isInverted = isInvertible && part("invert")?.checked;
    const data = isInverted ? source.data.map((value) => 255 - value) : source.data;
    paint(part("input"), { ...source, data });
    const before = performance.now();
    const logits = engine.run(data);
    fillTable(ticket.classes, logits, performance.now() - before);
    showProblem("");
    showResult(true);
  }

  // Drawings made like the images of a data set have its colours already.
  function take(image, isDrawing) {
    source = image;
    isInvertible = !isDrawing || !ticket.drawing;
    show();
  }

  function forget() {
    source = null;
    showResult(false);
  }

  function measure() {
    const image = source?.data ?? new Uint8Array(engine.channels * engine.height * engine.width);
    const begin = performance.now();
    let count = 0;
    while (performance.now() - begin < 1000) {
      engine.run(image);
      count++;
    }
    const each = (performance.now() - begin) / count;
    part("speed").textContent = `${Math.round(1000 / each).toLocaleString("en")} images/s, ${each.toFixed(2)} ms each`;
  }

  return { show, take, forget, measure };
}

// The pixels of an image [height, width, channels], upright and in front of white; colour profiles are ignored.
async function pixelsOf(file, channels) {
  const bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  const { width, height } = bitmap;
  if (width * height > MOST_PIXELS) throw new Error("it has too many pixels");
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [width, height];
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(bitmap, 0, 0);
  return fromRgba(context.getImageData(0, 0, width, height).data, width, height, channels);
}

function takeImages({ ticket, engine }, page) {
  async function read(file) {
    if (!file) return;
    try {
      const image = await pixelsOf(file, engine.channels);
      page.take(asInput(image, engine.width, engine.height, ticket.cropSide), false);
    } catch (error) {
      const isUnread = error.name === "InvalidStateError";
      const reason = isUnread ? "this browser reads no such image" : error.message;
      showProblem(`${file.name || "the image"} cannot be read: ${reason}`);
    }
  }

  const chooser = part("file");
  chooser.addEventListener("change", async () => {
    await read(chooser.files[0]);
    chooser.value = ""; // so that the same file can be chosen again
  });
  const mark = (event, isOver) => {
    event.preventDefault();
    document.body.classList.toggle("over", isOver);
  };
  addEventListener("dragover", (event) => mark(event, true));
  addEventListener("dragleave", (event) => mark(event, false));
  addEventListener("drop", (event) => {
    mark(event, false);
    read(event.dataTransfer.files[0]);
  });
  addEventListener("paste", (event) => read(event.clipboardData.files[0]));
}

function takeDrawings({ ticket, engine }, page) {
  const canvas = part("drawing");
  const context = canvas.getContext("2d", { willReadFrequently: true });
  const cross = part("pen");
  let pen = { x: canvas.width / 2, y: canvas.height / 2, isDown: false };
  let isPlanned = false;

  function classify() {
    isPlanned = false;
    const { width, height } = canvas;
    const image = fromRgba(context.getImageData(0, 0, width, height).data, width, height, 1);
    if (!inkBox(image)) return;
    page.take(resize(asDrawn(image, ticket.drawing), engine.width, engine.height), true);
  }

  function moveTo(x, y) {
    if (pen.isDown) {
      context.beginPath();
      context.moveTo(pen.x, pen.y);
      context.lineTo(x, y);
      context.stroke();
      if (!isPlanned) requestAnimationFrame(classify);
      isPlanned = true;
    }
    pen = { ...pen, x, y };
    cross.style.left = `${(100 * x) / canvas.width}%`;
    cross.style.top = `${(100 * y) / canvas.height}%`;
  }

  function lower(isDown) {
    pen.isDown = isDown;
    cross.classList.toggle("down", isDown);
    if (isDown) moveTo(pen.x, pen.y); // a dot
  }

  function clear() {
    lower(false);
    context.fillStyle = "#000";
    context.fillRect(0, 0, canvas.width, canvas.height);
    page.forget();
  }

  function place(event) {
    const box = canvas.getBoundingClientRect();
    const x = ((event.clientX - box.left) * canvas.width) / box.width;
    return [x, ((event.clientY - box.top) * canvas.height) / box.height];
  }

  canvas.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    canvas.setPointerCapture(event.pointerId);
    lower(false);
    moveTo(...place(event));
    lower(true);
  });
  canvas.addEventListener("pointermove", (event) => event.buttons && moveTo(...place(event)));
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => lower(false));
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  canvas.addEventListener("keydown", (event) => {
    const arrow = arrows[event.key];
    if (arrow) {
      const inside = (value) => Math.min(canvas.width, Math.max(0, value));
      moveTo(inside(pen.x + STEP * arrow[0]), inside(pen.y + STEP * arrow[1]));
    } else if (event.key === " ") {
      lower(!pen.isDown);
    } else if (event.key === "Delete" || event.key === "Backspace") {
      clear();
    } else {
      return;
    }
    event.preventDefault();
  });
  part("clear").addEventListener("click", clear);
  [context.lineWidth, context.lineCap, context.lineJoin, context.strokeStyle] = [PEN, "round", "round", "#fff"];
  clear();
}

// ---- start ----

// Settled when the page is ready, or cannot be; for tests too.
const ready = start()
  .then((started) => {
    const page = classifier(started);
    takeImages(started, page);
    if (part("drawing")) takeDrawings(started, page);
    part("invert")?.addEventListener("change", page.show);
    part("measure").addEventListener("click", page.measure);
    part("engine").textContent = started.kind === "simd" ? "WebAssembly with SIMD" : "WebAssembly without SIMD";
    for (const control of document.querySelectorAll("[disabled]")) control.disabled = false;
    return started;
  })
  .catch((error) => {
    showProblem(`The network cannot run in this browser: ${error.message}`);
    return null;
  });
