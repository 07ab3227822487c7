// The API as the console calls it: with the key of this tab, errors as they were said.

const ROOT = new URL('../', document.baseURI);
const STORED = 'tollhouse.key';

let key = sessionStorage.getItem(STORED);
let onRefused = () => {};

/** A refusal or a failure: the envelope's code and words, and the single faults. */
export class ApiError extends Error {
  constructor(status, error, requestId) {
    super(error.message);
    Object.assign(this, { status, code: error.code, details: error.details ?? [], requestId });
  }

  /** What is wrong with one field of the body, or one parameter. */
  at(name) {
    const faults = this.details.filter(({ pointer, parameter }) => field(pointer, parameter) === name);
    return faults.map(({ message }) => message).join(' ');
  }

  /** What is wrong with anything but these fields. */
  beside(names) {
    return this.details.filter(({ pointer, parameter }) => !names.includes(field(pointer, parameter)));
  }
}

const field = (pointer, parameter) => (pointer ? pointer.split('/')[1] : parameter);

export const hasKey = () => key !== null;

/** The key lives in this tab, and ends with it. */
export function signIn(given) {
  key = given;
  sessionStorage.setItem(STORED, given);
}

export function signOut() {
  key = null;
  sessionStorage.removeItem(STORED);
}

/** Called when the key turns out not to be good (any more). */
export function whenRefused(then) {
  onRefused = then;
}

function address(path, query = {}) {
  const url = new URL(path, ROOT);
  for (const [name, value] of Object.entries(query)) {
    if (value !== undefined && value !== null && value !== '') url.searchParams.set(name, value);
  }
  return url;
}

async function send(method, path, { query, body, etag } = {}) {
  const headers = { Authorization: `Bearer ${key}` };
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  if (etag) headers['If-Match'] = etag;
  const options = { method, headers, cache: 'no-store', credentials: 'omit', redirect: 'error' };
  if (body !== undefined) options.body = JSON.stringify(body);
  let response;
  try {
    response = await fetch(address(path, query), options);
  } catch {
    throw new ApiError(0, { code: 'UNREACHABLE', message: 'The server can’t be reached. Is it running?' });
  }
  if (response.ok) return response;
  const said = await response.json().catch(() => ({}));
  const error = said.error ?? { code: 'UNREADABLE', message: `The server answered ${response.status}.` };
  if (response.status === 401) onRefused();
  throw new ApiError(response.status, error, said.metadata?.requestId);
}

/** A call of the control plane: what is in `data`, and beside it the page's and the resource's names. */
export async function call(method, path, options) {
  const response = await send(method, `admin/v1${path}`, options);
  const { data, metadata } = await response.json();
  return { data, etag: response.headers.get('ETag'), next: metadata.nextCursor ?? null };
}

export const get = (path, query) => call('GET', path, { query });
export const post = (path, body = {}) => call('POST', path, { body });
export const patch = (path, body, etag) => call('PATCH', path, { body, etag });

/** A patch without fields is not sent. */
export async function patchIfChanged(path, changes, etag) {
  if (Object.keys(changes).length > 0) await patch(path, changes, etag);
}

export const remove = (path, etag) => call('DELETE', path, { etag });

/** All rows of a short list. */
export async function all(path, query) {
  const rows = [];
  let cursor;
  do {
    const page = await get(path, { ...query, limit: 100, cursor });
    rows.push(...page.data);
    cursor = page.next;
  } while (cursor);
  return rows;
}

/** Asks the data plane about a secret. */
export async function verify(body) {
  return (await (await send('POST', 'v1/keys/verify', { body })).json()).data;
}

/** Saves an answer as a file: a link could not send the key. */
export async function save(path, query, name) {
  const blob = await (await send('GET', `admin/v1${path}`, { query })).blob();
  const link = document.createElement('a');
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  URL.revokeObjectURL(link.href);
}
