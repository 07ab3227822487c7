// Keys that are selected in a table, and what can be done to all of them: disable and revoke.
import { ApiError, batch } from '../api.js';
import * as format from '../format.js';
import { Dialog, Field, Problem } from '../forms.js';
import { html, useState } from '../html.js';
import { Name } from '../ui.js';

const HOUR_MILLISECONDS = 3_600_000;
const MAX_LISTED_KEYS = 10;

const keyPath = ({ id }) => `/api-keys/${encodeURIComponent(id)}`;
const wasUsedLately = ({ last_used_at: at }) => Boolean(at) && Date.now() - new Date(at) < HOUR_MILLISECONDS;
const keysText = (count) => `${format.count(count)} ${count === 1 ? 'key' : 'keys'}`;

/** The selected ones of these keys, of which only those that `canSelect` can be. */
export function useSelection(keys = [], canSelect) {
  const [ids, setIds] = useState(new Set());
  const selectable = keys.filter(canSelect);
  const selected = selectable.filter(({ id }) => ids.has(id));
  const areAllSelected = selectable.length > 0 && selected.length === selectable.length;
  const toggle = ({ id }) => {
    const changed = new Set(ids);
    if (!changed.delete(id)) changed.add(id);
    setIds(changed);
  };
  const clear = () => setIds(new Set());
  const toggleAll = () => setIds(new Set(areAllSelected ? [] : selectable.map(({ id }) => id)));
  const box = (label, isChecked, onChange) => html`
    <input type="checkbox" aria-label=${label} checked=${isChecked} onChange=${onChange} />`;
  const column = {
    heading: '',
    headingCell: box('Select all', areAllSelected, toggleAll),
    kind: 'select',
    cell: (apiKey) => {
      const { id, name } = apiKey;
      return canSelect(apiKey) && box(`Select ${name}`, ids.has(id), () => toggle(apiKey));
    },
  };
  return { selected, column, clear };
}

/** Sends an operation for each key. Fails with the reasons if some of them were refused. */
async function changeAll(keys, operationOf, verb) {
  const results = await batch(keys.map(operationOf));
  const refused = results
    .map(({ body }, index) => ({ name: keys[index].name, message: body.error?.message }))
    .filter(({ message }) => message);
  if (refused.length === 0) return;
  const details = refused.map(({ name, message }) => ({ message: `${name}: ${message}` }));
  const summary = `${keysText(refused.length)} of ${keys.length} could not be ${verb}.`;
  const reason = refused.length === 1 ? ` ${details[0].message}` : '';
  throw new ApiError(0, { code: 'PARTLY_FAILED', message: summary + reason, details });
}

const revoke = (keys, reason) => {
  const body = reason ? { reason } : {};
  return changeAll(keys, (key) => ({ method: 'POST', path: `${keyPath(key)}/revoke`, body }), 'revoked');
};
const disable = (keys) => {
  const body = { status: 'disabled' };
  return changeAll(keys, (key) => ({ method: 'PATCH', path: keyPath(key), body }), 'disabled');
};

function requireCount(form, count) {
  if (form.get('confirmation').trim() === String(count)) return;
  const message = `Type the number: ${count}`;
  throw new ApiError(0, { code: 'NOT_CONFIRMED', message, details: [{ pointer: '/confirmation', message }] });
}

function RevokeDialog({ keys, onClose, onChanged }) {
  const live = keys.filter(wasUsedLately);
  const listed = keys.slice(0, MAX_LISTED_KEYS);
  const others = keys.length - listed.length;
  const items = listed.map(({ name, start }) => {
    return html`<li><${Name}>${name}<//> <code class="id">${start}…</code></li>`;
  });
  const submit = async (form) => {
    if (live.length > 0) requireCount(form, keys.length);
    try {
      await revoke(keys, form.get('reason').trim());
    } finally {
      onChanged();
    }
    onClose();
  };
  const liveFields = (error) => html`
    <div class="note warn">
      <p>
        <strong>${keysText(live.length)} in use in the last hour.</strong> Requests will be refused
        immediately.
      </p>
    </div>
    <${Field}
      label="Type the number of keys to confirm"
      name="confirmation"
      error=${error}
      hint=${keys.length}
      inputmode="numeric"
    />`;
  const fields = (error) => html`
    <p>Requests with these keys are refused immediately. This can’t be undone.</p>
    <ul class="listed">
      ${items}
      ${others > 0 && html`<li class="quiet">and ${keysText(others)} more</li>`}
    </ul>
    <${Field}
      label="Reason (optional)"
      name="reason"
      error=${error}
      placeholder="Leaked in a log"
      hint="Saved with each key."
    />
    ${live.length > 0 && liveFields(error)}`;
  return html`
    <${Dialog}
      title=${`Revoke ${keysText(keys.length)}?`}
      submitLabel=${`Revoke ${keysText(keys.length)}`}
      isDangerous
      onSubmit=${submit}
      onClose=${onClose}
      fields=${['reason', 'confirmation']}
    >
      ${fields}
    <//>`;
}

/** What can be done to the selected keys. It is below the table, and in sight while any are selected. */
export function SelectionBar({ selection, onChanged }) {
  const { selected, clear } = selection;
  // The dialog is about the keys that were selected when it was opened.
  const [revoked, setRevoked] = useState();
  const [error, setError] = useState();
  const [isBusy, setBusy] = useState(false);
  const disableSelected = async () => {
    setError();
    setBusy(true);
    try {
      await disable(selected.filter(({ status }) => status === 'active'));
      clear();
    } catch (failure) {
      setError(failure);
    }
    setBusy(false);
    onChanged();
  };
  const close = () => setRevoked();
  const bar = html`
    <div class="selection" role="region" aria-label="Selected keys">
      <span role="status">${format.count(selected.length)} selected</span>
      <button class="small" disabled=${isBusy} onClick=${disableSelected}>Disable</button>
      <button class="small danger" onClick=${() => setRevoked(selected)}>Revoke</button>
      <button class="small" onClick=${clear}>Clear</button>
      <${Problem} error=${error} />
    </div>`;
  return html`
    ${selected.length > 0 && bar}
    ${revoked && html`<${RevokeDialog} keys=${revoked} onClose=${close} onChanged=${onChanged} />`}`;
}
