// The members of an organization.
import { get, patchIfChanged, post, remove } from '../api.js';
import { useData, useList } from '../data.js';
import { Dialog, Field, Problem, Select } from '../forms.js';
import { html, useState } from '../html.js';
import { changedFields } from '../patch.js';
import { Picker } from '../picker.js';
import { Badge, Card, Empty, Loading, Name, Page, Table, Time } from '../ui.js';
import { DestructionDialog } from './destruction.js';

const ROLES = ['owner', 'admin', 'member', 'viewer'].map((role) => [role, role]);

function RoleField({ error, value }) {
  return html`
    <${Select}
      label="Role"
      name="role"
      error=${error}
      options=${ROLES}
      value=${value}
      hint="For your own application. A role grants no access to Tollhouse."
    />`;
}

function AddDialog({ session, path, onClose, onChanged }) {
  const add = async (form) => {
    await post(path, { user_id: form.get('user_id').trim(), role: form.get('role') });
    onChanged();
  };
  const fields = (error) => html`
    <${Picker}
      session=${session}
      kind="user"
      name="user_id"
      error=${error}
      hint="Search by name or email, or enter an ID. Create new users on the Users page."
    />
    <${RoleField} error=${error} value="member" />`;
  return html`
    <${Dialog}
      title="Add member"
      submitLabel="Add"
      onSubmit=${add}
      onClose=${onClose}
      fields=${['user_id', 'role']}
    >
      ${fields}
    <//>`;
}

/** The content of a dialog until its membership is loaded. */
function PendingMember({ member }) {
  const { error, reload } = member;
  return error ? html`<${Problem} error=${error} retry=${reload} />` : html`<${Loading} />`;
}

function RoleDialog({ user, path, onClose, onChanged }) {
  const member = useData(() => get(path), [path]);
  const save = async (form) => {
    const { data, etag } = member.value;
    await patchIfChanged(path, changedFields(data, { role: form.get('role') }), etag);
    onChanged();
  };
  const fields = (error) => {
    if (!member.value) return html`<${PendingMember} member=${member} />`;
    return html`<${RoleField} error=${error} value=${member.value.data.role} />`;
  };
  return html`
    <${Dialog}
      title=${html`Change role of <${Name}>${user.name}<//>`}
      onSubmit=${member.value && save}
      onClose=${onClose}
      reload=${member.reload}
      fields=${['role']}
    >
      ${fields}
    <//>`;
}

function RemoveDialog({ session, organization, user, path, onClose, onChanged }) {
  const member = useData(() => get(path), [path]);
  const confirm = async () => {
    await remove(path, member.value.etag);
    onChanged();
  };
  const consequences = () => html`
    <p>
      Current role: <strong>${member.value.data.role}</strong>. The membership ends immediately, and the keys
      that this user owns in this organization are revoked. The user is kept.
    </p>`;
  return html`
    <${DestructionDialog}
      session=${session}
      subject=${{ keyFilter: { organization_id: organization, user_id: user.id } }}
      name=${user.name}
      title=${html`Remove <${Name}>${user.name}<//>?`}
      submitLabel="Remove"
      isReady=${Boolean(member.value)}
      onSubmit=${confirm}
      onClose=${onClose}
      reload=${member.reload}
    >
      ${member.value ? consequences() : html`<${PendingMember} member=${member} />`}
    <//>`;
}

export function Members({ session, organization }) {
  const path = `/organizations/${encodeURIComponent(organization)}/members`;
  const list = useList(path, {}, 'members');
  const [dialog, setDialog] = useState({});
  const close = () => setDialog({});
  const onChanged = () => {
    close();
    list.reload();
  };
  const memberButtons = ({ user }) => html`
    <span class="actions">
      <button
        class="small"
        aria-label=${`Change role of ${user.name}`}
        onClick=${() => setDialog({ name: 'role', user })}
      >
        Change role
      </button>
      <button
        class="small danger"
        aria-label=${`Remove ${user.name}`}
        onClick=${() => setDialog({ name: 'remove', user })}
      >
        Remove
      </button>
    </span>`;
  const columns = [
    {
      heading: 'Name',
      kind: 'wide',
      cell: ({ user }) => html`<a href=${session.userHref(user.id)}><${Name}>${user.name}<//></a>`,
    },
    { heading: 'Email', kind: 'text', cell: ({ user }) => html`<${Name}>${user.email}<//>` },
    { heading: 'Role', cell: ({ role }) => html`<${Badge} label=${role} />` },
    { heading: 'Added', cell: ({ created_at: at }) => html`<${Time} at=${at} />` },
    { heading: '', kind: 'end', cell: memberButtons },
  ];
  const { name, user } = dialog;
  const memberDialogProps = {
    user,
    path: `${path}/${encodeURIComponent(user?.id)}`,
    onClose: close,
    onChanged,
  };
  const add = () => setDialog({ name: 'add' });
  const addButton = html`<button class="small" onClick=${add}>Add member</button>`;
  const empty = html`<${Empty} title="No members yet.">Add the people who manage this organization.<//>`;
  const removeDialog = html`
    <${RemoveDialog} ...${memberDialogProps} session=${session} organization=${organization} />`;
  return html`
    <${Card} title="Members" actions=${addButton}>
      <${Table} list=${list} columns=${columns} label="Members" empty=${empty} />
      ${name === 'add' && html`<${AddDialog} ...${{ session, path, onClose: close, onChanged }} />`}
      ${name === 'role' && html`<${RoleDialog} ...${memberDialogProps} />`}
      ${name === 'remove' && removeDialog}
    <//>`;
}

/** Asks a platform key that can't list organizations for one. */
function OrganizationForm() {
  const open = (event) => {
    event.preventDefault();
    const id = new FormData(event.target).get('organization').trim();
    if (id) location.hash = `#/members/${encodeURIComponent(id)}`;
  };
  return html`
    <${Card}>
      <form class="inline" onSubmit=${open}>
        <${Field} label="Organization ID" name="organization" placeholder="org_…" spellcheck="false" />
        <button>Show members</button>
      </form>
    <//>`;
}

/** The members of an organization as a page, for keys that may not read organizations. */
export function OrganizationMembers({ session, id = session.organization?.id }) {
  const members = html`<${Members} session=${session} organization=${id} />`;
  return html`
    <${Page} title="Members" lead=${html`<${Name}>${session.organization?.name ?? id}<//>`}>
      ${id ? members : html`<${OrganizationForm} />`}
    <//>`;
}
