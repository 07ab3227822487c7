// The request that a reader fills in: its initial values, its address, its headers, and what is missing.
import { isJson } from './document.js';

const IDEMPOTENCY_KEY = 'idempotency-key';
const IF_MATCH = 'if-match';

/** Characters that a path segment may contain as they are, besides those of `encodeURIComponent`. */
const SEGMENT_CHARACTERS = /%(3A|3B|3D|2C|40|24|26|2B)/g;

/** The values of a URL's path that lead to another path. */
const DOT_SEGMENTS = ['.', '..'];

export const isIdempotencyKey = ({ name, location }) =>
  location === 'header' && name.toLowerCase() === IDEMPOTENCY_KEY;

export const isIfMatch = ({ name, location }) => location === 'header' && name.toLowerCase() === IF_MATCH;

export const nameOf = ({ location, name }) => `${location}.${name}`;

/** A random UUID. `crypto.randomUUID` exists only on pages that were loaded with HTTPS or from loopback. */
function newUuid() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  bytes[6] = (bytes[6] & 0x0f) | 0x40;
  bytes[8] = (bytes[8] & 0x3f) | 0x80;
  const hex = Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join('');
  return hex.replace(/^(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-');
}

const listOf = (text) =>
  text
    .split(',')
    .map((item) => item.trim())
    .filter(Boolean);

const textOf = (value) => (Array.isArray(value) ? value.join(', ') : String(value));

/** A body as it is edited: indented JSON, or the pairs of a form. */
export function bodyText({ mediaType }, value = '') {
  if (isJson(mediaType)) return JSON.stringify(value, null, 2);
  return typeof value === 'object' && value !== null ? new URLSearchParams(value).toString() : textOf(value);
}

/** Optional parameters are left out at first, so that the request works as it is. */
function initialValue(parameter) {
  if (isIdempotencyKey(parameter)) return newUuid();
  if (!parameter.isRequired || parameter.example === undefined) return '';
  return textOf(parameter.example);
}

/** The values of all parameters by name, and the body. */
export function initialValues({ parameters, body }) {
  const values = Object.fromEntries(
    parameters.map((parameter) => [nameOf(parameter), initialValue(parameter)]),
  );
  return { ...values, body: body ? bodyText(body, body.examples[0].value) : '' };
}

/** The values for the next request: with the same idempotency key, it would get this response again. */
export function renewed(operation, values) {
  const parameter = operation.parameters.find(isIdempotencyKey);
  return parameter ? { ...values, [nameOf(parameter)]: newUuid() } : values;
}

/** The header in which the key is sent, and what precedes it; `null` if the operation requires no key. */
export function authenticationOf(api, { security }) {
  const schemes = new Map(api.securitySchemes);
  for (const name of security) {
    const scheme = api.resolve(schemes.get(name));
    if (scheme.type === 'http' && scheme.scheme.toLowerCase() === 'bearer') {
      return { header: 'Authorization', prefix: 'Bearer ' };
    }
    if (scheme.type === 'apiKey' && scheme.in === 'header') return { header: scheme.name, prefix: '' };
  }
  return null;
}

const encodeSegment = (value) => encodeURIComponent(value).replace(SEGMENT_CHARACTERS, decodeURIComponent);

/** The request with these values, without its authentication. Parameters that are empty are left out. */
export function buildRequest(api, operation, values) {
  let { path } = operation;
  const query = new URLSearchParams();
  const headers = [];
  for (const parameter of operation.parameters) {
    const { name, location, schema } = parameter;
    const value = values[nameOf(parameter)];
    if (value === '') continue;
    if (location === 'path') path = path.replace(`{${name}}`, () => encodeSegment(value));
    else if (location === 'query' && schema.types.includes('array')) {
      for (const item of listOf(value)) query.append(name, item);
    } else if (location === 'query') query.append(name, value);
    else if (location === 'header') headers.push([name, value]);
  }
  const body = values.body.trim() === '' ? undefined : values.body;
  if (body !== undefined) headers.unshift(['Content-Type', operation.body.mediaType]);
  const search = query.size > 0 ? `?${query}` : '';
  return { method: operation.method, url: `${api.baseUrl}${path}${search}`, headers, body };
}

/** What prevents the request from being sent, by the name of the field. */
export function findFaults(operation, values) {
  const faults = {};
  for (const parameter of operation.parameters) {
    const value = values[nameOf(parameter)];
    if (parameter.isRequired && value === '') faults[nameOf(parameter)] = 'Enter a value.';
    if (parameter.location === 'path' && DOT_SEGMENTS.includes(value)) {
      faults[nameOf(parameter)] = 'A dot is not a value: it would lead to another path.';
    }
    // Other characters can't be sent in a header.
    if (parameter.location === 'header' && /[^\t\x20-\x7e\xa0-\xff]/.test(value)) {
      faults[nameOf(parameter)] = 'A header can’t contain these characters.';
    }
  }
  return faults;
}

/** What is wrong with the body, which is sent anyway: the server answers with the same fault. */
export function bodyNote({ body }, text) {
  if (!body || !isJson(body.mediaType) || text.trim() === '') return '';
  try {
    JSON.parse(text);
    return '';
  } catch (error) {
    return `This is not valid JSON: ${error.message}`;
  }
}

/** True if the operation takes something away for good. It asks before it is sent. */
export const isDangerous = ({ method, path, id }) =>
  method === 'DELETE' || /(revoke|expire)/i.test(path) || /^(revoke|expire|delete)/i.test(id);
