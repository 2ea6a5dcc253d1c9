// Which page is shown, and that it stays true: asking, refreshing, and saying when it cannot.

import { devicesPage } from "./devices.js";
import { ago, clock, fill, h } from "./format.js";
import { inboxPage } from "./inbox.js";
import { follow, get, post, Refusal } from "./server.js";

/**
 * A page. It asks for what it shows when it is opened, and again whenever that may have changed.
 * @typedef {object} Page
 * @property {string} title
 * @property {HTMLElement} element
 * @property {(server: Server) => Promise<Shown>} show
 * @property {(query: URLSearchParams) => void} [turn] has it show something else of the same, in place of a new page
 * @property {() => void} [leave] ends what it has begun
 */
/** @typedef {{ title?: string, scanned?: string | null }} Shown its title now, and the oldest scan that it goes by */
/**
 * What a page has of the server, for as long as it is shown.
 * @typedef {object} Server
 * @property {(path: string) => Promise<any>} get
 * @property {() => void} paint show what is there already, before all is
 * @property {Act} act
 */
/** Have something done, and the page shown anew; the answer, or nothing where it was refused. @typedef {(path: string, body: object) => Promise<any>} Act */

/**
 * By the first part of the path: what follows it, and the query. What draws is large, and loaded when it is needed.
 * @satisfies {Record<string, (rest: string, query: URLSearchParams) => Page | Promise<Page>>}
 */
const PAGES = {
  "": (_, query) => inboxPage(query),
  devices: (_, query) => devicesPage(query),
  device: async (id, query) => (await import("./device.js")).devicePage(id, query),
  capacity: async () => (await import("./capacity.js")).capacityPage(),
};
/** Of a page that is not in the navigation: under which one it is found. @type {Record<string, string>} */
const UNDER = { device: "devices" };

/** Without the stream of events, and with it: what is no event changes too. */
const REFRESH = 15_000;
const REFRESH_LIVE = 60_000;
/** Events come in floods. */
const GATHER = 500;
// Scans are made every five minutes; three missed are no accident.
const LATE_SCAN = 15 * 60_000;

const element = (/** @type {string} */ id) => /** @type {HTMLElement} */ (document.getElementById(id));
const main = element("main");
const notice = element("notice");
const freshness = element("freshness");
const spoken = element("spoken");

/** None while it is loaded. @type {Page | undefined} */
let page;
/** The path that it is found under. @type {string | undefined} */
let shownPath;
let request = new AbortController();
/** @type {ReturnType<typeof setTimeout> | undefined} */
let timer;
/** When the page was last known to be true. @type {number | undefined} */
let updated;
/** Whether it is told what happens. */
let live = false;

/** Ask for what the page shows; go on doing so. */
async function refresh() {
  if (!page) return;
  clearTimeout(timer);
  request.abort();
  request = new AbortController();
  const { signal } = request;
  const shown = page;
  const paint = () => {
    if (page === shown && main.firstChild !== shown.element) fill(main, shown.element);
  };
  try {
    const { title, scanned } = await shown.show({ get: (path) => get(path, signal), paint, act });
    signal.throwIfAborted();
    updated = Date.now();
    document.title = `${title ?? shown.title} · pyml`;
    paint();
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
  if (!document.hidden) timer = setTimeout(refresh, live ? REFRESH_LIVE : REFRESH);
}

/** @type {Act} */
async function act(path, body) {
  try {
    const done = await post(path, body);
    await refresh();
    return done;
  } catch (error) {
    const { message } = /** @type {Error} */ (error);
    warn("notice bad", h("strong", {}, "That was not done. "), message);
  }
}

/** Say something above the page; the same is not said again. @param {string} kind @param {...(Node | string)} told */
function warn(kind, ...told) {
  const text = told.map((one) => (one instanceof Node ? one.textContent : one)).join("");
  if (!notice.hidden && notice.className === kind && notice.textContent === text) return;
  notice.hidden = false;
  notice.className = kind;
  fill(notice, ...told);
}

/** @param {string | null | undefined} scanned */
function warnOfLateScans(scanned) {
  const late = scanned ? Date.now() - new Date(scanned).getTime() > LATE_SCAN : false;
  if (!late || !scanned) {
    notice.hidden = true;
    return;
  }
  warn(
    "notice",
    h("strong", {}, `The last scan was ${ago(scanned)}. `),
    "Anomalies and forecasts here are as old. ",
    h("code", {}, "CALL ml_scan();"),
  );
}

/** @param {import("../api-server/src/documents.ts").Problem} problem @param {number} status */
function showFailure({ message, detail, hint }, status = 0) {
  if (status === 401) return askForToken(message);
  const retry = h("button", { type: "button", id: "retry" }, "Try again");
  retry.addEventListener("click", again);
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
        h("p", {}, retry, " ", h("a", { href: "#/" }, "To the inbox")),
      ),
    );
    return;
  }
  main.classList.add("stale");
  warn(
    "notice bad",
    h("strong", {}, `Not refreshed since ${clock(updated)}. `),
    `${message} What is shown may be out of date. `,
    retry,
  );
}

/** Who gives a token is asked no more until the tab is closed; what is being typed stays. @param {string} why */
function askForToken(why) {
  notice.hidden = true;
  updated = undefined;
  const asked = document.querySelector("#why");
  if (asked) {
    asked.textContent = `${why}.`;
    return;
  }
  const input = h("input", { type: "password", id: "token", autocomplete: "off", required: true });
  const form = h("form", { class: "controls" }, h("label", {}, "Token ", input), h("button", {}, "Go on"));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem("token", input.value.trim());
    stream.again();
    void refresh();
  });
  const told = h("p", { id: "why" }, `${why}.`);
  fill(main, h("section", { class: "panel failure", role: "alert" }, h("h1", {}, "Who are you?"), told, form));
}

/** The server may be there again. */
function again() {
  if (!live) stream.again();
  void (page ? refresh() : open());
}

/** How true the page is, in a word, and each age that it tells. */
function tellFreshness() {
  for (const each of /** @type {NodeListOf<HTMLTimeElement>} */ (main.querySelectorAll("time.ago"))) {
    each.textContent = ago(each.dateTime);
  }
  if (updated === undefined) {
    freshness.textContent = main.getAttribute("aria-busy") === "true" ? "loading …" : "no data";
    return;
  }
  const fresh = Date.now() - updated < (live ? 2 * REFRESH_LIVE : 4 * REFRESH) && !main.classList.contains("stale");
  freshness.classList.toggle("old", !fresh);
  freshness.textContent = !fresh ? `as of ${clock(updated)}` : live ? "live" : `asked at ${clock(updated)}`;
  freshness.title = !fresh
    ? "The server does not answer: what is shown may be out of date."
    : live
      ? "What happens is shown as soon as the server tells of it."
      : "The server does not tell what happens just now: it is asked every 15 seconds.";
}

async function open() {
  if (location.hash === "#main") return main.focus();
  const { hash } = location;
  const [path = "", query] = hash.replace(/^#\/?/, "").split("?");
  const [kind = "", rest = ""] = path.split("/");
  const options = new URLSearchParams(query);
  if (path === shownPath && page?.turn) {
    page.turn(options);
    main.setAttribute("aria-busy", "true");
    return refresh();
  }
  const before = shownPath?.split("/")[0];
  shownPath = path;
  clearTimeout(timer);
  request.abort();
  page?.leave?.();
  page = undefined;
  updated = undefined;
  notice.hidden = true;
  main.classList.remove("stale");
  main.setAttribute("aria-busy", "true");
  for (const link of document.querySelectorAll("nav a")) {
    const here = link.getAttribute("href") === `#/${UNDER[kind] ?? kind}`;
    here ? link.setAttribute("aria-current", "page") : link.removeAttribute("aria-current");
  }
  // With other parameters the page stays until it is there anew, and so does the focus.
  if (kind !== before) fill(main, skeleton());
  if (kind !== before && before !== undefined) main.focus();
  tellFreshness();
  try {
    const make = PAGES[/** @type {keyof typeof PAGES} */ (kind)] ?? PAGES[""];
    const made = await make(decodeURIComponent(rest), options);
    if (location.hash !== hash) return;
    page = made;
    document.title = `${page.title} · pyml`;
    void refresh();
  } catch (error) {
    if (location.hash === hash) showFailure({ error: "", message: String(error) });
  }
}

function skeleton() {
  const block = (/** @type {string} */ kind) => h("div", { class: `ghost ${kind}` });
  return h(
    "div",
    { class: "loading", role: "status" },
    h("span", { class: "unseen" }, "Loading"),
    ...["line", "tall", "tall"].map(block),
  );
}

/** Something has happened: say it to who does not see it, and show it. @param {import("./server.js").Happening} event */
function happened({ event, name, summary }) {
  if (name && summary && (event === "opened" || event === "escalated")) spoken.textContent = `${name}: ${summary}`;
  gathering ??= setTimeout(() => {
    gathering = undefined;
    void refresh();
  }, GATHER);
}
/** @type {ReturnType<typeof setTimeout> | undefined} */
let gathering;

window.addEventListener("hashchange", () => void open());
window.addEventListener("online", again);
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) void refresh();
});
setInterval(tellFreshness, 5_000);
void open();
const stream = follow(happened, (now) => {
  const missed = now !== live && updated !== undefined;
  live = now;
  if (missed) void refresh(); // what happened while nothing was told
  else tellFreshness();
});
