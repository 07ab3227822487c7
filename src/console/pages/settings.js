import { get, patch } from '../api.js';
import { useData } from '../data.js';
import { Field, Problem, focusFirstInvalid, isConflict } from '../forms.js';
import { html, useLayoutEffect, useRef, useState } from '../html.js';
import { REQUESTS, limitText } from '../limits.js';
import { editedText, isEqual } from '../patch.js';
import { Card, Page, PendingPage } from '../ui.js';
import { LimitsField, readLimits } from './limits-field.js';

/** Labels of groups and settings. A setting without one is labeled by its name. */
const LABELS = {
  keys: 'New keys',
  prefixes: 'Prefixes',
  default_expiry_days: 'Default expiry in days',
  max_expiry_days: 'Maximum expiry in days',
  require_allowed_ips_for_admin: 'Administrative keys must have allowed IP addresses',
  rate_limits: 'Rate limits',
  admin_per_minute: 'Admin API requests per key and minute',
  batch_per_minute: 'Batch requests per key and minute',
  organization_factor: 'Limit of an organization, as a multiple of the limit of a key',
  failed_auth_per_minute: 'Failed authentications per minute',
  meters: 'Meters',
  retention: 'Retention',
  audit_days: 'Audit log in days',
  usage_hourly_days: 'Hourly usage in days',
  usage_daily_days: 'Daily usage in days',
  verification_log_days: 'Denials in days',
  maintenance: 'Maintenance',
  read_only: 'Read-only mode',
  message: 'Message for refused requests',
  plans: 'Plans',
  plan_name: 'Name',
  key_limits: 'Limits of each key',
  organization_limits: 'Limits of the organization',
  max_keys: 'Maximum keys per organization',
  max_members: 'Maximum members per organization',
};
const HINTS = {
  prefixes: 'One per line. The first is the default. Existing keys keep theirs.',
  default_expiry_days: '0 means never.',
  max_expiry_days: '0 means no maximum.',
  admin_per_minute: '0 means no limit.',
  batch_per_minute: '0 means no limit.',
  organization_factor: 'For all keys of an organization together. 0 means no limit.',
  failed_auth_per_minute: 'Per client IP address. 0 means no limit.',
  meters: 'What limits and usage count, one per line. The meter requests can’t be removed.',
  audit_days: '0 keeps it indefinitely; otherwise at least 30.',
  plan_name: 'Leave empty to add no plan.',
  key_limits: 'For each key without limits of its own.',
  organization_limits: 'Shared by all keys of an organization without limits of its own.',
  max_keys: '0 means no maximum.',
  max_members: '0 means no maximum.',
};
const labelOf = (name) => LABELS[name] ?? name.replaceAll('_', ' ');

// Names of form fields that are not settings.
const REMOVE_PLAN = 'remove';
const NEW_PLAN = 'new-plan';
const NEW_PLAN_DEFAULTS = {
  key_limits: [{ meter: REQUESTS, limit: 100, window_seconds: 60 }],
  organization_limits: [{ meter: REQUESTS, limit: 1000, window_seconds: 60 }],
  max_keys: 0,
  max_members: 0,
};

const isGroup = (value) => value !== null && typeof value === 'object' && !Array.isArray(value);

/** Settings that are lists of names. Other lists are limits. */
const NAME_LISTS = ['meters', 'prefixes'];

/** The names in a text, one per line. */
const readNames = (text) => text.split(/[\s,]+/).filter(Boolean);

/** The value of a setting in the form. If it has no value yet, digits are read as a number. */
function readSetting(form, pointer, before) {
  if (typeof before === 'boolean') return form.get(pointer) === 'on';
  if (typeof before === 'string') return editedText(form, pointer, before);
  if (pointer === '/meters') return readNames(form.get('meters'));
  if (pointer === '/keys/prefixes') return readNames(form.get(pointer));
  if (Array.isArray(before)) return readLimits(form, pointer);
  const text = form.get(pointer);
  if (text === '') return null;
  const isNumber = typeof before === 'number' || /^\d+$/.test(text);
  return isNumber ? Number(text) : text;
}

/** The merge patch from the settings before to those in the form. Fields are named by their pointers. */
function readChanges(before, form, parentPointer = '') {
  const changes = {};
  for (const [name, value] of Object.entries(before)) {
    const pointer = `${parentPointer}/${name}`;
    if (parentPointer === '/plans' && form.get(`${pointer}/${REMOVE_PLAN}`)) {
      changes[name] = null;
    } else if (isGroup(value)) {
      const inner = readChanges(value, form, pointer);
      if (Object.keys(inner).length > 0) changes[name] = inner;
    } else {
      const edited = readSetting(form, pointer, value);
      if (!isEqual(edited, value)) changes[name] = edited;
    }
  }
  return changes;
}

/** The plan to add: its name and values, or nothing. */
function readNewPlan(form) {
  const name = form.get(NEW_PLAN).trim();
  if (!name) return undefined;
  const values = Object.entries(NEW_PLAN_DEFAULTS).map(([field, value]) => {
    const fieldName = `${NEW_PLAN}/${field}`;
    return [field, Array.isArray(value) ? readLimits(form, fieldName) : Number(form.get(fieldName))];
  });
  return { name, values: Object.fromEntries(values) };
}

function describeValue(name, value) {
  if (NAME_LISTS.includes(name)) return `are now ${value.join(', ')}`;
  if (Array.isArray(value)) return `are now ${value.map(limitText).join(' · ') || 'none'}`;
  return `is now ${value ?? 'empty'}`;
}

/** Describes each setting that differs. */
function describeChanges(before, after) {
  const names = [...new Set([...Object.keys(before), ...Object.keys(after)])];
  return names.flatMap((name) => {
    const oldValue = before[name];
    const newValue = after[name];
    if (isGroup(oldValue) && isGroup(newValue)) {
      const inner = describeChanges(oldValue, newValue);
      return name in LABELS ? inner : inner.map((change) => `${name}: ${change}`);
    }
    if (isEqual(oldValue, newValue)) return [];
    if (newValue === undefined) return [`${name} was removed`];
    return isGroup(newValue) ? [`${name} was added`] : [`${labelOf(name)} ${describeValue(name, newValue)}`];
  });
}

/** A list of names, one per line. */
function NameList({ name, fieldName, value, error }) {
  const textarea = (control) => {
    return html`<textarea ...${control} rows="3" spellcheck="false">${value.join('\n')}</textarea>`;
  };
  const props = { name: fieldName, pointer: fieldName, hint: HINTS[name], error };
  return html`<${Field} label=${labelOf(name)} ...${props} isList>${textarea}<//>`;
}

/**
 * One setting. `fieldName` is its name in the form; `pointer` is where the API reports errors about it. The
 * `meters` are those to choose from in a list of limits.
 */
function Setting({ name, fieldName, pointer = fieldName, value, meters, error }) {
  if (typeof value === 'boolean') {
    const message = error?.messageAt?.(pointer);
    return html`
      <label class="box">
        <input
          type="checkbox"
          name=${fieldName}
          defaultChecked=${value}
          aria-invalid=${message ? 'true' : undefined}
        />
        <span>${labelOf(name)}</span>
        ${message && html`<span class="fault small-text">${message}</span>`}
      </label>`;
  }
  if (NAME_LISTS.includes(name)) {
    return html`<${NameList} name=${name} fieldName=${fieldName} value=${value} error=${error} />`;
  }
  if (Array.isArray(value)) {
    const props = { name: fieldName, pointer, value, meters, error };
    return html`<${LimitsField} label=${labelOf(name)} hint=${HINTS[name]} ...${props} />`;
  }
  return html`
    <${Field}
      label=${labelOf(name)}
      name=${fieldName}
      type=${typeof value === 'number' ? 'number' : 'text'}
      min="0"
      value=${value ?? ''}
      hint=${HINTS[name]}
      error=${error}
      pointer=${pointer}
    />`;
}

/** The settings of a group within a group: of one plan. */
function Subgroup({ name, pointer, value, isPlan, meters, error }) {
  const settings = Object.entries(value).map(([setting, settingValue]) => {
    const fieldName = `${pointer}/${setting}`;
    const props = { name: setting, fieldName, value: settingValue, meters, error };
    return html`<${Setting} key=${setting} ...${props} />`;
  });
  const removeName = `${pointer}/${REMOVE_PLAN}`;
  const removeBox = html`
    <label class="box"><input type="checkbox" name=${removeName} /> <span>Remove this plan</span></label>`;
  return html`
    <fieldset>
      <legend>${labelOf(name)}</legend>
      ${settings}
      ${isPlan && removeBox}
    </fieldset>`;
}

/** The fields of a plan to add. `name` is the one that was submitted, which errors are about. */
function NewPlan({ name, meters, error }) {
  const ownError = name ? error : undefined;
  const pointer = `/plans/${name}`;
  const settings = Object.entries(NEW_PLAN_DEFAULTS).map(([field, value]) => {
    return html`
      <${Setting}
        name=${field}
        fieldName=${`${NEW_PLAN}/${field}`}
        pointer=${`${pointer}/${field}`}
        value=${value}
        meters=${meters}
        error=${ownError}
      />`;
  });
  return html`
    <fieldset class="new-plan">
      <legend>New plan (optional)</legend>
      <${Setting} name="plan_name" fieldName=${NEW_PLAN} pointer=${pointer} value="" error=${ownError} />
      ${settings}
    </fieldset>`;
}

function Group({ name, value, meters, error, newPlanName }) {
  const isPlans = name === 'plans';
  const entries = Object.entries(value).map(([entry, entryValue]) => {
    const pointer = `/${name}/${entry}`;
    const props = { name: entry, value: entryValue, meters, error };
    if (isGroup(entryValue)) {
      return html`<${Subgroup} key=${entry} ...${props} pointer=${pointer} isPlan=${isPlans} />`;
    }
    return html`<${Setting} key=${entry} ...${props} fieldName=${pointer} />`;
  });
  return html`
    <${Card} title=${labelOf(name)}>
      <div class="settings">
        ${entries}
        ${isPlans && html`<${NewPlan} name=${newPlanName} meters=${meters} error=${error} />`}
      </div>
    <//>`;
}

/** The meters. `onInput` gets the edited list. */
function Meters({ value, error, onInput }) {
  const textarea = (control) => html`
    <textarea
      ...${control}
      rows="3"
      spellcheck="false"
      onInput=${(event) => onInput(readNames(event.target.value))}
    >
      ${value.join('\n')}
    </textarea>`;
  return html`
    <${Card} title=${labelOf('meters')}>
      <${Field} label="Names of meters" name="meters" hint=${HINTS.meters} error=${error}>${textarea}<//>
    <//>`;
}

export function Settings() {
  const resource = useData(() => get('/config'), []);
  const [error, setError] = useState();
  const [message, setMessage] = useState();
  const [newPlanName, setNewPlanName] = useState();
  // A limit can be on a meter that is saved together with it.
  const [typedMeters, setTypedMeters] = useState();
  // Each save renders the form anew, so that nothing typed before is left in it.
  const [saves, setSaves] = useState(0);
  const form = useRef();
  useLayoutEffect(() => {
    if (error) focusFirstInvalid(form.current);
  }, [error]);
  if (resource.error || !resource.value)
    return html`<${PendingPage} title="Settings" resource=${resource} />`;

  const { data, etag } = resource.value;
  const save = async (event) => {
    event.preventDefault();
    setError();
    const typed = new FormData(event.target);
    const changes = readChanges(data, typed);
    const newPlan = readNewPlan(typed);
    setNewPlanName(newPlan?.name);
    if (newPlan && Object.hasOwn(data.plans, newPlan.name)) {
      setMessage(`The plan ${newPlan.name} already exists. Edit it above.`);
      return;
    }
    if (newPlan) changes.plans = { ...changes.plans, [newPlan.name]: newPlan.values };
    if (Object.keys(changes).length === 0) {
      setMessage('No changes to save.');
      return;
    }
    try {
      resource.replace(await patch('/config', changes, etag));
      setSaves(saves + 1);
      setTypedMeters();
      setMessage('Saved. The changes apply immediately.');
    } catch (failure) {
      setMessage();
      setError(failure);
    }
  };
  /** Loads the changes of others. Browsers keep what was typed in fields whose initial value changes. */
  const reloadAfterConflict = async () => {
    try {
      const latest = await get('/config');
      resource.replace(latest);
      setError();
      const changes = describeChanges(data, latest.data).join('; ') || 'no differences';
      setMessage(`Reloaded: ${changes}. Your edits are still in the form. Review them, then save again.`);
    } catch (failure) {
      setError(failure);
    }
  };
  const cards = Object.entries(data).map(([name, value]) => {
    if (name === 'meters') {
      return html`<${Meters} key=${name} value=${value} error=${error} onInput=${setTypedMeters} />`;
    }
    const props = { name, value, meters: typedMeters ?? data.meters, error, newPlanName };
    return isGroup(value) && html`<${Group} key=${name} ...${props} />`;
  });
  return html`
    <${Page} title="Settings" lead="Changes apply immediately, without a restart.">
      <form key=${saves} ref=${form} onSubmit=${save} novalidate>
        ${cards}
        <${Problem}
          error=${error}
          fields=${Object.keys(data)}
          retry=${isConflict(error) ? reloadAfterConflict : undefined}
        />
        <p class="save"><button class="primary">Save</button> <span role="status">${message}</span></p>
      </form>
    <//>`;
}
