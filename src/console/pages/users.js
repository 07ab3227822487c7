import { post } from '../api.js';
import { useList } from '../data.js';
import { html, useState } from '../html.js';
import { Badge, Card, Dialog, Empty, Field, Filters, Id, Page, Rows, Select, Time } from '../ui.js';
import { MetadataField, readMetadata } from './metadata.js';

function Create({ session, close, done }) {
  const send = async (form) => {
    const body = { name: form.get('name').trim(), email: form.get('email').trim() };
    if (form.get('external_id')) body.external_id = form.get('external_id').trim();
    if (form.get('id')) body.id = form.get('id').trim();
    const metadata = readMetadata(form);
    if (Object.keys(metadata).length > 0) body.metadata = metadata;
    done((await post('/users', body)).data);
  };
  return html`
    <${Dialog} title="New user" action="Create" send=${send} close=${close} fields=${['name', 'email', 'external_id', 'id', 'metadata']}>${(
      error,
    ) => html`
      <${Field} label="Name" name="name" error=${error} />
      <${Field} label="Email" name="email" type="email" error=${error} />
      <${Field} label="External id (optional)" name="external_id" error=${error} hint="Its name in another system, such as your identity provider." />
      ${session.platform && html`<${Field} label="Id (optional)" name="id" error=${error} placeholder="user_…" hint="Left empty, one is made. An id never changes." />`}
      <${MetadataField} error=${error} />`}
    <//>`;
}

export function Users({ session }) {
  const [filter, setFilter] = useState({});
  const [creating, setCreating] = useState(false);
  const list = useList('/users', filter);
  const create = html`<button class="primary" onClick=${() => setCreating(true)}>New user</button>`;
  const columns = [
    ['Name', ({ id, name }) => html`<a href=${`#/users/${id}`}>${name}</a>`, 'wide'],
    ['Email', ({ email }) => email, 'text'],
    ['Id', ({ id }) => html`<${Id} of=${id} />`],
    ['Status', ({ status }) => html`<${Badge} is=${status} />`],
    ['Created', ({ created_at: at }) => html`<${Time} at=${at} />`],
  ];
  const filtered = Object.values(filter).some(Boolean);
  return html`
    <${Page} title="Users" lead=${session.platform ? 'The people behind memberships and keys.' : 'The members of your organization.'} actions=${create}>
      <${Filters} onApply=${setFilter}>
        <${Field} label="Name or email begins with" name="q" type="search" />
        <${Select} label="Status" name="status" options=${[
          ['', 'Any'],
          ['active', 'active'],
          ['suspended', 'suspended'],
        ]} />
      <//>
      <${Card}><${Rows} list=${list} columns=${columns} label="Users" empty=${
        filtered
          ? html`<${Empty} title="Nothing matches.">Change or clear the filters above.<//>`
          : html`<${Empty} title="No users yet.">Create one, then make them a member of an organization. ${create}<//>`
      } /><//>
      ${
        creating &&
        html`<${Create} session=${session} close=${() => setCreating(false)} done=${({ id }) => {
          location.hash = `#/users/${id}`;
        }} />`
      }
    <//>`;
}
