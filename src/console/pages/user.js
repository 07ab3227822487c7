import { get, patchIfChanged, remove } from '../api.js';
import { useData, useList } from '../data.js';
import { html, useState } from '../html.js';
import {
  Badge,
  Card,
  Dialog,
  Empty,
  Facts,
  Field,
  Id,
  Loading,
  MetadataList,
  Page,
  Problem,
  Rows,
  Select,
  Time,
} from '../ui.js';
import { changedFields, editedText, metadataPatch } from '../patch.js';
import { KeyTable } from './keys.js';
import { MetadataField, readMetadata } from './metadata.js';

function Edit({ found, close, done, reload }) {
  const { data, etag } = found;
  const send = async (form) => {
    const changes = changedFields(data, {
      name: editedText(form, 'name', data.name),
      email: editedText(form, 'email', data.email),
      external_id: editedText(form, 'external_id', data.external_id ?? '') || null,
      status: form.get('status'),
    });
    const metadata = metadataPatch(data.metadata, readMetadata(form));
    if (metadata) changes.metadata = metadata;
    await patchIfChanged(`/users/${encodeURIComponent(data.id)}`, changes, etag);
    done();
  };
  return html`
    <${Dialog} title="Edit user" send=${send} close=${close} reload=${reload} fields=${['name', 'email', 'external_id', 'status', 'metadata']}>${(
      error,
    ) => html`
      <${Field} label="Name" name="name" error=${error} value=${data.name} />
      <${Field} label="Email" name="email" type="email" error=${error} value=${data.email} />
      <${Field} label="External id (optional)" name="external_id" error=${error} value=${data.external_id ?? ''} />
      <${Select} label="Status" name="status" error=${error} value=${data.status} options=${[
        ['active', 'active'],
        ['suspended', 'suspended'],
      ]}
        hint="The keys of a suspended user are refused at once." />
      <${MetadataField} error=${error} value=${data.metadata} />`}
    <//>`;
}

function Delete({ found, close, reload }) {
  const { data, etag } = found;
  const send = async () => {
    await remove(`/users/${encodeURIComponent(data.id)}`, etag);
    location.hash = '#/users';
  };
  return html`
    <${Dialog} title=${`Delete ${data.name}?`} action="Delete for good" danger send=${send} close=${close} reload=${reload}>
      <p>The memberships end, and so do the keys that belong to this user. The audit log stays.</p>
    <//>`;
}

export function User({ session, id }) {
  const path = `/users/${encodeURIComponent(id)}`;
  const found = useData(() => get(path), [id]);
  const memberships = useList(`${path}/memberships`);
  const [dialog, setDialog] = useState();
  const close = () => setDialog();
  if (found.error)
    return html`<${Page} title="User"><${Problem} error=${found.error} retry=${found.reload} /><//>`;
  if (!found.value) return html`<${Page} title="User"><${Loading} /><//>`;
  const { data } = found.value;
  const actions =
    session.platform &&
    html`
    <button onClick=${() => setDialog('edit')}>Edit</button>
    <button class="danger" onClick=${() => setDialog('delete')}>Delete</button>`;
  const to = (organization) => (session.can('admin:orgs') ? `#/organizations/${organization}` : undefined);
  const columns = [
    ['Organization', ({ organization_id: of }) => html`<${Id} of=${of} href=${to(of)} />`, 'wide'],
    ['Role', ({ role }) => html`<${Badge} is=${role} />`],
    ['Since', ({ created_at: at }) => html`<${Time} at=${at} />`],
  ];
  return html`
    <${Page} title=${data.name} lead=${html`<${Badge} is=${data.status} />`} actions=${actions}>
      <${Card}><${Facts} of=${[
        ['Id', html`<${Id} of=${data.id} />`],
        ['Email', data.email],
        ['External id', data.external_id ?? html`<span class="quiet">none</span>`],
        ['Created', html`<${Time} at=${data.created_at} />`],
        ['Changed', html`<${Time} at=${data.updated_at} />`],
        ['Metadata', html`<${MetadataList} of=${data.metadata} />`],
      ]} /><//>
      <${Card} title="Memberships"><${Rows} list=${memberships} columns=${columns} label="Memberships"
        empty=${html`<${Empty} title="Not a member anywhere.">Add this user under an organization’s members.<//>`} /><//>
      ${
        session.can('admin:keys') &&
        html`<${KeyTable} session=${session} filter=${{ user_id: id }} title="API keys"
        empty=${html`<${Empty} title="No keys belong to this user.">Name this user when you make a key for an organization of theirs; it then ends with the membership.<//>`} />`
      }
      ${session.seesAudit && html`<p><a href=${`#/audit?target_id=${encodeURIComponent(id)}`}>What was done to this user</a></p>`}
      ${
        dialog === 'edit' &&
        html`<${Edit} found=${found.value} close=${close} reload=${found.reload} done=${() => {
          close();
          found.reload();
        }} />`
      }
      ${dialog === 'delete' && html`<${Delete} found=${found.value} close=${close} reload=${found.reload} />`}
    <//>`;
}
