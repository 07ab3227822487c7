// What can be said of a key when it is made and when it is changed.
import { localZone, toTime } from '../format.js';
import { html, useState } from '../html.js';
import { Choice, Field, Select } from '../ui.js';
import { changedFields, editedText, metadataPatch } from '../patch.js';
import { MetadataField, readMetadata } from './metadata.js';

const DAY = 86_400_000;
const EXPIRIES = [
  ['default', 'As configured'],
  ['never', 'Never'],
  ['30', 'In 30 days'],
  ['90', 'In 90 days'],
  ['365', 'In a year'],
  ['at', 'At a time of my choice'],
];
const WINDOWS = [
  ['1', 'a second'],
  ['60', 'a minute'],
  ['3600', 'an hour'],
  ['86400', 'a day'],
];
const PERIODS = [
  ['hour', 'an hour'],
  ['day', 'a day'],
  ['month', 'a month'],
];

/** The fields below which faults are told. */
export const KEY_FIELDS = ['name', 'scopes', 'expires_at', 'allowed_ips', 'rate_limit', 'quota', 'metadata'];

const isAdministrative = (scope) => scope === '*' || scope.startsWith('admin:') || scope.startsWith('keys:');

function ScopeBoxes({ session, catalogue, chosen, error }) {
  const listed = catalogue.map(({ scope }) => scope);
  // Every resource of the catalogue can be given whole.
  const whole = listed.map((scope) => `${scope.split(':')[0]}:*`);
  const names = [...new Set([...listed, ...whole, ...chosen])];
  const own = names.filter((scope) => !isAdministrative(scope));
  const high = names.filter(
    (scope) => isAdministrative(scope) && (session.gives(scope) || chosen.includes(scope)),
  );
  if (session.gives('*') && !high.includes('*')) high.push('*');
  const about = Object.fromEntries(catalogue.map(({ scope, description }) => [scope, description]));
  const meaning = (scope) => {
    if (scope === '*') return 'Everything within reach';
    return scope.endsWith(':*') ? `All of ${scope.slice(0, -2)}, and what comes later` : about[scope];
  };
  const box = (scope) => html`
    <label class="box" key=${scope}><input type="checkbox" name="scope" value=${scope} defaultChecked=${chosen.includes(scope)} />
      <code>${scope}</code> <span class="quiet small-text">${meaning(scope)}</span></label>`;
  const faults = (error?.details ?? [])
    .filter(({ pointer }) => pointer?.startsWith('/scopes'))
    .map(({ message }) => message);
  return html`
    <fieldset>
      <legend>Scopes</legend>
      <div class="boxes">${own.map(box)}</div>
      ${high.length > 0 && html`<details open=${chosen.some(isAdministrative)}><summary>Administration of Tollhouse</summary><div class="boxes">${high.map(box)}</div></details>`}
      ${faults.length > 0 && html`<p class="fault">${faults.join(' ')}</p>`}
    </fieldset>`;
}

/** `limit` in each of some stretches of time; empty: none. */
function Limit({ label, name, hint, error, limit, unit, units }) {
  const faults = (error?.details ?? [])
    .filter(({ pointer }) => pointer?.startsWith(`/${name}`))
    .map(({ message }) => message);
  const own = units.some(([value]) => value === unit) ? units : [...units, [unit, `${unit} seconds`]];
  return html`
    <${Field} label=${label} name=${name} error=${faults.length > 0 ? { at: () => faults.join(' ') } : undefined} hint=${hint}>${(
      shared,
    ) => html`
      <span class="pair"><input ...${shared} type="number" min="1" defaultValue=${limit ?? ''} />
        <${Choice} name=${`${name}_unit`} aria-label=${`${label}: in`} value=${unit} options=${own.map(([value, text]) => [value, `in ${text}`])} /></span>`}<//>`;
}

export function KeyFields({ session, catalogue, error, before }) {
  const [expiry, setExpiry] = useState(before ? 'keep' : 'default');
  const expiries = before ? [['keep', 'As it is'], ...EXPIRIES.slice(1)] : EXPIRIES;
  return html`
    <${Field} label="Name" name="name" error=${error} value=${before?.name} />
    <${ScopeBoxes} session=${session} catalogue=${catalogue} chosen=${before?.scopes ?? []} error=${error} />
    <${Select} label="Expires" name="expiry" value=${expiry} options=${expiries} onChange=${(event) => setExpiry(event.target.value)} />
    ${(expiry === 'at' || error?.at('expires_at')) && html`<${Field} label="Expires at" name="expires_at" type="datetime-local" error=${error} hint=${`In your time zone, ${localZone}.`} />`}
    <${Field} label="May be used from (optional)" name="allowed_ips" error=${error} hint="Addresses or networks (CIDR), one a line. Empty: from anywhere.">${(
      shared,
    ) => html`
      <textarea ...${shared} rows="2" spellcheck="false" placeholder="203.0.113.0/24">${(before?.allowed_ips ?? []).join('\n')}</textarea>`}<//>
    ${
      session.platform &&
      html`
      <${Limit} label="Rate limit (optional)" name="rate_limit" error=${error} hint="Empty: as its organization’s plan says."
        limit=${before?.rate_limit?.limit} unit=${String(before?.rate_limit?.window_seconds ?? 60)} units=${WINDOWS} />
      <${Limit} label="Quota (optional)" name="quota" error=${error} hint="Counted over calendar periods in UTC. Empty: none."
        limit=${before?.quota?.limit} unit=${before?.quota?.period ?? 'month'} units=${PERIODS} />`
    }
    <${MetadataField} error=${error} value=${before?.metadata} />`;
}

function readExpiry(form) {
  const choice = form.get('expiry');
  if (choice === 'never') return { expires_at: null };
  if (choice === 'at') return { expires_at: toTime(form.get('expires_at')) ?? '' };
  const days = Number(choice);
  return days ? { expires_at: new Date(Date.now() + days * DAY).toISOString() } : {};
}

/** A limit as the form has it, or `null` for none. */
function readLimit(form, name, unit, readUnit) {
  const limit = form.get(name);
  return limit ? { limit: Number(limit), [unit]: readUnit(form.get(`${name}_unit`)) } : null;
}

/** The fields of a key as the form has them. Limits are included only if the caller may set them. */
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

/** The body that creates a key: fields without a value are left out. */
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
  // The order of scopes has no meaning, and the form has one of its own.
  if (hasSameItems(fields.scopes, before.scopes)) delete fields.scopes;
  const changes = changedFields(before, fields);
  const metadata = metadataPatch(before.metadata, readMetadata(form));
  if (metadata) changes.metadata = metadata;
  return changes;
}
