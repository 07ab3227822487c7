import { all, get, post, verify } from '../api.js';
import { useData, useList } from '../data.js';
import * as format from '../format.js';
import { html, useState } from '../html.js';
import {
  Badge,
  Card,
  Dialog,
  Empty,
  Facts,
  Field,
  Filters,
  Id,
  Page,
  Problem,
  Rows,
  Secret,
  Select,
  Time,
} from '../ui.js';
import { KEY_FIELDS, KeyFields, readNewKey } from './key-form.js';

const STATES = [['', 'Any'], ...['active', 'disabled', 'expired', 'revoked'].map((state) => [state, state])];

export function Scopes({ of }) {
  if (of.length === 0) return html`<span class="quiet">none</span>`;
  const shown = of.slice(0, 3);
  return html`<span class="scopes">${shown.map((scope) => html`<code>${scope}</code> `)}${of.length > 3 && html`<span class="quiet" title=${of.join(' ')}>+${of.length - 3}</span>`}</span>`;
}

function Create({ session, organization, close, done }) {
  const catalogue = useData(() => all('/scopes', { order: 'asc' }), []);
  const send = async (form) => {
    const body = readNewKey(form);
    if (session.platform) {
      const of = organization ?? form.get('organization_id').trim();
      if (of) body.organization_id = of;
    }
    for (const name of ['user_id', 'id']) {
      const given = form.get(name)?.trim();
      if (given) body[name] = given;
    }
    done((await post('/api-keys', body)).data);
  };
  const asks = session.platform && !organization;
  const fields = [...(asks ? ['organization_id'] : []), 'user_id', 'id', ...KEY_FIELDS];
  return html`
    <${Dialog} title="New API key" action="Create" send=${send} close=${close} fields=${fields}>${(
      error,
    ) => html`
      ${asks && html`<${OrganizationField} session=${session} error=${error} />`}
      <${KeyFields} session=${session} catalogue=${catalogue.value ?? []} error=${error} />
      <${Field} label="Belongs to a member (optional)" name="user_id" error=${error} placeholder="user_…" hint="Of its organization. The key then ends with the membership." />
      ${session.platform && html`<${Field} label="Id (optional)" name="id" error=${error} placeholder="key_…" hint="Left empty, one is made. An id never changes." />`}`}
    <//>`;
}

/** An organization by its id, with suggestions where the key may look. */
export function OrganizationField({
  session,
  error,
  value,
  hint = 'Left empty, it is a key of the platform, which reaches every organization.',
  name = 'organization_id',
}) {
  const [typed, setTyped] = useState('');
  const found = useData(async () => {
    if (!session.can('admin:orgs')) return [];
    return (await get('/organizations', { q: typed.startsWith('org_') ? '' : typed, limit: 20 })).data;
  }, [typed]);
  return html`
    <${Field} label="Organization" name=${name} error=${error} hint=${hint}>${(shared) => html`
      <input ...${shared} list=${`${shared.id}-list`} defaultValue=${value} autocomplete="off" placeholder="org_…" onInput=${(event) => setTyped(event.target.value)} />
      <datalist id=${`${shared.id}-list`}>${(found.value ?? []).map(({ id, name: text }) => html`<option value=${id}>${text}</option>`)}</datalist>`}<//>`;
}

/** Asks the data plane, without spending anything. */
function Check({ close }) {
  const [said, setSaid] = useState();
  const send = async (form) => {
    setSaid();
    const body = { key: form.get('key').trim(), dry_run: true };
    if (form.get('ip')) body.ip = form.get('ip').trim();
    const scopes = form
      .get('scopes')
      .split(/[\s,]+/)
      .filter(Boolean);
    if (scopes.length > 0) body.scopes = scopes;
    setSaid(await verify(body));
    throw undefined; // Stays open.
  };
  return html`
    <${Dialog} title="Check a key" action="Check" leave="Close" send=${send} close=${close} fields=${['key', 'scopes', 'ip']}>${(
      error,
    ) => html`
      <p class="quiet">Asks what your gateway asks. Nothing is spent, and it isn’t counted.</p>
      <${Field} label="Secret" name="key" error=${error} type="password" />
      <${Field} label="Scopes that are needed (optional)" name="scopes" error=${error} placeholder="workflows:read" />
      <${Field} label="Client address (optional)" name="ip" error=${error} placeholder="203.0.113.7" />
      ${
        said &&
        html`<div class="said" role="status"><p><${Badge} is=${said.code} tone=${said.valid ? 'good' : 'bad'} /> ${said.message}</p>
        ${
          said.key_id &&
          html`<${Facts} of=${[
            ['Key', html`<${Id} of=${said.key_id} href=${`#/api-keys/${said.key_id}`} />`],
            ['Organization', said.organization_id ?? 'the platform'],
            said.rate_limit && [
              'Rate limit',
              `${format.count(said.rate_limit.remaining)} of ${format.count(said.rate_limit.limit)} left`,
            ],
            said.quota && [
              'Quota',
              `${format.count(said.quota.remaining)} of ${format.count(said.quota.limit)} left`,
            ],
          ]} />`
        }</div>`
      }`}
    <//>`;
}

/** The keys of an organization, or all that are reached. */
export function KeyTable({
  session,
  organization,
  filter = {},
  creating,
  setCreating,
  title,
  actions,
  empty,
}) {
  const list = useList('/api-keys', { ...filter, organization_id: organization ?? filter.organization_id });
  const [made, setMade] = useState();
  const columns = [
    ['Name', ({ id, name }) => html`<a href=${`#/api-keys/${id}`}>${name}</a>`, 'wide'],
    ['Begins with', ({ start }) => html`<code class="id">${start}…</code>`],
    !organization &&
      session.platform && [
        'Organization',
        ({ organization_id: of }) =>
          of
            ? html`<${Id} of=${of} href=${session.can('admin:orgs') ? `#/organizations/${of}` : undefined} />`
            : html`<span class="quiet">platform</span>`,
      ],
    ['Scopes', ({ scopes }) => html`<${Scopes} of=${scopes} />`],
    ['Status', ({ status }) => html`<${Badge} is=${status} />`],
    ['Last used', ({ last_used_at: at }) => html`<${Time} at=${at} />`],
  ].filter(Boolean);
  const filtered = Object.values(filter).some(Boolean);
  const done = (key) => {
    setCreating(false);
    setMade(key);
    list.reload();
  };
  return html`
    <${Card} title=${title} actions=${actions}>
      <${Rows} list=${list} columns=${columns} label="API keys" empty=${
        empty ??
        (filtered
          ? html`<${Empty} title="Nothing matches.">Change or clear the filters above.<//>`
          : html`<${Empty} title="No API keys yet.">Make one and hand its secret to whoever calls your API.<//>`)
      } />
      ${creating && html`<${Create} session=${session} organization=${organization} close=${() => setCreating(false)} done=${done} />`}
      ${made && html`<${Secret} made=${made} close=${() => setMade()} />`}
    <//>`;
}

export function Keys({ session }) {
  const [filter, setFilter] = useState({});
  const [checking, setChecking] = useState(false);
  const [creating, setCreating] = useState(false);
  const catalogue = useData(() => all('/scopes', { order: 'asc' }), []);
  const scopes = (catalogue.value ?? []).map(({ scope }) => [scope, scope]);
  const actions = html`${session.verifies && html`<button onClick=${() => setChecking(true)}>Check a key</button>`}
    <button class="primary" onClick=${() => setCreating(true)}>New API key</button>`;
  return html`
    <${Page} title="API keys" lead="Who may call what, for how long, from where and how often." actions=${actions}>
      <${Filters} onApply=${setFilter}>
        <${Field} label="Name begins with" name="q" type="search" />
        <${Select} label="Status" name="status" options=${STATES} />
        <${Field} label="Belongs to" name="user_id" placeholder="user_…" />
        <${Select} label="Scope" name="scope" options=${[['', 'Any'], ['*', '*'], ...scopes]} />
        ${session.platform && html`<${OrganizationField} session=${session} hint="" />`}
      <//>
      <${Problem} error=${catalogue.error} />
      <${KeyTable} session=${session} filter=${filter} creating=${creating} setCreating=${setCreating} />
      ${checking && html`<${Check} close=${() => setChecking(false)} />`}
    <//>`;
}
