/** The form of a recommendation: by names, or by numbers as JSON. */

import { byId, html } from "../lib/dom.js";

/** What the shipped model takes; another one's fields are typed over it. */
const EXAMPLE = [
  ["package", "asyncio"],
  ["imports", "socket, ssl"],
];
/** @type {Record<string, string>} */
const FIELDS = { candidates: "candidates", inputs: "inputs", k: "best" };

export class RecommendForm {
  /** @param {(body: Record<string, unknown>) => void} send */
  constructor(send) {
    this.form = byId("recommend-form");
    this.rows = byId("context-rows");
    for (const [name, values] of EXAMPLE) this.#addRow(name, values);
    byId("add-context").addEventListener("click", () => this.#addRow("", "").focus());
    for (const radio of this.form.elements["asked-by"]) radio.addEventListener("change", () => this.#showMode());
    this.form.addEventListener("input", (/** @type {Event} */ event) => {
      if (!(event.target instanceof HTMLElement)) return;
      this.isTouched = true;
      event.target.removeAttribute("aria-invalid");
      if ("setCustomValidity" in event.target) /** @type {any} */ (event.target).setCustomValidity("");
    });
    this.form.addEventListener("submit", (/** @type {Event} */ event) => {
      event.preventDefault();
      if (this.isBusy) return;
      const body = this.#body();
      if (body !== null) send(body);
    });
    this.isBusy = false;
    this.isTouched = false;
  }

  /** @param {boolean} isBusy */
  set busy(isBusy) {
    this.isBusy = isBusy;
    byId("recommend-send").setAttribute("aria-disabled", String(isBusy));
  }

  /** @param {string | null} param what a refusal is about */
  blame(param) {
    const field = FIELDS[(param ?? "").split(".")[0]];
    if (field === undefined) return;
    byId(field).setAttribute("aria-invalid", "true");
    byId(field).focus();
  }

  /** What the served model's context has; fields that nobody has touched become those. @param {string[]} fields */
  know(fields) {
    byId("context-note").textContent = `The model takes ${fields.join(", ")}.`;
    const names = [...this.rows.querySelectorAll(".context-name")].map((input) => input.value);
    if (this.isTouched || names.every((name) => fields.includes(name))) return;
    this.rows.replaceChildren();
    for (const field of fields) this.#addRow(field, "");
  }

  get #isByNames() {
    return this.form.elements["asked-by"].value === "names";
  }

  #showMode() {
    byId("by-names").hidden = !this.#isByNames;
    byId("by-numbers").hidden = this.#isByNames;
  }

  /** @param {string} name @param {string} values @returns {HTMLElement} the name's field */
  #addRow(name, values) {
    const input = html("input", { class: "context-name", type: "text", value: name, placeholder: "field", spellcheck: "false", autocomplete: "off", "aria-label": "Field" });
    const row = html(
      "div",
      { class: "context-row", role: "group", "aria-label": "Field of the context" },
      input,
      html("input", { class: "context-values", type: "text", value: values, placeholder: "names, by commas", spellcheck: "false", autocomplete: "off", "aria-label": "Names" }),
      html("button", { class: "quiet remove", type: "button", "aria-label": "Remove this field", onclick: () => this.#remove(row) }, "×"),
    );
    this.rows.append(row);
    return input;
  }

  /** @param {HTMLElement} row */
  #remove(row) {
    const next = row.nextElementSibling ?? row.previousElementSibling;
    row.remove();
    (next?.querySelector("input") ?? byId("add-context")).focus();
  }

  /** @returns {Record<string, unknown> | null} nothing where a field says what is wrong in it */
  #body() {
    const best = byId("best");
    if (!best.reportValidity()) return null;
    const k = best.valueAsNumber;
    if (!this.#isByNames) {
      const inputs = this.#inputs();
      return inputs === null ? null : { inputs, k };
    }
    /** @type {Record<string, string[]>} */
    const context = Object.create(null);
    for (const row of this.rows.children) {
      const name = row.querySelector(".context-name").value.trim();
      if (name !== "") context[name] = listed(row.querySelector(".context-values").value);
    }
    const candidates = listed(byId("candidates").value);
    return { context, k, ...(candidates.length > 0 ? { candidates } : {}) };
  }

  /** @returns {object | null} */
  #inputs() {
    const field = byId("inputs");
    try {
      const value = JSON.parse(field.value);
      if (typeof value === "object" && value !== null && !Array.isArray(value)) return value;
      field.setCustomValidity("An object is needed: names of inputs, and their numbers.");
    } catch {
      field.setCustomValidity("This is not JSON.");
    }
    field.setAttribute("aria-invalid", "true");
    field.reportValidity();
    return null;
  }
}

/** @param {string} text @returns {string[]} what lies between its commas */
function listed(text) {
  return text.split(",").map((part) => part.trim()).filter((part) => part !== "");
}
