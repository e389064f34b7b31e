"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const [canvas, bar] = [at("canvas"), at("bar")];
const pixels = new Map(); // photo -> its ImageData
const groups = [...new Map(data.kinds.map((kind) => [kind.group, kind])).keys()];

function fill(select, labels) {
  const kept = Math.min(Math.max(select.selectedIndex, 0), labels.length - 1);
  select.replaceChildren(...labels.map((label, i) => new Option(label, i)));
  select.selectedIndex = kept;
}

// Value of a map [rows][columns] at a pixel, bilinear between the centres of patches.
function upsample(map, width, height) {
  const [rows, columns] = [map.length, map[0].length];
  const out = new Float32Array(width * height);
  const axis = (size, count) => Array.from({ length: size }, (_, i) => {
    const place = Math.min(Math.max(((i + 0.5) * count) / size - 0.5, 0), count - 1);
    const low = Math.min(Math.floor(place), Math.max(count - 2, 0));
    return [low, Math.min(low + 1, count - 1), place - low];
  });
  const [down, across] = [axis(height, rows), axis(width, columns)];
  for (let y = 0; y < height; y++) {
    const [top, bottom, v] = down[y];
    for (let x = 0; x < width; x++) {
      const [left, right, u] = across[x];
      const above = map[top][left] * (1 - u) + map[top][right] * u;
      const below = map[bottom][left] * (1 - u) + map[bottom][right] * u;
      out[y * width + x] = above * (1 - v) + below * v;
    }
  }
  return out;
}

const extent = (values) => values.reduce(([a, b], v) => [Math.min(a, v), Math.max(b, v)], [Infinity, -Infinity]);
const digits = (value) => (Math.abs(value) < 1e-9 ? "0" : String(Number(value.toPrecision(3))));

function chosen() {
  const kinds = data.kinds.filter((kind) => kind.group === groups[at("group").selectedIndex]);
  return kinds[at("layer").selectedIndex] || kinds[0];
}

function colour(image, values, low, high, table, from, to) {
  const { data: out, width } = image;
  for (let i = 0; i < values.length; i++) {
    const x = i % width;
    if (x < from || x >= to) continue;
    const share = high > low ? (values[i] - low) / (high - low) : 0;
    const rgb = table[Math.min(255, Math.max(0, Math.round(255 * share)))];
    const grey = 0.25 * 255 + 0.75 * (0.299 * out[4 * i] + 0.587 * out[4 * i + 1] + 0.114 * out[4 * i + 2]);
    for (let c = 0; c < 3; c++) out[4 * i + c] = 0.25 * grey + 0.75 * rgb[c];
  }
}

function scale(low, high, table) {
  at("low").textContent = digits(low);
  at("high").textContent = digits(high);
  const context = bar.getContext("2d");
  const image = context.createImageData(256, 1);
  table.forEach((rgb, i) => image.data.set([...rgb, 255], 4 * i));
  context.putImageData(image, 0, 0);
}

function draw() {
  const number = at("photo").selectedIndex;
  const ground = pixels.get(number);
  if (!ground) return;
  const [photo, kind, mode] = [data.photos[number], chosen(), at("mode").value];
  const text = kind.perText ? at("text").selectedIndex : 0;
  const sides = ["left", "right"].map((side) => photo.models[at(side).selectedIndex]);
  const { width, height } = ground;
  const image = new ImageData(new Uint8ClampedArray(ground.data), width, height);
  const maps = sides.map((side) => upsample(side.maps[kind.key][text], width, height));
  const divide = Math.round((at("position").value / 100) * width);
  const { values, differences } = data.colours;
  if (mode === "slider") {
    const [low, high] = extent([...maps.map(extent)].flat());
    colour(image, maps[0], low, high, values, 0, divide);
    colour(image, maps[1], low, high, values, divide, width);
    scale(low, high, values);
  } else if (mode === "difference") {
    const change = maps[1].map((value, i) => value - maps[0][i]);
    const [low, high] = extent([...maps.map(extent)].flat());
    // Rounding errors of equal maps must not fill the scale.
    const most = Math.max(...extent(change).map(Math.abs), 1e-4 * (high - low), 1e-12);
    colour(image, change, -most, most, differences, 0, width);
    scale(-most, most, differences);
  }
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  context.putImageData(image, 0, 0);
  if (photo.frame) {
    const [left, top, right, bottom] = photo.frame;
    context.strokeStyle = "#ffd400";
    const line = (context.lineWidth = Math.max(1, width / 300));
    const [wide, tall] = [(right - left) * width - line, (bottom - top) * height - line];
    context.strokeRect(left * width + line / 2, top * height + line / 2, wide, tall);
  }
  at("divider").hidden = at("position").hidden = mode !== "slider";
  place();
  at("scale").hidden = mode === "photo";
  at("text-label").hidden = !kind.perText;
  at("frame-note").hidden = !photo.frame;
  const cosines = sides.map((side, i) => `${data.models[at(["left", "right"][i]).selectedIndex]} ${side.cosines[text]}`);
  at("notes").textContent = kind.perText ? `Cosine of image and “${data.texts[text]}”: ${cosines.join(", ")}` : "";
}

// The canvas keeps its aspect ratio inside the stage, so it may be narrower.
function drawn() {
  const box = canvas.getBoundingClientRect();
  const wide = Math.min(box.width, (box.height * canvas.width) / canvas.height);
  return { left: box.left + (box.width - wide) / 2, wide };
}

function place() {
  const { left, wide } = drawn();
  const offset = left - at("stage").getBoundingClientRect().left;
  at("divider").style.left = `${offset + (at("position").value / 100) * wide}px`;
}

function drag(event) {
  if (!event.buttons || at("mode").value !== "slider") return;
  const { left, wide } = drawn();
  at("position").value = (100 * (event.clientX - left)) / wide;
  draw();
}

function pickGroup() {
  const kinds = data.kinds.filter((kind) => kind.group === groups[at("group").selectedIndex]);
  fill(at("layer"), kinds.map((kind) => kind.layer));
  draw();
}

fill(at("photo"), data.photos.map((photo) => photo.name));
fill(at("group"), groups.map((group) => data.kinds.find((kind) => kind.group === group).label));
fill(at("text"), data.texts);
for (const side of ["left", "right"]) fill(at(side), data.models);
at("right").selectedIndex = data.models.length - 1;
at("group").addEventListener("change", pickGroup);
for (const id of ["photo", "layer", "text", "left", "right", "mode"]) at(id).addEventListener("change", draw);
at("position").addEventListener("input", draw);
for (const name of ["pointerdown", "pointermove"]) at("stage").addEventListener(name, drag);
window.addEventListener("resize", place);
data.photos.forEach((photo, number) => {
  const image = new Image();
  image.onload = () => {
    const scratch = document.createElement("canvas");
    [scratch.width, scratch.height] = [image.naturalWidth, image.naturalHeight];
    const context = scratch.getContext("2d");
    context.drawImage(image, 0, 0);
    pixels.set(number, context.getImageData(0, 0, scratch.width, scratch.height));
    if (number === at("photo").selectedIndex) draw();
  };
  image.src = photo.source;
});
pickGroup();
