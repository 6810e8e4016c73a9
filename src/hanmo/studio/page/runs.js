// The list of runs.
import { ask } from "./api.js";
import { count, duration, el, percent, short, svg } from "./dom.js";
import { every } from "./live.js";
import { named, t } from "./words.js";

export default async function draw() {
  let known = "";
  let wanted = "";
  const lead = el("p.lead");
  const list = el("ol.runs");
  const search = el("input", { type: "search", autocomplete: "off", spellcheck: "false" });
  named(search, "placeholder", "filter");
  named(search, "aria-label", "filter");
  const title = el("h1");
  const node = el("div", {}, el("div.heading", {}, el("div", {}, title, lead), search), list);

  async function look() {
    const found = await ask("/runs");
    const text = JSON.stringify(found);
    if (text === known) return;
    known = text;
    title.textContent = found.root;
    const working = found.runs.filter((run) => run.state === "working").length;
    lead.replaceChildren(t("runs_lead", { count: found.runs.length, working }));
    const focused = document.activeElement?.dataset?.run;
    list.replaceChildren(...(found.runs.length ? [header(), ...found.runs.map(row)] : [empty()]));
    filter();
    if (focused !== undefined) [...list.querySelectorAll("a")].find((link) => link.dataset.run === focused)?.focus();
  }

  function filter() {
    let seen = 0;
    for (const item of list.querySelectorAll("li[data-name]")) {
      item.hidden = !item.dataset.name.toLowerCase().includes(wanted);
      seen += !item.hidden;
    }
    list.querySelector(".none")?.remove();
    if (!seen && wanted) list.append(el("li.none", {}, t("nothing_matches")));
  }

  search.addEventListener("input", () => {
    wanted = search.value.trim().toLowerCase();
    filter();
  });
  search.addEventListener("keydown", (event) => {
    if (event.key === "Enter") list.querySelector("li[data-name]:not([hidden]) a")?.click();
  });
  list.addEventListener("keydown", (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step) return;
    const links = [...list.querySelectorAll("li:not([hidden]) a")];
    links[links.indexOf(document.activeElement) + step]?.focus();
    event.preventDefault();
  });
  await look();
  return { node, title: title.textContent, leave: every(3000, look) };
}

const empty = () => el("li.none", {}, el("p", {}, t("no_runs")), el("pre", {}, "hanmo run recipes/demo.yaml --out runs/demo"));

const header = () =>
  el("li.head", { "aria-hidden": "true" },
    ...["run", "curve", "progress", "figure_parameters", "figure_tokens", "figure_bpb", "figure_exam", "changed"].map((key) => el("span", {}, t(key))));

function row(run) {
  const head = run.head;
  const figure = (key, value) => el("span.figure", {}, el("small", {}, t(key)), el("b", {}, value));
  return el("li", { "data-name": run.name },
    el("a.name", { href: `#/run/${encodeURIComponent(run.id)}`, "data-run": run.id }, el("bdi", {}, run.name)),
    spark(run.spark),
    el("span.progress", {}, strip(run.stages), el("small", {}, dot(run.state), t(run.state),
      run.state === "working" ? el("bdi", {}, " · " + run.stages.filter((s) => s.state === "working").map((s) => s.id).join(", ")) : null)),
    figure("figure_parameters", count(head.parameters)),
    figure("figure_tokens", count(head.trained_tokens)),
    figure("figure_bpb", head.heldout ? head.heldout.bits_per_byte.toFixed(3) : "–"),
    figure("figure_exam", head.exam ? percent(head.exam.last.accuracy) : "–"),
    el("small.when", {}, ago(run.changed), head.seconds ? el("span", {}, " · " + duration(head.seconds)) : null));
}

export const dot = (state) => el("i.state." + state, { "aria-hidden": "true" });

/** The stages as a strip, each as wide as its time. */
function strip(stages) {
  const whole = stages.reduce((sum, stage) => sum + (stage.seconds ?? 0), 0) || 1;
  return el("span.strip", { "aria-hidden": "true" },
    ...stages.map((stage) => el("i." + stage.state, { style: { "flex-grow": String(Math.max(0.04, (stage.seconds ?? 0.1 * whole) / whole)) }, title: stage.id })));
}

function spark(values) {
  if (!values || values.length < 2) return el("span.spark");
  const low = Math.min(...values), high = Math.max(...values);
  const place = (value, index) => `${((100 * index) / (values.length - 1)).toFixed(1)} ${(2 + 26 * (high > low ? (high - value) / (high - low) : 0.5)).toFixed(1)}`;
  const picture = svg("svg", { viewBox: "0 0 100 30", preserveAspectRatio: "none", role: "img" }, svg("path", { d: "M" + values.map(place).join("L") }));
  named(picture, "aria-label", "spark", { first: short(values[0]), last: short(values.at(-1)) });
  return el("span.spark", {}, picture);
}

export function ago(seconds) {
  const minutes = Math.max(0, (Date.now() / 1000 - seconds) / 60);
  if (minutes < 1) return t("just_now");
  if (minutes < 60) return t("ago_minutes", { count: Math.round(minutes) });
  if (minutes < 48 * 60) return t("ago_hours", { count: Math.round(minutes / 60) });
  return t("ago_days", { count: Math.round(minutes / 1440) });
}

