// Asks the studio's server; a missing key is asked of the visitor once, and what waits for it goes on.
import { el } from "./dom.js";
import { named, t } from "./words.js";

export class ServerError extends Error {
  constructor(message, status = 0) {
    super(message);
    this.status = status;
  }
}

export function key() {
  try {
    return JSON.parse(sessionStorage.getItem("hanmo.key")) ?? "";
  } catch {
    return "";
  }
}

/** A path below the API from names that may hold anything. */
export const path = (...names) => "/" + names.map(encodeURIComponent).join("/");

export async function ask(where, { body, signal, raw = false } = {}) {
  const headers = key() ? { authorization: `Bearer ${key()}` } : {};
  if (body) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch("/v1/studio" + where, {
      method: body ? "POST" : "GET", headers, signal, body: body ? JSON.stringify(body) : undefined,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ServerError("", 0);
  }
  if (response.ok) return raw ? response : response.json();
  if (response.status === 401) {
    await wanted();
    return ask(where, { body, signal, raw });
  }
  const { error } = await response.json().catch(() => ({}));
  throw new ServerError(error?.message ?? response.statusText, response.status);
}

let asking = null;

/** Ask for the key; resolves when one was given. */
export function wanted() {
  asking ??= new Promise((resolve) => {
    const input = el("input", { type: "password", autocomplete: "off", spellcheck: "false", id: "key", required: true });
    const dialog = el("dialog.ask", { "aria-labelledby": "key-title" },
      el("form", { method: "dialog" },
        el("h2", { id: "key-title" }, t("key")), el("p", {}, t("key_needed")), input,
        el("p", {}, el("button.strong", { type: "submit" }, t("open")))));
    named(input, "aria-label", "key");
    dialog.addEventListener("cancel", (event) => event.preventDefault());
    dialog.addEventListener("close", () => {
      try {
        sessionStorage.setItem("hanmo.key", JSON.stringify(input.value.trim()));
      } catch {
        // A private window may refuse; the key is asked for again.
      }
      dialog.remove();
      asking = null;
      resolve();
    });
    document.body.append(dialog);
    dialog.showModal();
  });
  return asking;
}

/** What went wrong, for the page. A view that cannot be fetched is a server that is gone, too. */
export function complaint(error) {
  const gone = error instanceof ServerError ? !error.status : error instanceof TypeError && /import/.test(error.message);
  return gone ? t("offline") : String(error.message ?? error);
}
