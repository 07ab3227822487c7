import { get, patch } from '../api.js';
import { useData } from '../data.js';
import { html, useState } from '../html.js';
import { Card, Field, Loading, Page, Problem } from '../ui.js';

// What is known of the settings' names; one that isn't here is shown by its name.
const WORDS = {
  keys: 'New keys', prefix: 'Begin with', default_expiry_days: 'Expire after days, unless said otherwise (0: never)',
  max_expiry_days: 'Expire after days at most (0: no bound)', require_allowed_ips_for_admin: 'Administrative keys must name where they are used from',
  rate_limits: 'Limits on calls', admin_per_minute: 'Calls of a key in a minute (0: no limit)', batch_per_minute: 'Batches of a key in a minute (0: no limit)',
  failed_auth_per_minute: 'Failed authentications of an address in a minute (0: no limit)',
  retention: 'What is kept', audit_days: 'Audit log, in days', usage_hourly_days: 'Usage by the hour, in days', usage_daily_days: 'Usage by the day, in days',
  verification_log_days: 'Denials, in days', maintenance: 'Maintenance', read_only: 'Refuse changes', message: 'Message to those who are refused',
  plans: 'Plans', requests_per_minute: 'Requests of a key in a minute (0: no limit)', max_keys: 'Keys of an organization at most (0: no bound)', max_members: 'Its members at most (0: no bound)',
};
const word = (name) => WORDS[name] ?? name.replaceAll('_', ' ');

const REMOVE = 'remove';
const NEW_PLAN = { requests_per_minute: 100, max_keys: 0, max_members: 0 };

const isGroup = (value) => value !== null && typeof value === 'object';

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
    const text = form.get(place);
    const now = typeof value === 'boolean' ? text === 'on' : text === '' && typeof value !== 'string' ? null
      : typeof value === 'number' || (value === null && /^\d+$/.test(text)) ? Number(text) : text;
    if (now !== value && !(now === '' && value === null)) patch[name] = now;
  }
  return patch;
}

/** What was filled in for a plan that isn't there yet. */
function newPlan(form) {
  const name = form.get('new-plan').trim();
  if (!name) return {};
  const values = Object.keys(NEW_PLAN).map((field) => [field, Number(form.get(`new-plan/${field}`))]);
  return { [name]: Object.fromEntries(values) };
}

function Setting({ name, path, value, error }) {
  const faults = (error?.details ?? []).filter(({ pointer }) => pointer === path).map(({ message }) => message).join(' ');
  const told = faults ? { at: () => faults } : undefined;
  if (typeof value === 'boolean') {
    return html`<label class="box"><input type="checkbox" name=${path} defaultChecked=${value} /> ${word(name)} ${faults && html`<span class="fault">${faults}</span>`}</label>`;
  }
  const type = typeof value === 'number' ? 'number' : 'text';
  return html`<${Field} label=${word(name)} name=${path} type=${type} min="0" value=${value ?? ''} error=${told} />`;
}

function Group({ name, path, value, error }) {
  return html`
    <${Card} title=${word(name)}><div class="settings">${Object.entries(value).map(([inner, one]) => (isGroup(one)
      ? html`<fieldset><legend>${word(inner)}</legend>${Object.entries(one).map(([last, leaf]) => html`
          <${Setting} name=${last} path=${`${path}/${inner}/${last}`} value=${leaf} error=${error} />`)}
          ${name === 'plans' && html`<label class="box"><input type="checkbox" name=${`${path}/${inner}/${REMOVE}`} /> Remove this plan</label>`}</fieldset>`
      : html`<${Setting} name=${inner} path=${`${path}/${inner}`} value=${one} error=${error} />`))}
      ${name === 'plans' && html`<fieldset><legend>Another plan (optional)</legend>
        <${Field} label="Its name" name="new-plan" placeholder="startup" />
        ${Object.entries(NEW_PLAN).map(([field, one]) => html`<${Setting} name=${field} path=${`new-plan/${field}`} value=${one} />`)}</fieldset>`}
    </div><//>`;
}

export function Settings() {
  const found = useData(() => get('/config'), []);
  const [error, setError] = useState();
  const [said, setSaid] = useState();
  if (found.error) return html`<${Page} title="Settings"><${Problem} error=${found.error} retry=${found.reload} /><//>`;
  if (!found.value) return html`<${Page} title="Settings"><${Loading} /><//>`;
  const { data, etag } = found.value;
  const save = async (event) => {
    event.preventDefault();
    setError();
    const form = new FormData(event.target);
    const changes = difference(data, form, '');
    const added = newPlan(form);
    if (Object.keys(added).length > 0) changes.plans = { ...changes.plans, ...added };
    if (Object.keys(changes).length === 0) { setSaid('Nothing was changed.'); return; }
    try {
      await patch('/config', changes, etag);
      setSaid('Saved. It holds from now on.');
      found.reload();
    } catch (fault) {
      setSaid();
      setError(fault);
    }
  };
  const again = error?.code === 'PRECONDITION_FAILED' ? () => { setError(); found.reload(); } : undefined;
  return html`
    <${Page} title="Settings" lead="They hold at once, for everybody, and without a restart.">
      <form key=${etag} onSubmit=${save} novalidate>
        ${Object.entries(data).filter(([, value]) => isGroup(value)).map(([name, value]) => html`<${Group} name=${name} path=${`/${name}`} value=${value} error=${error} />`)}
        <${Problem} error=${error} retry=${again} />
        <p class="save"><button class="primary">Save</button> <span role="status">${said}</span></p>
      </form>
    <//>`;
}
