// How curves are drawn: their x axis, smoothing and scale, the same for all pictures of a visit.
import { ask, path } from "./api.js";
import { el } from "./dom.js";
import { named, t } from "./words.js";

export const choice = { x: "step", smoothing: 0.02, log: false };

/** The curves of a stage across the chosen axis, of the range [from, to] or (null) of all; null where it has no log. */
export async function curvesOf(run, stage, range) {
  const query = new URLSearchParams({ x: choice.x, points: "700" });
  if (range) query.set("from", range[0]), query.set("to", range[1]);
  try {
    return await ask(`${path("runs", run, stage, "curves")}?${query}`);
  } catch (error) {
    if (error.status !== 404) throw error;
    return null;
  }
}

/**
 * The controls above curves: {node, reset}, where `reset` is the button that ends a zoom.
 * @param on {turned(): another axis was chosen, redraw(), whole(): the zoom is to end}.
 */
export function controls(on) {
  const reset = el("button", { type: "button", hidden: true, onclick: () => on.whole() }, t("whole"));
  const across = el("select", { onchange: () => { choice.x = across.value; on.turned(); } },
    ...["step", "tokens", "seconds"].map((name) => named(el("option", { value: name, selected: choice.x === name }), "text", `across_${name}`)));
  const smoothing = el("input", { type: "range", min: "0", max: "0.2", step: "0.01", value: String(choice.smoothing),
    oninput: () => { choice.smoothing = Number(smoothing.value); on.redraw(); } });
  const log = el("input", { type: "checkbox", checked: choice.log, onchange: () => { choice.log = log.checked; on.redraw(); } });
  const node = el("div.controls", {},
    el("label", {}, t("across"), " ", across), el("label", {}, t("smoothing"), " ", smoothing),
    el("label", {}, log, " ", t("log_scale")), reset);
  return { node, reset };
}
