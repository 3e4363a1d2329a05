/** Requests to the server of this page, all JSON. */

/** An answer other than 2xx, or no answer (status 0). */
export class RequestError extends Error {
  /**
   * @param {string} message one sentence for people
   * @param {number} status HTTP status, 0 where the server did not answer
   * @param {Object} body the answer
   */
  constructor(message, status, body = {}) {
    super(message);
    this.status = status;
    this.body = body;
  }
}

/** Get an object. @returns {Promise<*>} @throws {RequestError} */
export function getJson(url) {
  return request(url, { headers: { accept: "application/json" } });
}

/** What browsers still send for a page that is closed, in bytes. */
const KEPT_ALIVE = 60_000;

/** Post an object and get one. @returns {Promise<*>} @throws {RequestError} */
export function postJson(url, body) {
  const text = JSON.stringify(body);
  return request(url, {
    method: "POST",
    headers: { "content-type": "application/json", accept: "application/json" },
    body: text,
    keepalive: text.length < KEPT_ALIVE / 2,
  });
}

async function request(url, options) {
  let response;
  try {
    response = await fetch(url, { credentials: "same-origin", ...options });
  } catch {
    throw new RequestError("The server does not answer. Is `wbcpipe review` still running?", 0);
  }
  const body = await response.json().catch(() => ({}));
  if (response.ok) return body;
  const message = body.error ?? body.reason ?? `The server answered with status ${response.status}.`;
  throw new RequestError(message, response.status, body);
}

/** Return the address of a sample's API. */
export function sampleUrl(sample, rest = "") {
  return `/api/samples/${encodeURIComponent(sample)}${rest}`;
}
