// The frame: which view is shown, language, theme, keys that work everywhere.
import { complaint } from "./api.js";
import { el, say } from "./dom.js";
import { language, named, speak, t, word } from "./words.js";

const main = document.getElementById("main");
const root = document.documentElement;
const PAGES = [["runs", "#/"], ["compare", "#/compare"], ["chat", "#/chat"], ["tokenizers", "#/tokenizers"]];
/** What a first part of the address shows; views are fetched when they are first wanted. */
const VIEWS = {
  "": () => import("./runs.js"),
  run: () => import("./run.js"),
  compare: () => import("./compare.js"),
  chat: () => import("./chat.js"),
  tokenizers: () => import("./tokenizers.js"),
};

const keep = (name, value) => { try { localStorage.setItem("hanmo-" + name, value); } catch { /* private windows may refuse */ } };
const kept = (name) => { try { return localStorage.getItem("hanmo-" + name); } catch { return null; } };

let leave = null;
let showing = 0;

async function show() {
  const parts = location.hash.replace(/^#\/?/, "").split("/").map(decoded);
  const number = ++showing;
  const view = VIEWS[parts[0]];
  for (const link of document.querySelectorAll("#nav a"))
    link.toggleAttribute("aria-current", link.dataset.view === parts[0] || (link.dataset.view === "" && parts[0] === "run"));
  if (!view) return fill(el("p.lead", {}, t("not_found")));
  try {
    const { default: draw } = await view();
    const drawn = await draw(parts.slice(1), () => number === showing);
    if (number !== showing) return drawn.leave?.();
    fill(drawn.node);
    leave = drawn.leave ?? null;
    document.title = `${drawn.title ?? word("nav_runs")} · 翰墨 Hanmo`;
    drawn.shown?.();
  } catch (error) {
    if (number !== showing) return;
    fill(el("p.fault", { role: "alert" }, complaint(error), " ", el("button", { type: "button", onclick: show }, t("again"))));
    if (!error.status) console.error(error);
  }
}

/** A part of the address; one that was typed wrongly is nobody's name. */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function fill(node) {
  leave?.();
  leave = null;
  main.replaceChildren(node);
}

function frame() {
  document.getElementById("skip").append(t("skip"));
  document.getElementById("skip").onclick = (event) => {
    event.preventDefault();
    main.focus();
  };
  document.getElementById("title").append(t("studio"));
  const nav = document.getElementById("nav");
  named(nav, "aria-label", "navigation");
  for (const [name, href] of PAGES) nav.append(el("a", { href, "data-view": href.slice(2) }, t(`nav_${name}`)));
  const button = document.getElementById("language");
  button.append(t("switch_language"));
  button.onclick = () => {
    speak(language() === "zh" ? "en" : "zh");
    keep("lang", language());
    say(word("studio"));
  };
  const theme = document.getElementById("theme");
  named(theme, "aria-label", "theme");
  named(theme, "title", "theme");
  theme.onclick = () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    keep("theme", root.dataset.theme);
    dispatchEvent(new Event("hanmo-theme"));
  };
}

speak(kept("lang") ?? ((navigator.languages?.[0] ?? navigator.language ?? "zh").toLowerCase().startsWith("zh") ? "zh" : "en"));
if (kept("theme")) root.dataset.theme = kept("theme");
frame();
addEventListener("hashchange", () => {
  show().then(() => { scrollTo(0, 0); });
});
addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || /^(input|textarea|select)$/i.test(document.activeElement?.tagName)) return;
  const search = main.querySelector("input[type=search]");
  if (!search) return;
  event.preventDefault();
  search.focus();
});
show();
