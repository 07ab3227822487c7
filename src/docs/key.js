// The API key with which requests are tried: the one of the console in this tab, or one that is pasted here.
import { Dialog, Field } from '../console/forms.js';
import { html } from '../console/html.js';
import { isPossibleKey } from '../console/key-storage.js';

const IMPOSSIBLE = 'This is not an API key: it contains characters that keys don’t have.';

/** Asks for the key. It is kept in the storage of this tab and nowhere else. */
export function KeyDialog({ onKey, onClose }) {
  const submit = (form) => {
    const key = form.get('key').trim();
    if (!isPossibleKey(key)) throw new Error(key ? IMPOSSIBLE : 'Enter an API key.');
    onKey(key);
    onClose();
  };
  const hint = 'It is kept until you close this tab or remove it. The console uses the same key.';
  return html`
    <${Dialog} title="API key" submitLabel="Use this key" onSubmit=${submit} onClose=${onClose}>
      <${Field}
        label="API key"
        name="key"
        type="password"
        placeholder="toll_…"
        spellcheck="false"
        hint=${hint}
      />
    <//>`;
}

export function KeyControl({ apiKey, onAsk, onRemove }) {
  // One button with two meanings, so that it keeps the focus.
  return html`
    ${apiKey && html`<span class="badge good">API key in use</span>`}
    <button type="button" class="small" onClick=${apiKey ? onRemove : onAsk}>
      ${apiKey ? 'Remove key' : 'Use an API key'}
    </button>`;
}
