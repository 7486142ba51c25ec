"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const graph = document.getElementById("graph");
const SVG = "http://www.w3.org/2000/svg";
const LINE = 16, PADDING = 6, LETTERS = 32;

function make(name, attributes, ...children) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

function tag(name, text, kind) {
  const element = document.createElement(name);
  element.textContent = text;
  if (kind) element.className = kind;
  return element;
}

const short = (text) => (text.length > LETTERS ? text.slice(0, LETTERS - 1) + "\u2026" : text);
const size = (shape) => (shape === null ? "?" : shape.join("x") || "scalar");
const count = (number) => (number ? number.toLocaleString("en") : "");

function off(parity) {
  if (!parity) return "";
  if (parity.problem) return parity.problem;
  return parity.rel === null ? "not a number" : parity.rel.toExponential(1);
}

// What is told

for (const [name, text] of data.facts) {
  const row = document.createElement("tr");
  const departs = /^(DEPARTS|FAILED)/.test(text);
  row.append(tag("th", name), tag("td", text, departs ? "wrong" : text.startsWith("equal in") ? "right" : ""));
  document.getElementById("facts").append(row);
}
for (const [heading, lines] of data.lists) {
  const list = document.createElement("ul");
  list.append(...lines.map((line) => tag("li", line)));
  document.getElementById("lists").append(tag("h2", `${heading} (${lines.length})`), list);
}

// The table

const rows = data.layers.map((layer, i) => {
  const row = document.createElement("tr");
  const parity = layer.parity;
  const state = parity ? (parity.first ? "wrong" : parity.passed ? "right" : "wrong") : "";
  const told = off(parity) + (parity && parity.first ? " (first to depart)" : "");
  row.append(
    tag("td", layer.name), tag("td", layer.type),
    tag("td", layer.tops.map(([, shape]) => size(shape)).join(" ")),
    tag("td", count(layer.parameters), "number"), tag("td", count(layer.macs), "number"),
    tag("td", told, `number ${state}`),
  );
  row.addEventListener("click", () => choose(i, true));
  return row;
});
document.querySelector("#layers tbody").append(...rows);

// The picture

const world = make("g", {});
const stackOf = [];
for (const points of data.edges) {
  let path = `M${points[0]} ${points[1]}`;
  for (let i = 2; i < points.length; i += 2) {
    const [x, y] = [points[i], points[i + 1]];
    const [px, py] = [points[i - 2], points[i - 1]];
    const middle = (y + py) / 2;
    path += x === px ? `L${x} ${y}` : `C${px} ${middle} ${x} ${middle} ${x} ${y}`;
  }
  world.append(make("path", { class: "edge", d: path }));
}
const boxes = data.stacks.map((stack, k) => {
  const [x, y, width, height] = data.boxes[k];
  const box = make("g", { class: "box" }, make("rect", { x, y, width, height, rx: 4 }));
  stack.forEach((i, line) => {
    const layer = data.layers[i];
    stackOf[i] = k;
    const kind = layer.name === layer.type ? "" : ` ${layer.type}`;
    const name = make("tspan", {}, short(layer.name));
    const room = Math.max(LETTERS - layer.name.length, 0);
    const text = make("text", { x: x + PADDING, y: y + PADDING + LINE * line + 12 }, name);
    if (kind.length <= room) text.append(make("tspan", { class: "kind" }, kind));
    const title = make("title", {});
    title.textContent = describe(layer);
    box.append(text);
    if (line === 0) box.append(title);
    const parity = layer.parity;
    if (parity) box.classList.add(parity.first ? "first" : parity.passed ? "passed" : "failed");
  });
  box.addEventListener("click", (event) => {
    const at = toWorld(event.clientX, event.clientY).y - y - PADDING;
    choose(stack[Math.min(Math.max(Math.floor(at / LINE), 0), stack.length - 1)], false);
  });
  world.append(box);
  return box;
});
graph.append(world);

function describe(layer) {
  const lines = [`${layer.name} (${layer.type})`];
  if (layer.bottoms.length) lines.push(`reads ${layer.bottoms.join(", ")}`);
  for (const [blob, shape] of layer.tops) lines.push(`makes ${blob} ${size(shape)}`);
  if (layer.blobs.length) lines.push(`blobs ${layer.blobs.map(size).join(", ")}: ${count(layer.parameters)} parameters`);
  if (layer.macs) lines.push(`${count(layer.macs)} multiply-accumulates`);
  if (layer.parity) lines.push(`${layer.parity.passed ? "equal" : "departs"}: ${layer.parity.blob} off by ${off(layer.parity)}`);
  return lines.join("\n");
}

// Moving about: the point (left, top) of the picture is at the corner, and one unit takes `scale` pixels.

let view = { left: 0, top: 0, scale: 1 };

function show() {
  world.setAttribute("transform", `scale(${view.scale}) translate(${-view.left} ${-view.top})`);
  document.body.dataset.drawn = String(Number(document.body.dataset.drawn || 0) + 1);
}
function toWorld(x, y) {
  const frame = graph.getBoundingClientRect();
  return { x: (x - frame.left) / view.scale + view.left, y: (y - frame.top) / view.scale + view.top };
}
function zoom(factor, x, y) {
  const at = toWorld(x, y);
  const frame = graph.getBoundingClientRect();
  view.scale = Math.min(Math.max(view.scale * factor, 0.005), 8);
  view.left = at.x - (x - frame.left) / view.scale;
  view.top = at.y - (y - frame.top) / view.scale;
  show();
}
function middle(factor) {
  const frame = graph.getBoundingClientRect();
  zoom(factor, frame.left + frame.width / 2, frame.top + frame.height / 2);
}
function whole() {
  const frame = graph.getBoundingClientRect();
  view.scale = Math.min(frame.width / data.size[0], frame.height / data.size[1], 1.5);
  view.left = (data.size[0] - frame.width / view.scale) / 2;
  view.top = 0;
  show();
}
function begin() {
  const frame = graph.getBoundingClientRect();
  const [x, , width] = data.boxes[0] || [0, 0, frame.width];
  view = { scale: 1, left: x + width / 2 - frame.width / 2, top: 0 };
  if (data.size[1] <= frame.height && data.size[0] <= frame.width) whole();
  else show();
}
function bring(i) {
  const [x, y, width, height] = data.boxes[stackOf[i]];
  const frame = graph.getBoundingClientRect();
  view.scale = Math.max(view.scale, 0.8);
  view.left = x + width / 2 - frame.width / view.scale / 2;
  view.top = y + height / 2 - frame.height / view.scale / 2;
  show();
}

let held = null;
graph.addEventListener("pointerdown", (event) => {
  held = { x: event.clientX, y: event.clientY, moved: false };
});
window.addEventListener("pointermove", (event) => {
  if (!held) return;
  if (Math.abs(event.clientX - held.x) + Math.abs(event.clientY - held.y) < 3 && !held.moved) return;
  view.left -= (event.clientX - held.x) / view.scale;
  view.top -= (event.clientY - held.y) / view.scale;
  held = { x: event.clientX, y: event.clientY, moved: true };
  graph.classList.add("held");
  show();
});
window.addEventListener("pointerup", () => {
  held = null;
  graph.classList.remove("held");
});
graph.addEventListener("wheel", (event) => {
  event.preventDefault();
  zoom(Math.exp(-event.deltaY / 400), event.clientX, event.clientY);
}, { passive: false });
document.getElementById("larger").addEventListener("click", () => middle(1.4));
document.getElementById("smaller").addEventListener("click", () => middle(1 / 1.4));
document.getElementById("whole").addEventListener("click", whole);

// Choosing and searching

let chosen = -1;
function choose(i, move) {
  if (chosen >= 0) {
    rows[chosen].classList.remove("chosen");
    boxes[stackOf[chosen]].classList.remove("chosen");
  }
  chosen = i;
  rows[i].classList.add("chosen");
  boxes[stackOf[i]].classList.add("chosen");
  const told = document.getElementById("chosen");
  told.hidden = false;
  told.replaceChildren(...describe(data.layers[i]).split("\n").map((line) => tag("div", line)));
  if (move) bring(i);
  else rows[i].scrollIntoView({ block: "nearest" });
}

const words = data.layers.map((layer) =>
  [layer.name, layer.type, ...layer.bottoms, ...layer.tops.map(([blob]) => blob)].join("\n").toLowerCase());
const search = document.getElementById("search");
search.addEventListener("input", () => {
  const wanted = search.value.trim().toLowerCase();
  const hits = wanted ? words.flatMap((text, i) => (text.includes(wanted) ? [i] : [])) : [];
  const marked = new Set(hits.map((i) => stackOf[i]));
  boxes.forEach((box, k) => box.classList.toggle("found", marked.has(k)));
  const there = new Set(hits);
  rows.forEach((row, i) => { row.hidden = Boolean(wanted) && !there.has(i); });
  document.getElementById("found").textContent = wanted ? `${hits.length} of ${rows.length} layers` : "";
  if (hits.length) bring(hits[0]);
  document.body.dataset.found = String(hits.length);
});
search.addEventListener("keydown", (event) => {
  const shownRows = rows.flatMap((row, i) => (row.hidden ? [] : [i]));
  if (event.key === "Enter" && search.value.trim() && shownRows.length) {
    choose(shownRows[(shownRows.indexOf(chosen) + 1) % shownRows.length], true);
  }
});

begin();
const departs = data.layers.findIndex((layer) => layer.parity && layer.parity.first);
if (departs >= 0) choose(departs, true);
