// The server's API, as far as this page needs it.

import { events } from "./sse.js";
import { sentence } from "./dom.js";
import { recall, remember, forget } from "./store.js";

/** What the server, or the way to it, has against a request; the message is a sentence for people. */
export class Refusal extends Error {
  constructor(message, retryAfter = 0) {
    const again = retryAfter > 0 ? ` Try again in ${Math.ceil(retryAfter)} s.` : "";
    super(sentence(message) + again);
  }
}

/** Sends requests. `askKey(why)` returns a promise of an API key, or of null if there is none. */
export class Server {
  #askKey;
  #asking = null;

  constructor(askKey) {
    this.#askKey = askKey;
  }

  get hasKey() {
    return recall("session", "key", "") !== "";
  }

  forgetKey() {
    forget("session", "key");
  }

  /** The served models, as /v1/models lists them. */
  async models() {
    const response = await this.#send("v1/models", {});
    return (await response.json()).data;
  }

  /** Stream a chat completion: yields its chunks. Aborting the signal ends the work on the server too. */
  async *complete(body, signal) {
    const response = await this.#send("v1/chat/completions", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
      signal,
    });
    let finished = false;
    const stream = events(response.body);
    try {
      for (;;) {
        const { value, done } = await reached(stream.next(), signal, "The connection to the server was lost");
        if (done || value === "[DONE]") break;
        const chunk = JSON.parse(value);
        if (chunk.error) throw new Refusal(chunk.error.message);
        finished ||= chunk.choices.some((choice) => choice.finish_reason);
        yield chunk;
      }
    } finally {
      stream.return();
    }
    if (!finished) throw new Refusal("The answer broke off before its end");
  }

  /** A response that is fine. A key is asked for as long as the server wants another one. */
  async #send(path, init) {
    for (;;) {
      const key = recall("session", "key", "");
      const headers = { ...init.headers, ...(key && { authorization: `Bearer ${key}` }) };
      const request = fetch(new URL(path, document.baseURI), { ...init, headers });
      const response = await reached(request, init.signal, "The server cannot be reached; is it still running?");
      if (response.ok) return response;
      const why = await complaint(response);
      if (response.status !== 401 || !(await this.#newKey(key, why))) throw why;
    }
  }

  /** Whether there is another key to try; requests that fail together ask once. */
  async #newKey(old, why) {
    if (recall("session", "key", "") !== old) return true;
    this.#asking ??= this.#askKey(old ? why.message : "");
    const key = await this.#asking;
    this.#asking = null;
    if (key) remember("session", "key", key);
    return Boolean(key);
  }
}

/** What a promise gives; if it fails although nobody aborted it, the network is to blame. */
async function reached(promise, signal, message) {
  try {
    return await promise;
  } catch (error) {
    if (signal?.aborted) throw error;
    throw new Refusal(message);
  }
}

async function complaint(response) {
  const retryAfter = Number(response.headers.get("retry-after")) || 0;
  const body = await response.json().catch(() => null);
  const message = body?.error?.message ?? `The server answered with status ${response.status}`;
  return new Refusal(message, retryAfter);
}
