// Building the page. Whatever a corpus or a model wrote becomes text nodes, never markup, and characters that would
// act instead of being seen are shown by a sign.

const UNSEEN = /[\0-\x08\x0b-\x1f\x7f-\x9f\u00ad\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]/g;

/** Text with a sign in place of every control, turning or invisible character. */
export const visible = (text) =>
  text.replace(UNSEEN, (one) => {
    const code = one.codePointAt(0);
    if (code === 13) return "";
    return code < 0xa0 ? `\\x${code.toString(16).padStart(2, "0")}` : `[U+${code.toString(16).toUpperCase().padStart(4, "0")}]`;
  });

/** An element: `el("p.note", {title: "x", onclick: f}, "text", node, [more])`; null children are left out. */
export function el(what, given, ...children) {
  const [tag, ...classes] = what.split(".");
  const node = document.createElement(tag);
  if (classes.length) node.className = classes.join(" ");
  if (given instanceof Node || typeof given !== "object" || Array.isArray(given)) children.unshift(given);
  else
    for (const [name, value] of Object.entries(given ?? {})) {
      if (value === undefined || value === null || value === false) continue;
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (name === "style") for (const [key, one] of Object.entries(value)) node.style.setProperty(key, one);
      else node.setAttribute(name, value === true ? "" : value);
    }
  node.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false).map(plain));
  return node;
}

const plain = (child) => (child instanceof Node ? child : visible(String(child)));

/** Text of a corpus or a model: kept as it is written, apart from the direction of its surroundings. */
export const quoted = (text, tag = "bdi") => el(tag, {}, String(text ?? ""));

const SVG = "http://www.w3.org/2000/svg";
export function svg(tag, attributes, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** A number as short as a reader wants it: 2310000 -> 2.31M. */
export function short(value) {
  if (typeof value !== "number" || !Number.isFinite(value)) return "–";
  const size = Math.abs(value);
  for (const [unit, scale] of [["T", 1e12], ["B", 1e9], ["M", 1e6], ["k", 1e4]])
    if (size >= scale) return +(value / (unit === "k" ? 1e3 : scale)).toPrecision(4) + unit;
  if (size && size < 1e-3) return value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
  return String(+value.toPrecision(4));
}

export const count = (value) => (typeof value === "number" ? +short3(value) + unit(value) : "–");
const unit = (value) => [["T", 1e12], ["B", 1e9], ["M", 1e6], ["k", 1e3]].find(([, scale]) => Math.abs(value) >= scale)?.[0] ?? "";
const short3 = (value) => {
  const scale = { T: 1e12, B: 1e9, M: 1e6, k: 1e3 }[unit(value)] ?? 1;
  return (value / scale).toPrecision(3);
};

export function bytes(value) {
  const scale = value >= 1e9 ? [1e9, "GB"] : value >= 1e6 ? [1e6, "MB"] : value >= 1e3 ? [1e3, "KB"] : [1, "B"];
  return `${+(value / scale[0]).toFixed(scale[0] > 1 ? 1 : 0)} ${scale[1]}`;
}

export function duration(seconds) {
  if (typeof seconds !== "number") return "–";
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 90) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 90) return `${minutes} min`;
  return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export const percent = (share, digits = 1) => (typeof share === "number" ? `${(100 * share).toFixed(digits)}%` : "–");
export const grouped = (value) => (typeof value === "number" ? value.toLocaleString("en-US") : "–");

/** Say something to screen readers. */
export function say(text) {
  document.getElementById("spoken").textContent = text;
}
