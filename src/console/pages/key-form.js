// The fields of a key in the dialogs that create and edit it.
import * as format from '../format.js';
import { Choice, Field, Select } from '../forms.js';
import { html, useId, useState } from '../html.js';
import { changedFields, editedText, metadataPatch } from '../patch.js';
import { MetadataField, readMetadata } from './metadata.js';

const DAY_MILLISECONDS = 86_400_000;
const KEEP_EXPIRY = ['keep', 'Keep as is'];
const DEFAULT_EXPIRY = ['default', 'Default'];
const EXPIRIES = [
  ['never', 'Never'],
  ['30', 'In 30 days'],
  ['90', 'In 90 days'],
  ['365', 'In 1 year'],
  ['at', 'On a specific date'],
];
const WINDOWS = [
  ['1', 'per second'],
  ['60', 'per minute'],
  ['3600', 'per hour'],
  ['86400', 'per day'],
];
const PERIODS = [
  ['hour', 'per hour'],
  ['day', 'per day'],
  ['month', 'per month'],
];

/** The fields that show the messages about themselves. */
export const KEY_FIELDS = ['name', 'scopes', 'expires_at', 'allowed_ips', 'rate_limit', 'quota', 'metadata'];

/** True for scopes that give access to Tollhouse itself. */
export const isAdministrative = (scope) =>
  scope === '*' || scope.startsWith('admin:') || scope.startsWith('keys:');

/**
 * The scopes to choose from: the catalogue, wildcards for each of its resources, and those that the key has.
 */
function offeredScopes(session, catalogue, chosen) {
  const single = catalogue.map(({ scope }) => scope);
  const wildcards = single.map((scope) => `${scope.split(':')[0]}:*`);
  const all = [...new Set([...single, ...wildcards, ...chosen, '*'])];
  const isOffered = (scope) => session.canGrant(scope) || chosen.includes(scope);
  return {
    api: all.filter((scope) => !isAdministrative(scope)),
    administrative: all.filter((scope) => isAdministrative(scope) && isOffered(scope)),
  };
}

function describeScope(scope, catalogue) {
  if (scope === '*') return 'Full access';
  if (scope.endsWith(':*')) return `All ${scope.slice(0, -2)} scopes, including future ones`;
  return catalogue.find((entry) => entry.scope === scope)?.description;
}

/**
 * The scopes that an error is about, by their index in the body that was sent. An error about all has none.
 */
function invalidScopes(error) {
  const pointers = (error?.details ?? []).map(({ pointer }) => /^\/scopes\/(\d+)/.exec(pointer ?? ''));
  return pointers.filter(Boolean).map(([, index]) => error.body.scopes[index]);
}

function ScopeBoxes({ session, catalogue, chosen, error }) {
  const messageId = useId();
  const { api, administrative } = offeredScopes(session, catalogue, chosen);
  const message = error?.messageFor?.('scopes');
  const invalid = invalidScopes(error);
  const isInvalid = (scope) => Boolean(message) && (invalid.length === 0 || invalid.includes(scope));
  const box = (scope) => html`
    <label class="box" key=${scope}>
      <input
        type="checkbox"
        name="scope"
        value=${scope}
        defaultChecked=${chosen.includes(scope)}
        aria-invalid=${isInvalid(scope) ? 'true' : undefined}
        aria-describedby=${isInvalid(scope) ? messageId : undefined}
      />
      <code>${scope}</code>
      <span class="quiet small-text">${describeScope(scope, catalogue)}</span>
    </label>`;
  const administrativeBoxes = html`
    <details open=${chosen.some(isAdministrative)}>
      <summary>Administrative scopes</summary>
      <div class="boxes">${administrative.map(box)}</div>
    </details>`;
  return html`
    <fieldset>
      <legend>Scopes</legend>
      <div class="boxes">${api.map(box)}</div>
      ${administrative.length > 0 && administrativeBoxes}
      ${message && html`<p id=${messageId} class="fault">${message}</p>`}
    </fieldset>`;
}

/** A number of requests and the window or period that it applies to. Empty means no limit. */
function LimitField({ label, name, hint, error, limit, unit, units }) {
  const isListed = units.some(([value]) => value === unit);
  const options = isListed ? units : [...units, [unit, `per ${unit} seconds`]];
  const inputs = (control) => html`
    <span class="pair">
      <input ...${control} type="number" min="1" defaultValue=${limit ?? ''} />
      <${Choice} name=${`${name}_unit`} aria-label=${`${label}: unit`} value=${unit} options=${options} />
    </span>`;
  return html`<${Field} label=${label} name=${name} error=${error} hint=${hint}>${inputs}<//>`;
}

function LimitFields({ error, before }) {
  return html`
    <${LimitField}
      label="Rate limit (optional)"
      name="rate_limit"
      error=${error}
      hint="Leave empty to use the limit of the organization’s plan."
      limit=${before?.rate_limit?.limit}
      unit=${String(before?.rate_limit?.window_seconds ?? 60)}
      units=${WINDOWS}
    />
    <${LimitField}
      label="Quota (optional)"
      name="quota"
      error=${error}
      hint="Counted per calendar period in UTC. Leave empty for no quota."
      limit=${before?.quota?.limit}
      unit=${before?.quota?.period ?? 'month'}
      units=${PERIODS}
    />`;
}

/** The fields of a new key, or of the key `before` if it is edited. */
export function KeyFields({ session, catalogue, error, before }) {
  const [expiry, setExpiry] = useState(before ? 'keep' : 'default');
  const expiries = [before ? KEEP_EXPIRY : DEFAULT_EXPIRY, ...EXPIRIES];
  const isDateShown = expiry === 'at' || error?.messageFor?.('expires_at');
  const dateField = html`
    <${Field}
      label="Expiry date"
      name="expires_at"
      type="datetime-local"
      error=${error}
      hint=${`In your time zone, ${format.timeZone}.`}
    />`;
  const addressesInput = (control) => html`
    <textarea ...${control} rows="2" spellcheck="false" placeholder="203.0.113.0/24">
      ${(before?.allowed_ips ?? []).join('\n')}
    </textarea>`;
  return html`
    <${Field} label="Name" name="name" error=${error} value=${before?.name} />
    <${ScopeBoxes} session=${session} catalogue=${catalogue} chosen=${before?.scopes ?? []} error=${error} />
    <${Select}
      label="Expires"
      name="expiry"
      value=${expiry}
      options=${expiries}
      onChange=${(event) => setExpiry(event.target.value)}
    />
    ${isDateShown && dateField}
    <${Field}
      label="Allowed IP addresses (optional)"
      name="allowed_ips"
      error=${error}
      hint="IP addresses or CIDR ranges, one per line. Leave empty to allow any address."
    >
      ${addressesInput}
    <//>
    ${session.isPlatform && html`<${LimitFields} error=${error} before=${before} />`}
    <${MetadataField} error=${error} value=${before?.metadata} />`;
}

/**
 * The expiry in the form; no field if it stays as it is. A date that is missing is left to the API to refuse.
 */
function readExpiry(form) {
  const choice = form.get('expiry');
  if (choice === 'never') return { expires_at: null };
  if (choice === 'at') return { expires_at: format.toApiTime(form.get('expires_at')) ?? '' };
  const days = Number(choice);
  return days ? { expires_at: new Date(Date.now() + days * DAY_MILLISECONDS).toISOString() } : {};
}

/** A limit in the form, or `null` if it is empty. */
function readLimit(form, name, unitField, readUnit) {
  const limit = form.get(name);
  const unit = form.get(`${name}_unit`);
  return limit ? { limit: Number(limit), [unitField]: readUnit(unit) } : null;
}

/** The fields in the form. Limits are among them only if the session may set them. */
function readFields(form, before) {
  const addresses = form
    .get('allowed_ips')
    .split(/[\s,]+/)
    .filter(Boolean);
  const fields = {
    name: editedText(form, 'name', before?.name),
    scopes: form.getAll('scope'),
    ...readExpiry(form),
    allowed_ips: addresses.length > 0 ? addresses : null,
  };
  if (form.has('rate_limit')) fields.rate_limit = readLimit(form, 'rate_limit', 'window_seconds', Number);
  if (form.has('quota')) fields.quota = readLimit(form, 'quota', 'period', String);
  return fields;
}

/** The body that creates a key. Optional fields without a value are left out. */
export function readNewKey(form) {
  const { allowed_ips, rate_limit, quota, ...body } = readFields(form);
  for (const [name, value] of Object.entries({ allowed_ips, rate_limit, quota })) {
    if (value) body[name] = value;
  }
  const metadata = readMetadata(form);
  if (Object.keys(metadata).length > 0) body.metadata = metadata;
  return body;
}

const hasSameItems = (one, other) => one.length === other.length && one.every((item) => other.includes(item));

/** The merge patch for a key: the fields that differ from `before`. */
export function readKeyChanges(form, before) {
  const fields = readFields(form, before);
  // The form lists scopes in its own order, which has no meaning.
  if (hasSameItems(fields.scopes, before.scopes)) delete fields.scopes;
  const changes = changedFields(before, fields);
  const metadata = metadataPatch(before.metadata, readMetadata(form));
  if (metadata) changes.metadata = metadata;
  return changes;
}
