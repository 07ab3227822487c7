// The fields of a key in the dialogs that create and edit it.
import * as format from '../format.js';
import { Field, Select } from '../forms.js';
import { html, useId, useState } from '../html.js';
import { changedFields, editedText, metadataPatch } from '../patch.js';
import { LimitsField, readLimits } from './limits-field.js';
import { MetadataField, readMetadata } from './metadata.js';
import { useConfiguredNames } from './plans.js';
import { ScopeBoxes } from './scope-boxes.js';

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

/** The fields that show the messages about themselves. */
export const KEY_FIELDS = [
  'name',
  'prefix',
  'scopes',
  'expires_at',
  'allowed_ips',
  'self_rotation',
  'limits',
  'metadata',
];

function SelfRotationBox({ error, isChecked }) {
  const messageId = useId();
  const message = error?.messageFor?.('self_rotation');
  return html`
    <div class="field">
      <label class="box">
        <input
          type="checkbox"
          name="self_rotation"
          value="true"
          defaultChecked=${isChecked}
          aria-invalid=${message ? 'true' : undefined}
          aria-describedby=${message ? messageId : undefined}
        />
        <span>Can rotate itself</span>
        <span class="quiet small-text">Whoever has the current secret can replace it with a new one.</span>
      </label>
      ${message && html`<p id=${messageId} class="fault">${message}</p>`}
    </div>`;
}

/** The prefix of a new key. It is typed if the configured ones can't be read. If there is one, it is that. */
function PrefixField({ prefixes, error }) {
  if (!prefixes) {
    return html`
      <${Field}
        label="Prefix (optional)"
        name="prefix"
        error=${error}
        spellcheck="false"
        hint="One of the configured prefixes. Leave empty for the default."
      />`;
  }
  if (prefixes.length < 2) return null;
  const options = prefixes.map((prefix) => [prefix, `${prefix}_…`]);
  return html`
    <${Select} label="Prefix" name="prefix" error=${error} value=${prefixes[0]} options=${options} />`;
}

/** The fields of a new key, or of the key `before` if it is edited. */
export function KeyFields({ session, catalogue, error, before }) {
  const [expiry, setExpiry] = useState(before ? 'keep' : 'default');
  const expiries = [before ? KEEP_EXPIRY : DEFAULT_EXPIRY, ...EXPIRIES];
  const { meters, prefixes } = useConfiguredNames(session);
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
  const limitsField = html`
    <${LimitsField}
      label="Limits"
      name="limits"
      error=${error}
      hint="In addition to the limits of its organization. A platform key has no plan."
      value=${before?.limits ?? null}
      canInherit
      meters=${meters}
    />`;
  return html`
    <${Field} label="Name" name="name" error=${error} value=${before?.name} />
    ${!before && html`<${PrefixField} prefixes=${prefixes} error=${error} />`}
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
    <${SelfRotationBox} error=${error} isChecked=${before?.self_rotation} />
    ${session.isPlatform && limitsField}
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
    self_rotation: form.has('self_rotation'),
  };
  if (form.has('limits')) fields.limits = readLimits(form, 'limits');
  return fields;
}

/** The body that creates a key. Optional fields without a value are left out. */
export function readNewKey(form) {
  const { allowed_ips, self_rotation, limits, ...body } = readFields(form);
  for (const [name, value] of Object.entries({ allowed_ips, self_rotation, limits })) {
    if (value) body[name] = value;
  }
  const prefix = form.get('prefix')?.trim();
  if (prefix) body.prefix = prefix;
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
