// Signs a new tab in with the key of another tab of this browser, which the user confirms in that other tab.
// The key passes from tab to tab and is not stored anywhere else.
import * as api from './api.js';
import { Dialog } from './forms.js';
import { html, useEffect, useState } from './html.js';
import { Name } from './ui.js';

/** The channel of all tabs, on which tabs without a key ask. A key is sent on the channel of one request. */
const CHANNEL = 'tollhouse.sign-in';
const channelOf = (request) => new BroadcastChannel(`${CHANNEL}.${request.id}`);

/** Below a path, pages of others have the same origin, and with it the same channels. */
const isAtRoot = new URL('../', document.baseURI).pathname === '/';

/** A request: a random ID, and a short code by which the user recognizes it in both tabs. */
function newRequest() {
  const [first, second, third] = crypto.getRandomValues(new Uint32Array(3));
  return { id: `${first}-${second}`, code: String(1000 + (third % 9000)) };
}

/** Sends a message on the channel of all tabs. */
function broadcast(message) {
  const channel = new BroadcastChannel(CHANNEL);
  channel.postMessage(message);
  channel.close();
}

/** Passes messages to `receive` while the component is shown, and sends one at its begin and its end. */
function useMessages(receive, { begin, end }) {
  useEffect(() => {
    if (!isAtRoot) return undefined;
    const channel = new BroadcastChannel(CHANNEL);
    channel.onmessage = ({ data }) => receive(data);
    broadcast(begin);
    return () => {
      channel.close();
      if (end) broadcast(end);
    };
  }, []);
}

/** In a signed-in tab: shows requests of other tabs, and sends the key if the user confirms. */
export function HandOver({ session }) {
  const [request, setRequest] = useState();
  const receive = (message) => {
    if (message.type === 'look') broadcast({ type: 'here' });
    if (message.type === 'ask') setRequest(message.request);
    if (message.type === 'end') setRequest((shown) => (shown?.id === message.id ? undefined : shown));
  };
  useMessages(receive, { begin: { type: 'here' }, end: { type: 'gone' } });
  if (!request) return null;

  const answer = (data) => {
    const answers = channelOf(request);
    answers.postMessage(data);
    answers.close();
    broadcast({ type: 'end', id: request.id });
    setRequest();
  };
  return html`
    <${Dialog}
      key=${request.id}
      title="Sign in another tab?"
      submitLabel="Sign in"
      closeLabel="Don’t sign in"
      onSubmit=${() => answer({ key: api.currentKey() })}
      onClose=${() => answer({ isRefused: true })}
    >
      <p>
        A tab of this browser asks to use the key <strong><${Name}>${session.key.name}<//></strong>. Confirm
        only if you opened it, and it shows the code <strong>${request.code}</strong>.
      </p>
    <//>`;
}

/** In a tab without a key: offers to ask the other tabs, if one is signed in. */
export function AskOtherTab({ onKey }) {
  const [isAvailable, setAvailable] = useState(false);
  const [request, setRequest] = useState();
  const [isRefused, setRefused] = useState(false);
  const receive = (message) => {
    if (message.type === 'here') setAvailable(true);
    if (message.type !== 'gone') return;
    setAvailable(false);
    broadcast({ type: 'look' });
  };
  useMessages(receive, { begin: { type: 'look' } });
  useEffect(() => {
    if (!request) return undefined;
    const answers = channelOf(request);
    answers.onmessage = ({ data }) => {
      setRequest();
      setRefused(Boolean(data.isRefused));
      if (data.key) onKey(data.key);
    };
    const end = () => broadcast({ type: 'end', id: request.id });
    addEventListener('pagehide', end);
    broadcast({ type: 'ask', request });
    return () => {
      removeEventListener('pagehide', end);
      end();
      answers.close();
    };
  }, [request]);

  if (!isAvailable) return null;
  const ask = () => {
    setRefused(false);
    setRequest(newRequest());
  };
  const waiting = html`
    <p>
      Confirm in the tab that is signed in. The code is <strong>${request?.code}</strong>.${' '}
      <button type="button" class="small" onClick=${() => setRequest()}>Cancel</button>
    </p>`;
  const refusal = html`<p class="quiet small-text">It was not confirmed.</p>`;
  return html`
    <div class="other-tab" role="status">
      ${request ? waiting : html`<button type="button" onClick=${ask}>Use the key of another tab</button>`}
      ${isRefused && refusal}
    </div>`;
}
