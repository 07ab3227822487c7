// Sends a request and reads its response, up to a bound.
import { isJson } from './document.js';

/** The largest part of a response that is read and shown, in bytes. */
export const MAX_BYTES = 256 * 1024;

/** Characters that change the direction of the text around them. */
const BIDI_CONTROLS = /[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g;

const escapeCharacter = (character) => `\\u${character.charCodeAt(0).toString(16).padStart(4, '0')}`;

/** A text in which nothing is reordered, so that it reads as what it is. */
export const showControls = (text) => text.replace(BIDI_CONTROLS, escapeCharacter);

async function readBounded(response) {
  if (!response.body) return { bytes: new Uint8Array(), isCut: false };
  const reader = response.body.getReader();
  const chunks = [];
  let size = 0;
  while (size <= MAX_BYTES) {
    const { value, done } = await reader.read();
    if (done) break;
    chunks.push(value);
    size += value.length;
  }
  const isCut = size > MAX_BYTES;
  // The rest is not waited for: an export may be long.
  if (isCut) reader.cancel().catch(() => {});
  const blob = new Blob(chunks).slice(0, MAX_BYTES);
  return { bytes: new Uint8Array(await blob.arrayBuffer()), isCut };
}

/** The text as it is shown: JSON is indented, unless it was cut. */
function format(text, mediaType, isCut) {
  if (isCut || !isJson(mediaType)) return showControls(text);
  try {
    return showControls(JSON.stringify(JSON.parse(text), null, 2));
  } catch {
    return showControls(text);
  }
}

/**
 * The response to a request: `status`, `headers`, `text`, and the time until it was read, in milliseconds; or
 * `failure`, if there is none.
 */
export async function send({ method, url, headers, body }) {
  const start = performance.now();
  try {
    const options = { method, headers, body, cache: 'no-store', credentials: 'omit', redirect: 'error' };
    const response = await fetch(url, options);
    const { bytes, isCut } = await readBounded(response);
    const milliseconds = performance.now() - start;
    const mediaType = response.headers.get('Content-Type') ?? '';
    return {
      status: String(response.status),
      headers: [...response.headers],
      mediaType,
      text: format(new TextDecoder().decode(bytes), mediaType, isCut),
      isCut,
      milliseconds,
    };
  } catch {
    return { failure: 'Can’t reach the server. Check that it is running, and try again.' };
  }
}
