/** Errors on the page: what happened, in the server's words, and what to do. */

import { html } from "./dom.js";

/** @type {Record<number, string>} */
const TITLES = {
  0: "No connection",
  400: "Refused",
  401: "A key is needed",
  403: "Not allowed",
  404: "Not there",
  413: "Too large",
  429: "Too busy",
  503: "Not available now",
  504: "Out of time",
};

/**
 * Fills and shows a notice, or hides it where there is no error.
 * @param {HTMLElement} place
 * @param {import("./api.js").ApiError | null} error
 */
export function tell(place, error) {
  place.hidden = error === null;
  place.replaceChildren();
  if (error === null) return;
  const wait = error.retryAfter === null ? null : ` Try again in ${error.retryAfter} s.`;
  place.append(
    html("strong", {}, TITLES[error.status] ?? "Failed"),
    html("span", {}, error.message, wait),
  );
  if (error.status === 401) {
    place.append(html("button", { class: "quiet", type: "button", popovertarget: "key-panel" }, "Enter a key"));
  }
}
