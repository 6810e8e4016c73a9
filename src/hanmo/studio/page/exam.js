// Exam results with their intervals and the level of guessing, and bits per byte on held-out text.
import { ask, path } from "./api.js";
import { el, grouped, percent, quoted } from "./dom.js";
import { known, t } from "./words.js";

const category = (name) => (known(`category_${name}`) ? t(`category_${name}`) : quoted(name));

export default async function draw(id, stage) {
  const part = await ask(path("runs", id, stage.id, "exam"));
  return { node: el("div", {}, Object.keys(part.exams).map((name) => exam(part, name)), heldout(part), writings(part)) };
}

function exam(part, name) {
  const models = part.models.filter((model) => model.exams?.[name]);
  if (!models.length) return null;
  const { items, baselines } = part.exams[name];
  const retrieval = baselines?.retrieval;
  const first = models[0].exams[name];
  const row = (label, scores, mark) => ({ label, scores, mark });
  const groups = [
    [row(t("all_items"), models.map((model) => model.exams[name].total), retrieval?.accuracy)],
    Object.keys(first.categories).map((key) => row(category(key), models.map((model) => model.exams[name].categories[key]), retrieval?.categories?.[key])),
    [...Object.keys(first.kinds ?? {}).map((key) => row(t(key), models.map((model) => model.exams[name].kinds[key]))),
     ...Object.keys(first.hops ?? {}).map((key) => row(t(key === "2" ? "two_hops" : "one_hop"), models.map((model) => model.exams[name].hops[key])))],
  ].map((group) => group.filter(({ scores }) => scores.every(Boolean))).filter((group) => group.length);
  return el("section", {},
    el("h2", {}, t("exam"), el("small", {}, name)), el("p.lead", {}, t("exam_lead", { items: grouped(items) })),
    el("p.legend", {}, models.map((model, index) => el(`span.key.round.m${index % 6}`, {}, model.name)), el("span.key.hatch", {}, t("chance")),
      retrieval ? el("span.key.diamond", {}, t("retrieval")) : null),
    el("div.scores", {}, el("div.scale", { "aria-hidden": "true" }, [0, 25, 50, 75, 100].map((value) => el("span", { style: { left: `${value}%` } }, `${value}%`))),
      groups.map((group, index) => el(index ? "div.group" : "div.group.total", {}, group.map((one) => lane(one, models))))),
    comparisons(part.comparisons.filter((one) => one.exam === name)),
    el("details", {}, el("summary", {}, t("as_table")), el("div.scroll", {}, table(groups.flat(), models))),
    questions(part.items.filter((item) => item.exam === name)));
}

function lane({ label, scores, mark }, models) {
  const last = scores.at(-1);
  const said = scores.map((one, index) => `${models[index].name} ${percent(one.accuracy)} [${percent(one.low)}, ${percent(one.high)}]`).join("; ");
  return el("div.row", { title: said },
    el("div.name", {}, label, el("small", {}, String(last.n))),
    el("div.lane", { role: "img", "aria-label": said },
      last.chance > 0 ? el("i.chance", { style: { width: percent(last.chance, 3) } }) : null,
      scores.map((one, index) => el(`div.score.m${index % 6}`, {},
        el("i.range", { style: { left: percent(one.low, 3), width: percent(one.high - one.low, 3) } }), el("i.point", { style: { left: percent(one.accuracy, 3) } }))),
      typeof mark === "number" ? el("i.retrieval", { style: { left: percent(mark, 3) } }) : null),
    el("div.value", {}, el("b", {}, percent(last.accuracy)), last.versus_chance && last.versus_chance !== "above" ? el("small", {}, t("at_chance")) : null));
}

const table = (rows, models) =>
  el("table.plain", {},
    el("thead", {}, el("tr", {}, el("th", {}, t("category")), el("th", {}, "n"), el("th", {}, t("chance")), models.map((model) => el("th", {}, model.name)))),
    el("tbody", {}, rows.map(({ label, scores }) => el("tr", {}, el("th", { scope: "row" }, label.cloneNode(true)), el("td", {}, scores[0].n), el("td", {}, percent(scores[0].chance)),
      scores.map((one) => el("td", {}, el("b", {}, percent(one.accuracy)), " ", el("small", {}, `[${percent(one.low)}, ${percent(one.high)}]`)))))));

function comparisons(found) {
  if (!found?.length) return null;
  const points = (value) => (value > 0 ? "+" : "") + (100 * value).toFixed(1);
  return [el("h3", {}, t("compared"), " ", el("small", {}, t("mcnemar"))),
    el("ul.lines", {}, found.map((one) => el("li", {}, t("compared_row", {
      first: one.first, second: one.second, difference: points(one.difference), low: points(one.low), high: points(one.high),
      gained: one.gained, lost: one.lost, p: one.p < 1e-4 ? "< 0.0001" : `= ${one.p.toFixed(4)}`,
    }))))];
}

const questions = (items) =>
  items.length ? [el("h3", {}, t("questions_replies")), el("div.cards", {}, items.map((item) => el("article.card", {},
    el("small", {}, category(item.category)), el("p.asked", {}, quoted(item.question)),
    el("p.answer", {}, t("right_answer"), " ", el("b", {}, quoted(item.answer))),
    el("dl", {}, item.replies.map((one, index) => [
      el("dt", {}, el(`span.key.round.m${index % 6}`, {}, one.model)),
      el(`dd.${one.right ? "right" : "wrong"}`, {}, one.reply ? quoted(one.reply) : el("em", {}, t("no_reply")))])))))] : null;

function heldout(part) {
  const models = part.models.filter((model) => model.heldout);
  if (!models.length) return null;
  const most = Math.max(...models.map((model) => model.heldout.high));
  return el("section", {}, el("h2", {}, t("heldout")),
    el("div.scores", {}, el("div.group.total", {}, models.map(({ name, heldout: one }, index) => el("div.row", {},
      el("div.name", {}, name),
      el("div.lane", { role: "img", "aria-label": `${name} ${one.bits_per_byte.toFixed(3)} [${one.low.toFixed(3)}, ${one.high.toFixed(3)}]` }, el(`div.score.m${index % 6}`, {},
        el("i.range", { style: { left: percent(one.low / most, 3), width: percent((one.high - one.low) / most, 3) } }), el("i.point", { style: { left: percent(one.bits_per_byte / most, 3) } }))),
      el("div.value", {}, el("b", {}, one.bits_per_byte.toFixed(3)), el("small.plain", {}, t("figure_bpb"))))))));
}

/** What the models wrote to the same openings, side by side. */
function writings(part) {
  const keys = new Map();
  for (const model of part.models)
    for (const one of model.samples ?? []) {
      const key = `${one.kind} ${one.prompt}`;
      keys.set(key, [...(keys.get(key) ?? []), { model: model.name, ...one }]);
    }
  if (!keys.size) return null;
  const place = Object.fromEntries(part.models.map((model, index) => [model.name, index]));
  return el("section", {}, el("h2", {}, t("samples_now")), el("div.cards", {}, [...keys.values()].map((texts) => el("article.card", {},
    el("p.asked", {}, quoted(texts[0].prompt)),
    el("dl", {}, texts.map((one) => [el("dt", {}, el(`span.key.round.m${place[one.model] % 6}`, {}, one.model)),
      el("dd", {}, one.kind === "completion" ? quoted(one.prompt, "mark") : null, quoted(one.text))]))))));
}
