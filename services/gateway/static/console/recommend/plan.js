/** A plan as a picture: tiers, and in each its tables, as large as their bytes. */

import { html } from "../lib/dom.js";
import { bytes, percent, short, whole } from "../lib/format.js";
import { squarified } from "./treemap.js";

/**
 * @typedef {{tables: string[], num_rows: number, dim: number, element: string, bytes: number,
 *   offset: number, tier: string, bank: number, ns: number, reason: string}} Stored
 * @typedef {{model: string, version: string, profile: string, bytes: number, bytes_alone: number,
 *   ns_an_item: number, stored: Stored[]}} Plan
 */

/** How wide the picture of all tiers is for its height, and how flat a small tier's may be. */
const ASPECT = 2.7;
const MAX_ASPECT = 24;
const NUM_COLOURS = 5;

/** @param {HTMLElement} place @param {Plan} plan */
export function drawPlan(place, plan) {
  const detail = html("div", { class: "table-detail", role: "status" }, html("p", { class: "empty" }, "Point at a table, or choose one: here is what it costs, and why it is stored so."));
  const tiers = tiersOf(plan.stored);
  const pictures = tiers.map(({ name, stored }, i) => tier(plan, name, stored, i % NUM_COLOURS, detail));
  place.replaceChildren(figures(plan), html("div", { class: "tiers" }, ...pictures), detail, table(plan));
}

/** The tiers, fastest first. @param {Stored[]} stored @returns {{name: string, stored: Stored[]}[]} */
export function tiersOf(stored) {
  /** @type {Map<string, Stored[]>} */
  const groups = new Map();
  for (const one of stored) groups.set(one.tier, [...(groups.get(one.tier) ?? []), one]);
  const cost = (/** @type {Stored[]} */ all) => Math.min(...all.map((one) => one.ns));
  return [...groups]
    .map(([name, all]) => ({ name, stored: all.sort((a, b) => b.bytes - a.bytes) }))
    .sort((a, b) => cost(a.stored) - cost(b.stored));
}

/** How tables share a row: joined by the same ids, or multiplied, a row for each combination. */
/** @param {Stored} stored @returns {{mark: string, word: string}} */
export function union(stored) {
  if (stored.tables.length === 1) return { mark: "", word: "alone" };
  return stored.reason.startsWith("joined") ? { mark: " ⋈ ", word: "joined" } : { mark: " × ", word: "multiplied" };
}

/** @param {Plan} plan */
function figures(plan) {
  const growth = plan.bytes_alone > 0 ? plan.bytes / plan.bytes_alone - 1 : 0;
  const grown = Math.abs(growth) < 0.005 ? "not a byte more" : `${growth > 0 ? "+" : "−"}${percent(Math.abs(growth))}`;
  const entries = [
    ["an item's lookups", `${short(plan.ns_an_item)} ns`],
    ["accesses", whole(plan.stored.length)],
    ["stored", bytes(plan.bytes)],
    ["than tables alone", grown],
    ["profile", plan.profile],
    ["version", plan.version],
  ];
  return html("dl", { class: "figures" }, ...entries.map(([name, value]) => html("div", {}, html("dd", {}, value), html("dt", {}, name))));
}

/** @param {Plan} plan @param {string} name @param {Stored[]} stored @param {number} colour @param {HTMLElement} detail */
function tier(plan, name, stored, colour, detail) {
  const size = stored.reduce((sum, one) => sum + one.bytes, 0);
  const width = Math.min(MAX_ASPECT, ASPECT / (size / plan.bytes));
  const boxes = squarified(stored.map((one) => one.bytes), width, 1);
  const blocks = stored.map((one, i) => block(one, { ...boxes[i], x: boxes[i].x / width, width: boxes[i].width / width }, detail));
  return html(
    "section",
    { class: "tier", "--hue": `var(--tier-${colour})`, "--weight": size / plan.bytes, "aria-label": `Tier ${name}` },
    html("h3", {}, html("span", { class: "swatch", "aria-hidden": "true" }), name, html("span", { class: "tier-note" }, `${bytes(size)}, ${percent(size / plan.bytes)}`)),
    html("div", { class: "tier-map" }, ...blocks),
  );
}

/** @param {Stored} stored @param {import("./treemap.js").Box} box @param {HTMLElement} detail */
function block(stored, box, detail) {
  const { mark, word } = union(stored);
  const name = stored.tables.join(mark);
  const show = () => describe(detail, stored);
  return html(
    "button",
    {
      class: `block ${word}`,
      type: "button",
      "aria-label": `${name}, ${word}, ${bytes(stored.bytes)}`,
      "--x": box.x,
      "--y": box.y,
      "--w": box.width,
      "--h": box.height,
      onpointerenter: show,
      onfocus: show,
      onclick: show,
    },
    html("span", { class: "block-name" }, name),
    html("span", { class: "block-note" }, `${bytes(stored.bytes)} · ${short(stored.ns)} ns`),
  );
}

/** @param {HTMLElement} place @param {Stored} stored */
function describe(place, stored) {
  const { mark, word } = union(stored);
  place.replaceChildren(
    html("strong", {}, stored.tables.join(mark)),
    html("span", {}, `${whole(stored.num_rows)} rows of ${stored.dim} × ${stored.element}, ${bytes(stored.bytes)}`),
    html("span", {}, `${stored.tier}, bank ${stored.bank}, ${short(stored.ns)} ns an item`),
    html("span", { class: "why" }, stored.reason || word),
  );
}

/** The same in words and figures. @param {Plan} plan */
function table(plan) {
  const heads = ["Table", "Stored", "Tier", "Bank", "Rows", "Width", "Bytes", "ns"];
  const rows = [...plan.stored].sort((a, b) => b.bytes - a.bytes).map((one) => {
    const { mark, word } = union(one);
    const cells = [word, one.tier, one.bank, whole(one.num_rows), `${one.dim} × ${one.element}`, bytes(one.bytes), short(one.ns)];
    return html("tr", {}, html("th", { scope: "row" }, one.tables.join(mark)), ...cells.map((cell) => html("td", {}, String(cell))));
  });
  return html(
    "details",
    { class: "as-table" },
    html("summary", {}, "As a table"),
    html("div", { class: "table-scroll", tabindex: 0, role: "region", "aria-label": "Tables of the plan" },
      html("table", {}, html("thead", {}, html("tr", {}, ...heads.map((head) => html("th", { scope: "col" }, head)))), html("tbody", {}, ...rows))),
  );
}
