// One panel of curves on a canvas: the band of what was thinned away, the mean over it, axes, a cursor, a zoom.
import { el, say, short } from "./dom.js";
import { named, t, word } from "./words.js";

const EDGE = { left: 46, right: 10, top: 8, bottom: 24 };

export class Chart {
  /** @param on {zoom([from, to]), reset()}: what to do when a part is chosen, or the whole. */
  constructor(on) {
    this.on = on;
    this.keys = el("figcaption");
    this.canvas = el("canvas", { tabindex: "0", role: "img" });
    this.node = el("figure.chart", {}, this.keys, this.canvas);
    this.cursor = null;
    this.drag = null;
    this.watch = new ResizeObserver(() => this.draw());
    this.watch.observe(this.canvas);
    this.canvas.addEventListener("pointermove", (event) => this.move(event));
    this.canvas.addEventListener("pointerdown", (event) => this.begin(event));
    this.canvas.addEventListener("pointerup", (event) => this.finish(event));
    this.canvas.addEventListener("pointercancel", () => this.away());
    this.canvas.addEventListener("pointerleave", () => this.drag || this.away());
    this.canvas.addEventListener("blur", () => this.away());
    this.canvas.addEventListener("dblclick", () => this.on.reset());
    this.canvas.addEventListener("keydown", (event) => this.press(event));
  }

  close() {
    this.watch.disconnect();
    this.node.remove();
  }

  /**
   * @param data {names, zero, series: {name: {x, mean, low?, high?}}, x, range}: figures of one run. With `measure` the
   *   series are that one figure of several runs, called by `labels[name]` and drawn in the ink of number `inks[name]`.
   */
  set(data, choice) {
    this.data = data;
    this.choice = choice;
    const names = JSON.stringify([data.names, data.inks]);
    if (names !== this.names) {
      this.names = names;
      this.values = data.names.map(() => el("output"));
      this.place = el("output.place");
      const key = (name, index) => el(`span.key.s${this.#ink(name, index)}`, {}, data.measure ? el("bdi", {}, data.labels[name]) : t(name), " ", this.values[index]);
      this.keys.replaceChildren(data.measure ? el("b", {}, t(data.measure)) : "", ...data.names.map(key), this.place);
      named(this.canvas, "aria-label", "chart", { name: word(data.measure ?? data.names[0]) });
    }
    this.draw();
  }

  #ink(name, index) {
    return this.data.measure ? this.data.inks[name] : index % 4;
  }

  /** What is walked along: the first figure of a run; of several runs the one that reaches farthest. */
  #walk() {
    const all = this.data.names.map((name) => this.data.series[name].x);
    return this.data.measure ? all.reduce((farthest, x) => (x.at(-1) > (farthest.at(-1) ?? -Infinity) ? x : farthest)) : all[0];
  }

  /** Where a series is read at a place: an index, or null. A run that had ended before, or had not begun, says nothing. */
  #index({ x }, at) {
    const slack = 0.02 * (this.view.to - this.view.from);
    if (this.data.measure && x.length && (at > x.at(-1) + slack || at < x[0] - slack)) return null;
    return nearest(x, at);
  }

  draw() {
    const box = this.canvas.getBoundingClientRect();
    if (!this.data || !box.width) return;
    const ratio = devicePixelRatio || 1;
    const [width, height] = [Math.round(box.width * ratio), Math.round(box.height * ratio)];
    if (this.canvas.width !== width || this.canvas.height !== height) [this.canvas.width, this.canvas.height] = [width, height];
    const pen = this.canvas.getContext("2d");
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.clearRect(0, 0, box.width, box.height);
    const style = getComputedStyle(this.canvas);
    const colour = (name) => style.getPropertyValue(name).trim();
    this.view = this.#view(box);
    this.#axes(pen, box, colour);
    pen.save();
    pen.beginPath();
    pen.rect(EDGE.left, EDGE.top - 2, box.width - EDGE.left - EDGE.right, box.height - EDGE.top - EDGE.bottom + 4);
    pen.clip();
    this.data.names.forEach((name, index) => this.#curve(pen, this.data.series[name], this.#ink(name, index), colour, this.data.measure ?? name));
    pen.restore();
    if (this.drag) this.#selection(pen, box, colour);
    else if (this.cursor !== null) this.#reading(pen, box, colour);
  }

  #view(box) {
    let [low, high] = [Infinity, -Infinity];
    const logs = this.choice.log && this.data.names.every((name) => this.data.series[name].mean.every((y) => y > 0));
    for (const name of this.data.names) {
      const { x, mean, low: lows, high: highs } = this.data.series[name];
      for (let i = 0; i < x.length; i++) {
        low = Math.min(low, lows ? lows[i] : mean[i]);
        high = Math.max(high, highs ? highs[i] : mean[i]);
      }
    }
    if (this.data.zero && !logs) low = Math.min(0, low);
    if (logs) low = Math.max(low, high / 1e9);
    if (!(high > low)) [low, high] = [low - (Math.abs(low) / 2 || 1), high + (Math.abs(high) / 2 || 1)];
    const axis = logs ? { low: Math.log(low), high: Math.log(high), ticks: logTicks(low, high) } : linear(low, high, 5, true);
    let [from, to] = this.data.range;
    if (!(to > from)) to = from + 1;
    const inner = { w: box.width - EDGE.left - EDGE.right, h: box.height - EDGE.top - EDGE.bottom };
    return {
      axis, logs, across: linear(from, to, Math.max(2, Math.round(inner.w / 60)), false), from, to,
      x: (value) => EDGE.left + (inner.w * (value - from)) / (to - from),
      y: (value) => EDGE.top + inner.h * (1 - ((logs ? Math.log(Math.max(value, 1e-300)) : value) - axis.low) / (axis.high - axis.low)),
      back: (px) => from + ((to - from) * (px - EDGE.left)) / inner.w,
    };
  }

  #axes(pen, box, colour) {
    const { axis, across, x, y } = this.view;
    pen.font = `11px ${getComputedStyle(this.canvas).fontFamily}`;
    pen.fillStyle = colour("--soft");
    pen.strokeStyle = colour("--line");
    pen.lineWidth = 1;
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    for (const { value, label } of axis.ticks) {
      const at = Math.round(y(value)) + 0.5;
      pen.beginPath();
      pen.moveTo(EDGE.left, at);
      pen.lineTo(box.width - EDGE.right, at);
      pen.stroke();
      pen.fillText(label, EDGE.left - 7, at);
    }
    pen.textBaseline = "top";
    const bottom = box.height - EDGE.bottom;
    let free = 0;
    for (const { value, label } of across.ticks) {
      const at = x(value), half = pen.measureText(label).width / 2;
      if (at - half < free || at + half > box.width) continue;
      pen.textAlign = "center";
      pen.fillText(label, at, bottom + 8);
      free = at + half + 12;
    }
  }

  #curve(pen, { x: xs, mean, low, high }, ink, colour, name) {
    const { x, y } = this.view;
    pen.strokeStyle = pen.fillStyle = colour(`--s${ink}`);
    pen.lineJoin = "round";
    const trace = (values) => {
      pen.beginPath();
      values.forEach((value, i) => pen.lineTo(x(xs[i]), y(value)));
      pen.stroke();
    };
    const reach = name.startsWith("validation_") || /^(lr|learning_rate|heldout_bpb)$/.test(name) ? 0 : Math.round(xs.length * this.choice.smoothing);
    if (low) {
      pen.globalAlpha = 0.16;
      pen.beginPath();
      high.forEach((value, i) => pen.lineTo(x(xs[i]), y(value)));
      for (let i = low.length - 1; i >= 0; i--) pen.lineTo(x(xs[i]), y(low[i]));
      pen.fill();
    } else if (reach) {
      pen.globalAlpha = 0.25;
      pen.lineWidth = 1;
      trace(mean);
    }
    pen.globalAlpha = 1;
    pen.lineWidth = 1.8;
    if (ink > 2) pen.setLineDash([7, 3]); // not by colour alone
    trace(smoothed(mean, reach));
    pen.setLineDash([]);
    if (xs.length <= 40)
      xs.forEach((one, i) => {
        pen.beginPath();
        pen.arc(x(one), y(mean[i]), 2.4, 0, 7);
        pen.fill();
      });
  }

  #selection(pen, box, colour) {
    const [from, to] = [this.drag.from, this.drag.to].sort((a, b) => a - b);
    pen.globalAlpha = 0.14;
    pen.fillStyle = colour("--seal");
    pen.fillRect(from, EDGE.top, to - from, box.height - EDGE.top - EDGE.bottom);
    pen.globalAlpha = 1;
  }

  #reading(pen, box, colour) {
    const { x, y } = this.view;
    pen.strokeStyle = colour("--soft");
    pen.lineWidth = 1;
    pen.beginPath();
    pen.moveTo(x(this.cursor), EDGE.top);
    pen.lineTo(x(this.cursor), box.height - EDGE.bottom);
    pen.stroke();
    this.data.names.forEach((name, index) => {
      const series = this.data.series[name];
      const i = this.#index(series, this.cursor);
      if (i === null) return;
      pen.fillStyle = colour(`--s${this.#ink(name, index)}`);
      pen.beginPath();
      pen.arc(x(series.x[i]), y(series.mean[i]), 3.6, 0, 7);
      pen.fill();
    });
  }

  /** Put the cursor at a place of the axis (null: nowhere) and write the values beside the names. */
  read(at, aloud = false) {
    this.cursor = at;
    const spoken = [];
    this.data.names.forEach((name, index) => {
      const series = this.data.series[name];
      const i = at === null ? null : this.#index(series, at);
      this.values[index].value = i === null ? "" : short(series.mean[i]);
      if (i !== null) spoken.push(`${this.data.measure ? this.data.labels[name] : word(name)} ${short(series.mean[i])}`);
    });
    this.place.value = at === null ? "" : `${word(`across_${this.data.x}`)} ${short(Math.round(at))}`;
    if (aloud && at !== null) say(`${this.place.value}: ${spoken.join(", ")}`);
    this.draw();
  }

  away() {
    this.drag = null;
    if (this.data) this.read(null);
  }

  move(event) {
    if (!this.view) return;
    const px = event.offsetX;
    if (this.drag) {
      this.drag.to = Math.max(EDGE.left, Math.min(this.canvas.clientWidth - EDGE.right, px));
      this.draw();
      return;
    }
    this.snap(this.view.back(px));
  }

  snap(at, aloud) {
    const x = this.#walk();
    const i = nearest(x, at);
    if (i !== null) this.read(x[i], aloud);
  }

  begin(event) {
    if (event.button || !this.view) return;
    this.canvas.setPointerCapture(event.pointerId);
    this.drag = { from: event.offsetX, to: event.offsetX };
  }

  finish() {
    const drag = this.drag;
    this.drag = null;
    if (!drag || Math.abs(drag.to - drag.from) < 8) return this.draw();
    const range = [drag.from, drag.to].map((px) => this.view.back(px)).sort((a, b) => a - b);
    this.on.zoom([Math.max(0, range[0]), range[1]]);
  }

  press(event) {
    if (!this.view || event.ctrlKey || event.metaKey || event.altKey) return;
    const x = this.#walk();
    const { from, to } = this.view;
    const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -20, PageDown: 20 }[event.key];
    const around = this.cursor ?? (from + to) / 2;
    if (step) {
      const i = this.cursor === null ? (step > 0 ? 0 : x.length - 1) : nearest(x, this.cursor) + step;
      this.read(x[Math.max(0, Math.min(x.length - 1, i))], true);
    } else if (event.key === "Home" || event.key === "End") this.read(event.key === "Home" ? x[0] : x.at(-1), true);
    else if (event.key === "+" || event.key === "=") this.on.zoom([Math.max(0, around - (to - from) / 4), around + (to - from) / 4]);
    else if (event.key === "-") this.on.zoom([Math.max(0, around - (to - from)), around + (to - from)]);
    else if (event.key === "0" || event.key === "Escape") this.on.reset();
    else return;
    event.preventDefault();
  }
}

/** Index of the point nearest to a place; null where there is none. */
function nearest(xs, at) {
  if (!xs.length) return null;
  let [low, high] = [0, xs.length - 1];
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle] < at) low = middle;
    else high = middle;
  }
  return Math.abs(xs[low] - at) <= Math.abs(xs[high] - at) ? low : high;
}

/** The mean over so many points on either side, as many before as behind. */
function smoothed(values, reach) {
  if (!reach) return values;
  const sums = [0];
  for (const value of values) sums.push(sums.at(-1) + value);
  return values.map((_, i) => {
    const near = Math.min(reach, i, values.length - 1 - i);
    return (sums[i + near + 1] - sums[i - near]) / (2 * near + 1);
  });
}

/** Round ticks over [low, high]; with `pad` the ends are moved to ticks. */
function linear(low, high, about, pad) {
  const raw = (high - low) / Math.max(1, about - 1);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((one) => one >= raw * (1 - 1e-9));
  if (pad) [low, high] = [Math.floor(low / step + 1e-9) * step, Math.ceil(high / step - 1e-9) * step];
  const ticks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high * (1 + 1e-12) + step * 1e-9; i++) ticks.push({ value: i * step, label: label(i * step, step) });
  return { low, high, ticks };
}

function label(value, step) {
  if (Math.abs(value) < step * 1e-6) return "0";
  if (Math.abs(value) >= 1e4 || Math.abs(value) < 1e-2) return short(value);
  const decimals = [0, 1, 2, 3, 4, 5].find((digits) => Math.abs(Number(step.toFixed(digits)) - step) < 1e-9 * step) ?? 6;
  return value.toFixed(decimals);
}

function logTicks(low, high) {
  const ticks = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
    for (const factor of high / low > 100 ? [1] : [1, 2, 5]) {
      const value = factor * 10 ** power;
      if (value >= low && value <= high) ticks.push({ value, label: short(value) });
    }
  return ticks;
}
