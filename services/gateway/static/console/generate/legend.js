/** Where the tokens came from, with counts; each entry shows its own tokens alone while pressed. */

import { byId, html } from "../lib/dom.js";
import { whole } from "../lib/format.js";
import { colourFor } from "./answer.js";

const SOURCES = ["corrected", "bonus", "plain"];
/** @type {Record<string, string>} */
const MEANINGS = {
  corrected: "the target said otherwise than the draft",
  bonus: "the target's own, after a draft that was right to its end",
  plain: "the target's own, without a draft",
};

/** The legend below an answer. */
export class Legend {
  /** @param {(key: string | null) => void} single */
  constructor(single) {
    this.single = single;
    this.box = byId("legend");
    /** @type {string | null} */
    this.pressed = null;
  }

  clear() {
    this.box.hidden = true;
    this.box.replaceChildren();
    this.pressed = null;
  }

  /** @param {Map<string, number>} counts by drafter or source */
  show(counts) {
    const drafters = [...counts.keys()].filter((key) => !SOURCES.includes(key)).sort();
    const keys = [...drafters, ...SOURCES.filter((key) => counts.has(key))];
    this.box.hidden = keys.length === 0;
    for (const key of keys) this.#entry(key).textContent = whole(counts.get(key) ?? 0);
  }

  /** The place of an entry's count. @param {string} key @returns {Element} */
  #entry(key) {
    const known = [...this.box.children].find((child) => child.dataset.key === key);
    const entry = known ?? this.#added(key);
    return entry.lastElementChild;
  }

  /** @param {string} key @returns {HTMLElement} */
  #added(key) {
    const isSource = SOURCES.includes(key);
    const entry = html(
      "button",
      {
        class: `entry ${isSource ? key : "accepted"}`,
        type: "button",
        title: MEANINGS[key] ?? `accepted from the path of ${key}`,
        "aria-pressed": "false",
        "data-key": key,
        "--hue": colourFor(key),
        onclick: () => this.#press(key),
      },
      html("span", { class: "swatch", "aria-hidden": "true" }),
      html("span", { class: "entry-name" }, key),
      html("span", { class: "entry-count" }),
    );
    // Sources come last.
    const before = isSource ? null : [...this.box.children].find((c) => SOURCES.includes(c.dataset.key));
    this.box.insertBefore(entry, before ?? null);
    return entry;
  }

  /** @param {string} key */
  #press(key) {
    this.pressed = this.pressed === key ? null : key;
    for (const child of this.box.children) {
      child.setAttribute("aria-pressed", String(child.dataset.key === this.pressed));
    }
    this.single(this.pressed);
  }
}
