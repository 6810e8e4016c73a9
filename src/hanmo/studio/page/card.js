// The model card: a small part of Markdown, made into elements and never into markup.
import { ask, path } from "./api.js";
import { el, quoted } from "./dom.js";
import { t } from "./words.js";

export default async function draw(id, stage) {
  const { text } = await ask(path("runs", id, stage.id, "card"));
  const [, head, body] = text.match(/^---\n([\s\S]*?)\n---\n([\s\S]*)$/) ?? [null, "", text];
  return {
    node: el("section.modelcard", {}, el("h2", {}, t("model_card")),
      el("div.markdown", {}, blocks(body.replace(/<!--[\s\S]*?-->/g, ""))),
      head ? el("details", {}, el("summary", {}, t("metadata")), el("pre", {}, head)) : null),
  };
}

function blocks(text) {
  const found = [];
  const lines = text.split("\n");
  while (lines.length) {
    const line = lines.shift();
    const heading = line.match(/^(#{1,6}) (.*)/);
    if (!line.trim()) continue;
    if (line.startsWith("```")) {
      const code = [];
      while (lines.length && !lines[0].startsWith("```")) code.push(lines.shift());
      lines.shift();
      found.push(el("pre", {}, code.join("\n")));
    } else if (heading) found.push(el(heading[1].length > 2 ? "h4" : "h3", {}, inline(heading[2])));
    else if (line.startsWith("|")) {
      const rows = [line];
      while (lines[0]?.startsWith("|")) rows.push(lines.shift());
      found.push(table(rows));
    } else if (/^[-*] /.test(line)) {
      const items = [line];
      while (/^([-*] |  \S)/.test(lines[0] ?? "")) items.push(lines.shift());
      found.push(el("ul.lines", {}, items.map((one) => el("li", {}, inline(one.replace(/^[-*] /, ""))))));
    } else {
      const part = [line];
      while (lines.length && lines[0].trim() && !/^(#|\||```|[-*] )/.test(lines[0])) part.push(lines.shift());
      found.push(el("p", {}, inline(part.join(" "))));
    }
  }
  return found;
}

function table(rows) {
  const cells = (row) => row.replace(/^\||\|\s*$/g, "").split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
  const [head, ...rest] = rows.filter((row) => !/^\|[\s:|-]+\|?\s*$/.test(row)).map(cells);
  return el("div.scroll", {}, el("table.plain", {}, el("thead", {}, el("tr", {}, head.map((cell) => el("th", { scope: "col" }, inline(cell))))),
    el("tbody", {}, rest.map((row) => el("tr", {}, row.map((cell) => el("td", {}, inline(cell))))))));
}

/** **bold**, `code`; links are shown with their address, which is not followed from here. */
function inline(text) {
  return text.split(/(\*\*[^*]+\*\*|`[^`]+`)/).map((part) => {
    if (part.startsWith("**") && part.endsWith("**") && part.length > 4) return el("b", {}, part.slice(2, -2));
    if (part.startsWith("`") && part.endsWith("`") && part.length > 2) return el("code", {}, part.slice(1, -1));
    return quoted(part, "span");
  });
}
