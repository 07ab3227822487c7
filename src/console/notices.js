// What needs an operator's attention: the reasons of the readiness check, above every page.
import { readiness } from './api.js';
import { useData } from './data.js';
import { html } from './html.js';

const STORAGE = {
  title: 'Storage is full.',
  text: html`
    Keys are still verified, but the only changes that are stored are those that take access away, such
    as revoking a key. Free disk space, or raise <code>database.max_bytes</code> and restart the server.
    All changes are accepted again as soon as there is room.`,
};

/** What the codes of reasons mean, and what to do. For any other reason, the server’s message is shown. */
const NOTICES = {
  CLOCK_UNSETTLED: {
    title: 'The server’s clock jumped.',
    text: html`
      Until the server trusts the clock again, no old data is deleted, and what has expired stays expired.
      Check the time on the server. If it is wrong, correct it. If it is right, run
      <code>tollhouse clock accept</code>, or wait an hour.`,
  },
  STORAGE_FULL: STORAGE,
  STORAGE_RESERVE_IN_USE: STORAGE,
};

/** Reads the reasons again at each `visit` of a page. Nothing is shown if they can’t be read. */
export function Notices({ visit }) {
  const { value } = useData(readiness, [visit]);
  const notices = value?.reasons?.map(({ code, message }) => {
    const { title, text } = NOTICES[code] ?? { title: message };
    return html`
      <div class="note warn" role="status" key=${code}>
        <p><strong>${title}</strong></p>
        ${text && html`<p>${text}</p>`}
      </div>`;
  });
  return html`${notices}`;
}
