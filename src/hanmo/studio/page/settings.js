// How a model draws: numbers with their limits, kept in this browser.
import { el } from "./dom.js";
import { t } from "./words.js";

const NUMBERS = {
  temperature: { least: 0, most: 2, step: 0.05, value: 0.7 },
  top_p: { least: 0.05, most: 1, step: 0.05, value: 0.9 },
  top_k: { least: 0, most: 200, step: 1, value: 0 },
  repetition_penalty: { least: 0.5, most: 2, step: 0.05, value: 1 },
  max_tokens: { least: 8, most: 2048, step: 8, value: 256 },
};

export class Settings {
  constructor() {
    this.inputs = Object.fromEntries(Object.entries(NUMBERS).map(([name, { least, most, step }]) => [
      name, el("input", { type: "range", min: String(least), max: String(most), step: String(step), id: name, oninput: () => this.keep() })]));
    this.seed = el("input", { type: "number", id: "seed", step: "1", oninput: () => this.keep() });
    this.prompt = el("textarea", { rows: "2", id: "system", oninput: () => this.keep() });
    this.outputs = Object.fromEntries(Object.keys(NUMBERS).map((name) => [name, el("output", { for: name })]));
    const field = (name, input, ...more) => el("label", { for: name }, el("span", {}, t(name), ...more), input, name === "system" ? null : el("small", {}, t(`${name}_doc`)));
    this.node = el("details.parameters", {}, el("summary", {}, t("parameters")),
      el("div.fields", {},
        Object.keys(NUMBERS).map((name) => field(name, this.inputs[name], " ", this.outputs[name])), field("seed", this.seed), field("system", this.prompt)),
      el("button", { type: "button", onclick: () => this.fill({}) }, t("defaults")));
    let stored = {};
    try {
      stored = JSON.parse(localStorage.getItem("hanmo-drawing")) ?? {};
    } catch {
      // Private windows may refuse; the defaults do.
    }
    this.fill(stored);
  }

  fill(stored) {
    for (const [name, { value }] of Object.entries(NUMBERS)) this.inputs[name].value = stored[name] ?? value;
    this.seed.value = stored.seed ?? "";
    this.prompt.value = stored.system ?? "";
    this.keep();
  }

  keep() {
    for (const [name, output] of Object.entries(this.outputs)) output.value = this.inputs[name].value;
    try {
      localStorage.setItem("hanmo-drawing", JSON.stringify({ ...this.values(), system: this.prompt.value }));
    } catch {
      // Private windows may refuse; the page works without.
    }
  }

  values() {
    const numbers = Object.entries(this.inputs).map(([name, input]) => [name, Number(input.value)]);
    const seed = this.seed.value === "" ? [] : [["seed", Math.trunc(Number(this.seed.value))]];
    return Object.fromEntries([...numbers, ...seed]);
  }

  system() {
    return this.prompt.value.trim();
  }
}
