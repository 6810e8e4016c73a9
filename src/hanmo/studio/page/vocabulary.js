// Facts of a tokenizer, and the way to the playground.
import { ask, path } from "./api.js";
import { el, grouped, percent, quoted } from "./dom.js";
import { known, t } from "./words.js";

export default async function draw(id, stage) {
  const facts = await ask(path("runs", id, stage.id, "tokenizer"));
  const most = Math.max(...Object.values(facts.lengths));
  const href = "#/tokenizers/" + encodeURIComponent(`${id}/${stage.id}`);
  return {
    node: el("section", {}, el("h2", {}, t("vocabulary_of")),
      el("div.twain", {},
        el("div", {}, el("p.statement", {}, el("b", {}, grouped(facts.vocabulary)), t("out_vocabulary")),
          Object.entries(facts.lengths).map(([length, count]) => el("div.tally", {}, el("span", {}, known(`length_${length}`) ? t(`length_${length}`) : t("length_n", { count: length })),
            el("span.track", {}, el("i", { style: { width: `${(100 * count) / most}%` } })), el("b", {}, percent(count / facts.vocabulary, 0))))),
        el("div", {}, facts.cut.map((pieces) => el("p.cut", {}, pieces.map((piece) => el("span", {}, piece)))),
          el("p", {}, el("small", {}, t("longest_tokens")), " ", facts.longest.map((one) => [quoted(one), "　"])),
          el("p", {}, el("a", { href }, t("try_tokenizer")))))),
  };
}
