/** One generation: asks, and tells what comes. */

import { ApiError, stream } from "../lib/api.js";

/**
 * @typedef {{text: string, rounds: import("./trace.js").Round[] | null, reason: string | null,
 *   usage: any, speculation: any}} Step
 * @typedef {{path: string, body: Record<string, unknown>}} Wanted
 */

/**
 * What an answer brings, step by step. A gateway that knows no trace is asked once more without.
 * @param {Wanted} wanted
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<Step>}
 */
export async function* generate(wanted, signal) {
  try {
    yield* steps(wanted.path, { ...wanted.body, return_trace: true }, signal);
  } catch (error) {
    const isOlder = error instanceof ApiError && error.status === 400 && error.param === "return_trace";
    if (!isOlder) throw error;
    yield* steps(wanted.path, wanted.body, signal);
  }
}

/** @param {string} path @param {object} body @param {AbortSignal} signal @returns {AsyncGenerator<Step>} */
async function* steps(path, body, signal) {
  const asked = { ...body, stream: true, return_speculation: true };
  for await (const chunk of stream(path, asked, signal)) {
    const choice = chunk.choices?.[0];
    yield {
      text: choice?.delta?.content ?? choice?.text ?? "",
      rounds: chunk.trace?.rounds ?? null,
      reason: choice?.finish_reason ?? null,
      usage: chunk.usage ?? null,
      speculation: chunk.metrics?.speculative_decoding ?? null,
    };
  }
}
