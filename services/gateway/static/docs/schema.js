/** A JSON schema as a list of fields that unfold. */

import { html, prose } from "./dom.js";

/** @typedef {Record<string, any>} Schema */

export class Schemas {
  /** @param {Record<string, Schema>} components by name */
  constructor(components) {
    this.components = components;
  }

  /**
   * What a schema says, without references and without the null that any field takes.
   * @param {Schema} schema
   * @returns {{schema: Schema, name: string}}
   */
  resolve(schema) {
    let name = "";
    let found = schema;
    for (;;) {
      if (found.$ref) {
        name = found.$ref.split("/").pop();
        found = { ...this.components[name], ...described(found) };
      } else {
        const kinds = (found.anyOf ?? []).filter((kind) => kind.type !== "null");
        if (kinds.length !== 1 || !found.anyOf) return { schema: found, name };
        const { anyOf, ...rest } = found;
        found = { ...kinds[0], ...rest };
      }
    }
  }

  /**
   * Its kind in a few words.
   * @param {Schema} given
   * @returns {string}
   */
  kind(given) {
    const { schema, name } = this.resolve(given);
    if (schema.const !== undefined) return JSON.stringify(schema.const);
    if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" | ");
    if (schema.anyOf) return schema.anyOf.map((kind) => this.kind(kind)).join(" | ");
    if (schema.type === "array") return schema.items ? `list of ${this.kind(schema.items)}` : "list";
    if (schema.type === "object" && typeof schema.additionalProperties === "object") {
      return `map of ${this.kind(schema.additionalProperties)}`;
    }
    return name || [schema.type ?? "any"].flat().join(" | ");
  }

  /**
   * The fields of an object, of a list's items, or of the kinds that there are.
   * @param {Schema} given
   * @param {string[]} [above] names that are unfolded already
   * @returns {HTMLElement | null}
   */
  fields(given, above = []) {
    const { schema, name } = this.resolve(given);
    if (above.includes(name)) return null;
    const path = name ? [...above, name] : above;
    if (schema.items) return this.fields(schema.items, path);
    if (schema.anyOf) return joined(schema.anyOf.map((kind) => this.fields(kind, path)));
    if (typeof schema.additionalProperties === "object") {
      return this.fields(schema.additionalProperties, path);
    }
    if (!schema.properties) return null;
    const required = schema.required ?? [];
    const rows = Object.entries(schema.properties).map(([field, own]) =>
      this.field(field, own, required.includes(field), path),
    );
    return html("ul", { class: "fields" }, ...rows);
  }

  /** @param {string} name @param {Schema} given @param {boolean} isRequired @param {string[]} path */
  field(name, given, isRequired, path) {
    const { schema } = this.resolve(given);
    const refused = given.enum && given.enum[0] === null;
    const head = [
      html("code", { class: "name" }, name),
      html("span", { class: "kind" }, this.kind(given)),
      isRequired ? html("span", { class: "required" }, "required") : null,
      refused ? html("span", { class: "refused" }, "not supported but for these") : null,
      html("span", { class: "limits" }, limits(schema, given)),
    ];
    const text = given.description ?? schema.description;
    const note = text ? html("p", {}, ...prose(text)) : null;
    const inner = this.fields(given, path);
    if (inner === null) return html("li", {}, html("div", { class: "field" }, ...head), note);
    const summary = html("summary", { class: "field" }, ...head);
    return html("li", {}, html("details", {}, summary, note, inner));
  }
}

/** @param {Schema} schema @param {Schema} given @returns {string} */
function limits(schema, given) {
  const parts = [];
  const low = schema.minimum ?? schema.exclusiveMinimum;
  const high = schema.maximum ?? schema.exclusiveMaximum;
  if (low !== undefined) parts.push(`${schema.minimum === undefined ? ">" : "≥"} ${shown(low)}`);
  if (high !== undefined) parts.push(`${schema.maximum === undefined ? "<" : "≤"} ${shown(high)}`);
  const most = schema.maxItems ?? schema.maxLength ?? schema.maxProperties;
  if (most !== undefined) parts.push(`at most ${most} ${schema.maxLength ? "characters" : "entries"}`);
  const start = given.default ?? schema.default;
  if (start !== undefined && start !== null) parts.push(`default ${JSON.stringify(start)}`);
  return parts.join(", ");
}

/** @param {number} value @returns {string} */
function shown(value) {
  return Math.abs(value) === 2 ** 63 ? `${value < 0 ? "-" : ""}2^63` : String(value);
}

/** @param {Schema} schema @returns {Schema} */
function described(schema) {
  const { $ref, ...rest } = schema;
  return rest;
}

/** @param {(HTMLElement | null)[]} lists @returns {HTMLElement | null} */
function joined(lists) {
  const found = lists.filter((list) => list !== null);
  return found.length ? html("div", {}, ...found) : null;
}
