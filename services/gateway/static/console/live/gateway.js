/** The charts of the whole gateway, poll by poll. */

import { byId, html } from "../lib/dom.js";
import { counted, percent, short, whole } from "../lib/format.js";
import { colourOf } from "../lib/palette.js";
import { LineChart, ShareBars } from "./charts.js";

/** Polls that are remembered: two minutes. */
const MAX_POLLS = 60;
const ROLES = ["gateway", "verifier", "voter", "drafter", "recommender"];

/** Speed, requests in work, queue, drafters, instances. */
export class GatewayCharts {
  constructor() {
    const place = byId("gateway-charts");
    this.note = byId("gateway-note");
    this.speed = new LineChart(place, "Tokens per second");
    this.inFlight = new LineChart(place, "Requests in flight");
    this.queue = new LineChart(place, "Waiting in queues");
    this.acceptance = new ShareBars(place, "Acceptance by drafter", "");
    this.instances = html("ul", { class: "instances", "aria-label": "Live instances" });
    place.append(this.instances);
    /** @type {any[]} */
    this.polls = [];
  }

  /** @param {string} drafter @returns {number | null} its acceptance so far */
  usual(drafter) {
    const known = this.polls.at(-1)?.drafters?.[drafter];
    return known && known.num_proposed_tokens > 0 ? known.acceptance : null;
  }

  /** @param {any} status */
  show(status) {
    // Counts that have gone back are those of a new gateway.
    const before = this.polls.at(-1);
    if (before && status.totals.requests < before.totals.requests) this.polls = [];
    this.polls.push(status);
    if (this.polls.length > MAX_POLLS) this.polls.shift();
    this.#showLines(status);
    this.acceptance.show(
      Object.entries(status.drafters).map(([name, /** @type {any} */ own]) => ({
        name,
        hue: colourOf(name),
        share: own.acceptance,
        text: `${percent(own.acceptance)} of ${whole(own.num_proposed_tokens)} tokens`,
        usual: null,
      })),
    );
    this.#showInstances(status.instances);
    const { requests, completion_tokens: tokens } = status.totals;
    this.note.textContent = `${counted(requests, "request")}, ${counted(tokens, "token")} so far`;
  }

  /** @param {string} text why nothing new is shown */
  fail(text) {
    this.note.textContent = text;
  }

  /** @param {any} status */
  #showLines(status) {
    const line = (/** @type {number[]} */ values) => [{ name: "", hue: "var(--accent)", values }];
    const speeds = this.polls.map((poll, i) => speed(this.polls[i - 1], poll));
    const queued = this.polls.map((poll) => poll.queues.generate + poll.queues.recommend);
    const rate = (/** @type {number} */ value) => `${short(Math.round(value))} /s`;
    this.speed.show(line(speeds), rate(speeds[speeds.length - 1]), rate);
    this.inFlight.show(line(this.polls.map((poll) => poll.in_flight)), String(status.in_flight), String, true);
    this.queue.show(line(queued), String(queued[queued.length - 1]), String, true);
  }

  /** @param {{role: string, name: string}[]} instances */
  #showInstances(instances) {
    /** @type {Map<string, number>} */
    const counts = new Map();
    for (const { role, name } of instances) {
      const key = `${role} ${name}`;
      counts.set(key, (counts.get(key) ?? 0) + 1);
    }
    const rank = (/** @type {string} */ key) => ROLES.indexOf(key.split(" ")[0]);
    const keys = [...counts.keys()].sort((a, b) => rank(a) - rank(b) || a.localeCompare(b));
    this.instances.replaceChildren(
      ...keys.map((key) => {
        const [role, ...name] = key.split(" ");
        const count = counts.get(key) ?? 0;
        return html("li", {}, html("span", { class: "role" }, role), html("span", {}, name.join(" ")), count > 1 ? ` × ${count}` : null);
      }),
    );
  }
}

/** @param {any} before @param {any} now @returns {number} tokens a second between two polls */
function speed(before, now) {
  if (before === undefined || now.time <= before.time) return 0;
  return Math.max(0, now.totals.completion_tokens - before.totals.completion_tokens) / (now.time - before.time);
}
