// Methods and statuses of HTTP, and how they are shown.
import { html } from '../console/html.js';

const METHOD_TONES = { GET: 'accent', POST: 'good', PUT: 'warn', PATCH: 'warn', DELETE: 'bad' };

const REASONS = {
  200: 'OK',
  201: 'Created',
  202: 'Accepted',
  204: 'No Content',
  400: 'Bad Request',
  401: 'Unauthorized',
  403: 'Forbidden',
  404: 'Not Found',
  405: 'Method Not Allowed',
  409: 'Conflict',
  412: 'Precondition Failed',
  413: 'Content Too Large',
  415: 'Unsupported Media Type',
  421: 'Misdirected Request',
  422: 'Unprocessable Content',
  424: 'Failed Dependency',
  428: 'Precondition Required',
  429: 'Too Many Requests',
  500: 'Internal Server Error',
  502: 'Bad Gateway',
  503: 'Service Unavailable',
  504: 'Gateway Timeout',
  507: 'Insufficient Storage',
};

/** `404 Not Found`. */
export const statusText = (status) => `${status} ${REASONS[status] ?? ''}`.trim();

export function Method({ method }) {
  return html`<span class="badge method ${METHOD_TONES[method] ?? ''}">${method}</span>`;
}

export function Status({ status, text = statusText(status) }) {
  const tone = { 2: 'good', 3: 'accent', 4: 'warn', 5: 'bad' }[status[0]] ?? '';
  return html`<span class="badge status ${tone}">${text}</span>`;
}
