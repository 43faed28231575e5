/** Calls of this gateway, with the key of this tab; every failure is an ApiError with a sentence. */

import { events } from "./events.js";

const KEY = "quorum-key";

/** What went wrong, in the server's own words where it has said any. */
export class ApiError extends Error {
  /**
   * @param {string} message
   * @param {number} status 0 where no answer came
   * @param {{param?: string | null, retryAfter?: string | null}} [more]
   */
  constructor(message, status, more = {}) {
    super(message);
    this.status = status;
    this.param = more.param ?? null;
    this.retryAfter = more.retryAfter ?? null;
  }
}

/** @returns {string} the key of this tab, or nothing */
export function keptKey() {
  return sessionStorage.getItem(KEY) ?? "";
}

/** @param {string} key nothing forgets it */
export function keepKey(key) {
  if (key === "") sessionStorage.removeItem(KEY);
  else sessionStorage.setItem(KEY, key);
}

/** @param {string} path @returns {Promise<any>} */
export async function get(path) {
  return read(await ask(path, {}));
}

/** @param {string} path @param {object} body @param {AbortSignal} [signal] @returns {Promise<any>} */
export async function post(path, body, signal) {
  return read(await ask(path, { method: "POST", body: JSON.stringify(body), signal }));
}

/**
 * The objects of a streamed answer. Ends after [DONE]; an end without it is an error.
 * @param {string} path
 * @param {object} body
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<any>}
 */
export async function* stream(path, body, signal) {
  const response = await ask(path, { method: "POST", body: JSON.stringify(body), signal });
  if (response.body === null) throw new ApiError("The gateway answered without a body.", 0);
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(String(chunk.error.message), response.status, chunk.error);
      yield chunk;
    }
  } catch (error) {
    if (error instanceof ApiError || signal.aborted) throw error;
    throw lost(error);
  }
  throw lost(null);
}

/** @param {unknown} cause @returns {ApiError} */
function lost(cause) {
  const detail = cause instanceof SyntaxError ? "said something that is no JSON" : "has gone";
  return new ApiError(`The gateway ${detail} before the answer was complete.`, 0);
}

/** @param {string} path @param {RequestInit} init @returns {Promise<Response>} one that is ok */
async function ask(path, init) {
  const key = keptKey();
  const headers = new Headers(init.body ? { "Content-Type": "application/json" } : {});
  if (key !== "") headers.set("Authorization", `Bearer ${key}`);
  let response;
  try {
    response = await fetch(path, { ...init, headers, cache: "no-store" });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new ApiError("The gateway cannot be reached.", 0);
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

/** @param {Response} response @returns {Promise<any>} */
async function read(response) {
  try {
    return await response.json();
  } catch {
    throw new ApiError("The gateway's answer is no JSON.", response.status);
  }
}

/** @param {Response} response @returns {Promise<ApiError>} */
async function refusal(response) {
  const retryAfter = response.headers.get("Retry-After");
  try {
    const { error } = await response.json();
    return new ApiError(String(error.message), response.status, { param: error.param, retryAfter });
  } catch {
    const text = `The gateway answered ${response.status} ${response.statusText}`.trim();
    return new ApiError(`${text}.`, response.status, { retryAfter });
  }
}
