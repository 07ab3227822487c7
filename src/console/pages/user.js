import { get, patchIfChanged, remove } from '../api.js';
import { useData, useList } from '../data.js';
import { Dialog, Field, Select } from '../forms.js';
import { html, useState } from '../html.js';
import { changedFields, editedText, metadataPatch } from '../patch.js';
import {
  Badge,
  Card,
  Empty,
  Facts,
  Id,
  MetadataList,
  Name,
  Page,
  PendingPage,
  Quiet,
  Reference,
  Table,
  Time,
} from '../ui.js';
import { DestructionDialog } from './destruction.js';
import { KeyTable } from './key-table.js';
import { MetadataField, readMetadata } from './metadata.js';

const STATUSES = [
  ['active', 'active'],
  ['suspended', 'suspended'],
];

function EditDialog({ resource, path, onClose, onSaved }) {
  const { data, etag } = resource.value;
  const save = async (form) => {
    const changes = changedFields(data, {
      name: editedText(form, 'name', data.name),
      email: editedText(form, 'email', data.email),
      external_id: editedText(form, 'external_id', data.external_id ?? '') || null,
      status: form.get('status'),
    });
    const metadata = metadataPatch(data.metadata, readMetadata(form));
    if (metadata) changes.metadata = metadata;
    await patchIfChanged(path, changes, etag);
    onSaved();
  };
  const fields = (error) => html`
    <${Field} label="Name" name="name" error=${error} value=${data.name} />
    <${Field} label="Email" name="email" type="email" error=${error} value=${data.email} />
    <${Field}
      label="External ID (optional)"
      name="external_id"
      error=${error}
      value=${data.external_id ?? ''}
    />
    <${Select}
      label="Status"
      name="status"
      error=${error}
      value=${data.status}
      options=${STATUSES}
      hint="The keys of a suspended user are refused."
    />
    <${MetadataField} error=${error} value=${data.metadata} />`;
  return html`
    <${Dialog}
      title="Edit user"
      onSubmit=${save}
      onClose=${onClose}
      reload=${resource.reload}
      fields=${['name', 'email', 'external_id', 'status', 'metadata']}
    >
      ${fields}
    <//>`;
}

function DeleteDialog({ session, resource, path, onClose }) {
  const { data, etag } = resource.value;
  const confirm = async () => {
    await remove(path, etag);
    location.hash = '#/users';
  };
  return html`
    <${DestructionDialog}
      session=${session}
      subject=${{ keyFilter: { user_id: data.id } }}
      name=${data.name}
      title=${html`Delete <${Name}>${data.name}<//>?`}
      submitLabel="Delete user"
      onSubmit=${confirm}
      onClose=${onClose}
      reload=${resource.reload}
    >
      <p>
        This ends the user’s memberships and revokes the keys that the user owns. It can’t be undone. The
        audit log is kept.
      </p>
    <//>`;
}

function Memberships({ session, path }) {
  const list = useList(`${path}/memberships`, { expand: session.expand('organization') }, 'memberships');
  const columns = [
    {
      heading: 'Organization',
      kind: 'wide',
      cell: ({ organization_id: id, organization: expanded }) => {
        const name = expanded?.name ?? session.organization?.name;
        return html`<${Reference} id=${id} name=${name} href=${session.organizationHref(id)} />`;
      },
    },
    { heading: 'Role', cell: ({ role }) => html`<${Badge} label=${role} />` },
    { heading: 'Added', cell: ({ created_at: at }) => html`<${Time} at=${at} />` },
  ];
  const empty = html`
    <${Empty} title="No memberships yet.">Add this user on the page of an organization.<//>`;
  return html`
    <${Card} title="Memberships">
      <${Table} list=${list} columns=${columns} label="Memberships" empty=${empty} />
    <//>`;
}

export function User({ session, id }) {
  const path = `/users/${encodeURIComponent(id)}`;
  const resource = useData(() => get(path), [id]);
  const [dialog, setDialog] = useState();
  if (resource.error || !resource.value) return html`<${PendingPage} title="User" resource=${resource} />`;
  const { data } = resource.value;
  const close = () => setDialog();
  const onSaved = () => {
    close();
    resource.reload();
  };
  const actions = html`
    <button onClick=${() => setDialog('edit')}>Edit</button>
    <button class="danger" onClick=${() => setDialog('delete')}>Delete</button>`;
  const facts = [
    ['ID', html`<${Id} value=${data.id} />`],
    ['Email', html`<${Name}>${data.email}<//>`],
    ['External ID', data.external_id ? html`<${Name}>${data.external_id}<//>` : html`<${Quiet}>none<//>`],
    ['Created', html`<${Time} at=${data.created_at} />`],
    ['Updated', html`<${Time} at=${data.updated_at} />`],
    ['Metadata', html`<${MetadataList} metadata=${data.metadata} />`],
  ];
  const noKeys = html`
    <${Empty} title="No keys yet.">
      Choose this user as the owner when you create a key for one of their organizations.
    <//>`;
  // Another status of the user changes whether the keys work, so the table is built anew.
  const keys = html`
    <${KeyTable}
      key=${data.status}
      session=${session}
      filter=${{ user_id: id }}
      title="API keys"
      empty=${noKeys}
    />`;
  const auditLink = html`<p><a href=${`#/audit?target_id=${encodeURIComponent(id)}`}>Activity</a></p>`;
  const editDialog = html`
    <${EditDialog} resource=${resource} path=${path} onClose=${close} onSaved=${onSaved} />`;
  const deleteDialog = html`
    <${DeleteDialog} session=${session} resource=${resource} path=${path} onClose=${close} />`;
  return html`
    <${Page}
      title=${data.name}
      lead=${html`<${Badge} label=${data.status} />`}
      actions=${session.isPlatform && actions}
    >
      <${Card}><${Facts} items=${facts} /><//>
      <${Memberships} session=${session} path=${path} />
      ${session.can('admin:keys') && keys}
      ${session.canReadAudit && auditLink}
      ${dialog === 'edit' && editDialog}
      ${dialog === 'delete' && deleteDialog}
    <//>`;
}
