// Calls to the API with the key of this tab.
import { readKey, removeKey, storeKey } from './key-storage.js';
import { withoutSecrets } from './redact.js';

const BASE_URL = new URL('../', document.baseURI);

let key = readKey();
let onUnauthorized = () => {};

/** The field of the body or the query parameter that a detail of an error is about. */
const fieldOf = ({ pointer, parameter }) => (pointer ? pointer.split('/')[1] : parameter);

/** An error response of the API, or a request that failed. `body` is the body that was sent. */
export class ApiError extends Error {
  constructor(status, { code, message, details = [] }, { requestId, body } = {}) {
    super(message);
    Object.assign(this, { status, code, details, requestId, body });
  }

  /** The messages about one field of the body or one query parameter. */
  messageFor(name) {
    const details = this.details.filter((detail) => fieldOf(detail) === name);
    return details.map(({ message }) => message).join(' ');
  }

  /** The messages about exactly this place in the body. */
  messageAt(pointer) {
    const details = this.details.filter((detail) => detail.pointer === pointer);
    return details.map(({ message }) => message).join(' ');
  }

  /** The messages about this place in the body and about anything in it. */
  messageWithin(pointer) {
    const isWithin = (place) => place === pointer || place?.startsWith(`${pointer}/`);
    const details = this.details.filter((detail) => isWithin(detail.pointer));
    return details.map(({ message }) => message).join(' ');
  }

  /** The details about anything but these fields. */
  detailsOutside(names) {
    return this.details.filter((detail) => !names.includes(fieldOf(detail)));
  }
}

export const hasKey = () => key !== null;
export const currentKey = () => key;

/** Keeps the key in the storage of this tab, which is cleared when the tab is closed. */
export function signIn(newKey) {
  key = newKey;
  storeKey(newKey);
}

export function signOut() {
  key = null;
  removeKey();
}

/** Sets what happens when the API no longer accepts the key. */
export function setUnauthorizedHandler(handler) {
  onUnauthorized = handler;
}

/** The URL of a request. Logs keep URLs, so it contains no secret, even if one was typed as an ID. */
function urlOf(path, query = {}) {
  const url = new URL(withoutSecrets(path), BASE_URL);
  for (const [name, value] of Object.entries(query)) {
    if (value === undefined || value === null || value === '') continue;
    // A cursor is the server's own, whatever it looks like.
    url.searchParams.set(name, name === 'cursor' ? value : withoutSecrets(String(value)));
  }
  return url;
}

async function request(method, path, { query, body, etag } = {}) {
  const headers = { Authorization: `Bearer ${key}` };
  const options = { method, headers, cache: 'no-store', credentials: 'omit', redirect: 'error' };
  if (etag) headers['If-Match'] = etag;
  if (body !== undefined) {
    headers['Content-Type'] = 'application/json';
    options.body = JSON.stringify(body);
  }

  let response;
  try {
    response = await fetch(urlOf(path, query), options);
  } catch {
    const message = 'Can’t reach the server. Check that it is running.';
    throw new ApiError(0, { code: 'UNREACHABLE', message });
  }
  if (response.ok) return response;

  if (response.status === 401) onUnauthorized();
  const envelope = await response.json().catch(() => ({}));
  const unreadable = { code: 'UNREADABLE', message: `The server responded with status ${response.status}.` };
  const { error = unreadable, metadata } = envelope;
  throw new ApiError(response.status, error, { requestId: metadata?.requestId, body });
}

/** A call of the Admin API: the `data` of the response, its ETag, and the cursor of the next page. */
export async function call(method, path, options) {
  const response = await request(method, `admin/v1${path}`, options);
  const { data, metadata } = await response.json();
  return { data, etag: response.headers.get('ETag'), nextCursor: metadata.nextCursor ?? null };
}

export const get = (path, query) => call('GET', path, { query });
export const post = (path, body = {}) => call('POST', path, { body });
export const patch = (path, body, etag) => call('PATCH', path, { body, etag });
export const remove = (path, etag) => call('DELETE', path, { etag });

/** Sends a merge patch, unless it is empty. */
export async function patchIfChanged(path, changes, etag) {
  if (Object.keys(changes).length > 0) await patch(path, changes, etag);
}

/** All items of a list, page by page. Meant for short lists. */
export async function getAll(path, query) {
  const items = [];
  let cursor;
  do {
    const page = await get(path, { ...query, limit: 100, cursor });
    items.push(...page.data);
    cursor = page.nextCursor;
  } while (cursor);
  return items;
}

/** How many operations the API accepts in one batch. */
const MAX_BATCH_OPERATIONS = 100;

/** Sends operations in as few batches as possible. Each stands for itself, and has a result in its place. */
export async function batch(operations) {
  const results = [];
  for (let start = 0; start < operations.length; start += MAX_BATCH_OPERATIONS) {
    const chunk = operations.slice(start, start + MAX_BATCH_OPERATIONS);
    const { data } = await post('/batch', { atomic: false, operations: chunk });
    results.push(...data.results);
  }
  return results;
}

/** Reads the resources at these paths: a map from each path to its result. */
export async function getMany(paths) {
  const results = await batch(paths.map((path) => ({ method: 'GET', path })));
  return new Map(results.map((result, index) => [paths[index], result]));
}

/** Verifies a secret through the data plane. */
export async function verify(body) {
  const response = await request('POST', 'v1/keys/verify', { body });
  return (await response.json()).data;
}

/** What the server can do now, and what needs attention. */
export async function readiness() {
  const response = await fetch(urlOf('readyz'), {
    cache: 'no-store',
    credentials: 'omit',
    redirect: 'error',
  });
  const { data, error } = await response.json();
  // The error of a server that isn’t ready has the same fields.
  return data ?? error;
}

/** Saves a response as a file. A plain link could not send the key. */
export async function download(path, query, fileName) {
  const response = await request('GET', `admin/v1${path}`, { query });
  const link = document.createElement('a');
  link.href = URL.createObjectURL(await response.blob());
  link.download = fileName;
  link.click();
  URL.revokeObjectURL(link.href);
}
