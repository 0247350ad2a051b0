// The latent space of a run as the server packs it, and its decoder, computed here layer by layer.

function halfToFloat(half) {
  const [sign, exponent, fraction] = [half & 0x8000 ? -1 : 1, (half >> 10) & 31, half & 1023];
  if (exponent === 0) return sign * fraction * 2 ** -24;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

const ARRAY_TYPES = {
  float32: (buffer, at, size) => new Float32Array(buffer, at, size),
  float16: (buffer, at, size) => Float32Array.from(new Uint16Array(buffer, at, size), halfToFloat),
  int32: (buffer, at, size) => new Int32Array(buffer, at, size),
  uint8: (buffer, at, size) => new Uint8Array(buffer, at, size),
};

const product = (shape) => shape.reduce((size, side) => size * side, 1);

// The JSON object of a bundle; `arrays` has typed arrays, and `row(name, i)` is row i of one, and `count(name)` says
// how many there are.
function unpackBundle(buffer) {
  const length = new DataView(buffer).getUint32(0, true);
  const header = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, length)));
  const shapes = header.arrays;
  const arrays = Object.fromEntries(
    Object.entries(shapes).map(([name, { type, shape, offset }]) => [
      name,
      ARRAY_TYPES[type](buffer, 4 + length + offset, product(shape)),
    ]),
  );
  const row = (name, index) => {
    const size = product(shapes[name].shape.slice(1));
    return arrays[name].subarray(index * size, (index + 1) * size);
  };
  return { ...header, arrays, row, count: (name) => shapes[name]?.shape[0] ?? 0 };
}

function linear(input, { shape: [outputs], weight, bias }, arrays) {
  const [weights, size] = [arrays[weight], input.length];
  const result = bias ? Float32Array.from(arrays[bias]) : new Float32Array(outputs);
  for (let output = 0, at = 0; output < outputs; output++) {
    let sum = 0;
    for (let index = 0; index < size; index++) sum += weights[at++] * input[index];
    result[output] += sum;
  }
  return result;
}

function biasedMaps({ shape: [channels, height, width], bias }, arrays) {
  const result = new Float32Array(channels * height * width);
  if (bias)
    for (let channel = 0; channel < channels; channel++)
      result.fill(arrays[bias][channel], channel * height * width, (channel + 1) * height * width);
  return result;
}

// Both kinds of convolution read and write the same pairs of pixels: `at` of the larger map is
// stride · `near` − padding + offset.
function convolve(input, layer, arrays) {
  const {
    shape: [outputs, height, width],
    stride,
    padding,
    op,
  } = layer;
  const inputs = input.length / (layer.height * layer.width);
  const weights = arrays[layer.weight];
  const side = Math.sqrt(weights.length / (inputs * outputs));
  const result = biasedMaps(layer, arrays);
  const isTransposed = op === "conv_transpose";
  const [small, large] = isTransposed
    ? [
        [layer.height, layer.width],
        [height, width],
      ]
    : [
        [height, width],
        [layer.height, layer.width],
      ];
  for (let one = 0; one < inputs; one++) {
    for (let other = 0; other < outputs; other++) {
      const kernel = (isTransposed ? one * outputs + other : other * inputs + one) * side * side;
      const [inputAt, outputAt] = [one * layer.height * layer.width, other * height * width];
      for (let dy = 0; dy < side; dy++) {
        for (let dx = 0; dx < side; dx++) {
          const factor = weights[kernel + dy * side + dx];
          for (let y = 0; y < small[0]; y++) {
            const farY = y * stride - padding + dy;
            if (farY < 0 || farY >= large[0]) continue;
            for (let x = 0; x < small[1]; x++) {
              const farX = x * stride - padding + dx;
              if (farX < 0 || farX >= large[1]) continue;
              const [near, far] = [y * small[1] + x, farY * large[1] + farX];
              if (isTransposed) result[outputAt + far] += factor * input[inputAt + near];
              else result[outputAt + near] += factor * input[inputAt + far];
            }
          }
        }
      }
    }
  }
  return result;
}

// Positions one after the other, with their numbers → channels one after the other, with their positions.
function toGrid(input, { shape: [channels] }) {
  const positions = input.length / channels;
  return Float32Array.from(input, (_, index) => input[(index % positions) * channels + Math.floor(index / positions)]);
}

function gate(input) {
  const half = input.length / 2;
  return Float32Array.from({ length: half }, (_, index) => input[index] * sigmoid(input[half + index]));
}

const sigmoid = (x) => 1 / (1 + Math.exp(-x));

// Abramowitz & Stegun 1964, equation 7.1.26: within 1.5e-7.
function erf(x) {
  const t = 1 / (1 + 0.3275911 * Math.abs(x));
  const polynomial = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t;
  return Math.sign(x) * (1 - polynomial * Math.exp(-x * x));
}

// E[x] of a continuous Bernoulli with this logit (Loaiza-Ganem & Cunningham 2019, equation 9); its series near zero.
const continuousBernoulliMean = (logit) =>
  Math.abs(logit) < 0.05 ? 0.5 + logit / 12 - logit ** 3 / 720 : 1 / (1 - Math.exp(-logit)) - 1 / logit;

const POINTWISE = {
  relu: (x) => (x > 0 ? x : 0),
  leaky_relu: (x) => (x > 0 ? x : 0.01 * x),
  elu: (x) => (x > 0 ? x : Math.expm1(x)),
  gelu: (x) => 0.5 * x * (1 + erf(x / Math.SQRT2)),
  silu: (x) => x * sigmoid(x),
  softplus: (x) => (x > 20 ? x : Math.log1p(Math.exp(x))),
  tanh: Math.tanh,
  sigmoid,
  identity: (x) => x,
  continuous_bernoulli: continuousBernoulliMean,
};
const LAYERS = { linear, conv: convolve, conv_transpose: convolve, grid: toGrid, glu: gate };

// The mean image E[x|z], values in [0, 1], `[channels, height, width]` one after the other.
function decodeHere(bundle, latents, label) {
  let values = latents;
  if (bundle.classes) {
    values = new Float32Array(latents.length + bundle.classes);
    values.set(latents);
    values[latents.length + label] = 1;
  }
  for (const layer of bundle.decoder) {
    const shaped = LAYERS[layer.op];
    values = shaped ? shaped(values, layer, bundle.arrays) : values.map(POINTWISE[layer.op]);
  }
  return values.subarray(0, product(bundle.image_shape));
}

// Calls back with the image of the latest latents: at once where the page decodes; else when the server has answered,
// which is asked one thing at a time, and skips what has been superseded. `onOutdated` is called if the server has a newer
// checkpoint than the bundle.
function decoderOf(bundle, key, onError, onOutdated) {
  if (bundle.decoder) return (latents, label, callback) => callback(decodeHere(bundle, latents, label));
  let next = null;
  let busy = false;
  const run = async () => {
    busy = true;
    while (next) {
      const [latents, label, callback] = next;
      next = null;
      try {
        callback(Float32Array.from(await source.decode(key, bundle.version, latents, label), (value) => value / 255));
      } catch (error) {
        if (error.status === 409) onOutdated();
        else onError(error);
      }
    }
    busy = false;
  };
  return (latents, label, callback) => {
    next = [Float32Array.from(latents), label, callback];
    if (!busy) run();
  };
}
