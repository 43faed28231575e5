/** The answer, token by token: one stop of the Tab key, arrows within. */

import { byId, html } from "../lib/dom.js";
import { colourOf } from "../lib/palette.js";

/** @type {Record<string, string>} */
const COLOURS = { corrected: "var(--corrected)", bonus: "var(--bonus)", plain: "var(--plain)" };

/** @param {string} key a drafter or a source @returns {string} */
export function colourFor(key) {
  return COLOURS[key] ?? colourOf(key);
}

/** The tokens on the page, in a list of which one is active. */
export class Answer {
  /** @param {(round: number, place: number) => void} select */
  constructor(select) {
    this.select = select;
    this.box = byId("answer");
    /** @type {HTMLElement[]} */
    this.spans = [];
    this.active = -1;
    this.box.addEventListener("pointerover", (/** @type {PointerEvent} */ e) => this.#activate(this.#indexOf(e)));
    this.box.addEventListener("click", (/** @type {MouseEvent} */ e) => this.#activate(this.#indexOf(e), true));
    this.box.addEventListener("focusin", (/** @type {FocusEvent} */ e) => this.#activate(this.#indexOf(e)));
    this.box.addEventListener("keydown", (/** @type {KeyboardEvent} */ e) => this.#move(e));
  }

  clear() {
    this.spans = [];
    this.active = -1;
    this.box.replaceChildren();
    this.box.removeAttribute("role");
    this.box.removeAttribute("tabindex");
    this.box.hidden = true;
  }

  /** @param {import("./trace.js").Token[]} tokens */
  add(tokens) {
    this.#show();
    this.box.setAttribute("role", "listbox");
    this.box.setAttribute("aria-orientation", "horizontal");
    const fresh = tokens.filter((token) => token.emitted.text !== "").map((token) => span(token));
    if (this.spans.length === 0 && fresh.length > 0) fresh[0].tabIndex = 0;
    this.spans.push(...fresh);
    this.box.append(...fresh);
    this.#follow();
  }

  /** @param {string} text where no trace says more */
  addPlain(text) {
    this.#show();
    if (text === "") return;
    // It may be long, and then scrolls, which the keyboard must be able to.
    this.box.tabIndex = 0;
    this.box.setAttribute("role", "region");
    this.box.append(text);
    this.#follow();
  }

  /** @param {string | null} key dims all tokens but those of this drafter or source */
  single(key) {
    for (const item of this.spans) item.classList.toggle("dim", key !== null && item.dataset.key !== key);
  }

  /** @param {number} round marks its tokens */
  mark(round) {
    for (const item of this.spans) item.classList.toggle("same-round", item.dataset.round === String(round));
  }

  #show() {
    this.box.hidden = false;
    this.box.setAttribute("aria-label", "Tokens of the answer");
  }

  /** Keeps the newest in sight, unless its reader has scrolled up. */
  #follow() {
    const { scrollTop, scrollHeight, clientHeight } = this.box;
    if (this.active < 0 || scrollHeight - scrollTop - clientHeight < 120) this.box.scrollTop = scrollHeight;
  }

  /** @param {Event} event @returns {number} */
  #indexOf(event) {
    return event.target instanceof HTMLElement ? this.spans.indexOf(event.target) : -1;
  }

  /** @param {number} index @param {boolean} [isFocused] */
  #activate(index, isFocused = false) {
    if (index < 0) return;
    if (isFocused && document.activeElement !== this.spans[index]) this.spans[index].focus();
    if (index === this.active) return;
    const before = this.spans[this.active] ?? this.spans[0];
    before.tabIndex = -1;
    before.setAttribute("aria-selected", "false");
    this.active = index;
    const now = this.spans[index];
    now.tabIndex = 0;
    now.setAttribute("aria-selected", "true");
    this.select(Number(now.dataset.round), Number(now.dataset.place));
  }

  /** @param {KeyboardEvent} event */
  #move(event) {
    const last = this.spans.length - 1;
    const from = this.active < 0 ? 0 : this.active;
    /** @type {Record<string, number>} */
    const targets = {
      ArrowRight: from + 1,
      ArrowLeft: from - 1,
      ArrowDown: this.#beyond(from, 1),
      ArrowUp: this.#beyond(from, -1),
      Home: 0,
      End: last,
    };
    const target = targets[event.key];
    if (target === undefined || last < 0) return;
    event.preventDefault();
    this.#activate(Math.min(last, Math.max(0, target)), true);
  }

  /** The token of the line above or below that is nearest. @param {number} from @param {number} step */
  #beyond(from, step) {
    const start = this.spans[from].getBoundingClientRect();
    let line = null;
    let best = from;
    let nearest = Infinity;
    for (let i = from + step; i >= 0 && i < this.spans.length; i += step) {
      const box = this.spans[i].getBoundingClientRect();
      if (Math.abs(box.top - start.top) < 4) continue;
      line ??= box.top;
      if (Math.abs(box.top - line) >= 4) break;
      if (Math.abs(box.left - start.left) < nearest) [best, nearest] = [i, Math.abs(box.left - start.left)];
    }
    return best;
  }
}

/** @param {import("./trace.js").Token} token @returns {HTMLElement} */
function span(token) {
  const { emitted, leader } = token;
  const key = leader ?? emitted.source;
  const isBlank = emitted.text.trim() === "";
  return html(
    "span",
    {
      class: `token ${emitted.source}${isBlank ? " blank" : ""}${emitted.text.includes("\n") ? " newline" : ""}`,
      role: "option",
      tabindex: -1,
      "aria-selected": "false",
      "data-key": key,
      "data-round": token.round,
      "data-place": token.place,
      "--hue": colourFor(key),
      "--stripe": stripe(emitted, leader),
    },
    emitted.text,
  );
}

/** The line under a token: a part for each drafter that proposed it. */
/** @param {import("./trace.js").Emitted} emitted @param {string | null} leader */
function stripe(emitted, leader) {
  if (leader === null) return "linear-gradient(var(--hue), var(--hue))";
  const names = [leader, ...emitted.drafters.filter((name) => name !== leader)];
  const stops = names.map((name, i) => {
    return `${colourOf(name)} ${(i * 100) / names.length}% ${((i + 1) * 100) / names.length}%`;
  });
  return `linear-gradient(90deg, ${stops.join(", ")})`;
}
