/**
 * What a request's rounds say, gathered: tokens with where they came from, counts, drafters. Pure.
 *
 * @typedef {{token: number, text: string}} Piece
 * @typedef {Piece & {source: "accepted" | "corrected" | "bonus" | "plain", drafters: string[]}} Emitted
 * @typedef {{drafter: string, weight: number, tokens: Piece[], num_agreed: number, num_ready?: number}} Vote
 * @typedef {{index: number, started_s: number, length: number, num_running: number, draft: Piece[],
 *   num_accepted: number, tokens: Emitted[], votes: Vote[], seconds: Record<string, number>}} Round
 * @typedef {{round: number, place: number, emitted: Emitted, leader: string | null}} Token
 * @typedef {{proposed: number, agreed: number, weight: number}} Drafter
 */

/** The parts of a round, in the order in which they follow each other. */
export const PARTS = [
  { key: "drafting", name: "Drafting" },
  { key: "voting", name: "Voting" },
  { key: "hops", name: "Hops" },
  { key: "waiting", name: "Waiting" },
  { key: "forward_pass", name: "Forward pass" },
  { key: "sampling", name: "Sampling" },
  { key: "rest", name: "Rest" },
];

/** One request's rounds so far. */
export class Trace {
  constructor() {
    /** @type {Round[]} */
    this.rounds = [];
    /** @type {Token[]} */
    this.tokens = [];
    /** @type {Map<string, Drafter>} */
    this.drafters = new Map();
    /** @type {Map<string, number>} by drafter where one has led, else by source */
    this.counts = new Map();
  }

  /** @param {Round[]} rounds @returns {Token[]} their tokens */
  add(rounds) {
    return rounds.flatMap((round) => this.#take(round));
  }

  get numAccepted() {
    return this.rounds.reduce((sum, round) => sum + round.num_accepted, 0);
  }

  /** Seconds from the beginning of work to the end of the last round. */
  get end() {
    const last = this.rounds.at(-1);
    return last === undefined ? 0 : last.started_s + lasted(last);
  }

  /** @param {number} at seconds @returns {number} index of the round that was on then, or before */
  roundAt(at) {
    let low = 0;
    let high = this.rounds.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.rounds[middle].started_s <= at) low = middle + 1;
      else high = middle;
    }
    return Math.max(0, low - 1);
  }

  /** @param {Round} round @returns {Token[]} */
  #take(round) {
    const index = this.rounds.push(round) - 1;
    for (const vote of round.votes) {
      const known = this.drafters.get(vote.drafter) ?? { proposed: 0, agreed: 0, weight: 0 };
      this.drafters.set(vote.drafter, {
        proposed: known.proposed + vote.tokens.length,
        agreed: known.agreed + vote.num_agreed,
        weight: vote.weight,
      });
    }
    const tokens = round.tokens.map((emitted, place) => {
      const leader = leaderOf(round, emitted);
      const key = leader ?? emitted.source;
      this.counts.set(key, (this.counts.get(key) ?? 0) + 1);
      return { round: index, place, emitted, leader };
    });
    this.tokens.push(...tokens);
    return tokens;
  }
}

/** @param {Round} round @returns {{ready: number, proposed: number}} of all drafters' tokens, those drafted ahead */
export function aheadOf(round) {
  const ready = round.votes.reduce((sum, vote) => sum + (vote.num_ready ?? 0), 0);
  return { ready, proposed: round.votes.reduce((sum, vote) => sum + vote.tokens.length, 0) };
}

/** @param {Round} round @returns {number} seconds */
export function lasted(round) {
  return PARTS.reduce((sum, { key }) => sum + (round.seconds[key] ?? 0), 0);
}

/**
 * Of those who proposed an accepted token, the one with the highest weight.
 * @param {Round} round
 * @param {Emitted} emitted
 * @returns {string | null}
 */
export function leaderOf(round, emitted) {
  if (emitted.source !== "accepted") return null;
  const weights = new Map(round.votes.map((vote) => [vote.drafter, vote.weight]));
  const weight = (/** @type {string} */ name) => weights.get(name) ?? 0;
  return [...emitted.drafters].sort((a, b) => weight(b) - weight(a))[0] ?? null;
}

/**
 * The round of which there is most to see: many drafts accepted, drafters of several minds.
 * @param {Round[]} rounds
 * @returns {number} its index, or -1
 */
export function tellingRound(rounds) {
  let best = -1;
  let most = -1;
  rounds.forEach((round, index) => {
    const paths = new Set(round.votes.map((vote) => vote.tokens.map((t) => t.token).join(" ")));
    const worth = round.num_accepted + 2 * Math.min(paths.size, 4);
    if (worth > most) [best, most] = [index, worth];
  });
  return best;
}
