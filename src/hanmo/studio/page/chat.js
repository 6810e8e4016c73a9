// Talking to one model, or to two side by side: the same words and the same settings for both.
import { ask, key } from "./api.js";
import { answer } from "./client.js";
import { el, quoted, say } from "./dom.js";
import { Settings } from "./settings.js";
import { named, t, word } from "./words.js";

/** What outlives a visit to another view: the models, the way of asking, the turns {asked, answers: [text, text]}. */
const kept = { models: ["", ""], mode: "chat", turns: [], text: "" };
const settings = new Settings();

export default async function draw([wanted]) {
  const all = await ask("/models");
  if (!all.length) return { node: el("div", {}, el("h1", {}, t("nav_chat")), el("p.lead", {}, t("no_models"))), title: word("nav_chat") };
  const there = (id) => all.some((one) => one.id === id);
  kept.models = kept.models.map((id) => (there(id) ? id : ""));
  if (there(wanted) && wanted !== kept.models[0]) choose(0, wanted);
  if (!kept.models[0]) {
    const newest = all.filter((one) => one.run === all[0].run && !one.id.endsWith(".gguf"));
    choose(0, (newest.findLast((one) => one.chats) ?? newest.at(-1) ?? all[0]).id);
  }

  let running = null;
  const talk = el("div.talk", { role: "log", "aria-live": "off", tabindex: "0" });
  named(talk, "aria-label", "talk");
  const input = el("textarea", { rows: "2", autocomplete: "off", enterkeyhint: "send" });
  named(input, "placeholder", "ask");
  named(input, "aria-label", "ask");
  input.value = kept.text;
  const send = el("button.strong", { type: "submit" });
  const fresh = el("button", { type: "button", onclick: clear }, t("new_talk"));
  const selects = [0, 1].map((side) => {
    const none = side ? [named(el("option", { value: "" }), "text", "none")] : [];
    const select = el("select", { onchange: () => { choose(side, select.value); modes(); redraw(); } },
      none, all.map((one) => el("option", { value: one.id }, one.name)));
    select.value = kept.models[side];
    return select;
  });
  const radios = ["chat", "continue"].map((name) =>
    el("label", {}, el("input", { type: "radio", name: "mode", value: name, onchange: () => { kept.mode = name; clear(); } }), t(`${name}_mode`)));
  const mode = named(el("div.modes", { role: "radiogroup" }, radios), "aria-label", "mode");
  const ideas = el("p.ideas", {}, ["idea_1", "idea_2", "idea_3"].map((name) =>
    el("button", { type: "button", onclick: () => { input.value = word(name); submit(); } }, t(name))));
  const form = el("form.composer", { onsubmit: (event) => { event.preventDefault(); if (running) running.abort(); else submit(); } },
    input, el("div.buttons", {}, send, fresh));

  function choose(side, id) {
    kept.models[side] = id;
    kept.turns = [];
    const one = all.find((other) => other.id === id);
    if (one && !side) kept.mode = one.chats ? "chat" : "continue";
  }

  function modes() {
    for (const label of radios) label.firstChild.checked = label.firstChild.value === kept.mode;
  }

  function busy() {
    send.replaceChildren(t(running ? "stop" : "send"));
    fresh.disabled = !kept.turns.length;
    ideas.hidden = kept.turns.length > 0;
  }

  function clear() {
    running?.abort();
    kept.turns = [];
    redraw();
    input.focus();
  }

  const toEnd = () => scrollTo(0, document.body.scrollHeight);
  const sides = () => kept.models.filter(Boolean);

  function redraw() {
    talk.replaceChildren(...kept.turns.map(turn));
    talk.classList.toggle("two", sides().length > 1);
    busy();
  }

  const header = (index) => (sides().length > 1 ? el("small.who", {}, all.find((one) => one.id === sides()[index])?.name) : null);

  function turn(one) {
    one.nodes = one.answers.map((text, index) => el("article.answer", {}, header(index), el("p", {}, kept.mode === "continue" ? quoted(one.asked, "mark") : null, quoted(text, "span"))));
    return el("div.turn", {}, kept.mode === "chat" ? el("p.asked", {}, quoted(one.asked)) : null, el("div.answers", {}, one.nodes));
  }

  async function submit() {
    const asked = input.value.trim();
    if (!asked || running) return;
    input.value = kept.text = "";
    const one = { asked, answers: sides().map(() => "") };
    kept.turns.push(one);
    running = new AbortController();
    talk.append(turn(one));
    busy();
    toEnd();
    const own = running;
    await Promise.all(sides().map((id, index) => write(one, index, id, own.signal)));
    if (running === own) running = null;
    busy();
    say(one.answers.join("\n\n"));
  }

  /** Stream one side's answer into the page. */
  async function write(one, index, model, signal) {
    const node = one.nodes[index];
    const text = node.querySelector("p > span:last-child");
    const foot = el("small.foot", {}, t("thinking"));
    node.append(foot);
    node.classList.add("live");
    const began = performance.now();
    let first = null;
    let [tokens, end, dropped] = [0, null, false];
    try {
      for await (const chunk of answer({ model, ...request(one, index), ...settings.values() }, { key: key(), signal, path: kept.mode === "chat" ? "/v1/chat/completions" : "/v1/completions" })) {
        const stay = innerHeight + scrollY > document.body.scrollHeight - 80;
        first ??= performance.now();
        const choice = chunk.choices[0];
        const piece = choice?.delta?.content ?? choice?.text;
        if (piece) {
          one.answers[index] += piece;
          text.append(...el("i", {}, piece).childNodes);
          foot.replaceChildren();
        }
        dropped ||= Boolean(chunk.dropped_messages);
        end = choice?.finish_reason ?? end;
        tokens = chunk.usage?.completion_tokens ?? tokens;
        if (stay) toEnd();
      }
      if (!one.answers[index]) text.replaceChildren(el("em", {}, t("empty_answer")));
      const seconds = Math.max((performance.now() - (first ?? began)) / 1000, 0.001);
      finish([t("speed", { count: tokens, seconds: ((performance.now() - began) / 1000).toFixed(1), rate: Math.round(tokens / seconds) }),
        end === "length" ? [" · ", t("cut_answer")] : null, dropped ? [" · ", t("dropped_turns")] : null]);
    } catch (error) {
      if (signal.aborted) finish(t("stopped"));
      else finish(el("span.fault", { role: "alert" }, error.code === "offline" ? t("offline") : error.message));
    }

    function finish(told) {
      node.classList.remove("live");
      const stay = innerHeight + scrollY > document.body.scrollHeight - 120;
      foot.replaceChildren(...el("span", {}, told).childNodes);
      if (one.answers[index]) foot.append(" · ", copying(one.answers[index]));
      if (stay) toEnd();
    }
  }

  /** What is asked: the conversation as this side has seen it, or the text to go on with. */
  function request(one, index) {
    if (kept.mode === "continue") return { prompt: one.asked };
    const before = kept.turns.slice(0, kept.turns.indexOf(one)).flatMap(({ asked, answers }) => [
      { role: "user", content: asked }, { role: "assistant", content: answers[index] ?? "" }]);
    const system = settings.system();
    return { messages: [...(system ? [{ role: "system", content: system }] : []), ...before, { role: "user", content: one.asked }] };
  }

  input.addEventListener("input", () => { kept.text = input.value; });
  input.addEventListener("keydown", (event) => {
    // While an input method composes, Enter picks a candidate. Safari says so only by the old code 229.
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
    event.preventDefault();
    submit();
  });
  const escape = (event) => { if (event.key === "Escape" && !event.isComposing) running?.abort(); };
  addEventListener("keydown", escape);
  modes();
  redraw();
  return {
    node: el("div.chat", {},
      el("div.heading", {}, el("h1", {}, t("nav_chat")), mode),
      el("div.choosing", {}, ["model_a", "model_b"].map((name, side) => el("label", {}, el("span", {}, t(name)), selects[side]))),
      settings.node, talk, ideas, form, el("p.lead.small", {}, t("keys"))),
    title: word("nav_chat"),
    shown: () => input.focus({ preventScroll: true }),
    leave: () => {
      running?.abort();
      removeEventListener("keydown", escape);
    },
  };
}

function copying(text) {
  const button = el("button.link", { type: "button", onclick: async () => {
    await navigator.clipboard.writeText(text).catch(() => {});
    button.replaceChildren(t("copied"));
    setTimeout(() => button.replaceChildren(t("copy")), 1500);
  } }, t("copy"));
  return button;
}
