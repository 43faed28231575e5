/** The scores of a request, as bars. */

import { html } from "../lib/dom.js";
import { counted } from "../lib/format.js";

/** @typedef {{item?: string, index?: number, score: number, rank: number}} Scored */

/** The lowest score has a bar too. */
const LEAST = 0.02;

/** @param {HTMLElement} place @param {{data: Scored[], num_unknown?: number}} answer */
export function drawScores(place, answer) {
  const scores = answer.data.map((one) => one.score);
  // Bars begin at nought, or at the lowest score where there are such below it.
  const lowest = Math.min(0, ...scores);
  const range = Math.max(...scores, 0) - lowest || 1;
  const rows = answer.data.map((one) =>
    html(
      "li",
      { "--share": LEAST + (1 - LEAST) * ((one.score - lowest) / range) },
      html("span", { class: "rank" }, String(one.rank)),
      html("span", { class: "item" }, one.item ?? `item ${one.index}`),
      html("span", { class: "score" }, one.score.toPrecision(4)),
      html("span", { class: "score-bar", "aria-hidden": "true" }),
    ),
  );
  const unknown = answer.num_unknown ?? 0;
  const note = unknown > 0 ? html("p", { class: "note" }, `${counted(unknown, "name")} of the request unknown to the model.`) : null;
  place.replaceChildren(html("ol", { class: "score-list" }, ...rows));
  if (note !== null) place.append(note);
  if (rows.length === 0) place.replaceChildren(html("p", { class: "empty" }, "The model found nothing to score."));
}
