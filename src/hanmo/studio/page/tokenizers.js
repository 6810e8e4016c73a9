// The tokenizer playground: a text as several tokenizers cut it.
import { ask, complaint } from "./api.js";
import { el, grouped, quoted, say } from "./dom.js";
import { named, t, word } from "./words.js";

const MOST = 4;
const TEXT = "春天到了，花园里的花都开了。2024年3月5日，Hanmo 学会了写字：龘靐齉！\n床前明月光，疑是地上霜。";
const kept = { text: TEXT, chosen: [] };

export default async function draw([wanted]) {
  const all = await ask("/tokenizers");
  const key = (one) => `${one.run}/${one.stage}`;
  wanted = all.find((one) => key(one) === wanted || one.also.includes(wanted));
  wanted &&= key(wanted);
  if (wanted) kept.chosen = [wanted, ...kept.chosen.filter((one) => one !== wanted)].slice(0, MOST);
  kept.chosen = kept.chosen.filter((one) => all.some((other) => key(other) === one));
  if (!kept.chosen.length) kept.chosen = all.slice(0, 2).map(key);

  const input = el("textarea", { rows: "4", maxlength: "20000", spellcheck: "false" });
  input.value = kept.text;
  named(input, "aria-label", "text_to_cut");
  const choices = el("div.choices", { role: "group" });
  named(choices, "aria-label", "nav_tokenizers");
  const results = el("div.cuts", { "aria-live": "off" });
  let timer = null;
  let asked = 0;

  async function cut() {
    const number = ++asked;
    kept.text = input.value;
    if (!kept.chosen.length) return results.replaceChildren();
    const sides = kept.chosen.map((one) => all.find((other) => key(other) === one));
    try {
      const found = await ask("/pieces", { body: { text: input.value, tokenizers: sides.map(({ run, stage }) => ({ run, stage })) } });
      if (number !== asked) return;
      const fewest = Math.min(...found.map((one) => one.tokens));
      results.replaceChildren(...found.map((one, index) => side(sides[index].name, one, found.length > 1 && one.tokens === fewest)));
      say(found.map((one, index) => `${sides[index].name}: ${one.tokens} ${word("out_tokens")}`).join(", "));
    } catch (error) {
      if (number === asked) results.replaceChildren(el("p.fault", { role: "alert" }, complaint(error)));
    }
  }

  input.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(cut, 200);
  });
  choices.append(...all.map((one) => {
    const box = el("input", { type: "checkbox", checked: kept.chosen.includes(key(one)), onchange: () => {
      kept.chosen = kept.chosen.filter((other) => other !== key(one));
      if (box.checked) kept.chosen = [...kept.chosen, key(one)];
      for (const other of choices.querySelectorAll("input")) other.disabled = !other.checked && kept.chosen.length >= MOST;
      cut();
    } });
    return el("label.choice", {}, box, el("bdi", { title: one.also.join(", ") || undefined }, one.name));
  }));
  await cut();
  return {
    node: el("div", {}, el("h1", {}, t("nav_tokenizers")), el("p.lead", {}, t("tokenizers_lead")),
      all.length ? [input, choices, results] : el("p.lead", {}, t("no_tokenizers"))),
    title: word("nav_tokenizers"),
    leave: () => clearTimeout(timer),
  };
}

function side(name, found, best) {
  const figure = (value, what) => el("div", {}, el("b", {}, value), el("small", {}, what));
  return el("section.cutting", {},
    el("h3", {}, el("bdi", {}, name), " ", el("small", {}, found.form, " · ", grouped(found.vocabulary))),
    el("div.figures", {},
      figure(el("span", {}, grouped(found.tokens), best ? el("i.best", {}, " ★") : null), t("out_tokens")),
      figure(found.tokens ? (found.characters / found.tokens).toFixed(2) : "–", t("characters_per_token")),
      figure(found.tokens ? (found.bytes / found.tokens).toFixed(2) : "–", t("bytes_per_token")),
      figure(found.whole ? "✓" : "✗", t(found.whole ? "given_back" : "not_given_back"))),
    el("p.cut.pieces", {}, found.pieces.map(piece)),
    el("details.ids", {}, el("summary", {}, t("token_ids")),
      el("p", {}, found.pieces.flatMap((one) => one.tokens).slice(0, 2000).map(({ id, name }) => [el("span", {}, String(id), el("small", {}, quoted(name, "span"))), " "]))));
}

/** One stretch of the text; its tokens are told under the pointer and on focus. */
function piece(one) {
  const tokens = one.tokens.map(({ id, name }) => `${id} ${JSON.stringify(name).slice(1, -1)}`).join("\n");
  const shown = one.text.replaceAll("\n", "⏎\n").replaceAll("\t", "⇥");
  const node = el(`span.${one.kind}`, { title: tokens || undefined }, shown || "∅", one.tokens.length > 1 ? el("sub", {}, String(one.tokens.length)) : null);
  if (one.kind === "dropped") named(node, "title", "dropped_here");
  return node;
}
