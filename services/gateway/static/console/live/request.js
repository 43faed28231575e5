/** The charts of one request, round by round. */

import { lasted } from "../generate/trace.js";
import { byId } from "../lib/dom.js";
import { percent, short, whole } from "../lib/format.js";
import { colourOf } from "../lib/palette.js";
import { LineChart, RoundBars, ShareBars } from "./charts.js";

/** Of more rounds than these the newest are shown. */
const MAX_ROUNDS = 120;

/** Acceptance, weights, lengths, speed and batch. */
export class RequestCharts {
  /** @param {(round: number) => void} select @param {(drafter: string) => number | null} usual */
  constructor(select, usual) {
    const place = byId("request-charts");
    this.usual = usual;
    this.first = 0;
    this.selected = -1;
    this.acceptance = new ShareBars(place, "Acceptance by drafter", "line: this gateway");
    this.lengths = new RoundBars(place, "Draft length");
    this.speed = new LineChart(place, "Tokens per second");
    this.weights = new LineChart(place, "Weights");
    this.batch = new LineChart(place, "Requests in the batch");
    this.lengths.onPoint((bar) => select(this.first + bar));
    this.clear();
  }

  clear() {
    this.selected = -1;
    this.acceptance.show([]);
    this.lengths.show([], "", -1);
    this.lengths.top.textContent = "";
    for (const chart of [this.speed, this.weights, this.batch]) {
      chart.show([], "", String);
      chart.key.replaceChildren();
    }
  }

  /** @param {import("../generate/trace.js").Trace} trace */
  show(trace) {
    if (trace.rounds.length === 0) return;
    this.first = Math.max(0, trace.rounds.length - MAX_ROUNDS);
    const rounds = trace.rounds.slice(this.first);
    const last = rounds[rounds.length - 1];
    this.#showAcceptance(trace);
    this.#showLengths(trace);
    const speeds = smooth(rounds.map((round) => round.tokens.length / Math.max(lasted(round), 1e-6)));
    const total = trace.rounds.reduce((sum, round) => sum + lasted(round), 0);
    const mean = trace.tokens.length / Math.max(total, 1e-6);
    const rate = (/** @type {number} */ value) => `${short(value)} /s`;
    this.speed.show([{ name: "speed", hue: "var(--accent)", values: speeds }], rate(Math.round(mean)), rate);
    this.#showWeights(trace, rounds);
    const running = rounds.map((round) => round.num_running);
    this.batch.show([{ name: "batch", hue: "var(--accent)", values: running }], String(last.num_running), String, true);
  }

  /** @param {import("../generate/trace.js").Trace} trace @param {number} round */
  mark(trace, round) {
    this.selected = round;
    if (trace.rounds.length > 0) this.#showLengths(trace);
  }

  /** @param {import("../generate/trace.js").Trace} trace */
  #showAcceptance(trace) {
    const rows = [...trace.drafters].sort().map(([name, { proposed, agreed }]) => {
      const share = proposed > 0 ? agreed / proposed : 0;
      const text = proposed > 0 ? `${percent(share)} of ${whole(proposed)} tokens` : "nothing proposed";
      return { name, hue: colourOf(name), share, text, usual: this.usual(name) };
    });
    this.acceptance.show(rows);
  }

  /** @param {import("../generate/trace.js").Trace} trace */
  #showLengths(trace) {
    const rounds = trace.rounds.slice(this.first);
    const bars = rounds.map((round) => ({ asked: round.draft.length, full: round.num_accepted }));
    const drafted = trace.rounds.reduce((sum, round) => sum + round.draft.length, 0);
    const text = drafted > 0 ? `${percent(trace.numAccepted / drafted)} accepted` : "no drafts";
    this.lengths.show(bars, text, this.selected - this.first);
  }

  /** @param {import("../generate/trace.js").Trace} trace @param {import("../generate/trace.js").Round[]} rounds */
  #showWeights(trace, rounds) {
    const series = [...trace.drafters.keys()].sort().map((name) => {
      let known = 0;
      const values = rounds.map((round) => {
        known = round.votes.find((vote) => vote.drafter === name)?.weight ?? known;
        return known;
      });
      return { name, hue: colourOf(name), values };
    });
    if (series.length === 0) return;
    const heaviest = series.reduce((a, b) => (last(b) > last(a) ? b : a));
    this.weights.show(series, `${heaviest.name} ${short(last(heaviest))}`, short);
  }
}

/** @param {{values: number[]}} series @returns {number} */
function last(series) {
  return series.values[series.values.length - 1];
}

/** A mean over some rounds, so that the line can be read. @param {number[]} values @returns {number[]} */
function smooth(values) {
  let mean = values[0];
  return values.map((value) => (mean += (value - mean) * 0.35));
}
