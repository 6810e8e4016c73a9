// Files that can be taken along, and the commands that make more of a model.
import { ask, complaint, key, path } from "./api.js";
import { bytes, el } from "./dom.js";
import { every } from "./live.js";
import { t } from "./words.js";

export default async function draw(id, stage) {
  const [found, models] = await Promise.all([ask(path("runs", id, stage.id, "files")), ask("/models")]);
  const writers = models.filter((one) => one.run === id && one.stage === stage.id);
  if (!found.length) return { node: el("section", { hidden: true }) };
  const where = path("runs", id, stage.id);
  const model = found.filter((one) => one.name.startsWith("model/"));
  const whole = model.reduce((sum, one) => sum + one.bytes, 0);
  const gguf = writers.some((one) => !one.id.endsWith(".gguf")) ? await exporting(id, stage) : null;
  return {
    leave: gguf?.leave,
    node: el("section.files", {}, el("h2", {}, t("files")),
      el("p.offers", {},
        writers.length ? el("a", { href: "#/chat/" + encodeURIComponent(writers[0].id) }, t("talk_to")) : null,
        model.length ? offer(`${where}/model.zip`, `${stage.id}.zip`, t("whole_model"), whole) : null,
        stage.shows.includes("report") && !key() ? el("a.button", { href: `/v1/studio${where}/report`, target: "_blank", rel: "noopener" }, t("open_report")) : null),
      gguf?.node,
      el("details", { open: !model.length }, el("summary", {}, t("single_files")),
        el("ul.lines", {}, found.map((one) => el("li", {}, offer(`${where}/files/${one.name.split("/").map(encodeURIComponent).join("/")}`, one.name.split("/").at(-1), one.name, one.bytes)))))),
  };
}

/** The model as a .gguf file, made by the server as a stage of its own. */
async function exporting(id, stage) {
  const where = path("runs", id, stage.id, "export");
  const first = await ask(where);
  const select = el("select", {}, first.formats.map((name) => el("option", { value: name, selected: name === "q8_0" }, name)));
  const button = el("button", { type: "submit" }, t("export"));
  const told = el("span", { role: "status" });
  let stop = () => {};
  function show(found) {
    button.disabled = found.state === "working";
    if (found.state === "working") told.replaceChildren(t("exporting"));
    else stop();
    if (found.state === "failed") told.replaceChildren(el("span.fault", {}, found.fault));
    if (found.state === "done") told.replaceChildren(el("a", { href: "#" + path("run", id, found.stage) }, t("exported", { name: found.stage })));
  }
  const follow = () => { stop = every(1000, async () => show(await ask(where))); };
  const form = el("form.export", { onsubmit: async (event) => {
    event.preventDefault();
    try {
      const begun = await ask(where, { body: { format: select.value } });
      follow();
      show(begun);
    } catch (error) {
      told.replaceChildren(el("span.fault", { role: "alert" }, complaint(error)));
    }
  } }, el("label", {}, t("export_as"), " ", select), button, told);
  if (first.state === "working") follow();
  show(first);
  return { node: form, leave: () => stop() };
}

/** A link that downloads; where there is a key, which links cannot send, the page fetches the file itself. */
function offer(where, name, label, size) {
  const link = el("a", { href: `/v1/studio${where}`, download: name }, label, " ", el("small", {}, bytes(size)));
  if (key())
    link.addEventListener("click", async (event) => {
      event.preventDefault();
      try {
        const response = await ask(where, { raw: true });
        const url = URL.createObjectURL(await response.blob());
        el("a", { href: url, download: name }).click();
        setTimeout(() => URL.revokeObjectURL(url), 60_000);
      } catch (error) {
        link.after(el("span.fault", {}, " ", complaint(error)));
      }
    });
  return link;
}
