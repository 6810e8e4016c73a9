// Talks to the server's OpenAI-style endpoints.

/** What went wrong: `code` is the server's, or "offline" or "broken". */
export class ServerError extends Error {
  constructor(message, code, status = 0) {
    super(message);
    this.code = code;
    this.status = status;
  }
}

async function ask(path, { key, signal, body }) {
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  if (body) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, {
      method: body ? "POST" : "GET",
      headers,
      signal,
      body: body ? JSON.stringify(body) : undefined,
    });
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new ServerError(String(error.message ?? error), "offline");
  }
  if (response.ok) return response;
  const { error } = await response.json().catch(() => ({}));
  throw new ServerError(error?.message ?? response.statusText, error?.code ?? null, response.status);
}

/** The model being served: {id, context_length, ...}. */
export async function model(key) {
  const response = await ask("/v1/models", { key });
  return (await response.json()).data[0];
}

/** Yield the chunks of a streamed answer as the server sends them. */
export async function* answer(body, { key, signal, path = "/v1/chat/completions" }) {
  const request = { ...body, stream: true, stream_options: { include_usage: true }, truncation: "auto" };
  const response = await ask(path, { key, signal, body: request });
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) throw new ServerError("the stream ended early", "broken");
      buffer += value;
      const events = buffer.split("\n\n");
      buffer = events.pop();
      for (const event of events) {
        if (!event.startsWith("data: ")) continue; // a heartbeat
        const data = event.slice(6);
        if (data === "[DONE]") return;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new ServerError(chunk.error.message, chunk.error.code, 500);
        yield chunk;
      }
    }
  } catch (error) {
    if (signal.aborted || error instanceof ServerError) throw error;
    throw new ServerError(String(error.message ?? error), "broken");
  } finally {
    reader.cancel().catch(() => {});
  }
}
