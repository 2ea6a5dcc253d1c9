// Which page is shown, and that it stays true: fetching, refreshing, and saying when it cannot.

import { devicePage } from "./device.js";
import { fleetPage } from "./fleet.js";
import { ago, clock, fill, h } from "./format.js";

const REFRESH = 15_000;
// Scans are made every five minutes; three missed are no accident.
const LATE_SCAN = 15 * 60_000;

/**
 * @typedef {object} Page
 * @property {string} title
 * @property {string} source path of the document that it shows
 * @property {HTMLElement} element
 * @property {(document: any, act: Act) => { title?: string, scanned?: string | null }} show
 */
/** What a button asks for. @typedef {(path: string, body: object) => Promise<void>} Act */

const main = /** @type {HTMLElement} */ (document.getElementById("main"));
const notice = /** @type {HTMLElement} */ (document.getElementById("notice"));
const freshness = /** @type {HTMLElement} */ (document.getElementById("freshness"));

/** @type {Page} */
let page;
let request = new AbortController();
/** @type {ReturnType<typeof setTimeout> | undefined} */
let timer;
/** When the page was last known to be true. @type {number | undefined} */
let updated;

/** An answer that is none: what the server says of it. */
class Refusal extends Error {
  /** @param {import("../api-server/src/documents.ts").Problem} problem @param {number} status 0 where there is no answer */
  constructor(problem, status = 0) {
    super(problem.message);
    this.problem = problem;
    this.status = status;
  }
}

/** @param {string} path @param {RequestInit} options */
async function ask(path, options) {
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
  const body = await answer.json().catch(() => ({ error: answer.statusText, message: "no JSON" }));
  if (!answer.ok) throw new Refusal(body, answer.status);
  return body;
}

/** Fetch the page's document and show it; go on doing so. */
async function refresh() {
  clearTimeout(timer);
  request.abort();
  request = new AbortController();
  const { signal } = request;
  try {
    const found = await ask(page.source, { signal });
    const { title, scanned } = page.show(found, act);
    updated = Date.now();
    document.title = `${title ?? page.title} · pyml`;
    if (main.firstChild !== page.element) fill(main, page.element);
    main.classList.remove("stale");
    warnOfLateScans(scanned);
  } catch (error) {
    if (signal.aborted) return;
    if (!(error instanceof Refusal)) console.error(error);
    if (error instanceof Refusal) showFailure(error.problem, error.status);
    else showFailure({ error: "", message: String(error) });
  }
  main.setAttribute("aria-busy", "false");
  tellFreshness();
  if (!document.hidden) timer = setTimeout(refresh, REFRESH);
}

/** Have the server do something, and show what came of it. @type {Act} */
async function act(path, body) {
  try {
    await ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) });
    await refresh();
  } catch (error) {
    const { message } = /** @type {Error} */ (error);
    notice.hidden = false;
    notice.className = "notice bad";
    fill(notice, h("strong", {}, "That was not done. "), message);
  }
}

/** @param {string | null | undefined} scanned */
function warnOfLateScans(scanned) {
  const late = scanned ? Date.now() - new Date(scanned).getTime() > LATE_SCAN : false;
  notice.hidden = !late;
  notice.className = "notice";
  if (!late || !scanned) return;
  fill(
    notice,
    h("strong", {}, `The last scan was ${ago(scanned)}. `),
    "Anomalies and forecasts here are as old. ",
    h("code", {}, "CALL ml_scan();"),
  );
}

/** @param {import("../api-server/src/documents.ts").Problem} problem @param {number} status */
function showFailure({ message, detail, hint }, status = 0) {
  if (status === 401) return askForToken(message);
  const retry = h("button", { type: "button", id: "retry" }, "Try again");
  retry.addEventListener("click", () => void refresh());
  if (updated === undefined) {
    // Nothing to show yet: the failure is the page.
    notice.hidden = true;
    fill(
      main,
      h(
        "section",
        { class: "panel failure", role: "alert" },
        h("h1", {}, "This cannot be shown"),
        h("p", {}, message),
        detail && detail !== message && h("p", { class: "muted" }, detail),
        hint && h("p", {}, "What helps: ", h("code", {}, hint)),
        h("p", {}, retry, " ", h("a", { href: "#/" }, "To the fleet")),
      ),
    );
    return;
  }
  main.classList.add("stale");
  notice.hidden = false;
  notice.className = "notice bad";
  fill(
    notice,
    h("strong", {}, `Not refreshed since ${clock(updated)}. `),
    `${message} What is shown may be out of date. `,
    retry,
  );
}

/** Who gives a token is asked no more until the tab is closed. @param {string} why */
function askForToken(why) {
  const input = h("input", { type: "password", id: "token", autocomplete: "off", required: true });
  const form = h("form", { class: "controls" }, h("label", {}, "Token ", input), h("button", {}, "Go on"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem("token", input.value.trim());
    void refresh();
  });
  notice.hidden = true;
  updated = undefined;
  fill(main, h("section", { class: "panel failure", role: "alert" }, h("h1", {}, "Who are you?"), h("p", {}, `${why}.`), form));
}

function tellFreshness() {
  if (updated === undefined) {
    freshness.textContent = main.getAttribute("aria-busy") === "true" ? "loading …" : "no data";
    return;
  }
  const age = (Date.now() - updated) / 1000;
  const live = age < 60 && !main.classList.contains("stale");
  freshness.classList.toggle("old", !live);
  freshness.textContent = live ? `live · ${clock(updated)}` : `as of ${clock(updated)}`;
}

function open() {
  const [path = "", query] = location.hash.replace(/^#\/?/, "").split("?");
  const [kind, id] = path.split("/");
  if (location.hash === "#main") return main.focus();
  const first = page === undefined;
  const options = new URLSearchParams(query);
  page = kind === "device" && id ? devicePage(decodeURIComponent(id), options) : fleetPage();
  updated = undefined;
  document.title = `${page.title} · pyml`;
  notice.hidden = true;
  main.classList.remove("stale");
  main.setAttribute("aria-busy", "true");
  fill(main, skeleton());
  tellFreshness();
  if (!first) main.focus();
  void refresh();
}

function skeleton() {
  const block = (/** @type {string} */ kind) => h("div", { class: `ghost ${kind}` });
  return h(
    "div",
    { class: "loading", role: "status" },
    h("span", { class: "unseen" }, "Loading"),
    ...["line", "tiles", "tall", "tall"].map(block),
  );
}

window.addEventListener("hashchange", open);
window.addEventListener("online", () => void refresh());
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) void refresh();
});
setInterval(tellFreshness, 5_000);
open();
