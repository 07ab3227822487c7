// The members of an organization: who is what there.
import { get, patchIfChanged, post, remove } from '../api.js';
import { useData, useList } from '../data.js';
import { html, useState } from '../html.js';
import { changedFields } from '../patch.js';
import { Badge, Card, Dialog, Empty, Field, Loading, Problem, Rows, Select, Time } from '../ui.js';

const ROLES = ['owner', 'admin', 'member', 'viewer'].map((role) => [role, role]);

function AddMember({ id, close, done }) {
  const [typed, setTyped] = useState('');
  const found = useData(
    async () => (typed ? (await get('/users', { q: typed, limit: 8 })).data : []),
    [typed],
  );
  const send = async (form) => {
    const given = form.get('user_id').trim();
    const user = found.value?.find(({ email }) => email === given);
    await post(`/organizations/${encodeURIComponent(id)}/members`, {
      user_id: user?.id ?? given,
      role: form.get('role'),
    });
    done();
  };
  return html`
    <${Dialog} title="Add a member" action="Add" send=${send} close=${close} fields=${['user_id', 'role']}>${(
      error,
    ) => html`
      <${Field} label="User" name="user_id" error=${error} hint="A name, an email or an id; a new one is made under Users.">${(
        shared,
      ) => html`
        <input ...${shared} list="member-users" autocomplete="off" onInput=${(event) => setTyped(event.target.value)} />
        <datalist id="member-users">${(found.value ?? []).map((user) => html`<option value=${user.email}>${user.name}</option>`)}</datalist>`}<//>
      <${Select} label="Role" name="role" error=${error} options=${ROLES} value="member" hint="For your own platform to act on; it gives no rights in Tollhouse." />`}
    <//>`;
}

/** One membership as it is now, which is what a change then names. */
function useMember(path) {
  const found = useData(() => get(path), [path]);
  return { ...found, role: found.value?.data.role, etag: found.value?.etag };
}

/** What a dialog shows until it has loaded what it is about. */
const waiting = ({ error, value, reload }) =>
  error ? html`<${Problem} error=${error} retry=${reload} />` : !value && html`<${Loading} />`;

function Change({ of, path, close, done }) {
  const member = useMember(path);
  const send = async (form) => {
    await patchIfChanged(path, changedFields(member.value.data, { role: form.get('role') }), member.etag);
    done();
  };
  return html`
    <${Dialog} title=${`Change ${of.user.name}`} send=${member.value && send} close=${close} reload=${member.reload} fields=${['role']}>${(
      error,
    ) => html`
      ${waiting(member) || html`<${Select} label="Role" name="role" error=${error} value=${member.role} options=${ROLES} hint="For your own platform to act on; it gives no rights in Tollhouse." />`}`}
    <//>`;
}

function Remove({ of, path, close, done }) {
  const member = useMember(path);
  const send = async () => {
    await remove(path, member.etag);
    done();
  };
  return html`
    <${Dialog} title=${`Remove ${of.user.name}?`} action="Remove" danger send=${member.value && send} close=${close} reload=${member.reload}>
      ${waiting(member) || html`<p>Role now: <strong>${member.role}</strong>. The membership ends at once, and with it the keys that belong to this user here. The user stays.</p>`}
    <//>`;
}

export function Members({ id }) {
  const list = useList(`/organizations/${encodeURIComponent(id)}/members`);
  const [dialog, setDialog] = useState({});
  const path = (member) =>
    `/organizations/${encodeURIComponent(id)}/members/${encodeURIComponent(member.user_id)}`;
  const close = () => setDialog({});
  const done = () => {
    close();
    list.reload();
  };
  const { adding, changing, removing } = dialog;
  const columns = [
    [
      'Name',
      ({ user }) => html`<a href=${`#/users/${encodeURIComponent(user.id)}`}>${user.name}</a>`,
      'wide',
    ],
    ['Email', ({ user }) => user.email, 'text'],
    ['Role', ({ role }) => html`<${Badge} is=${role} />`],
    ['Since', ({ created_at: at }) => html`<${Time} at=${at} />`],
    [
      '',
      (member) => html`<span class="actions">
      <button class="small" onClick=${() => setDialog({ changing: member })} aria-label=${`Change ${member.user.name}`}>Change</button>
      <button class="small danger" onClick=${() => setDialog({ removing: member })} aria-label=${`Remove ${member.user.name}`}>Remove</button></span>`,
      'end',
    ],
  ];
  return html`
    <${Card} title="Members" actions=${html`<button class="small" onClick=${() => setDialog({ adding: true })}>Add a member</button>`}>
      <${Rows} list=${list} columns=${columns} label="Members" empty=${html`<${Empty} title="No members yet.">Add the people who look after this organization.<//>`} />
      ${adding && html`<${AddMember} id=${id} close=${close} done=${done} />`}
      ${changing && html`<${Change} of=${changing} path=${path(changing)} close=${close} done=${done} />`}
      ${removing && html`<${Remove} of=${removing} path=${path(removing)} close=${close} done=${done} />`}
    <//>`;
}
