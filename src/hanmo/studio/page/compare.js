// Curves of several trainings in one picture. The visitor chooses which; the address says it, and can be kept or sent.
import { ask, path } from "./api.js";
import { choice, controls, curvesOf } from "./controls.js";
import { el, say, short } from "./dom.js";
import { every } from "./live.js";
import { Plots } from "./plots.js";
import { dot } from "./runs.js";
import { named, t, word } from "./words.js";

const MOST = 6;
/** What is compared, and the names that logs of pretraining and of tuning have for it. */
const PANELS = [
  ["loss", ["loss"]],
  ["heldout_bpb", ["heldout_bpb"]],
  ["tokens_per_second", ["tokens_per_second"]],
  ["lr", ["lr", "learning_rate"]],
  ["validation_loss", ["validation_loss"]],
];
const kept = { chosen: [] };

export default async function draw(wanted) {
  let all = trainings(await ask("/runs"));
  const there = (key) => all.some((one) => one.key === key);
  kept.chosen = (wanted.some(there) ? wanted : kept.chosen).filter(there).slice(0, MOST);
  if (!kept.chosen.length) kept.chosen = first(all);
  /** key -> the number of its ink, kept as long as it is chosen. */
  const inks = new Map(kept.chosen.map((key, index) => [key, index]));
  const search = el("input", { type: "search", autocomplete: "off", spellcheck: "false", oninput: () => filter() });
  named(search, "placeholder", "filter");
  named(search, "aria-label", "filter");
  const choices = el("div.choices", { role: "group" });
  named(choices, "aria-label", "compared");
  const plots = new Plots({ zoom, reset: () => zoom(null) });
  const above = controls({ turned: () => zoom(null), redraw: () => plots.redraw(), whole: () => zoom(null) });
  plots.node.classList.add("pairs");
  const notes = el("div", { role: "status" });
  const latest = el("div.scroll");
  let range = null;
  let asked = 0;

  async function look() {
    const number = ++asked;
    const sides = all.filter((one) => inks.has(one.key)).sort((a, b) => inks.get(a.key) - inks.get(b.key));
    const found = await Promise.all(sides.map(async (one) => [one, await curvesOf(one.run, one.stage, range)]));
    if (number !== asked) return; // a later look was quicker
    // A log that does not say the tokens of its steps comes across steps: no place on an axis of tokens.
    const placed = found.filter(([, curves]) => curves?.panels.length && curves.x === choice.x);
    const absent = found.filter(([, curves]) => !curves?.panels.length).map(([one]) => el("p.lead", {}, el("bdi", {}, one.name), ": ", t("no_log")));
    const other = found.filter(([, curves]) => curves?.panels.length && curves.x !== choice.x)
      .map(([one]) => el("p.lead", {}, el("bdi", {}, one.name), ": ", t(`not_across_${choice.x}`)));
    notes.replaceChildren(...absent, ...other, ...(sides.length ? [] : [el("p.lead", {}, t("choose_some"))]));
    above.reset.hidden = !range;
    const end = Math.max(0, ...placed.map(([, curves]) => curves.end));
    plots.show(PANELS.map((panel) => [panel[0], together(panel, placed, range ?? [0, end])]).filter(([, data]) => data));
    if (!range) latest.replaceChildren(...(placed.length ? [table(placed)] : []));
  }

  function together([measure, names], placed, shown) {
    const data = { measure, names: [], labels: {}, inks: {}, series: {}, zero: false, x: choice.x, range: shown };
    for (const [one, curves] of placed) {
      const name = names.find((candidate) => curves.series[candidate]?.x.length);
      if (!name) continue;
      data.names.push(one.key);
      data.labels[one.key] = one.name;
      data.inks[one.key] = inks.get(one.key);
      data.series[one.key] = curves.series[name];
      data.zero ||= curves.panels.some((panel) => panel.zero && panel.names.includes(name));
    }
    return data.names.length ? data : null;
  }

  /** The last values as text, for whoever does not see the picture, and for whoever wants the numbers. */
  function table(placed) {
    const measures = PANELS.filter(([, names]) => placed.some(([, { series }]) => names.some((name) => series[name])));
    return el("table.plain", {},
      el("caption", {}, t("latest")),
      el("thead", {}, el("tr", {}, el("th", { scope: "col" }, t("run")), el("th", { scope: "col" }, t(`across_${choice.x}`)), ...measures.map(([key]) => el("th", { scope: "col" }, t(key))))),
      el("tbody", {}, ...placed.map(([one, curves]) => el("tr", {},
        el("th", { scope: "row" }, el(`span.key.s${inks.get(one.key)}`, {}, el("a", { href: "#" + path("run", one.run, one.stage) }, el("bdi", {}, one.name)))),
        el("td", {}, short(curves.end)),
        ...measures.map(([, names]) => el("td", {}, short(names.map((name) => curves.series[name]).find(Boolean)?.mean.at(-1))))))));
  }

  function toggle(one, box) {
    if (box.checked) inks.set(one.key, [...Array(MOST).keys()].find((number) => ![...inks.values()].includes(number)));
    else inks.delete(one.key);
    paint();
    say(`${one.name}: ${word(box.checked ? "shown" : "not_shown")}`);
    zoom(null);
  }

  /** The chosen ones' inks, what else may be chosen, and the address. */
  function paint() {
    kept.chosen = [...inks].sort((a, b) => a[1] - b[1]).map(([key]) => key);
    for (const label of choices.children) {
      const ink = inks.get(label.dataset.key);
      label.querySelector(".ink").className = ink === undefined ? "ink" : `ink s${ink}`;
      label.querySelector("input").disabled = ink === undefined && inks.size >= MOST;
    }
    history.replaceState(null, "", "#" + path("compare", ...kept.chosen));
  }

  function filter() {
    const text = search.value.trim().toLowerCase();
    for (const label of choices.children) label.hidden = !label.dataset.name.toLowerCase().includes(text);
  }

  function offer() {
    choices.replaceChildren(...all.map((one) => {
      const box = el("input", { type: "checkbox", checked: inks.has(one.key), onchange: () => toggle(one, box) });
      return el("label.choice", { "data-key": one.key, "data-name": one.name }, box, el("i.ink"), el("bdi", {}, one.name), one.state === "working" ? dot(one.state) : null);
    }));
    paint();
    filter();
  }

  function zoom(asking) {
    range = asking;
    look();
  }

  offer();
  await look();
  const stop = every(3000, async () => {
    const found = trainings(await ask("/runs"));
    const changed = JSON.stringify(found) !== JSON.stringify(all);
    const live = [...found, ...all].some((one) => one.state === "working" && inks.has(one.key));
    all = found;
    if (changed) {
      const focused = choices.contains(document.activeElement) ? document.activeElement.parentNode.dataset.key : null;
      offer();
      if (focused) [...choices.children].find((label) => label.dataset.key === focused)?.querySelector("input").focus();
    }
    if (live) await look();
  });
  return {
    node: el("div", {}, el("div.heading", {}, el("div", {}, el("h1", {}, t("nav_compare")), el("p.lead", {}, t("compare_lead", { most: MOST }))), all.length > 8 ? search : null),
      all.length ? [choices, el("section.learning", {}, above.node, notes, plots.node, el("p.lead.small", {}, t("curves_help")), latest)] : el("p.lead", {}, t("no_trainings"))),
    title: word("nav_compare"),
    leave: () => {
      stop();
      plots.close();
    },
  };
}

/** Every stage that has a log: {key, run, stage, name, do, state}, those of the newest run first. */
const trainings = ({ runs }) =>
  runs.flatMap((run) => run.stages.filter((stage) => stage.curves).map((stage) => ({
    key: `${run.id}/${stage.id}`, run: run.id, stage: stage.id, name: `${run.name}/${stage.id}`, do: stage.do, state: stage.state })));

/** What is shown to begin with: two pretrainings, or two of whatever there is. */
function first(all) {
  const alike = all.filter((one) => one.do === "pretrain");
  return (alike.length > 1 ? alike : all).slice(0, 2).map((one) => one.key);
}
