// What the model wrote at points of its training.
import { ask, path } from "./api.js";
import { el, grouped, quoted } from "./dom.js";
import { every } from "./live.js";
import { t } from "./words.js";

export default async function draw(id, stage) {
  const list = el("div.growing");
  let known = "";
  async function look() {
    const found = await ask(path("runs", id, stage.id, "samples"));
    if (JSON.stringify(found) === known) return;
    known = JSON.stringify(found);
    list.replaceChildren(...found.map(({ prompt, texts }) => el("ol", {}, ...texts.map((one, index) => sample(prompt, one, (index + 1) / texts.length)))));
  }
  await look();
  return {
    node: el("section", {}, el("h2", {}, t("samples")), list),
    leave: stage.state === "working" ? every(5000, look) : undefined,
  };
}

const sample = (prompt, { step, text }, age) =>
  el("li", { style: { "--age": String(age) } },
    el("small", {}, t("at_step", { step: grouped(step) })), el("p", {}, quoted(prompt, "mark"), quoted(text)));
