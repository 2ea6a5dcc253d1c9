// The inbox: open incidents, newest trouble first.

import { fill, h } from "./format.js";
import { incidentList } from "./incidents.js";

/** @param {URLSearchParams} query @returns {import("./app.js").Page} */
export function inboxPage(query) {
  const element = h("div", { class: "page" });
  return {
    title: "Inbox",
    element,
    async show({ get, act }) {
      const { incidents } = await get(`/incidents?${new URLSearchParams({ state: "open", ...Object.fromEntries(query) })}`);
      fill(element, h("h1", {}, "Inbox"), incidentList(incidents, true, act));
      return {};
    },
  };
}
