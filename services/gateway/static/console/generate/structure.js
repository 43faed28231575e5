/** What the text must be: any, or what a schema, a pattern or a list allows. */

import { byId } from "../lib/dom.js";

/** @type {Record<string, {name: string, placeholder: string}>} */
const KINDS = {
  json: { name: "Schema", placeholder: '{"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}' },
  regex: { name: "Pattern", placeholder: "[0-9]{4}-[0-9]{2}-[0-9]{2}" },
  choice: { name: "Choices, one a line", placeholder: "yes\nno" },
};

/** The controls of a request's `structured_outputs`. */
export class Structure {
  constructor() {
    this.kind = byId("structure");
    this.text = byId("structure-text");
    this.kind.addEventListener("change", () => this.#show());
    this.#show();
  }

  /** Whether what is written can be sent; else the field says what is wrong. */
  check() {
    this.text.setCustomValidity("");
    if (!(this.kind.value in KINDS)) return;
    try {
      this.#said();
    } catch (error) {
      this.text.setCustomValidity(/** @type {Error} */ (error).message);
    }
  }

  /** @returns {Record<string, unknown> | null} the request's field, where it asks for anything */
  wanted() {
    if (this.kind.value === "") return null;
    if (this.kind.value === "json_object") return { json_object: true };
    return { [this.kind.value]: this.#said() };
  }

  /** @returns {string[]} what is not as usual */
  get told() {
    return this.kind.value === "" ? [] : [this.kind.selectedOptions[0].textContent];
  }

  /** @returns {unknown} raises Error with a sentence for the reader */
  #said() {
    const text = this.text.value;
    if (text.trim() === "") throw new Error("Write what the text must be.");
    if (this.kind.value === "choice") return text.split("\n").filter((/** @type {string} */ line) => line !== "");
    if (this.kind.value === "regex") return text;
    const schema = parsed(text);
    if (schema === null || typeof schema !== "object" || Array.isArray(schema)) throw new Error("A schema is a JSON object.");
    return schema;
  }

  #show() {
    const kind = KINDS[this.kind.value];
    byId("structure-field").hidden = kind === undefined;
    this.text.setCustomValidity("");
    this.text.removeAttribute("aria-invalid");
    if (kind === undefined) return;
    byId("structure-name").textContent = kind.name;
    this.text.placeholder = kind.placeholder;
  }
}

/** @param {string} text @returns {unknown} */
function parsed(text) {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw new Error(`The schema is no JSON: ${/** @type {Error} */ (error).message}`);
  }
}
