// Words in two languages: text nodes carry both and the style shows one; attributes are set anew on a switch.
import table from "./table.js";

const root = document.documentElement;
const NAMES = { en: 0, zh: 1 };

export const language = () => root.dataset.lang;

const fill = (text, values) => text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));

/** Both texts of a key; a key that is nobody's word (a name from a log) is shown as it is. */
function texts(key, values = {}) {
  const found = Object.hasOwn(table, key) ? table[key] : [key.replaceAll("_", " "), key.replaceAll("_", " ")];
  return found.map((text) => fill(text, values));
}

export const known = (key) => Object.hasOwn(table, key);
/** A text in the language of the moment. */
export const word = (key, values) => texts(key, values)[NAMES[language()]];

/** A text in both languages, for the page. */
export function t(key, values) {
  const part = document.createDocumentFragment();
  texts(key, values).forEach((text, index) => {
    const node = document.createElement("span");
    node.className = index ? "zh" : "en";
    if (index) node.lang = "zh-Hans";
    node.textContent = text;
    part.append(node);
  });
  return part;
}

/** Set an attribute (or, for "text", the content of an option) to a word, and keep it right on a switch. */
export function named(node, attribute, key, values = {}) {
  const all = JSON.parse(node.dataset.named ?? "[]").filter(([one]) => one !== attribute);
  node.dataset.named = JSON.stringify([...all, [attribute, key, values]]);
  apply(node);
  return node;
}

function apply(node) {
  for (const [attribute, key, values] of JSON.parse(node.dataset.named)) {
    if (attribute === "text") node.textContent = word(key, values);
    else node.setAttribute(attribute, word(key, values));
  }
}

export function speak(name) {
  root.dataset.lang = name;
  root.lang = name === "zh" ? "zh-Hans" : "en";
  for (const node of document.querySelectorAll("[data-named]")) apply(node);
  dispatchEvent(new Event("hanmo-language"));
}
