// One run: its stages, and what the chosen one can show.
import { ask, complaint, path } from "./api.js";
import { bytes, count, duration, el, grouped, percent, short } from "./dom.js";
import { every } from "./live.js";
import { dot } from "./runs.js";
import { known, named, t } from "./words.js";

/** What of a stage is shown, in this order; a part is fetched when a stage has it. */
const PARTS = [
  ["curves", () => import("./curves.js")],
  ["exam", () => import("./exam.js")],
  ["corpus", () => import("./data.js")],
  ["tokenizer", () => import("./vocabulary.js")],
  ["samples", () => import("./samples.js")],
  ["card", () => import("./card.js")],
  ["files", () => import("./files.js")],
];

export default async function draw([id, chosen], current) {
  let run = await ask(path("runs", id));
  const stage = run.stages.find((one) => one.id === chosen);
  const tabs = el("ul.tabs");
  const body = el("div.stage");
  /** What is shown of the stage: name -> {node, leave}; a part that is still being fetched has a placeholder. */
  const drawn = new Map();
  let state = stage?.state;

  function fill() {
    const focused = tabs.contains(document.activeElement) ? document.activeElement.hash : null;
    tabs.replaceChildren(...[null, ...run.stages].map((one) => tab(id, one, chosen ?? null)));
    if (focused) [...tabs.querySelectorAll("a")].find((link) => link.hash === focused)?.focus();
    const here = run.stages.find((one) => one.id === chosen);
    if (!here) return body.replaceChildren(overview(id, run));
    // A part goes on as it is (a zoom stays), unless the stage has ended or begun meanwhile.
    if (here.state !== state) close();
    state = here.state;
    for (const [name, load] of PARTS)
      if (!drawn.has(name) && (here.shows.includes(name) || (name === "curves" && here.state === "working"))) add(name, load, here);
    const parts = PARTS.filter(([name]) => drawn.has(name)).map(([name]) => drawn.get(name).node);
    body.replaceChildren(facts(here), ...parts, ...(parts.length || here.state === "done" ? [] : [el("p.lead", {}, t("nothing_to_show"))]), raw(here));
  }

  /** Fetch a part; each comes when it is ready, and none keeps the others waiting. */
  async function add(name, load, here) {
    const waiting = { node: el("section.loading", {}, el("p.lead", {}, t("loading"))) };
    drawn.set(name, waiting);
    let found;
    try {
      const { default: part } = await load();
      found = await part(id, here);
    } catch (error) {
      found = { node: el("section", {}, el("p.fault", { role: "alert" }, complaint(error))) };
    }
    if (drawn.get(name) !== waiting || !current()) return found.leave?.();
    waiting.node.replaceWith(found.node);
    drawn.set(name, found);
  }

  function close() {
    for (const part of drawn.values()) part.leave?.();
    drawn.clear();
  }

  tabs.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const links = [...tabs.querySelectorAll("a")];
    links[links.indexOf(document.activeElement) + step]?.focus();
    event.preventDefault();
  });
  // What changes with every line of a log is for the curves, which look by themselves.
  const plain = (found) => JSON.stringify(found, (name, value) => (name === "changed" ? undefined : value));
  let text = plain(run);
  fill();
  const stop = every(3000, async () => {
    const found = await ask(path("runs", id));
    if (plain(found) === text) return;
    text = plain(found);
    run = found;
    fill();
  });
  const heading = el("div.heading", {}, el("div", {}, el("h1", {}, el("bdi", {}, run.name))));
  return {
    node: el("div", {}, heading, named(el("nav", {}, tabs), "aria-label", "stages"), body),
    title: stage ? `${run.name} · ${stage.id}` : run.name,
    leave: () => {
      stop();
      close();
    },
    shown: () => {
      const here = tabs.querySelector("[aria-current]");
      if (here) tabs.scrollLeft = here.offsetLeft - tabs.clientWidth / 2 + here.offsetWidth / 2;
    },
  };
}

const href = (id, stage) => "#/" + ["run", id, ...(stage ? [stage] : [])].map(encodeURIComponent).join("/");

function tab(id, stage, chosen) {
  const link = el("a", { href: href(id, stage?.id), "aria-current": (stage?.id ?? null) === chosen ? "page" : null },
    stage ? [dot(stage.state), el("bdi", {}, stage.id)] : t("overview"));
  return el("li", {}, link);
}

function facts(stage) {
  const inputs = Object.values(stage.inputs).flat();
  return el("section.facts", {},
    el("h2", {}, el("bdi", {}, stage.id), el("small", {}, t(stage.do))),
    el("p.lead", {}, dot(stage.state), t(stage.state),
      stage.started ? [" · ", t("started_at", { time: new Date(stage.started).toLocaleString("sv") })] : null,
      stage.seconds !== null ? ` · ${duration(stage.seconds)}` : null,
      stage.peak_memory_mb ? ` · ${bytes(stage.peak_memory_mb * 1e6)}` : null,
      inputs.length ? [" · ", t("reads", { names: inputs.join(", ") })] : null),
    // The audit has figures of its own.
    stage.shows.includes("corpus") ? null : el("div.figures", {}, outcomes(stage)));
}

const FORMS = { bytes, accuracy: percent, share: percent };

/** The plain numbers of a stage's counts, groups flattened by a dot. */
function outcomes(stage) {
  const flat = [];
  const walk = (value, name) => {
    if (typeof value === "number") flat.push([name, value]);
    else if (value && typeof value === "object" && !Array.isArray(value) && name.split(".").length < 3)
      for (const [key, one] of Object.entries(value)) walk(one, name ? `${name}.${key}` : key);
  };
  walk(stage.counts ?? {}, "");
  const words = ([name]) => known(`out_${name.replaceAll(".", "_")}`);
  return flat.filter(words).slice(0, 8).map(([name, value]) => {
    const form = Object.entries(FORMS).find(([part]) => name.includes(part))?.[1] ?? (Number.isInteger(value) ? count : short);
    return el("div", {}, el("b", { title: grouped(value) }, form(value)), el("small", {}, t(`out_${name.replaceAll(".", "_")}`)));
  });
}

function overview(id, run) {
  const longest = Math.max(...run.stages.map((stage) => stage.seconds ?? 0), 1e-9);
  const largest = Math.max(...run.stages.map((stage) => stage.peak_memory_mb ?? 0), 1e-9);
  const bar = (value, most, label) => [el("b", {}, label), el("span.track", {}, el("i", { style: { width: `${(100 * (value ?? 0)) / most}%` } }))];
  return el("section", {}, el("table.stages", {},
    el("thead", {}, el("tr", {}, ...["stage", "result", "time", "memory"].map((key) => el("th", { scope: "col" }, t(key))))),
    el("tbody", {}, ...run.stages.map((stage) => el("tr", {},
      el("th", { scope: "row" }, el("a", { href: href(id, stage.id) }, dot(stage.state), el("bdi", {}, stage.id)), el("small", {}, t(stage.do))),
      el("td.came", {}, el("div.figures.small", {}, outcomes(stage).slice(0, 4)), (stage.counts?.warnings ?? []).map((one) => el("em.warning", {}, String(one)))),
      el("td.bar", {}, bar(stage.seconds, longest, stage.state === "done" ? duration(stage.seconds) : t(stage.state))),
      el("td.bar.memory", {}, stage.peak_memory_mb ? bar(stage.peak_memory_mb, largest, bytes(stage.peak_memory_mb * 1e6)) : null))))));
}

/** Everything the stage says of itself, as it stands in its files. */
const raw = (stage) =>
  el("section.raw", {}, ...["settings", "counts"].filter((name) => stage[name] && Object.keys(stage[name]).length).map((name) =>
    el("details", {}, el("summary", {}, t(name)), el("pre", {}, JSON.stringify(stage[name], null, 2)))));
