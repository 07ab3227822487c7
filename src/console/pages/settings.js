import { get, patch } from '../api.js';
import { useData } from '../data.js';
import { Field, Problem, focusFirstInvalid, isConflict } from '../forms.js';
import { html, useLayoutEffect, useRef, useState } from '../html.js';
import { editedText } from '../patch.js';
import { Card, Page, PendingPage } from '../ui.js';

/** Labels of groups and settings. A setting without one is labeled by its name. */
const LABELS = {
  keys: 'New keys',
  prefix: 'Prefix',
  default_expiry_days: 'Default expiry in days',
  max_expiry_days: 'Maximum expiry in days',
  require_allowed_ips_for_admin: 'Administrative keys must have allowed IP addresses',
  rate_limits: 'Rate limits',
  admin_per_minute: 'Admin API requests per key and minute',
  batch_per_minute: 'Batch requests per key and minute',
  organization_factor: 'Limit of an organization, as a multiple of the limit of a key',
  failed_auth_per_minute: 'Failed authentications per minute',
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
  requests_per_minute: 'Requests per key and minute',
  max_keys: 'Maximum keys per organization',
  max_members: 'Maximum members per organization',
};
const HINTS = {
  prefix: 'Existing keys keep theirs.',
  default_expiry_days: '0 means never.',
  max_expiry_days: '0 means no maximum.',
  admin_per_minute: '0 means no limit.',
  batch_per_minute: '0 means no limit.',
  organization_factor: 'For all keys of an organization together. 0 means no limit.',
  failed_auth_per_minute: 'Per client IP address. 0 means no limit.',
  audit_days: '0 keeps it indefinitely; otherwise at least 30.',
  plan_name: 'Leave empty to add no plan.',
  requests_per_minute: '0 means no limit.',
  max_keys: '0 means no maximum.',
  max_members: '0 means no maximum.',
};
const labelOf = (name) => LABELS[name] ?? name.replaceAll('_', ' ');

// Names of form fields that are not settings.
const REMOVE_PLAN = 'remove';
const NEW_PLAN = 'new-plan';
const NEW_PLAN_DEFAULTS = { requests_per_minute: 100, max_keys: 0, max_members: 0 };

const isGroup = (value) => value !== null && typeof value === 'object';

/** The value of a setting in the form. If it has no value yet, digits are read as a number. */
function readSetting(form, pointer, before) {
  if (typeof before === 'boolean') return form.get(pointer) === 'on';
  if (typeof before === 'string') return editedText(form, pointer, before);
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
      if (edited !== value) changes[name] = edited;
    }
  }
  return changes;
}

/** The plan to add: its name and values, or nothing. */
function readNewPlan(form) {
  const name = form.get(NEW_PLAN).trim();
  if (!name) return undefined;
  const fields = Object.keys(NEW_PLAN_DEFAULTS);
  const values = fields.map((field) => [field, Number(form.get(`${NEW_PLAN}/${field}`))]);
  return { name, values: Object.fromEntries(values) };
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
    if (oldValue === newValue) return [];
    if (newValue === undefined) return [`${name} was removed`];
    return isGroup(newValue) ? [`${name} was added`] : [`${labelOf(name)} is now ${newValue ?? 'empty'}`];
  });
}

/** One setting. `fieldName` is its name in the form; `pointer` is where the API reports errors about it. */
function Setting({ name, fieldName, pointer = fieldName, value, error }) {
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
function Subgroup({ name, pointer, value, isPlan, error }) {
  const settings = Object.entries(value).map(([setting, settingValue]) => {
    const fieldName = `${pointer}/${setting}`;
    return html`<${Setting} name=${setting} fieldName=${fieldName} value=${settingValue} error=${error} />`;
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
function NewPlan({ name, error }) {
  const ownError = name ? error : undefined;
  const pointer = `/plans/${name}`;
  const settings = Object.entries(NEW_PLAN_DEFAULTS).map(([field, value]) => {
    return html`
      <${Setting}
        name=${field}
        fieldName=${`${NEW_PLAN}/${field}`}
        pointer=${`${pointer}/${field}`}
        value=${value}
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

function Group({ name, value, error, newPlanName }) {
  const isPlans = name === 'plans';
  const entries = Object.entries(value).map(([entry, entryValue]) => {
    const pointer = `/${name}/${entry}`;
    const props = { name: entry, value: entryValue, error };
    if (isGroup(entryValue)) {
      return html`<${Subgroup} key=${entry} ...${props} pointer=${pointer} isPlan=${isPlans} />`;
    }
    return html`<${Setting} key=${entry} ...${props} fieldName=${pointer} />`;
  });
  return html`
    <${Card} title=${labelOf(name)}>
      <div class="settings">
        ${entries}
        ${isPlans && html`<${NewPlan} name=${newPlanName} error=${error} />`}
      </div>
    <//>`;
}

export function Settings() {
  const resource = useData(() => get('/config'), []);
  const [error, setError] = useState();
  const [message, setMessage] = useState();
  const [newPlanName, setNewPlanName] = useState();
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
  const groups = Object.entries(data).filter(([, value]) => isGroup(value));
  const groupCards = groups.map(([name, value]) => {
    const props = { name, value, error, newPlanName };
    return html`<${Group} key=${name} ...${props} />`;
  });
  return html`
    <${Page} title="Settings" lead="Changes apply immediately, without a restart.">
      <form key=${saves} ref=${form} onSubmit=${save} novalidate>
        ${groupCards}
        <${Problem}
          error=${error}
          fields=${Object.keys(data)}
          retry=${isConflict(error) ? reloadAfterConflict : undefined}
        />
        <p class="save"><button class="primary">Save</button> <span role="status">${message}</span></p>
      </form>
    <//>`;
}
