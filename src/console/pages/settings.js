import { get, patch } from '../api.js';
import { useData } from '../data.js';
import { html, useRef, useState } from '../html.js';
import { editedText } from '../patch.js';
import { Card, Field, Loading, Page, Problem } from '../ui.js';

// What is known of the settings' names; one that isn't here is shown by its name.
const WORDS = {
  keys: 'New keys',
  prefix: 'Begin with',
  default_expiry_days: 'Expire after days by default',
  max_expiry_days: 'Expire after days at most',
  require_allowed_ips_for_admin: 'Administrative keys must name where they are used from',
  rate_limits: 'Limits on calls',
  admin_per_minute: 'Calls of a key in a minute',
  batch_per_minute: 'Batches of a key in a minute',
  failed_auth_per_minute: 'Failed authentications in a minute',
  retention: 'What is kept',
  audit_days: 'Audit log, in days',
  usage_hourly_days: 'Usage by the hour, in days',
  usage_daily_days: 'Usage by the day, in days',
  verification_log_days: 'Denials, in days',
  maintenance: 'Maintenance',
  read_only: 'Refuse changes',
  message: 'Message to those who are refused',
  plans: 'Plans',
  plan_name: 'Its name',
  requests_per_minute: 'Requests of a key in a minute',
  max_keys: 'Keys of an organization at most',
  max_members: 'Members of an organization at most',
};
const HINTS = {
  prefix: 'Keys that are there keep theirs.',
  default_expiry_days: '0: never.',
  max_expiry_days: '0: no bound.',
  admin_per_minute: '0: no limit.',
  batch_per_minute: '0: no limit.',
  failed_auth_per_minute: 'Of one address. 0: no limit.',
  audit_days: '0: for ever; else at least 30.',
  plan_name: 'Left empty, none is added.',
  requests_per_minute: '0: no limit.',
  max_keys: '0: no bound.',
  max_members: '0: no bound.',
};
const word = (name) => WORDS[name] ?? name.replaceAll('_', ' ');

const REMOVE = 'remove';
const NEW_NAME = 'new-plan';
const NEW_PLAN = { requests_per_minute: 100, max_keys: 0, max_members: 0 };

const isGroup = (value) => value !== null && typeof value === 'object';

/** The value of a setting in the form. A setting without a value may be a number or text: digits are a number. */
function readSetting(form, pointer, before) {
  if (typeof before === 'boolean') return form.get(pointer) === 'on';
  if (typeof before === 'string') return editedText(form, pointer, before);
  const text = form.get(pointer);
  if (text === '') return null;
  const isNumber = typeof before === 'number' || /^\d+$/.test(text);
  return isNumber ? Number(text) : text;
}

/** What of the form differs from before, as a merge patch. */
function difference(before, form, path) {
  const patch = {};
  for (const [name, value] of Object.entries(before)) {
    const place = `${path}/${name}`;
    if (path === '/plans' && form.get(`${place}/${REMOVE}`)) {
      patch[name] = null;
      continue;
    }
    if (isGroup(value)) {
      const inner = difference(value, form, place);
      if (Object.keys(inner).length > 0) patch[name] = inner;
      continue;
    }
    const typed = readSetting(form, place, value);
    if (typed !== value) patch[name] = typed;
  }
  return patch;
}

/** The settings that somebody else has changed, in words. */
function changed(before, after) {
  const names = new Set([...Object.keys(before), ...Object.keys(after)]);
  return [...names].flatMap((name) => {
    const [was, is] = [before[name], after[name]];
    if (isGroup(was) && isGroup(is))
      return changed(was, is).map((inner) => (name in WORDS ? inner : `${name}: ${inner}`));
    if (was === is) return [];
    if (is === undefined) return [`${name} was removed`];
    return isGroup(is) ? [`${name} was added`] : [`${word(name)}: now ${is ?? 'none'}`];
  });
}

/** What was filled in for a plan that isn't there yet. */
function newPlan(form) {
  const name = form.get(NEW_NAME).trim();
  if (!name) return {};
  const values = Object.keys(NEW_PLAN).map((field) => [field, Number(form.get(`${NEW_NAME}/${field}`))]);
  return { [name]: Object.fromEntries(values) };
}

/** One setting. What is wrong with it, which the API tells `at` a place of the body, stands below. */
function Setting({ name, path, value, error, at = path }) {
  const faults = (error?.details ?? [])
    .filter(({ pointer }) => pointer === at)
    .map(({ message }) => message)
    .join(' ');
  const told = faults ? { at: () => faults } : undefined;
  if (typeof value === 'boolean') {
    return html`<label class="box"><input type="checkbox" name=${path} defaultChecked=${value} /> ${word(name)} ${faults && html`<span class="fault small-text">${faults}</span>`}</label>`;
  }
  const type = typeof value === 'number' ? 'number' : 'text';
  return html`<${Field} label=${word(name)} name=${path} type=${type} min="0" value=${value ?? ''} hint=${HINTS[name]} error=${told} />`;
}

function Group({ name, path, value, error, added }) {
  return html`
    <${Card} title=${word(name)}><div class="settings">${Object.entries(value).map(([inner, one]) =>
      isGroup(one)
        ? html`<fieldset key=${inner}><legend>${word(inner)}</legend>${Object.entries(one).map(
            ([last, leaf]) => html`
          <${Setting} name=${last} path=${`${path}/${inner}/${last}`} value=${leaf} error=${error} />`,
          )}
          ${name === 'plans' && html`<label class="box"><input type="checkbox" name=${`${path}/${inner}/${REMOVE}`} /> Remove this plan</label>`}</fieldset>`
        : html`<${Setting} name=${inner} path=${`${path}/${inner}`} value=${one} error=${error} />`,
    )}
      ${
        name === 'plans' &&
        html`<fieldset class="another"><legend>Another plan (optional)</legend>
        <${Setting} name="plan_name" path=${NEW_NAME} value="" error=${added && error} at=${`/plans/${added}`} />
        ${Object.entries(NEW_PLAN).map(([field, one]) => html`<${Setting} name=${field} path=${`${NEW_NAME}/${field}`} value=${one} error=${added && error} at=${`/plans/${added}/${field}`} />`)}</fieldset>`
      }
    </div><//>`;
}

export function Settings() {
  const found = useData(() => get('/config'), []);
  const [error, setError] = useState();
  const [said, setSaid] = useState();
  const [added, setAdded] = useState();
  // How often it was saved: then the form is drawn anew, and with it what was typed is gone.
  const [saved, setSaved] = useState(0);
  const form = useRef();
  if (found.error)
    return html`<${Page} title="Settings"><${Problem} error=${found.error} retry=${found.reload} /><//>`;
  if (!found.value) return html`<${Page} title="Settings"><${Loading} /><//>`;
  const { data, etag } = found.value;
  const save = async (event) => {
    event.preventDefault();
    setError();
    const typed = new FormData(event.target);
    const changes = difference(data, typed, '');
    const more = newPlan(typed);
    const [name] = Object.keys(more);
    setAdded(name);
    if (name && name in data.plans) {
      setSaid(`There is a plan ${name} already: change it where it stands.`);
      return;
    }
    if (name) changes.plans = { ...changes.plans, ...more };
    if (Object.keys(changes).length === 0) {
      setSaid('Nothing was changed.');
      return;
    }
    try {
      found.take(await patch('/config', changes, etag));
      setSaved(saved + 1);
      setSaid('Saved. It holds from now on.');
    } catch (fault) {
      setSaid();
      setError(fault);
      // The first field that is wrong is where to go on.
      requestAnimationFrame(() => form.current?.querySelector('[aria-invalid]')?.focus());
    }
  };
  /** Takes over what others changed; fields in which something was typed keep it, as browsers do. */
  const takeOver = async () => {
    let theirs;
    try {
      theirs = await get('/config');
    } catch (fault) {
      setError(fault);
      return;
    }
    found.take(theirs);
    setError();
    const list = changed(data, theirs.data);
    setSaid(
      `Taken over: ${list.join('; ') || 'nothing that differs'}. What you typed is still here; look, then save.`,
    );
  };
  const again = error?.code === 'PRECONDITION_FAILED' ? takeOver : undefined;
  return html`
    <${Page} title="Settings" lead="They hold at once, for everybody, and without a restart.">
      <form key=${saved} ref=${form} onSubmit=${save} novalidate>
        ${Object.entries(data)
          .filter(([, value]) => isGroup(value))
          .map(
            ([name, value]) =>
              html`<${Group} key=${name} name=${name} path=${`/${name}`} value=${value} error=${error} added=${added} />`,
          )}
        <${Problem} error=${error} known=${Object.keys(data)} retry=${again} />
        <p class="save"><button class="primary">Save</button> <span role="status">${said}</span></p>
      </form>
    <//>`;
}
