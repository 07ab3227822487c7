import { post } from '../api.js';
import { useList } from '../data.js';
import { Filters, isFiltered, useFilters } from '../filters.js';
import { Dialog, Field, Select } from '../forms.js';
import { html, useState } from '../html.js';
import { useRequestedDialog } from '../route.js';
import { Badge, Card, Empty, Id, Name, NoMatches, Page, Table, Time } from '../ui.js';
import { MetadataField, readMetadata } from './metadata.js';

const STATUS_FILTER = [
  ['', 'Any'],
  ['active', 'active'],
  ['suspended', 'suspended'],
];

function CreateDialog({ session, onClose, onCreated }) {
  const create = async (form) => {
    const body = { name: form.get('name').trim(), email: form.get('email').trim() };
    for (const name of ['external_id', 'id']) {
      const value = form.get(name)?.trim();
      if (value) body[name] = value;
    }
    const metadata = readMetadata(form);
    if (Object.keys(metadata).length > 0) body.metadata = metadata;
    const { data } = await post('/users', body);
    onCreated(data);
  };
  const fields = (error) => {
    const idField = html`
      <${Field}
        label="ID (optional)"
        name="id"
        error=${error}
        placeholder="user_…"
        hint="Leave empty to generate one. IDs can’t be changed."
      />`;
    return html`
      <${Field} label="Name" name="name" error=${error} />
      <${Field} label="Email" name="email" type="email" error=${error} />
      <${Field}
        label="External ID (optional)"
        name="external_id"
        error=${error}
        hint="The user’s ID in another system, such as your identity provider."
      />
      ${session.isPlatform && idField}
      <${MetadataField} error=${error} />`;
  };
  return html`
    <${Dialog}
      title="New user"
      submitLabel="Create"
      onSubmit=${create}
      onClose=${onClose}
      fields=${['name', 'email', 'external_id', 'id', 'metadata']}
    >
      ${fields}
    <//>`;
}

export function Users({ session }) {
  const [filter, setFilter] = useFilters({ q: '', status: '' });
  const [isCreating, setCreating] = useState(useRequestedDialog() === 'new');
  const list = useList('/users', filter);
  const newButton = html`<button class="primary" onClick=${() => setCreating(true)}>New user</button>`;
  const columns = [
    {
      heading: 'Name',
      kind: 'wide',
      cell: ({ id, name }) => html`<a href=${session.userHref(id)}><${Name}>${name}<//></a>`,
    },
    { heading: 'Email', kind: 'text', cell: ({ email }) => html`<${Name}>${email}<//>` },
    { heading: 'ID', cell: ({ id }) => html`<${Id} value=${id} />` },
    { heading: 'Status', cell: ({ status }) => html`<${Badge} label=${status} />` },
    { heading: 'Created', cell: ({ created_at: at }) => html`<${Time} at=${at} />` },
  ];
  const noUsers = html`
    <${Empty} title="No users yet.">Create a user, then add them to an organization. ${newButton}<//>`;
  const lead = session.isPlatform
    ? 'Users are members of organizations and can own keys.'
    : 'The members of your organization.';
  const dialog = html`
    <${CreateDialog}
      session=${session}
      onClose=${() => setCreating(false)}
      onCreated=${({ id }) => {
        location.hash = `#/users/${id}`;
      }}
    />`;
  return html`
    <${Page} title="Users" lead=${lead} actions=${newButton}>
      <${Filters} onApply=${setFilter}>
        <${Field} label="Search by name, email or ID" name="q" type="search" value=${filter.q} />
        <${Select} label="Status" name="status" value=${filter.status} options=${STATUS_FILTER} />
      <//>
      <${Card}>
        <${Table}
          list=${list}
          columns=${columns}
          label="Users"
          isEndless
          empty=${isFiltered(filter) ? html`<${NoMatches} />` : noUsers}
        />
      <//>
      ${isCreating && dialog}
    <//>`;
}
