// The chat page. What a model writes only ever becomes text nodes, never HTML.
import { answer, model, ServerError } from "./client.js";
import { fillIn, label, words } from "./words.js";

const $ = (id) => document.getElementById(id);
const [scroll, talk, welcome, input, send, composer] = ["scroll", "talk", "welcome", "input", "send", "composer"].map($);
const DEFAULTS = { temperature: 0.7, top_p: 0.9, max_tokens: 512 };
const settings = { ...DEFAULTS, ...stored(localStorage, "hanmo.settings", {}) };

/** The conversation so far: {role, content}; a question without an answer stands last while it is being asked. */
let messages = stored(sessionStorage, "hanmo.talk", []);
/** Aborts the answer being written; null when none is. */
let running = null;
/** The failed question's nodes, while "try again" is offered. */
let failed = [];

function stored(storage, name, otherwise) {
  try {
    return JSON.parse(storage.getItem(name)) ?? otherwise;
  } catch {
    return otherwise;
  }
}

function keep(storage, name, value) {
  try {
    storage.setItem(name, JSON.stringify(value));
  } catch {
    // Private windows may refuse; the page works without.
  }
}

function element(tag, name, text) {
  const node = document.createElement(tag);
  if (name) node.className = name;
  if (text !== undefined) node.textContent = text;
  return node;
}

// ---- conversation ----

function addTurn(role, text) {
  welcome.hidden = true;
  const turn = element("article", `turn ${role}`);
  turn.append(element("p", "", text));
  talk.append(turn);
  return turn;
}

function addFoot(turn, text, parts) {
  const foot = element("div", "foot");
  for (const part of parts) foot.append(element("span", "", part));
  if (text) {
    const copy = element("button", "", words.copy);
    copy.type = "button";
    copy.onclick = async () => {
      await navigator.clipboard.writeText(text).catch(() => {});
      copy.textContent = words.copied;
      setTimeout(() => (copy.textContent = words.copy), 1500);
    };
    foot.append(copy);
  }
  turn.append(foot);
}

const pinned = () => scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 60;
function toEnd() {
  scroll.scrollTop = scroll.scrollHeight;
}

function explain(error) {
  if (error.code === "offline") return words.offline;
  if (error.code === "broken") return words.broken;
  if (error.status === 401) return words.needsKey;
  if (error.status === 503 || error.status === 429) return words.crowded;
  if (error.code === "context_length_exceeded") return words.tooLong;
  return error.message;
}

function addError(error, question) {
  const card = element("div", "turn error");
  card.setAttribute("role", "alert");
  const icon = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  icon.setAttribute("viewBox", "0 0 24 24");
  const path = document.createElementNS(icon.namespaceURI, "path");
  path.setAttribute("d", "M12 8v5M12 16.5v.01M12 3.5l9.5 16.5h-19z");
  icon.append(path);
  // The same question would be too long again; any other fault may pass.
  const tooLong = error.code === "context_length_exceeded";
  const again = element("button", "", tooLong ? words.edit : words.again);
  again.type = "button";
  again.onclick = () => {
    dropFailed();
    if (!tooLong) return ask(question);
    welcome.hidden = messages.length > 0;
    input.value = question;
    grow();
    input.focus();
  };
  card.append(icon, element("b", "", words.failed), element("small", "", explain(error)), again);
  talk.append(card);
  return card;
}

/** Take a question that got no answer out of the conversation. */
function dropFailed() {
  for (const node of failed) node.remove();
  if (failed.length) messages.pop();
  failed = [];
}

async function ask(question) {
  dropFailed();
  messages.push({ role: "user", content: question });
  const asked = addTurn("user", question);
  const turn = addTurn("assistant", "");
  turn.classList.add("live");
  const paragraph = turn.firstChild;
  toEnd();
  running = new AbortController();
  const { signal } = running;
  showBusy();

  const started = performance.now();
  let text = "";
  let end = null;
  let tokens = 0;
  let noted = false;
  try {
    const body = { messages, ...settings };
    for await (const chunk of answer(body, { key: sessionKey(), signal })) {
      const stay = pinned();
      if (chunk.dropped_messages && !noted) {
        noted = true;
        talk.querySelector(".note")?.remove(); // one note, at the newest cut
        asked.before(element("div", "turn note", words.dropped));
      }
      const choice = chunk.choices[0];
      const piece = choice?.delta.content;
      if (piece) {
        text += piece;
        paragraph.append(piece); // a string: becomes a text node
      }
      end = choice?.finish_reason ?? end;
      tokens = chunk.usage?.completion_tokens ?? tokens;
      if (stay) toEnd();
      showDown();
    }
    finish();
  } catch (error) {
    if (signal.aborted) finish(words.stopped);
    else fail(error);
  }
  if (running?.signal === signal) running = null;
  showBusy();
  showDown();

  function finish(note) {
    if (!talk.contains(turn)) return; // cleared meanwhile
    const stay = pinned();
    turn.classList.remove("live");
    if (!text) paragraph.textContent = note ? "" : words.empty;
    const parts = [];
    if (note) parts.push(note);
    if (end === "length") parts.push(words.cut);
    if (tokens) parts.push(words.tokens(tokens, Math.max((performance.now() - started) / 1000, 0.001)));
    addFoot(turn, text, parts);
    messages.push({ role: "assistant", content: text });
    keep(sessionStorage, "hanmo.talk", messages);
    $("spoken").textContent = text;
    if (stay) toEnd();
  }

  function fail(error) {
    if (!talk.contains(turn)) return;
    turn.classList.remove("live");
    if (!text) turn.remove();
    failed = [asked, turn, addError(error instanceof ServerError ? error : new ServerError(String(error)), question)];
    keep(sessionStorage, "hanmo.talk", messages.slice(0, -1));
    toEnd();
  }
}

function clear() {
  running?.abort();
  running = null;
  failed = [];
  messages = [];
  keep(sessionStorage, "hanmo.talk", messages);
  talk.replaceChildren();
  welcome.hidden = false;
  showBusy();
  showDown();
  input.focus();
}

// ---- composer ----

function showBusy() {
  document.body.classList.toggle("busy", running !== null);
  label(send, running ? words.stop : words.send);
  send.disabled = !running && !input.value.trim();
}

function grow() {
  input.style.height = "auto";
  input.style.height = `${input.scrollHeight}px`;
  showBusy();
}

function showDown() {
  $("down").hidden = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 120;
}

function submit() {
  const question = input.value.trim();
  if (running || !question) return;
  input.value = "";
  grow();
  ask(question);
}

composer.addEventListener("submit", (event) => {
  event.preventDefault();
  if (running) running.abort();
  else submit();
});
input.addEventListener("input", grow);
input.addEventListener("keydown", (event) => {
  // While an input method composes, Enter picks a candidate. Safari says so only by the old code 229.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
  event.preventDefault();
  submit();
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !event.isComposing && !$("settings").open) running?.abort();
});
scroll.addEventListener("scroll", showDown, { passive: true });
$("down").onclick = toEnd;
$("clear").onclick = clear;

// ---- settings ----

const dialog = $("settings");
function sessionKey() {
  return stored(sessionStorage, "hanmo.key", "");
}
function showSettings() {
  for (const name of Object.keys(DEFAULTS)) {
    $(name).value = settings[name]; // the slider keeps it within its range
    document.querySelector(`output[for=${name}]`).value = $(name).value;
  }
  $("key").value = sessionKey();
}
for (const name of Object.keys(DEFAULTS)) {
  $(name).addEventListener("input", () => {
    settings[name] = Number($(name).value);
    keep(localStorage, "hanmo.settings", settings);
    showSettings();
  });
}
$("key").addEventListener("change", () => keep(sessionStorage, "hanmo.key", $("key").value.trim()));
$("defaults").onclick = () => {
  Object.assign(settings, DEFAULTS);
  keep(localStorage, "hanmo.settings", settings);
  showSettings();
};
$("open-settings").onclick = () => {
  showSettings();
  dialog.showModal();
};
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close(); // the backdrop
});
dialog.addEventListener("close", () => {
  showModel();
  input.focus();
});

// ---- start ----

async function showModel() {
  try {
    const { id, context_length: context } = await model(sessionKey());
    $("model").textContent = id;
    $("context").textContent = words.context(context);
    document.title = `${id} · 翰墨`;
    const most = $("max_tokens");
    most.max = Math.min(2048, Math.max(16, Math.floor(context / 16) * 16));
  } catch (error) {
    $("context").textContent = explain(error);
  }
}

fillIn();
for (const idea of words.ideas) {
  const chip = element("button", "", idea);
  chip.type = "button";
  chip.onclick = () => running || ask(idea);
  $("ideas").append(chip);
}
for (const message of messages) {
  const turn = addTurn(message.role, message.content);
  if (message.role === "assistant") addFoot(turn, message.content, []);
}
toEnd();
grow();
showDown();
showModel();
