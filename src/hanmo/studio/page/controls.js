// How curves are drawn: their x axis, smoothing and scale, the same for all pictures of a visit.
import { el } from "./dom.js";
import { named, t } from "./words.js";

export const choice = { x: "step", smoothing: 0.02, log: false };

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
