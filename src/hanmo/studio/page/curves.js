// The curves of a stage: panels with one x axis, which can be zoomed and read by pointer and by keys.
import { ask, path } from "./api.js";
import { Chart } from "./chart.js";
import { el } from "./dom.js";
import { every } from "./live.js";
import { named, t } from "./words.js";

const choice = { x: "step", smoothing: 0.02, log: false };

export default async function draw(id, stage) {
  const charts = new Map();
  const plots = el("div.charts");
  const reset = el("button", { type: "button", hidden: true, onclick: () => zoom(null) }, t("whole"));
  const across = el("select", { onchange: () => { choice.x = across.value; range = null; look(); } },
    ...["step", "tokens", "seconds"].map((name) => named(el("option", { value: name, selected: choice.x === name }), "text", `across_${name}`)));
  const smoothing = el("input", { type: "range", min: "0", max: "0.2", step: "0.01", value: String(choice.smoothing),
    oninput: () => { choice.smoothing = Number(smoothing.value); redraw(); } });
  const log = el("input", { type: "checkbox", checked: choice.log, onchange: () => { choice.log = log.checked; redraw(); } });
  const live = el("span.live", { hidden: stage.state !== "working" }, t("live"));
  const note = el("p.lead", { hidden: true }, t("no_log"));
  const node = el("section.learning", {},
    el("h2", {}, t("curves"), live),
    el("div.controls", {},
      el("label", {}, t("across"), " ", across), el("label", {}, t("smoothing"), " ", smoothing),
      el("label", {}, log, " ", t("log_scale")), reset),
    note, plots, el("p.lead.small", {}, t("curves_help")));
  let range = null;
  let asked = 0;

  async function look() {
    const number = ++asked;
    const query = new URLSearchParams({ x: choice.x, points: "700" });
    if (range) query.set("from", range[0]), query.set("to", range[1]);
    let found;
    try {
      found = await ask(`${path("runs", id, stage.id, "curves")}?${query}`);
    } catch (error) {
      if (error.status !== 404) throw error;
      note.hidden = false;
      return;
    }
    if (number !== asked) return; // a later look was quicker
    note.hidden = found.panels.length > 0;
    reset.hidden = !range;
    const names = new Set(found.panels.map((panel) => panel.names[0]));
    for (const [name, chart] of charts) if (!names.has(name)) chart.close(), charts.delete(name);
    for (const panel of found.panels) {
      const name = panel.names[0];
      if (!charts.has(name)) charts.set(name, new Chart({ zoom, reset: () => zoom(null) }));
      charts.get(name).set({ ...panel, series: found.series, x: found.x, range: range ?? [0, found.end] }, choice);
    }
    const wanted = found.panels.map((panel) => charts.get(panel.names[0]).node);
    if (wanted.some((one, index) => plots.children[index] !== one) || plots.children.length !== wanted.length) plots.replaceChildren(...wanted);
  }

  const redraw = () => { for (const chart of charts.values()) chart.draw(); };
  function zoom(wanted) {
    range = wanted;
    look();
  }

  addEventListener("hanmo-theme", redraw);
  addEventListener("hanmo-language", redraw);
  await look();
  const stop = stage.state === "working" ? every(2000, look) : () => {};
  return {
    node,
    leave: () => {
      stop();
      removeEventListener("hanmo-theme", redraw);
      removeEventListener("hanmo-language", redraw);
      for (const chart of charts.values()) chart.close();
    },
  };
}
