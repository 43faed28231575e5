/** One round: who proposed what, what won, what the target said, and where the time went. */

import { byId, html } from "../lib/dom.js";
import { counted, duration, percent, short, visible } from "../lib/format.js";
import { colourOf } from "../lib/palette.js";
import { colourFor } from "./answer.js";
import { aheadOf, lasted, leaderOf, PARTS } from "./trace.js";

/** @typedef {import("./trace.js").Round} Round */

const HINT = "Point at a token, or walk through the answer with the arrow keys: here is how its round was voted.";

/** The panel beside the answer. */
export class Inspector {
  constructor() {
    this.name = byId("inspector-name");
    this.body = byId("inspector-body");
    this.clear();
  }

  clear() {
    this.name.textContent = "";
    this.body.replaceChildren(html("p", { class: "empty" }, HINT));
  }

  /** @param {Round} round @param {number | null} place of the token that is looked at */
  show(round, place) {
    this.name.textContent = `round ${round.index + 1}, ${duration(lasted(round))}`;
    const isPlain = round.draft.length === 0 && round.votes.every((vote) => vote.tokens.length === 0);
    const parts = [
      html("p", { class: "verdict" }, verdict(round)),
      isPlain ? html("p", { class: "empty" }, "Nobody proposed anything in this round: the target went on by itself.") : votes(round, place),
      aheadOf(round).ready > 0 ? html("p", { class: "note ready-note" }, "Dotted: drafted ahead, before it was asked for.") : null,
      times(round),
    ];
    this.body.replaceChildren(...parts.filter((part) => part !== null));
  }
}

/** @param {Round} round @returns {string} */
export function verdict(round) {
  const emitted = counted(round.tokens.length, "token");
  if (round.draft.length === 0) return `${emitted} in one pass, without a draft.`;
  const drafted = counted(round.draft.length, "drafted token");
  return `${emitted} in one pass: ${round.num_accepted} of ${drafted} accepted.`;
}

/** @param {Round} round @param {number | null} place @returns {HTMLElement} */
function votes(round, place) {
  const width = Math.max(round.draft.length, round.tokens.length, ...round.votes.map((v) => v.tokens.length));
  const places = [...Array(width).keys()];
  const ranked = [...round.votes].sort((a, b) => b.weight - a.weight);
  const most = Math.max(...ranked.map((vote) => vote.weight), 1e-9);
  const head = html(
    "tr",
    {},
    html("th", { scope: "col" }, html("span", { class: "sr-only" }, "Who")),
    ...places.map((i) => html("th", { scope: "col", class: i === place ? "here" : "" }, String(i + 1))),
  );
  const rows = [
    row("Target", null, places, place, (i) => targetCell(round, i)),
    row("Draft that won", null, places, place, (i) => draftCell(round, i)),
    ...ranked.map((vote) => {
      const share = vote.weight / most;
      return row(vote.drafter, { weight: vote.weight, share }, places, place, (i) => voteCell(round, vote, i));
    }),
  ];
  return html(
    "div",
    { class: "votes-scroll", tabindex: 0, role: "region", "aria-label": "Votes" },
    html("table", { class: "votes" }, html("thead", {}, head), html("tbody", {}, ...rows)),
  );
}

/**
 * @param {string} name
 * @param {{weight: number, share: number} | null} weighed
 * @param {number[]} places
 * @param {number | null} place
 * @param {(i: number) => HTMLElement | null} cell
 */
function row(name, weighed, places, place, cell) {
  const label = [html("span", { class: "who" }, name)];
  if (weighed !== null) {
    label.push(
      html("span", { class: "weight", "--share": weighed.share, "aria-hidden": "true" }),
      html("span", { class: "weight-value" }, html("span", { class: "sr-only" }, "weight "), short(weighed.weight)),
    );
  }
  return html(
    "tr",
    { class: weighed === null ? "outcome" : "vote", "--hue": weighed === null ? "var(--ink)" : colourOf(name) },
    html("th", { scope: "row" }, html("span", { class: "label" }, ...label)),
    ...places.map((i) => html("td", { class: i === place ? "here" : "" }, cell(i))),
  );
}

/** @param {Round} round @param {number} i */
function targetCell(round, i) {
  const emitted = round.tokens[i];
  if (emitted === undefined) return null;
  const key = leaderOf(round, emitted) ?? emitted.source;
  return cell(emitted, `said ${emitted.source}`, emitted.source, colourFor(key));
}

/** @param {Round} round @param {number} i */
function draftCell(round, i) {
  const piece = round.draft[i];
  if (piece === undefined) return null;
  const isAccepted = i < round.num_accepted;
  const proposers = round.votes.filter((vote) => follows(round, vote, i));
  const leader = proposers.sort((a, b) => b.weight - a.weight)[0];
  const hue = leader === undefined ? "var(--plain)" : colourOf(leader.drafter);
  return cell(piece, isAccepted ? "taken" : "refused", isAccepted ? "accepted" : "rejected", hue);
}

/** @param {Round} round @param {import("./trace.js").Vote} vote @param {number} i */
function voteCell(round, vote, i) {
  const piece = vote.tokens[i];
  if (piece === undefined) return null;
  const isReady = i < (vote.num_ready ?? 0);
  const [when, ready] = isReady ? [", drafted ahead", " ready"] : ["", ""];
  if (!follows(round, vote, i)) return cell(piece, `outvoted${when}`, (i < vote.num_agreed ? "agreed" : "aside") + ready, "var(--plain)");
  const fate = i < round.num_accepted ? "accepted" : "rejected";
  return cell(piece, fate + when, fate + ready, colourOf(vote.drafter));
}

/** Whether a vote is on the winning path up to its token i. */
/** @param {Round} round @param {import("./trace.js").Vote} vote @param {number} i */
function follows(round, vote, i) {
  const isThere = round.draft.length > i && vote.tokens.length > i;
  return isThere && vote.tokens.slice(0, i + 1).every((t, j) => t.token === round.draft[j].token);
}

/** @param {import("./trace.js").Piece} piece @param {string} fate @param {string} kind @param {string} hue */
function cell(piece, fate, kind, hue) {
  return html(
    "span",
    { class: `cell ${kind}`, title: `token ${piece.token}: ${fate}`, "--hue": hue },
    visible(piece),
    html("span", { class: "sr-only" }, ` ${fate}`),
  );
}

/** @param {Round} round @returns {HTMLElement} */
function times(round) {
  const total = lasted(round);
  const parts = PARTS.filter(({ key }) => (round.seconds[key] ?? 0) > 0);
  const bar = parts.map(({ key }) =>
    html("span", { class: `stage ${key}`, "--share": total > 0 ? round.seconds[key] / total : 0 }),
  );
  const figures = parts.map(({ key, name }) =>
    html(
      "div",
      {},
      html("dt", {}, html("span", { class: `swatch stage ${key}`, "aria-hidden": "true" }), name),
      html("dd", {}, duration(round.seconds[key]), html("span", { class: "share" }, ` ${percent(round.seconds[key] / total)}`)),
    ),
  );
  return html(
    "div",
    { class: "times" },
    html("div", { class: "stack", "aria-hidden": "true" }, ...bar),
    html("dl", { class: "stages" }, ...figures),
  );
}
