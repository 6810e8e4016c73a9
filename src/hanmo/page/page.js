// Language, theme, and values under the pointer. All text is set through textContent: nothing of the run becomes markup.
"use strict";
(() => {
  const root = document.documentElement;
  const keep = (name, value) => { try { localStorage.setItem("hanmo-" + name, value); } catch { /* a file:// page may have no store */ } };
  const kept = (name) => { try { return localStorage.getItem("hanmo-" + name); } catch { return null; } };

  const speak = (language) => { root.dataset.lang = language; root.lang = language === "zh" ? "zh-Hans" : "en"; };
  const browser = (navigator.language || "").toLowerCase().startsWith("zh") ? "zh" : "en";
  speak(kept("lang") || (root.dataset.choose === "auto" ? browser : root.dataset.choose));
  document.getElementById("language").addEventListener("click", () => {
    speak(root.dataset.lang === "zh" ? "en" : "zh");
    keep("lang", root.dataset.lang);
  });

  if (kept("theme")) root.dataset.theme = kept("theme");
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    keep("theme", root.dataset.theme);
  });

  const tip = document.getElementById("tip");
  const hide = () => { tip.hidden = true; };
  const show = (text, x, y) => {
    tip.textContent = text;
    tip.hidden = false;
    const box = tip.getBoundingClientRect();
    const left = x + 14 + box.width > innerWidth ? x - 14 - box.width : x + 14;
    tip.style.left = Math.max(4, left) + "px";
    tip.style.top = Math.max(4, Math.min(innerHeight - box.height - 4, y - box.height - 10)) + "px";
  };
  document.addEventListener("pointermove", (event) => {
    const target = event.target.closest("[data-en]");
    if (target) show(target.dataset[root.dataset.lang], event.clientX, event.clientY);
    else if (!event.target.closest(".canvas")) hide();
  });
  addEventListener("scroll", hide, { passive: true });

  const short = (value) => {
    const size = Math.abs(value);
    for (const [unit, scale] of [["B", 1e9], ["M", 1e6], ["k", 1e4]])
      if (size >= scale) return +(value / (unit === "k" ? 1e3 : scale)).toPrecision(4) + unit;
    return size && size < 1e-2 ? value.toExponential(2) : String(+value.toPrecision(4));
  };
  const nearest = (points, x) => {
    let low = 0, high = points.length - 1;
    while (high - low > 1) { const middle = (low + high) >> 1; if (points[middle][0] < x) low = middle; else high = middle; }
    return Math.abs(points[low][0] - x) <= Math.abs(points[high][0] - x) ? low : high;
  };
  const panels = JSON.parse(document.getElementById("data").textContent);
  for (const plot of document.querySelectorAll("[data-plot]")) {
    const { x: [x0, x1], y: [y0, y1], series } = panels[plot.dataset.plot];
    const canvas = plot.querySelector(".canvas");
    const names = plot.querySelectorAll("figcaption .key");
    const longest = series.reduce((a, b) => (b.points.length > a.points.length ? b : a)).points;
    let cursor = null, at = longest.length - 1;
    const away = () => { if (cursor) cursor.remove(); cursor = null; hide(); };
    const point = (x, clientX, clientY) => {
      if (cursor) cursor.remove();
      cursor = document.createElement("div");
      cursor.className = "cursor";
      cursor.style.left = 100 * (x - x0) / (x1 - x0) + "%";
      const axis = [...plot.querySelectorAll(".x em > span")].find((one) => getComputedStyle(one).display !== "none");
      const lines = [short(x) + " " + (axis ? axis.textContent : "")];
      series.forEach((one, index) => {
        const [px, y] = one.points[nearest(one.points, x)];
        // A value from far away is not the value here: sparse series answer only near their points.
        if (Math.abs(px - x) > 0.06 * (x1 - x0)) return;
        const dot = document.createElement("i");
        dot.className = "s" + index;
        dot.style.top = 100 - 100 * (y - y0) / (y1 - y0) + "%";
        cursor.append(dot);
        const label = [...names[index].children].find((part) => getComputedStyle(part).display !== "none");
        lines.push((label ? label.textContent : one.name) + ": " + short(y));
      });
      canvas.append(cursor);
      show(lines.join("\n"), clientX, clientY);
    };
    canvas.addEventListener("pointermove", (event) => {
      const box = canvas.getBoundingClientRect();
      at = nearest(longest, x0 + (x1 - x0) * (event.clientX - box.left) / box.width);
      point(longest[at][0], event.clientX, event.clientY);
    });
    canvas.addEventListener("pointerleave", away);
    canvas.addEventListener("blur", away);
    canvas.addEventListener("keydown", (event) => {
      const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!step) return;
      event.preventDefault();
      at = Math.max(0, Math.min(longest.length - 1, at + step));
      const box = canvas.getBoundingClientRect();
      point(longest[at][0], box.left + box.width * (longest[at][0] - x0) / (x1 - x0), box.top + box.height / 2);
    });
  }
})();
