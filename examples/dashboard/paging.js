// A list that comes by pages.

import { h } from "./format.js";
import { get as ask } from "./server.js";

/** As many as the server gives at a time. */
const MOST = 1000;

/**
 * A list of which more is shown when it is asked for, by the cursor of the API.
 * @template T
 * @param {string} path with a query
 * @param {string} name of the list in the document
 * @param {number} size of a page
 * @param {(items: T[], more: boolean) => void} show all that there are now; whether more were asked for
 */
export function paged(path, name, size, show) {
  /** @type {T[]} */
  let items = [];
  const more = h("button", { type: "button", class: "more", id: `more-${name}`, hidden: true });
  /** @type {string | null} */
  let next = null;
  /** @param {T[]} found @param {string | null} cursor @param {boolean} grown */
  const take = (found, cursor, grown) => {
    [items, next] = [found, cursor];
    show(items, grown);
    more.hidden = next === null;
    more.textContent = "Load more";
  };
  more.addEventListener("click", async () => {
    more.disabled = true;
    try {
      const page = await ask(`${path}&limit=${size}&cursor=${encodeURIComponent(next ?? "")}`);
      take([...items, ...page[name]], page.next, true);
    } catch (error) {
      more.textContent = `${/** @type {Error} */ (error).message} Try again`;
    }
    more.disabled = false;
  });
  return {
    more,
    /** Ask anew for all that is shown; gives the document. @param {(path: string) => Promise<any>} get */
    async refresh(get) {
      const shown = items.length;
      const page = await get(`${path}&limit=${Math.min(Math.max(shown, size), MOST)}`);
      if (items.length === shown) take(page[name], page.next, false); // else more has come meanwhile
      return page;
    },
  };
}
