// Images of any size, and drawings, as inputs of the network; scaled and cropped as biprop predict does it
// (src/biprop/images.py).
//
// An image is { width, height, channels, data }: bytes [height, width, channels].

const MOST_PIXELS = 89478485;

function newImage(width, height, channels) {
  return { width, height, channels, data: new Uint8Array(width * height * channels) };
}

// Grey (1 channel) or RGB (3) of a canvas's bytes [height, width, 4]; grey is Pillow's (ITU-R 601-2, 16 bits).
function fromRgba(rgba, width, height, channels) {
  const image = newImage(width, height, channels);
  for (let from = 0, to = 0; from < rgba.length; from += 4) {
    const [red, green, blue] = [rgba[from], rgba[from + 1], rgba[from + 2]];
    if (channels === 1) {
      image.data[to++] = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16;
    } else {
      image.data[to++] = red;
      image.data[to++] = green;
      image.data[to++] = blue;
    }
  }
  return image;
}

// Bilinear weights of Pillow's resize, which averages where it shrinks: for each output number the first input, how
// many, and their weights as integers of 22 bits behind the point.
function resizeWeights(from, to) {
  const scale = from / to;
  const reach = Math.max(scale, 1);
  const rows = [];
  for (let i = 0; i < to; i++) {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - reach + 0.5));
    const end = Math.min(from, Math.trunc(centre + reach + 0.5));
    const weights = [];
    for (let x = first; x < end; x++) {
      weights.push(Math.max(0, 1 - Math.abs((x - centre + 0.5) * (1 / reach))));
    }
    const sum = weights.reduce((a, b) => a + b, 0);
    rows.push({ first, weights: weights.map((w) => Math.trunc(0.5 + (w / sum) * (1 << 22))) });
  }
  return rows;
}

// One direction of a resize. The image is [outer, length, inner] bytes; the result [outer, to, inner].
function resizeAxis(data, outer, length, inner, to) {
  if (length === to) return data;
  const rows = resizeWeights(length, to);
  const result = new Uint8Array(outer * to * inner);
  for (let block = 0; block < outer; block++) {
    for (let i = 0; i < to; i++) {
      const { first, weights } = rows[i];
      const from = (block * length + first) * inner;
      for (let j = 0; j < inner; j++) {
        let sum = 1 << 21;
        for (let k = 0; k < weights.length; k++) sum += data[from + k * inner + j] * weights[k];
        result[(block * to + i) * inner + j] = Math.min(255, sum >> 22);
      }
    }
  }
  return result;
}

function resizeRows(image, width) {
  return { ...image, width, data: resizeAxis(image.data, image.height, image.width, image.channels, width) };
}

function resizeColumns(image, height) {
  return { ...image, height, data: resizeAxis(image.data, 1, image.height, image.width * image.channels, height) };
}

// Pillow's order, which decides how numbers are rounded: columns come first where only they shrink, and rows grow.
function resize(image, width, height) {
  const columnsFirst = width > image.width && height < image.height;
  if (columnsFirst) return resizeRows(resizeColumns(image, height), width);
  return resizeColumns(resizeRows(image, width), height);
}

function crop(image, left, top, width, height) {
  const result = newImage(width, height, image.channels);
  const row = width * image.channels;
  for (let y = 0; y < height; y++) {
    const from = ((top + y) * image.width + left) * image.channels;
    result.data.set(image.data.subarray(from, from + row), y * row);
  }
  return result;
}

// Rounded like Python's round(): halves to the even neighbour.
function rounded(x) {
  const below = Math.floor(x);
  return x - below === 0.5 ? below + (below & 1) : Math.round(x);
}

// The centre crop of size x size pixels, after the shorter side is scaled to `side`.
function centreCrop(image, size, side) {
  const wide = image.width > image.height;
  const width = wide ? Math.trunc((side * image.width) / image.height) : side;
  const height = wide ? side : Math.trunc((side * image.height) / image.width);
  const scaled = resize(image, width, height);
  return crop(scaled, rounded((width - size) / 2), rounded((height - size) / 2), size, size);
}

// An image as the network takes it; `cropSide` is 0 where all of it is scaled, whatever its proportions.
function asInput(image, width, height, cropSide) {
  if (image.width === width && image.height === height) return image;
  return cropSide && width === height ? centreCrop(image, width, cropSide) : resize(image, width, height);
}

// ---- drawings: light on dark, in grey ----

// The smallest box around the pixels of at least half the brightness; null where there is none.
function inkBox(image) {
  let [left, top, right, bottom] = [image.width, image.height, -1, -1];
  image.data.forEach((value, i) => {
    if (value < 128) return;
    const [x, y] = [i % image.width, Math.trunc(i / image.width)];
    [left, right] = [Math.min(left, x), Math.max(right, x)];
    [top, bottom] = [Math.min(top, y), Math.max(bottom, y)];
  });
  return right < 0 ? null : { left, top, width: right - left + 1, height: bottom - top + 1 };
}

// What was drawn, its longer side scaled to `size`, its proportions kept.
function inkOfSize(image, box, size) {
  const longer = Math.max(box.width, box.height);
  const scaled = (length) => Math.max(1, Math.round((length * size) / longer));
  return resize(crop(image, box.left, box.top, box.width, box.height), scaled(box.width), scaled(box.height));
}

function placed(ink, size, left, top) {
  const image = newImage(size, size, 1);
  for (let y = 0; y < ink.height; y++) {
    for (let x = 0; x < ink.width; x++) {
      const [column, row] = [x + left, y + top];
      const isInside = column >= 0 && column < size && row >= 0 && row < size;
      if (isInside) image.data[row * size + column] = ink.data[y * ink.width + x];
    }
  }
  return image;
}

// As the UCI digits were made: a bitmap of 32x32 that the digit fills, of which each block of 4x4 is counted.
function likeUciDigits(image, box) {
  const ink = inkOfSize(image, box, 32);
  const [left, top] = [(32 - ink.width) >> 1, (32 - ink.height) >> 1];
  const bitmap = placed(ink, 32, left, top);
  const counts = newImage(8, 8, 1);
  const set = (i) => (bitmap.data[i] >= 128 ? 1 : 0);
  const counted = new Array(64).fill(0);
  for (let i = 0; i < 1024; i++) counted[(i >> 7) * 8 + ((i & 31) >> 2)] += set(i);
  counted.forEach((count, i) => (counts.data[i] = Math.round((count * 255) / 16)));
  return counts;
}

// As MNIST was made: the digit fits 20x20 pixels, and its centre of mass is that of 28x28.
function likeMnist(image, box) {
  const ink = inkOfSize(image, box, 20);
  let [mass, x, y] = [0, 0, 0];
  ink.data.forEach((value, i) => {
    mass += value;
    x += value * ((i % ink.width) + 0.5);
    y += value * (Math.trunc(i / ink.width) + 0.5);
  });
  return placed(ink, 28, Math.round(14 - x / mass), Math.round(14 - y / mass));
}

// A drawing as the data set's images were made: "digits", "MNIST", or "" for all of it as it is.
function asDrawn(image, dataSet) {
  const box = inkBox(image);
  if (!box || !dataSet) return image;
  return dataSet === "MNIST" ? likeMnist(image, box) : likeUciDigits(image, box);
}
