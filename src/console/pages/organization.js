import { get, patchIfChanged, remove } from '../api.js';
import { useData } from '../data.js';
import { Dialog, Field, Select } from '../forms.js';
import { html, useState } from '../html.js';
import { changedFields, editedText, metadataPatch } from '../patch.js';
import { Badge, Card, Facts, Id, MetadataList, Name, Page, PendingPage, Time } from '../ui.js';
import { DestructionDialog } from './destruction.js';
import { KeyTable } from './key-table.js';
import { Limits, OrganizationLimitsField, readLimits } from './limits-field.js';
import { Members } from './members.js';
import { MetadataField, readMetadata } from './metadata.js';
import { PlanField, useConfiguredNames } from './plans.js';
import { UsageCard } from './usage-card.js';

const STATUSES = [
  ['active', 'active'],
  ['suspended', 'suspended'],
];

function EditDialog({ session, resource, path, onClose, onSaved }) {
  const { data, etag } = resource.value;
  const { plans, meters } = useConfiguredNames(session);
  const save = async (form) => {
    const edited = {
      name: editedText(form, 'name', data.name),
      email: editedText(form, 'email', data.email),
    };
    if (session.isPlatform) {
      edited.plan = form.get('plan');
      edited.limits = readLimits(form, 'limits');
      edited.status = form.get('status');
    }
    const changes = changedFields(data, edited);
    const metadata = metadataPatch(data.metadata, readMetadata(form));
    if (metadata) changes.metadata = metadata;
    await patchIfChanged(path, changes, etag);
    onSaved();
  };
  const fields = (error) => {
    const platformFields = html`
      <${PlanField} plans=${plans} error=${error} value=${data.plan} />
      <${OrganizationLimitsField} meters=${meters} error=${error} value=${data.limits} />
      <${Select}
        label="Status"
        name="status"
        error=${error}
        value=${data.status}
        options=${STATUSES}
        hint="The keys of a suspended organization are refused."
      />`;
    return html`
      <${Field} label="Name" name="name" error=${error} value=${data.name} />
      <${Field} label="Email" name="email" type="email" error=${error} value=${data.email} />
      ${session.isPlatform && platformFields}
      <${MetadataField} error=${error} value=${data.metadata} />`;
  };
  return html`
    <${Dialog}
      title="Edit organization"
      onSubmit=${save}
      onClose=${onClose}
      reload=${resource.reload}
      fields=${['name', 'email', 'plan', 'limits', 'status', 'metadata']}
    >
      ${fields}
    <//>`;
}

function DeleteDialog({ session, resource, path, onClose }) {
  const { data, etag } = resource.value;
  const confirm = async () => {
    await remove(path, etag);
    location.hash = '#/organizations';
  };
  return html`
    <${DestructionDialog}
      session=${session}
      subject=${{ usageFilter: { org_id: data.id }, keyFilter: { organization_id: data.id } }}
      name=${data.name}
      title=${html`Delete <${Name}>${data.name}<//>?`}
      submitLabel="Delete organization"
      onSubmit=${confirm}
      onClose=${onClose}
      reload=${resource.reload}
    >
      <p>
        This revokes its keys, removes its members, and can’t be undone. Its usage and audit log are kept.
      </p>
    <//>`;
}

export function Organization({ session, id }) {
  const path = `/organizations/${encodeURIComponent(id)}`;
  const resource = useData(() => get(path), [id]);
  const [dialog, setDialog] = useState();
  if (resource.error || !resource.value) {
    return html`<${PendingPage} title="Organization" resource=${resource} />`;
  }
  const { data } = resource.value;
  const close = () => setDialog();
  const onSaved = () => {
    close();
    resource.reload();
  };
  const deleteButton = html`<button class="danger" onClick=${() => setDialog('delete')}>Delete</button>`;
  const actions = html`
    <button onClick=${() => setDialog('edit')}>Edit</button>
    ${session.isPlatform && deleteButton}`;
  const facts = [
    ['ID', html`<${Id} value=${data.id} />`],
    ['Email', html`<${Name}>${data.email}<//>`],
    ['Limits', html`<${Limits} limits=${data.limits} />`],
    ['Created', html`<${Time} at=${data.created_at} />`],
    ['Updated', html`<${Time} at=${data.updated_at} />`],
    ['Metadata', html`<${MetadataList} metadata=${data.metadata} />`],
  ];
  const usage = html`
    <${UsageCard}
      filter=${{ org_id: id }}
      emptyText="Verifications of its keys appear here within a second."
    />`;
  // Another status of the organization changes whether its keys work, so the table is built anew.
  const keys = html`
    <${KeyTable}
      key=${data.status}
      session=${session}
      organization=${id}
      isCreating=${dialog === 'key'}
      setCreating=${(isOpen) => setDialog(isOpen ? 'key' : undefined)}
      title="API keys"
      actions=${html`<button class="small" onClick=${() => setDialog('key')}>New API key</button>`}
    />`;
  const auditLink = html`<p><a href=${`#/audit?org_id=${encodeURIComponent(id)}`}>Audit log</a></p>`;
  const dialogProps = { resource, path, onClose: close };
  const editDialog = html`<${EditDialog} session=${session} ...${dialogProps} onSaved=${onSaved} />`;
  const deleteDialog = html`<${DeleteDialog} session=${session} ...${dialogProps} />`;
  return html`
    <${Page}
      title=${data.name}
      lead=${html`<${Badge} label=${data.status} /> <${Badge} label=${data.plan} />`}
      actions=${actions}
    >
      <${Card}><${Facts} items=${facts} /><//>
      ${session.canReadUsage && usage}
      ${session.can('admin:keys') && keys}
      ${session.can('admin:users') && html`<${Members} session=${session} organization=${id} />`}
      ${session.canReadAudit && auditLink}
      ${dialog === 'edit' && editDialog}
      ${dialog === 'delete' && deleteDialog}
    <//>`;
}
