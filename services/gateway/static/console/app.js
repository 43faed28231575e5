/** The console: builds the views, and keeps what the gateway says of itself up to date. */

import { GenerationView } from "./generate/view.js";
import { ApiError, get } from "./lib/api.js";
import { byId } from "./lib/dom.js";
import { know } from "./lib/palette.js";
import { keyPanel, tabs, theme } from "./lib/shell.js";
import { GatewayCharts } from "./live/gateway.js";
import { StatusPoll } from "./live/status.js";
import { RecommendView } from "./recommend/view.js";

/** @type {any} what /v1/info has said, nothing yet */
let info = null;

const gateway = new GatewayCharts();
const poll = new StatusPoll(onStatus, onSilence);
const generation = new GenerationView((drafter) => gateway.usual(drafter), () => poll.wake());
const recommendation = new RecommendView(async () => {
  info ??= await get("/v1/info");
  return info.recommender;
});

theme();
tabs((view) => {
  if (view === "recommend") void recommendation.open();
});
keyPanel(() => {
  poll.wake();
  if (!byId("view-recommend").hidden) void recommendation.open();
});
poll.wake();

/** @param {any} status */
function onStatus(status) {
  const roles = new Set(status.instances.map((/** @type {{role: string}} */ instance) => instance.role));
  const names = status.instances.filter((/** @type {any} */ i) => i.role === "drafter").map((/** @type {any} */ i) => i.name);
  know(names.sort());
  gateway.show(status);
  const context = status.instances.find((/** @type {any} */ i) => i.role === "recommender")?.attributes.context;
  if (context) recommendation.form.know(context.split(","));
  void generation.composer.targets.refresh();
  const isReady = roles.has("verifier") || roles.has("recommender");
  if (isReady) say("ready", status.in_flight > 0 ? `Ready, ${status.in_flight} in flight` : "Ready");
  else say("unready", "Nothing to serve with");
}

/** @param {ApiError} error */
function onSilence(error) {
  gateway.fail(error.message);
  generation.composer.targets.miss(error.message);
  if (error.status === 401) say("locked", "A key is needed");
  else if (error.status === 0) say("away", "Out of reach");
  else say("unready", `Status ${error.status}`);
}

/** @param {string} health @param {string} text */
function say(health, text) {
  byId("health").dataset.health = health;
  // Told anew only where it is new, so that a screen reader does not repeat it.
  if (byId("health-text").textContent !== text) byId("health-text").textContent = text;
}
