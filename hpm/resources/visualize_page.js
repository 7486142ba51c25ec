"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const data = JSON.parse(byId("data").textContent);
  const joints = data.joints.length;

  const floats = (text) => {
    const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    const view = new DataView(bytes.buffer);
    return Float32Array.from({ length: bytes.length / 4 }, (_, k) => view.getFloat32(4 * k, true));
  };
  for (const pose of data.poses) {
    pose.points = floats(pose.points);
    pose.errors = pose.errors === null ? null : floats(pose.errors);
    pose.shown = true;
  }
  if (data.flat) data.flat.points = data.flat.points === null ? null : floats(data.flat.points);

  // Side by side, colours tell left from right; laid over each other they tell the poses apart, right the darker.
  const HUES = {
    truth: { left: "#7fb88b", right: "#1b7837", middle: "#4a9a60" },
    coarse: { left: "#e6a15c", right: "#b35806", middle: "#cc7d30" },
    refined: { left: "#8c9fe0", right: "#2d3f9e", middle: "#5b6fc4" },
  };
  const START = { yaw: -0.35, pitch: 0.2, zoom: 1 };
  const state = { frame: 0, playing: false, overlay: false, ...START };
  const colour = (pose, side) => (state.overlay ? HUES[pose.key][side] : data.colours[side]);

  // Canvases, sharp on dense screens.

  const prepare = (canvas) => {
    const ratio = window.devicePixelRatio || 1;
    const width = canvas.clientWidth, height = canvas.clientHeight;
    const columns = Math.max(1, Math.round(width * ratio)), rows = Math.max(1, Math.round(height * ratio));
    if (canvas.width !== columns || canvas.height !== rows) {
      canvas.width = columns;
      canvas.height = rows;
    }
    const pen = canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, width, height);
    pen.lineCap = "round";
    return { pen, width, height };
  };

  const limb = (pen, a, b, style, width) => {
    pen.strokeStyle = style;
    pen.lineWidth = width;
    pen.beginPath();
    pen.moveTo(a.x, a.y);
    pen.lineTo(b.x, b.y);
    pen.stroke();
  };

  const dot = (pen, p, style, radius) => {
    pen.fillStyle = style;
    pen.beginPath();
    pen.arc(p.x, p.y, radius, 0, 2 * Math.PI);
    pen.fill();
  };

  // The picture with the 2D pose.

  let flatSpots = [];
  const decoded = new Map();

  const image = (frame) => {
    if (!decoded.has(frame)) {
      const made = new Image();
      made.onload = () => { if (frame === state.frame) ask(); };
      made.src = "data:image/jpeg;base64," + data.flat.pictures[frame];
      decoded.set(frame, made);
      if (decoded.size > 60) decoded.delete(decoded.keys().next().value);
    }
    return decoded.get(frame);
  };

  const drawFlat = () => {
    const { pen, width, height } = prepare(byId("picture"));
    const [columns, rows] = data.flat.sizes[state.frame];
    const scale = Math.min(width / columns, height / rows);
    const w = columns * scale, h = rows * scale, left = (width - w) / 2, top = (height - h) / 2;
    pen.fillStyle = "#f2f2f2";
    pen.fillRect(left, top, w, h);
    if (data.flat.pictures.length) {
      const picture = image(state.frame);
      if (picture.complete && picture.naturalWidth) pen.drawImage(picture, left, top, w, h);
      if (state.playing) image((state.frame + 1) % data.count);
    }
    flatSpots = [];
    if (!data.flat.points) return;
    const at = (k) => {
      const from = 2 * (state.frame * joints + k);
      return { x: left + w * data.flat.points[from], y: top + h * data.flat.points[from + 1] };
    };
    const found = (p) => Number.isFinite(p.x) && Number.isFinite(p.y);
    for (const [child, parent] of data.bones) {
      const a = at(child), b = at(parent);
      if (!found(a) || !found(b)) continue;
      limb(pen, a, b, "rgba(255, 255, 255, 0.8)", 5);
      limb(pen, a, b, data.colours[data.sides[child]], 3);
    }
    for (let k = 0; k < joints; k++) {
      const p = at(k);
      if (!found(p)) continue;
      dot(pen, p, data.colours[data.sides[k]], 3);
      flatSpots.push({ ...p, text: `${data.joints[k]}\n2D` });
    }
  };

  // The 3D view. A camera's axes (x right, y down, z away) become x right, y up, z towards the viewer.

  let spots = [];

  const projector = (box) => {
    const [cy, sy] = [Math.cos(state.yaw), Math.sin(state.yaw)];
    const [cp, sp] = [Math.cos(state.pitch), Math.sin(state.pitch)];
    const distance = 6 * data.half;
    const scale = (0.46 * Math.min(box.width, box.height) * state.zoom) / data.half;
    return (x, y, z) => {
      const [px, py, pz] = [x - data.centre[0], data.centre[1] - y, data.centre[2] - z];
      const qx = cy * px + sy * pz, qz = cy * pz - sy * px;
      const ry = cp * py - sp * qz, rz = cp * qz + sp * py;
      const gain = (scale * distance) / Math.max(0.1 * distance, distance - rz);
      return { x: box.left + box.width / 2 + qx * gain, y: box.top + box.height / 2 - ry * gain, depth: rz };
    };
  };

  // Poses have no ground of their own: the lowest joint of all frames lies on it.
  const ground = data.poses.reduce((low, pose) => pose.points.reduce((m, v, k) => (k % 3 === 1 && v > m ? v : m), low), -Infinity);

  const drawFloor = (pen, project) => {
    const step = data.half >= 500 && data.half <= 2000 ? 500 : 10 ** Math.floor(Math.log10(data.half));
    const lines = Math.ceil(data.half / step);
    const line = (a, b) => limb(pen, project(...a), project(...b), "#e4e4e4", 1);
    for (let k = -lines; k <= lines; k++) {
      const [x, z, reach] = [data.centre[0], data.centre[2], lines * step];
      line([x + k * step, ground, z - reach], [x + k * step, ground, z + reach]);
      line([x - reach, ground, z + k * step], [x + reach, ground, z + k * step]);
    }
  };

  // A frame without a pose has no place for its root, nor for any other joint.
  const absent = (pose) => Number.isNaN(pose.points[3 * state.frame * joints]);

  const drawPoses = (pen, project, poses) => {
    const limbs = [];
    for (const pose of poses) {
      const at = (k) => {
        const from = 3 * (state.frame * joints + k);
        return pose.points.subarray(from, from + 3);
      };
      if (absent(pose)) continue;
      const seen = Array.from({ length: joints }, (_, k) => project(...at(k)));
      for (const [child, parent] of data.bones) {
        const depth = (seen[child].depth + seen[parent].depth) / 2;
        limbs.push({ a: seen[child], b: seen[parent], depth, style: colour(pose, data.sides[child]) });
      }
      seen.forEach((p, k) => spots.push({ ...p, pose, k, text: describe(pose, k, at(k)) }));
    }
    limbs.sort((a, b) => a.depth - b.depth);
    for (const { a, b, style } of limbs) {
      limb(pen, a, b, "#ffffff", 6);
      limb(pen, a, b, style, 4);
    }
    for (const p of spots.filter((spot) => poses.includes(spot.pose))) dot(pen, p, colour(p.pose, data.sides[p.k]), 3.5);
  };

  const truth = data.poses.find((pose) => pose.key === "truth");

  const describe = (pose, k, point) => {
    const lines = [data.joints[k], pose.label, Array.from(point, (v) => v.toFixed(0)).join(", ") + " mm"];
    if (truth && pose !== truth) {
      const from = 3 * (state.frame * joints + k);
      lines.push(`${Math.hypot(...point.map((v, i) => v - truth.points[from + i])).toFixed(1)} mm off`);
    }
    return lines.join("\n");
  };

  const drawSpace = () => {
    const { pen, width, height } = prepare(byId("view"));
    const shown = data.poses.filter((pose) => pose.shown);
    const groups = state.overlay ? [shown] : shown.map((pose) => [pose]);
    const top = byId("legend").offsetHeight + 12;
    spots = [];
    groups.forEach((poses, k) => {
      const box = { left: (k * width) / groups.length, top, width: width / groups.length, height: height - top };
      pen.save();
      pen.beginPath();
      pen.rect(box.left, 0, box.width, height);
      pen.clip();
      const project = projector(box);
      drawFloor(pen, project);
      drawPoses(pen, project, poses);
      pen.restore();
      if (!state.overlay) {
        pen.fillStyle = "#666666";
        pen.font = "12px system-ui, sans-serif";
        pen.textAlign = "center";
        for (const pose of poses) pen.fillText(pose.label, box.left + box.width / 2, height - 10);
      }
    });
  };

  // The errors over time.

  const rated = data.poses.filter((pose) => pose.errors);
  const highest = rated.reduce((most, pose) => pose.errors.reduce((a, b) => (b > a ? b : a), most), 1e-9);

  const drawChart = () => {
    const { pen, width, height } = prepare(byId("chart"));
    const x = (frame) => 8 + ((width - 16) * frame) / Math.max(1, data.count - 1);
    const y = (error) => height - 6 - ((height - 22) * error) / highest;
    for (const pose of rated) {
      if (!pose.shown) continue;
      pen.strokeStyle = HUES[pose.key].right;
      pen.lineWidth = 1.5;
      pen.beginPath();
      pose.errors.forEach((error, frame) => (frame ? pen.lineTo(x(frame), y(error)) : pen.moveTo(x(frame), y(error))));
      pen.stroke();
      dot(pen, { x: x(state.frame), y: y(pose.errors[state.frame]) }, HUES[pose.key].right, 3.5);
    }
    limb(pen, { x: x(state.frame), y: 2 }, { x: x(state.frame), y: height - 2 }, "rgba(0, 0, 0, 0.25)", 1);
    pen.font = "11px system-ui, sans-serif";
    pen.textAlign = "left";
    let right = 8;
    const write = (text, style) => {
      pen.fillStyle = style;
      pen.fillText(text, right, 13);
      right += pen.measureText(text).width + 14;
    };
    write(`MPJPE, 0 to ${highest.toFixed(0)} mm`, "#777777");
    for (const pose of rated) if (pose.shown) write(`\u2014 ${pose.label}`, HUES[pose.key].right);
  };

  // Everything else of the page, and what it tells scripts and tests: data attributes of the body.

  const writeTexts = () => {
    byId("name").textContent = data.names[state.frame];
    const thinned = data.step > 1 ? ` (every ${data.step} of ${data.total})` : "";
    byId("counter").textContent = `${state.frame + 1} / ${data.count}${thinned}`;
    byId("slider").value = state.frame;
    byId("play").textContent = state.playing ? "Pause" : "Play";
    byId("play").setAttribute("aria-label", byId("play").textContent);
    for (const pose of data.poses) {
      const error = pose.errors ? `${pose.errors[state.frame].toFixed(1)} mm` : "";
      pose.text.textContent = absent(pose) ? "no pose" : error;
      pose.swatches.forEach(([swatch, side]) => { swatch.style.background = colour(pose, side); });
    }
    Object.assign(document.body.dataset, {
      frame: state.frame,
      playing: state.playing,
      shown: data.poses.filter((pose) => pose.shown).map((pose) => pose.key).join(" "),
      yaw: state.yaw.toFixed(4),
      pitch: state.pitch.toFixed(4),
      zoom: state.zoom.toFixed(4),
    });
  };

  let asked = false;
  const draw = () => {
    asked = false;
    writeTexts();
    if (data.flat) drawFlat();
    if (data.poses.length) drawSpace();
    if (rated.length) drawChart();
    document.body.dataset.drawn = Number(document.body.dataset.drawn || 0) + 1;
  };
  const ask = () => {
    if (!asked) requestAnimationFrame(draw);
    asked = true;
  };

  const go = (frame) => {
    state.frame = Math.min(data.count - 1, Math.max(0, Math.round(frame)));
    byId("tip").hidden = true;
    ask();
  };

  // Playing.

  let began = 0, from = 0;
  const tick = (now) => {
    if (!state.playing) return;
    const passed = Math.floor(((now - began) / 1000) * data.fps * Number(byId("speed").value));
    const frame = (from + passed) % data.count;
    if (frame !== state.frame) go(frame);
    requestAnimationFrame(tick);
  };
  const play = (on) => {
    state.playing = on && data.count > 1;
    began = performance.now();
    from = state.frame;
    if (state.playing) requestAnimationFrame(tick);
    ask();
  };
  byId("play").addEventListener("click", () => play(!state.playing));
  byId("speed").addEventListener("change", () => { if (state.playing) play(true); });
  byId("slider").max = data.count - 1;
  byId("slider").addEventListener("input", () => { play(false); go(Number(byId("slider").value)); });

  // Turning and zooming.

  const view = byId("view");
  const fingers = new Map();
  const spread = () => {
    const [a, b] = fingers.values();
    return Math.hypot(a.x - b.x, a.y - b.y);
  };
  const turn = (yaw, pitch) => {
    state.yaw += yaw;
    state.pitch = Math.min(Math.PI / 2, Math.max(-Math.PI / 2, state.pitch + pitch));
    ask();
  };
  const zoom = (gain) => {
    state.zoom = Math.min(8, Math.max(0.25, state.zoom * gain));
    ask();
  };
  const reset = () => { Object.assign(state, START); ask(); };
  view.addEventListener("pointerdown", (event) => {
    view.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    view.classList.add("turning");
  });
  view.addEventListener("pointermove", (event) => {
    const last = fingers.get(event.pointerId);
    if (!last) return;
    const before = fingers.size === 2 ? spread() : 0;
    const [dx, dy] = [event.clientX - last.x, event.clientY - last.y];
    fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (fingers.size === 1) turn(dx * 0.01, dy * 0.01);
    else if (fingers.size === 2 && before > 0) zoom(spread() / before);
  });
  for (const name of ["pointerup", "pointercancel"]) {
    view.addEventListener(name, (event) => {
      fingers.delete(event.pointerId);
      view.classList.toggle("turning", fingers.size > 0);
    });
  }
  view.addEventListener("wheel", (event) => { event.preventDefault(); zoom(Math.exp(-event.deltaY * 0.001)); }, { passive: false });
  view.addEventListener("dblclick", reset);
  byId("reset").addEventListener("click", reset);

  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || ["SELECT", "BUTTON"].includes(event.target.tagName)) return;
    const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] || [0, 0];
    if (event.key === " ") play(!state.playing);
    else if (event.shiftKey && (dx || dy)) turn(dx * 0.1, dy * 0.1);
    else if (dx) { play(false); go(state.frame + dx); }
    else return;
    event.preventDefault();
  });

  // Names of joints under the pointer.

  const point = (canvas, list) => {
    const tip = byId("tip");
    canvas.addEventListener("pointermove", (event) => {
      const box = canvas.getBoundingClientRect();
      const [x, y] = [event.clientX - box.left, event.clientY - box.top];
      const near = list()
        .map((spot) => ({ spot, away: Math.hypot(spot.x - x, spot.y - y) }))
        .filter(({ away }) => away < 14)
        .sort((a, b) => a.away - b.away)[0];
      tip.hidden = !near || fingers.size > 0;
      if (tip.hidden) return;
      tip.textContent = near.spot.text;
      tip.style.left = `${Math.min(event.clientX + 14, window.innerWidth - tip.offsetWidth - 4)}px`;
      tip.style.top = `${Math.min(event.clientY + 14, window.innerHeight - tip.offsetHeight - 4)}px`;
    });
    canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  };
  point(view, () => spots);
  point(byId("picture"), () => flatSpots);

  // The chart is a second slider.

  const chart = byId("chart");
  const seek = (event) => {
    if (!(event.buttons & 1)) return;
    const box = chart.getBoundingClientRect();
    play(false);
    go(((event.clientX - box.left - 8) / (box.width - 16)) * (data.count - 1));
  };
  chart.addEventListener("pointerdown", seek);
  chart.addEventListener("pointermove", seek);

  // The poses' switches.

  for (const pose of data.poses) {
    const label = document.createElement("label"), box = document.createElement("input");
    box.type = "checkbox";
    box.checked = true;
    box.dataset.pose = pose.key;
    box.addEventListener("change", () => { pose.shown = box.checked; ask(); });
    pose.swatches = ["right", "left"].map((side) => [document.createElement("i"), side]);
    pose.text = document.createElement("b");
    label.append(box, ...pose.swatches.map(([swatch]) => swatch), pose.label, pose.text);
    byId("legend").append(label);
  }
  const key = document.createElement("span");
  key.textContent = "colours: right, left";
  byId("legend").append(key);
  byId("overlay").addEventListener("change", () => { state.overlay = byId("overlay").checked; ask(); });

  byId("flat").hidden = !data.flat;
  byId("space").hidden = !data.poses.length;
  byId("overlay").parentElement.hidden = data.poses.length < 2;
  byId("reset").hidden = !data.poses.length;
  byId("chart").hidden = !rated.length;
  window.addEventListener("resize", ask);
  const start = location.hash.match(/^#frame=(\d+)$/);
  go(start ? Number(start[1]) : 0);
})();
