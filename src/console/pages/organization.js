import { get, patch, post, remove } from '../api.js';
import { UsageChart } from '../chart.js';
import { useData, useList } from '../data.js';
import { html, useState } from '../html.js';
import { Badge, Card, Dialog, Empty, Facts, Field, Id, Loading, MetadataList, Page, Problem, Rows, Select, Time } from '../ui.js';
import { KeyTable } from './keys.js';
import { readMetadata, MetadataField } from './metadata.js';
import { PlanField } from './organizations.js';

const ROLES = ['owner', 'admin', 'member', 'viewer'].map((role) => [role, role]);

function Edit({ session, found, close, done }) {
  const { data, etag } = found;
  const send = async (form) => {
    const body = { name: form.get('name').trim(), email: form.get('email').trim(), metadata: readMetadata(form, data.metadata) };
    if (session.platform) Object.assign(body, { plan: form.get('plan'), status: form.get('status') });
    await patch(`/organizations/${encodeURIComponent(data.id)}`, body, etag);
    done();
  };
  return html`
    <${Dialog} title="Edit organization" send=${send} close=${close} reload=${done} fields=${['name', 'email', 'plan', 'status', 'metadata']}>${(error) => html`
      <${Field} label="Name" name="name" error=${error} value=${data.name} />
      <${Field} label="Email" name="email" type="email" error=${error} value=${data.email} />
      ${session.platform && html`
        <${PlanField} session=${session} error=${error} value=${data.plan} />
        <${Select} label="Status" name="status" error=${error} value=${data.status} options=${[['active', 'active'], ['suspended', 'suspended']]}
          hint="The keys of a suspended organization are refused at once." />`}
      <${MetadataField} error=${error} value=${data.metadata} />`}
    <//>`;
}

function Delete({ found, close }) {
  const { data, etag } = found;
  const send = async () => {
    await remove(`/organizations/${encodeURIComponent(data.id)}`, etag);
    location.hash = '#/organizations';
  };
  return html`
    <${Dialog} title=${`Delete ${data.name}?`} action="Delete for good" danger send=${send} close=${close}>
      <p>Its keys and memberships end at once, and for good. Its usage and its audit log stay.</p>
    <//>`;
}

function AddMember({ id, close, done }) {
  const [typed, setTyped] = useState('');
  const found = useData(async () => (typed ? (await get('/users', { q: typed, limit: 8 })).data : []), [typed]);
  const send = async (form) => {
    const given = form.get('user_id').trim();
    const user = found.value?.find(({ email }) => email === given);
    await post(`/organizations/${encodeURIComponent(id)}/members`, { user_id: user?.id ?? given, role: form.get('role') });
    done();
  };
  return html`
    <${Dialog} title="Add a member" action="Add" send=${send} close=${close} fields=${['user_id', 'role']}>${(error) => html`
      <${Field} label="User" name="user_id" error=${error} hint="A name, an email or an id; a new one is made under Users.">${(shared) => html`
        <input ...${shared} list="member-users" autocomplete="off" onInput=${(event) => setTyped(event.target.value)} />
        <datalist id="member-users">${(found.value ?? []).map((user) => html`<option value=${user.email}>${user.name}</option>`)}</datalist>`}<//>
      <${Select} label="Role" name="role" error=${error} options=${ROLES} value="member" hint="Your platform’s record of who is what." />`}
    <//>`;
}

function Members({ id }) {
  const list = useList(`/organizations/${encodeURIComponent(id)}/members`);
  const [adding, setAdding] = useState(false);
  const [editing, setEditing] = useState();
  const path = (member) => `/organizations/${encodeURIComponent(id)}/members/${encodeURIComponent(member.user_id)}`;
  const close = () => { setAdding(false); setEditing(); };
  const done = () => { close(); list.reload(); };
  const send = async (form) => {
    if (form.get('role') === 'remove') await remove(path(editing));
    else await patch(path(editing), { role: form.get('role') });
    done();
  };
  const columns = [
    ['Name', ({ user }) => html`<a href=${`#/users/${user.id}`}>${user.name}</a>`, 'wide'],
    ['Email', ({ user }) => user.email],
    ['Role', ({ role }) => html`<${Badge} is=${role} />`],
    ['Since', ({ created_at: at }) => html`<${Time} at=${at} />`],
    ['', (member) => html`<button class="small" onClick=${() => setEditing(member)} aria-label=${`Change ${member.user.name}`}>Change</button>`, 'end'],
  ];
  return html`
    <${Card} title="Members" actions=${html`<button class="small" onClick=${() => setAdding(true)}>Add a member</button>`}>
      <${Rows} list=${list} columns=${columns} label="Members" empty=${html`<${Empty} title="No members yet.">Add the people who look after this organization.<//>`} />
      ${adding && html`<${AddMember} id=${id} close=${close} done=${done} />`}
      ${editing && html`
        <${Dialog} title=${editing.user.name} send=${send} close=${close} fields=${['role']}>${(error) => html`
          <${Select} label="Role" name="role" error=${error} value=${editing.role} options=${[...ROLES, ['remove', 'Remove from the organization']]}
            hint="Who is removed loses the keys that are theirs here." />`}<//>`}
    <//>`;
}

function UsageCard({ id }) {
  const usage = useData(async () => (await get('/analytics/usage', { org_id: id, period: '30d' })).data, [id]);
  return html`
    <${Card} title="Requests of 30 days" actions=${html`<a href=${`#/usage?org_id=${encodeURIComponent(id)}`}>More</a>`}>
      <${Problem} error=${usage.error} retry=${usage.reload} />
      ${usage.value && (usage.value.totals.requests > 0 ? html`<${UsageChart} usage=${usage.value} label="Requests" />`
        : html`<${Empty} title="None of its keys was verified yet.">Give it a key, and let your gateway ask for it.<//>`)}
    <//>`;
}

export function Organization({ session, id }) {
  const found = useData(() => get(`/organizations/${encodeURIComponent(id)}`), [id]);
  const [dialog, setDialog] = useState();
  const close = () => setDialog();
  if (found.error) return html`<${Page} title="Organization"><${Problem} error=${found.error} retry=${found.reload} /><//>`;
  if (!found.value) return html`<${Page} title="Organization"><${Loading} /><//>`;
  const { data } = found.value;
  const actions = html`
    <button onClick=${() => setDialog('edit')}>Edit</button>
    ${session.platform && html`<button class="danger" onClick=${() => setDialog('delete')}>Delete</button>`}`;
  return html`
    <${Page} title=${data.name} lead=${html`<${Badge} is=${data.status} /> <${Badge} is=${data.plan} />`} actions=${actions}>
      <${Card}><${Facts} of=${[
        ['Id', html`<${Id} of=${data.id} />`],
        ['Email', data.email],
        ['Created', html`<${Time} at=${data.created_at} />`],
        ['Changed', html`<${Time} at=${data.updated_at} />`],
        ['Metadata', html`<${MetadataList} of=${data.metadata} />`],
      ]} /><//>
      ${session.seesUsage && html`<${UsageCard} id=${id} />`}
      ${session.can('admin:keys') && html`<${KeyTable} session=${session} organization=${id} creating=${dialog === 'key'}
        setCreating=${(open) => setDialog(open ? 'key' : undefined)} title="API keys"
        actions=${html`<button class="small" onClick=${() => setDialog('key')}>New API key</button>`} />`}
      ${session.can('admin:users') && html`<${Members} id=${id} />`}
      ${session.seesAudit && html`<p><a href=${`#/audit?org_id=${encodeURIComponent(id)}`}>Its audit log</a></p>`}
      ${dialog === 'edit' && html`<${Edit} session=${session} found=${found.value} close=${close} done=${() => { close(); found.reload(); }} />`}
      ${dialog === 'delete' && html`<${Delete} found=${found.value} close=${close} />`}
    <//>`;
}
