// Files that can be taken along, and the commands that make more of a model.
import { ask, complaint, key, path } from "./api.js";
import { bytes, el } from "./dom.js";
import { t } from "./words.js";

export default async function draw(id, stage) {
  const [found, models] = await Promise.all([ask(path("runs", id, stage.id, "files")), ask("/models")]);
  const writers = models.filter((one) => one.run === id && one.stage === stage.id);
  if (!found.length) return { node: el("section", { hidden: true }) };
  const where = path("runs", id, stage.id);
  const model = found.filter((one) => one.name.startsWith("model/"));
  const whole = model.reduce((sum, one) => sum + one.bytes, 0);
  return {
    node: el("section.files", {}, el("h2", {}, t("files")),
      el("p.offers", {},
        writers.length ? el("a", { href: "#/chat/" + encodeURIComponent(writers[0].id) }, t("talk_to")) : null,
        model.length ? offer(`${where}/model.zip`, `${stage.id}.zip`, t("whole_model"), whole) : null,
        stage.shows.includes("report") && !key() ? el("a.button", { href: `/v1/studio${where}/report`, target: "_blank", rel: "noopener" }, t("open_report")) : null),
      el("details", { open: !model.length }, el("summary", {}, t("single_files")),
        el("ul.lines", {}, found.map((one) => el("li", {}, offer(`${where}/files/${one.name.split("/").map(encodeURIComponent).join("/")}`, one.name.split("/").at(-1), one.name, one.bytes)))))),
  };
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
