// The panels of a picture: kept while they are drawn anew, so that a cursor and the focus stay where they are.
import { Chart } from "./chart.js";
import { choice } from "./controls.js";
import { el } from "./dom.js";

export class Plots {
  /** @param on what each panel does, see `Chart`. */
  constructor(on) {
    this.on = on;
    this.charts = new Map();
    this.node = el("div.charts");
    this.redraw = () => { for (const chart of this.charts.values()) chart.draw(); };
    addEventListener("hanmo-theme", this.redraw);
    addEventListener("hanmo-language", this.redraw);
  }

  /** @param panels [[key, what `Chart.set` takes]]. */
  show(panels) {
    const keys = new Set(panels.map(([key]) => key));
    for (const [key, chart] of this.charts) if (!keys.has(key)) chart.close(), this.charts.delete(key);
    for (const [key, data] of panels) {
      if (!this.charts.has(key)) this.charts.set(key, new Chart(this.on));
      this.charts.get(key).set(data, choice);
    }
    const wanted = panels.map(([key]) => this.charts.get(key).node);
    if (wanted.some((one, index) => this.node.children[index] !== one) || this.node.children.length !== wanted.length) this.node.replaceChildren(...wanted);
  }

  close() {
    removeEventListener("hanmo-theme", this.redraw);
    removeEventListener("hanmo-language", this.redraw);
    for (const chart of this.charts.values()) chart.close();
  }
}
