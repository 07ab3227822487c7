// Dialogs that take something away for good: they show what ends, and ask for the name where it is in use.
import { ApiError, get } from '../api.js';
import { useData } from '../data.js';
import * as format from '../format.js';
import { Dialog, Field } from '../forms.js';
import { html } from '../html.js';
import { Facts, Loading, Name, Time } from '../ui.js';

const HOUR_MILLISECONDS = 3_600_000;
const MAX_KEYS = 100;

/** What can't be found out is not shown, and counts as in use. */
const optional = (promise) => promise.catch(() => undefined);

async function readUsage(session, filter) {
  if (!filter || !session.canReadUsage) return undefined;
  const query = { ...filter, period: '24h', interval: 'hour' };
  const { totals, series } = (await get('/analytics/usage', query)).data;
  // Buckets are whole hours, so the last hour is in two of them.
  const recent = series.slice(-2).reduce((sum, { requests }) => sum + requests, 0);
  return { requests: totals.requests, recent };
}

/** The active keys that end, if there are any besides the one that the dialog is about. */
async function readKeys(session, filter) {
  if (!filter || !session.can('admin:keys')) return undefined;
  const { data, nextCursor } = await get('/api-keys', { ...filter, status: 'active', limit: MAX_KEYS });
  return { keys: data, hasMore: nextCursor !== null };
}

const latest = (times) => times.filter(Boolean).toSorted().at(-1);

/** What ends: the requests of a day, the keys, their last use, and whether any of it is in use now. */
async function readImpact(session, { usageFilter, keyFilter, apiKey }) {
  const reading = [optional(readUsage(session, usageFilter)), optional(readKeys(session, keyFilter))];
  const [usage, owned] = await Promise.all(reading);
  const keys = apiKey ? [apiKey] : owned?.keys;
  const lastUsedAt = keys && latest(keys.map(({ last_used_at: at }) => at));
  const wasUsedLately = Boolean(lastUsedAt) && Date.now() - new Date(lastUsedAt) < HOUR_MILLISECONDS;
  const isKnown = usage !== undefined || keys !== undefined;
  const isLive = !isKnown || wasUsedLately || usage?.recent > 0;
  const keyCount = owned && `${format.count(owned.keys.length)}${owned.hasMore ? ' or more' : ''}`;
  return { usage, keyCount, areKeysKnown: keys !== undefined, lastUsedAt, isKnown, isLive };
}

function Impact({ impact }) {
  const { usage, keyCount, areKeysKnown, lastUsedAt, isKnown, isLive } = impact;
  if (!isKnown) {
    return html`
      <p class="quiet">Your key can’t read whether this is in use. Make sure that nobody depends on it.</p>`;
  }
  const facts = [
    usage && ['Requests in 24 hours', format.count(usage.requests)],
    keyCount && ['Keys that stop working', keyCount],
    areKeysKnown && ['Last used', html`<${Time} at=${lastUsedAt} />`],
  ];
  const live = html`
    <div class="note warn">
      <p><strong>In use now.</strong> Requests will be refused immediately.</p>
    </div>`;
  return html`
    ${isLive && live}
    <${Facts} items=${facts} />`;
}

/** The name that was typed must be the one of what ends. */
function requireName(form, name) {
  if (form.get('confirmation').trim() === name.trim()) return;
  const message = `This is not the name. Type: ${name}`;
  throw new ApiError(0, { code: 'NOT_CONFIRMED', message, details: [{ pointer: '/confirmation', message }] });
}

/**
 * A dialog that ends something with a `name`. `subject` says what ends with it: `usageFilter` selects its
 * requests, and `keyFilter` its keys, unless it is itself the `apiKey`. `children` render further fields. It
 * can be submitted once it `isReady`.
 */
export function DestructionDialog({ session, subject, name, isReady = true, onSubmit, ...dialog }) {
  const { fields = [], children } = dialog;
  const impact = useData(() => readImpact(session, subject), []);
  const { value } = impact;
  const submit = async (form) => {
    if (value.isLive) requireName(form, name);
    await onSubmit(form);
  };
  const content = (error) => html`
    ${typeof children === 'function' ? children(error) : children}
    <${Impact} impact=${value} />
    ${value.isLive && html`<${ConfirmationField} name=${name} error=${error} />`}`;
  return html`
    <${Dialog}
      ...${dialog}
      isDangerous
      onSubmit=${value && isReady && submit}
      fields=${[...fields, 'confirmation']}
    >
      ${value ? content : html`<${Loading} />`}
    <//>`;
}

function ConfirmationField({ name, error }) {
  return html`
    <${Field}
      label="Type the name to confirm"
      name="confirmation"
      error=${error}
      hint=${html`<${Name}>${name}<//>`}
      spellcheck="false"
    />`;
}
