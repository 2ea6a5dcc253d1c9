// The API server: what it is asked, what it is told to do, and what happens meanwhile.

/** @typedef {import("../api-server/src/documents.ts").Happening} Happening */

/** The server says something at least every 15 s. */
const SILENCE = 40_000;
const AGAIN = 3_000;

/** An answer that is none: what the server says of it. */
export class Refusal extends Error {
  /** @param {import("../api-server/src/documents.ts").Problem} problem @param {number} status 0 where there is no answer */
  constructor(problem, status = 0) {
    super(problem.message);
    this.problem = problem;
    this.status = status;
  }
}

/** @param {string} path @param {RequestInit} options */
async function answerOf(path, options) {
  const token = sessionStorage.getItem("token");
  const headers = { ...options.headers, ...(token && { Authorization: `Bearer ${token}` }) };
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    const message = "The server does not answer.";
    throw new Refusal({ error: "Offline", message, hint: "python3 install.py demo --dashboard" });
  }
  if (answer.ok) return answer;
  const problem = await answer.json().catch(() => ({ error: answer.statusText, message: "no JSON" }));
  throw new Refusal(problem, answer.status);
}

/** The document of a path. @param {string} path @param {AbortSignal} [signal] */
export async function get(path, signal) {
  return (await answerOf(path, { signal })).json();
}

/** Have the server do something, and give its answer. @param {string} path @param {object} body */
export async function post(path, body) {
  const headers = { "Content-Type": "application/json" };
  return (await answerOf(path, { method: "POST", headers, body: JSON.stringify(body) })).json();
}

/**
 * Follow what happens for as long as the page is seen: a browser has few connections for all its tabs.
 * @param {(event: Happening) => void} tell
 * @param {(live: boolean) => void} changed whether it is followed
 */
export function follow(tell, changed) {
  let stream = new AbortController();
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  let timer;

  async function read() {
    clearTimeout(timer);
    stream.abort();
    stream = new AbortController();
    const { signal } = stream;
    const within = () => {
      clearTimeout(timer);
      timer = setTimeout(() => stream.abort(), SILENCE);
    };
    try {
      within();
      const { body } = await answerOf("/events", { signal });
      changed(true);
      const reader = /** @type {ReadableStream} */ (body).pipeThrough(new TextDecoderStream()).getReader();
      for (let text = ""; ; ) {
        const { done, value } = await reader.read();
        if (done) break;
        within();
        const messages = (text + value).split("\n\n");
        text = messages.pop() ?? "";
        for (const message of messages) {
          const data = /^data: (.*)$/m.exec(message)?.[1];
          if (data) tell(JSON.parse(data));
        }
      }
    } catch (error) {
      if (error instanceof Refusal && error.status === 401) return clearTimeout(timer);
      // whatever else it was: it is tried again
    }
    if (stream.signal !== signal || document.hidden) return;
    changed(false);
    clearTimeout(timer);
    timer = setTimeout(read, AGAIN);
  }

  document.addEventListener("visibilitychange", () => (document.hidden ? stream.abort() : void read()));
  void read();
  return { again: () => void read() };
}
