// Server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html), as far as APIs use them.

/** The data of each event in a response's body. Ending the iteration early closes the connection. */
export async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      const parts = (held + value).split(/\r?\n\r?\n/);
      held = parts.pop();
      for (const part of parts) {
        const data = dataOf(part);
        if (data !== "") yield data;
      }
    }
  } finally {
    reader.cancel().catch(() => {}); // it may have failed already, which the reader was told
  }
}

/** An event's data; comments, which keep connections alive, have none. */
function dataOf(part) {
  const lines = part.split(/\r?\n/).filter((line) => line.startsWith("data:"));
  return lines.map((line) => line.slice(5).replace(/^ /, "")).join("\n");
}
