/** How a request wants its drafts: mode, length, drafters, vote rule. */

import { ApiError, get } from "../lib/api.js";
import { byId, html } from "../lib/dom.js";
import { colourOf } from "../lib/palette.js";

/** The controls of a request's `speculation`. */
export class Steering {
  constructor() {
    this.mode = byId("speculation");
    this.length = byId("length");
    this.vote = byId("vote");
    this.list = byId("drafter-list");
    this.note = byId("drafters-note");
    /** @type {Set<string>} those that somebody has switched off */
    this.off = new Set();
    /** @type {string[]} */
    this.drafters = [];
    this.news = "Asking which drafters there are.";
    this.isVoteKnown = false;
    this.mode.addEventListener("change", () => this.#show());
    byId("more").addEventListener("toggle", () => void this.#learn());
    this.#show();
  }

  /** @param {string[]} drafters of the target that is asked */
  know(drafters) {
    const isNew = drafters.join("\n") !== this.drafters.join("\n");
    this.drafters = drafters;
    this.news = drafters.length > 0 ? "" : "No drafter is live: the target goes on by itself.";
    // What is there stays as it is: it may have the focus.
    if (isNew) this.list.replaceChildren(...drafters.map((name) => this.#chip(name)));
    this.#show();
  }

  /** @param {string} why no drafters are known */
  fail(why) {
    this.drafters = [];
    this.list.replaceChildren();
    this.news = why;
    this.#show();
  }

  /** @returns {Record<string, unknown> | null} the request's field, where it asks for anything */
  wanted() {
    if (this.mode.value === "off") return { mode: "off" };
    const length = this.length.valueAsNumber;
    const asked = this.#asked();
    /** @type {Record<string, unknown>} */
    const wanted = {};
    if (this.mode.value === "fixed") wanted.length = length;
    if (this.mode.value === "most") wanted.max_length = length;
    if (asked.length < this.drafters.length) wanted.drafters = asked;
    if (this.vote.value !== "") wanted.vote = this.vote.value;
    return Object.keys(wanted).length > 0 ? wanted : null;
  }

  /** @returns {string[]} what of the settings within the fold is not as usual */
  get told() {
    if (this.mode.value === "off") return [];
    const asked = this.#asked();
    const some = asked.length < this.drafters.length ? [`${asked.length} of ${this.drafters.length} drafters`] : [];
    return this.vote.value === "" ? some : [...some, `${this.vote.value} vote`];
  }

  #asked() {
    return this.drafters.filter((name) => !this.off.has(name));
  }

  #show() {
    const isOff = this.mode.value === "off";
    byId("length-field").hidden = this.mode.value !== "fixed" && this.mode.value !== "most";
    byId("length-name").textContent = this.mode.value === "most" ? "Longest" : "Length";
    byId("drafters").disabled = isOff;
    this.vote.disabled = isOff || !this.isVoteKnown;
    const isNobody = this.drafters.length > 0 && this.#asked().length === 0;
    const first = this.list.querySelector("input");
    first?.setCustomValidity(isNobody && !isOff ? "Choose a drafter, or turn speculation off." : "");
    const note = isOff ? "Speculation is off: nobody is asked." : this.news;
    // Told anew only where it is new, so that a screen reader does not repeat it.
    if (this.note.textContent !== note) this.note.textContent = note;
  }

  /** @param {string} name */
  #chip(name) {
    const change = (/** @type {Event} */ event) => {
      if (/** @type {HTMLInputElement} */ (event.target).checked) this.off.delete(name);
      else this.off.add(name);
      this.#show();
    };
    return html(
      "label",
      { class: "chip", "--hue": colourOf(name) },
      html("input", { type: "checkbox", value: name, checked: !this.off.has(name), onchange: change }),
      html("span", {}, name),
    );
  }

  /** The vote rules, as the API's own schema lists them: when they are looked at, until it is known. */
  async #learn() {
    if (!byId("more").open || this.isVoteKnown) return;
    const note = byId("vote-note");
    note.textContent = "Asking which there are.";
    try {
      const { components } = await get("/openapi.json");
      const { vote } = components.schemas.SpeculationOptions.properties;
      const rules = vote.anyOf.flatMap((/** @type {{enum?: string[]}} */ one) => one.enum ?? []);
      this.vote.append(...rules.map((/** @type {string} */ rule) => html("option", { value: rule }, rule)));
      this.isVoteKnown = true;
      note.textContent = "";
    } catch (error) {
      if (!(error instanceof ApiError || error instanceof TypeError)) throw error;
      note.textContent = error instanceof ApiError ? error.message : "This gateway does not say which there are.";
    }
    this.#show();
  }
}
