// The page's words, in Chinese and English, by the browser's language.
const zh = {
  clear: "新对话",
  settings: "设置",
  welcome: "落笔成言，有问有答",
  ask: "写点什么……",
  send: "发送",
  stop: "停止",
  down: "到最新处",
  hint: "Enter 发送 · Shift + Enter 换行 · Esc 停止",
  temperature: "温度",
  temperatureDoc: "越低越稳重，越高越多变；0 总取最可能的字词。",
  topP: "核采样 top-p",
  topPDoc: "只从最可能的一部分字词里选；1 为不限。",
  maxTokens: "回答长度上限",
  maxTokensDoc: "以词元计；超过即停。",
  key: "密钥",
  keyDoc: "服务器要求密钥时填写，仅存于本页会话。",
  defaults: "恢复默认",
  done: "好",
  copy: "复制",
  copied: "已复制",
  again: "重试",
  edit: "修改",
  stopped: "已停止",
  cut: "到达长度上限",
  empty: "（没有回答）",
  tokens: (count, seconds) => `${count} 词元 · ${seconds.toFixed(1)} 秒 · 每秒 ${Math.round(count / seconds)}`,
  context: (count) => `上下文 ${count} 词元`,
  dropped: "对话太长，较早的内容已不在模型眼中",
  failed: "没能得到回答",
  offline: "连不上服务器。它还在运行吗？",
  broken: "回答到一半，连接断了。",
  needsKey: "服务器需要密钥：请在“设置”里填写。",
  tooLong: "这段话太长，模型读不下；请缩短一些。",
  crowded: "现在人多，请稍后再试。",
  ideas: ["你好！你会做什么？", "给我讲一个小故事", "春天来了，花园里有什么？"],
};
const en = {
  clear: "New chat",
  settings: "Settings",
  welcome: "Put brush to paper, and it answers",
  ask: "Write something…",
  send: "Send",
  stop: "Stop",
  down: "To the newest",
  hint: "Enter sends · Shift + Enter for a new line · Esc stops",
  temperature: "Temperature",
  temperatureDoc: "Lower is steadier, higher more varied; 0 always takes the likeliest token.",
  topP: "Top-p",
  topPDoc: "Draw only from the likeliest tokens that sum to this; 1 is no limit.",
  maxTokens: "Longest answer",
  maxTokensDoc: "In tokens; the answer ends there.",
  key: "API key",
  keyDoc: "If the server asks for one. Kept for this session of the page only.",
  defaults: "Defaults",
  done: "Done",
  copy: "Copy",
  copied: "Copied",
  again: "Try again",
  edit: "Edit",
  stopped: "Stopped",
  cut: "Longest answer reached",
  empty: "(no answer)",
  tokens: (count, seconds) => `${count} tokens · ${seconds.toFixed(1)} s · ${Math.round(count / seconds)} per second`,
  context: (count) => `context of ${count} tokens`,
  dropped: "The talk is long: the model no longer sees its beginning",
  failed: "No answer this time",
  offline: "The server cannot be reached. Is it still running?",
  broken: "The connection broke in the middle of the answer.",
  needsKey: "The server wants an API key: enter it in the settings.",
  tooLong: "That is more than the model can read; please shorten it.",
  crowded: "Many are asking just now; please try again in a moment.",
  ideas: ["你好！你会做什么？", "给我讲一个小故事", "春天来了，花园里有什么？"],
};

const chinese = (navigator.languages?.[0] ?? navigator.language ?? "zh").toLowerCase().startsWith("zh");
export const words = chinese ? zh : en;

/** Put the words where the page's data-text, data-title and data-placeholder attributes want them. */
export function fillIn() {
  document.documentElement.lang = chinese ? "zh-CN" : "en";
  for (const node of document.querySelectorAll("[data-text]")) node.textContent = words[node.dataset.text];
  for (const node of document.querySelectorAll("[data-placeholder]")) {
    node.placeholder = words[node.dataset.placeholder];
    node.setAttribute("aria-label", node.placeholder);
  }
  for (const node of document.querySelectorAll("[data-title]")) label(node, words[node.dataset.title]);
}

/** Name a button for the mouse and for screen readers. */
export function label(node, text) {
  node.title = text;
  node.setAttribute("aria-label", text);
}
