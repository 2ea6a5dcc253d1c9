// All devices, by pages.

import { address, fill, h } from "./format.js";

/** @param {URLSearchParams} query @returns {import("./app.js").Page} */
export function devicesPage(query) {
  const element = h("div", { class: "page" });
  return {
    title: "Devices",
    element,
    async show({ get }) {
      const { devices } = await get(`/devices?${query}`);
      fill(element, h("h1", {}, "Devices"), ...devices.map((/** @type {any} */ one) => h("a", { href: address(one.device_id) }, one.name)));
      return {};
    },
  };
}
