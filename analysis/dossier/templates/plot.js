// Draws the curves of a plot as SVG, at the size of its place, in the colours of the page.
const SVG = "http://www.w3.org/2000/svg";
const INK = { ink: "var(--ink)", quiet: "var(--quiet)", front: "var(--front)" };

const add = (parent, name, attributes, text) => {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return parent.appendChild(made);
};

const star = (r) => "M" + Array.from({ length: 10 }, (_, i) => {
  const [far, turn] = [i % 2 ? r * 0.45 : r * 1.15, (i * Math.PI) / 5];
  return `${far * Math.sin(turn)},${-far * Math.cos(turn)}`;
}).join("L") + "z";
const SHAPES = {
  circle: (r) => `M${-r},0a${r},${r} 0 1,0 ${2 * r},0a${r},${r} 0 1,0 ${-2 * r},0z`,
  square: (r) => `M${-r * 0.9},${-r * 0.9}h${r * 1.8}v${r * 1.8}h${-r * 1.8}z`,
  diamond: (r) => `M0,${-r * 1.2}L${r * 1.2},0L0,${r * 1.2}L${-r * 1.2},0z`,
  triangle: (r) => `M0,${-r * 1.15}L${r * 1.1},${r * 0.85}H${-r * 1.1}z`,
  cross: (r) => { const a = r * 0.4, b = r * 1.15 - a;
    return `M${-a},${-a}v${-b}h${2 * a}v${b}h${b}v${2 * a}h${-b}v${b}h${-2 * a}v${-b}h${-b}v${-2 * a}z`; },
  star,
};

const mark = (parent, curve, x, y, size) =>
  add(parent, "path", { class: "point", d: SHAPES[curve.symbol](size),
    transform: `translate(${x},${y})`, opacity: curve.faint ? 0.35 : 1,
    style: curve.hollow ? `fill:none;stroke:${paint(curve)};stroke-width:2`
      : `fill:${paint(curve)};stroke:var(--paper);stroke-width:1` });
const paint = (curve) => INK[curve.color] ?? curve.color;
const stroke = (curve) => ({ fill: "none", "stroke-width": curve.line, "stroke-dasharray": curve.dash,
  "stroke-linejoin": "round", style: `stroke:${paint(curve)}` });

// Round values within a range, about as many as asked for.
const ticks = ([low, high], count) => {
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((s) => s * power >= raw) * power;
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high; value += step) found.push(value.toFixed(digits));
  return found;
};

const draw = (place, plot, visible) => {
  const width = Math.max(place.clientWidth, 260), height = Math.min(460, 250 + width * 0.3);
  const left = 58, right = width - 14, top = 12, bottom = height - 50;
  const X = (v) => left + ((v - plot.x.range[0]) / (plot.x.range[1] - plot.x.range[0])) * (right - left);
  const Y = (v) => bottom - ((v - plot.y.range[0]) / (plot.y.range[1] - plot.y.range[0])) * (bottom - top);
  place.replaceChildren();
  const svg = add(place, "svg", { viewBox: `0 0 ${width} ${height}`, width, height, "aria-hidden": "true" });
  const frame = add(svg, "g", { class: "frame" });
  for (const tick of ticks(plot.x.range, width / 110)) {
    add(frame, "line", { x1: X(tick), x2: X(tick), y1: top, y2: bottom });
    add(frame, "text", { x: X(tick), y: bottom + 19, "text-anchor": "middle" }, tick);
  }
  for (const tick of ticks(plot.y.range, 6)) {
    add(frame, "line", { x1: left, x2: right, y1: Y(tick), y2: Y(tick) });
    add(frame, "text", { x: left - 8, y: Y(tick) + 5, "text-anchor": "end" }, tick);
  }
  add(frame, "text", { x: (left + right) / 2, y: height - 8, "text-anchor": "middle" }, plot.x.title);
  add(frame, "text", { transform: `translate(15,${(top + bottom) / 2}) rotate(-90)`, "text-anchor": "middle" }, plot.y.title);
  const layer = add(svg, "g", { class: "curves" }), near = [];
  for (const curve of visible) {
    const points = curve.x.map((x, i) => [X(x), Y(curve.y[i])]);
    if (curve.line && points.length) {
      add(layer, "path", { class: "line", d: "M" + points.map((p) => p.join()).join("L"), ...stroke(curve) });
      if (curve.arrow) arrowhead(layer, curve, points);
    }
    points.forEach(([x, y], i) => {
      const last = i === points.length - 1;
      if (curve.error) for (const [dx, dy] of [[curve.error[0], 0], [0, curve.error[1]]])
        add(layer, "line", { x1: X(curve.x[i] - dx), x2: X(curve.x[i] + dx), y1: Y(curve.y[i] - dy),
          y2: Y(curve.y[i] + dy), style: `stroke:${paint(curve)};stroke-width:1.5` });
      if (curve.symbol && last) mark(layer, curve, x, y, curve.size);
      if (curve.symbol) near.push({ x, y, text: described(plot, curve, i) });
    });
  }
  keys(place, visible.filter((curve) => curve.legend));
  point(place, svg, near);
};

const arrowhead = (layer, curve, [[x, y], [u, v]]) => {
  const length = Math.hypot(u - x, v - y);
  if (length < 14) return;
  const turn = (Math.atan2(v - y, u - x) * 180) / Math.PI;
  add(layer, "path", { d: "M0,0L-11,-5.5V5.5z", style: `fill:${paint(curve)}`,
    transform: `translate(${u - (9 * (u - x)) / length},${v - (9 * (v - y)) / length}) rotate(${turn})` });
};

const described = (plot, curve, i) => [curve.name + (curve.steps ? `, after ${curve.steps[i].toLocaleString("en")} gradients` : ""),
  `${plot.x.title}: ${curve.x[i]}`, `${plot.y.title}: ${curve.y[i]}`];

const keys = (place, named) => {
  const list = document.createElement("ul");
  list.className = "keys";
  for (const curve of named) {
    const item = list.appendChild(document.createElement("li"));
    const sample = add(item, "svg", { viewBox: "-18 -9 36 18", width: 36, height: 18, "aria-hidden": "true" });
    if (curve.line) add(sample, "path", { d: "M-18,0H18", ...stroke(curve) });
    if (curve.symbol) mark(sample, { ...curve, faint: false }, 0, 0, Math.min(curve.size, 6));
    item.append(curve.name);
  }
  place.append(list);
};

// The numbers of the point that is nearest to the pointer.
const point = (place, svg, near) => {
  const label = document.createElement("div");
  label.className = "pointed";
  label.hidden = true;
  place.append(label);
  svg.addEventListener("pointerleave", () => { label.hidden = true; });
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect(), x = event.clientX - box.left, y = event.clientY - box.top;
    const far = (p) => (p.x - x) ** 2 + (p.y - y) ** 2;
    const best = near.reduce((a, b) => (far(b) <= far(a) ? b : a), { x: 1e6, y: 1e6 });
    label.hidden = far(best) > 900;
    if (label.hidden) return;
    label.replaceChildren(...best.text.map((text) => Object.assign(document.createElement("div"), { textContent: text })));
    label.style.left = `${Math.min(best.x + 12, box.width - label.offsetWidth)}px`;
    label.style.top = `${Math.max(best.y - label.offsetHeight - 10, 0)}px`;
  });
};
