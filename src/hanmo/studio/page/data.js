// The audit of a corpus: where every document went, why, and what it looked like.
import { ask, path } from "./api.js";
import { bytes, el, grouped, percent, quoted, svg } from "./dom.js";
import { known, t } from "./words.js";

export default async function draw(id, stage) {
  const data = await ask(path("runs", id, stage.id, "corpus"));
  const read = data.read.documents, kept = data.train.documents + data.heldout.documents;
  const figure = (value, key, values) => el("div", {}, el("b", {}, value), el("small", {}, t(key, values)));
  return {
    node: el("div", {},
      el("section", {}, el("h2", {}, t("nav_data")),
        el("div.figures", {},
          figure(percent(read ? kept / read : 0), "kept_share"),
          figure(bytes(data.train.bytes), "text_kept"),
          figure(grouped(data.reasons.reduce((sum, [, count]) => sum + count, 0)), "rejected_count"),
          figure(grouped(Object.keys(data.sources).length), "sources_count")),
        data.flows.map(([title, lead, flow]) => [el("h3", {}, t(title)), el("p.lead", {}, t(lead)), river(flow, title === "flow_bytes" ? bytes : grouped)])),
      rejected(id, stage, data), pictures(data.pictures), cleaning(data.cleaning), sources(data), keptOnes(data.kept), unreadable(data.bad_files)),
  };
}

function river(flow, write) {
  const kind = (name) => (name === "train" || name === "heldout_part" ? name : "reject");
  const label = (node, name, more) => el("span", { style: { top: `${node.label}%` } }, el("b", {}, name), " ", el("small", {}, write(node.value), more));
  const picture = svg("svg", { viewBox: "0 0 100 100", preserveAspectRatio: "none", "aria-hidden": "true" },
    ...flow.ribbons.map((one) => svg("path", { d: one.d, class: kind(one.target) })));
  const bar = (node, side) => el(`i.node.${kind(node.name)}`, { style: { [side]: "0", top: `${node.top}%`, height: `${node.height}%` } });
  return el("div.flow", { style: { "--nodes": String(Math.max(flow.left.length, flow.right.length)) } },
    el("div.side.left", {}, flow.left.map((node) => label(node, node.name === "other" ? t("other") : quoted(node.name)))),
    el("div.river", {}, picture, flow.left.map((node) => bar({ ...node, name: "train" }, "left")), flow.right.map((node) => bar(node, "right"))),
    el("div.side.right", {}, flow.right.map((node) => label(node, t(node.name), ` · ${percent(node.share, node.share < 0.001 ? 2 : 1)}`))));
}

const example = (one) =>
  el("article.sample", {}, one.detail ? el("p.why", {}, quoted(one.detail)) : null, el("p.text", {}, quoted(one.text), one.cut ? " …" : null),
    el("p.at", {}, quoted(one.source ? `${one.source} · ${one.where}` : one.where)));

function rejected(id, stage, data) {
  if (!data.reasons.length) return el("section", {}, el("h2", {}, t("rejected")), el("p.lead", {}, t("none_rejected")));
  const whole = data.reasons.reduce((sum, [, count]) => sum + count, 0);
  return el("section.reasons", {}, el("h2", {}, t("rejected")), el("p.lead", {}, t("rejected_lead")),
    data.reasons.map(([reason, count]) => {
      const cards = el("div.cards", {}, (data.examples[reason] ?? []).map(example));
      const more = el("button", { type: "button" }, t("show_rejected"));
      let skip = 0;
      more.onclick = async () => {
        more.disabled = true;
        const query = new URLSearchParams({ reason, skip: String(skip) });
        const found = await ask(`${path("runs", id, stage.id, "rejects")}?${query}`).catch(() => ({ documents: [], next: null }));
        if (!skip) cards.replaceChildren();
        cards.append(...found.documents.map(example));
        if (found.next === null) more.replaceWith(el("small", {}, t(cards.childElementCount ? "all_shown" : "none_shown")));
        else more.replaceChildren(t("show_more"));
        skip = found.next;
        more.disabled = false;
      };
      return el("details", {},
        el("summary", {}, el("b", {}, t(reason)), el("span.track", {}, el("i", { style: { width: `${(100 * count) / data.reasons[0][1]}%` } })), el("span", {}, grouped(count), " ", el("small", {}, percent(count / whole)))),
        cards, el("p", {}, more));
    }));
}

function pictures(found) {
  if (!found.length) return null;
  const name = (bar, key) => (bar.word === undefined ? bar.label : known(bar.word) ? t(bar.word) : quoted(bar.name));
  return el("section", {}, el("h2", {}, t("what")), el("p.lead", {}, t("what_lead")),
    el("div.pictures", {}, found.map((picture) => el("div", {}, el("h3", {}, t(`of_${picture.key}`)),
      picture.bars.map((bar) => el("div.tally", {}, el("span", {}, name(bar, picture.key)),
        el("span.track", {}, el("i", { style: { width: `${(100 * bar.value) / picture.most}%` } })), el("b", {}, grouped(bar.value))))))));
}

function cleaning(rules) {
  if (!rules.length) return null;
  const marked = ([before, changed, after], tag) => [quoted(before, "span"), quoted(changed, tag), quoted(after, "span")];
  return el("section.reasons", {}, el("h2", {}, t("cleaning")), el("p.lead", {}, t("cleaning_lead")),
    rules.map(({ rule, count, samples }) => el("details", {},
      el("summary", {}, el("b", {}, t(`rule_${rule}`)), el("span", {}, grouped(count), " ", el("small", {}, t("changes")))),
      el("div.cards", {}, samples.map((one) => el("article.sample", {},
        el("div.change", {}, el("small", {}, t("before")), el("bdi", {}, marked(one.was, "del")), el("small", {}, t("after")), el("bdi", {}, marked(one.is, "ins"))),
        el("p.at", {}, quoted(`${one.source} · ${one.where}`))))))));
}

const sources = (data) =>
  el("section", {}, el("h2", {}, t("matrix")), el("div.scroll", {}, el("table.plain", {},
    el("thead", {}, el("tr", {}, ["source", "documents_read", "train", "heldout_part", "rejected", "licence"].map((key) => el("th", { scope: "col" }, t(key))))),
    el("tbody", {}, Object.entries(data.sources).map(([name, one]) => el("tr", {},
      el("th", { scope: "row" }, quoted(name)), ...[one.read, one.train, one.heldout].map((part) => el("td", {}, grouped(part.documents))),
      el("td", {}, grouped(Object.values(one.rejected).reduce((sum, value) => sum + value, 0))), el("td", {}, one.licence || "–")))))));

const keptOnes = (documents) =>
  documents.length ? el("section", {}, el("h2", {}, t("kept")), el("p.lead", {}, t("kept_lead")), el("div.cards", {}, documents.map(example))) : null;

const unreadable = (lines) =>
  lines.length ? el("section", {}, el("h2", {}, t("unreadable")), el("ul.lines", {}, lines.map((line) => el("li", {}, quoted(typeof line === "string" ? line : JSON.stringify(line)))))) : null;
