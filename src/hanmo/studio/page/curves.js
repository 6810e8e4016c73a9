// The curves of a stage: panels with one x axis, which can be zoomed and read by pointer and by keys.
import { path } from "./api.js";
import { controls, curvesOf } from "./controls.js";
import { el } from "./dom.js";
import { every } from "./live.js";
import { Plots } from "./plots.js";
import { t } from "./words.js";

export default async function draw(id, stage) {
  const plots = new Plots({ zoom, reset: () => zoom(null) });
  const above = controls({ turned: () => zoom(null), redraw: () => plots.redraw(), whole: () => zoom(null) });
  const live = el("span.live", { hidden: stage.state !== "working" }, t("live"));
  const note = el("p.lead", { hidden: true }, t("no_log"));
  const beside = el("a", { href: "#" + path("compare", `${id}/${stage.id}`) }, t("compare_with"));
  const node = el("section.learning", {},
    el("h2", {}, t("curves"), live), above.node, note, plots.node,
    el("p.lead.small", {}, t("curves_help"), " ", beside));
  let range = null;
  let asked = 0;

  async function look() {
    const number = ++asked;
    const found = await curvesOf(id, stage.id, range);
    if (found === null) {
      note.hidden = false;
      return;
    }
    if (number !== asked) return; // a later look was quicker
    note.hidden = found.panels.length > 0;
    above.reset.hidden = !range;
    plots.show(found.panels.map((panel) => [panel.names[0], { ...panel, series: found.series, x: found.x, range: range ?? [0, found.end] }]));
  }

  function zoom(wanted) {
    range = wanted;
    look();
  }

  await look();
  const stop = stage.state === "working" ? every(2000, look) : () => {};
  return {
    node,
    leave: () => {
      stop();
      plots.close();
    },
  };
}
