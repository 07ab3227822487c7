import { get, patchIfChanged, remove } from '../api.js';
import { UsageChart } from '../chart.js';
import { useData } from '../data.js';
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
  Select,
  Time,
} from '../ui.js';
import { changedFields, editedText, metadataPatch } from '../patch.js';
import { KeyTable } from './keys.js';
import { Members } from './members.js';
import { readMetadata, MetadataField } from './metadata.js';
import { PlanField } from './organizations.js';

function Edit({ session, found, close, done, reload }) {
  const { data, etag } = found;
  const send = async (form) => {
    const edited = {
      name: editedText(form, 'name', data.name),
      email: editedText(form, 'email', data.email),
    };
    if (session.platform) Object.assign(edited, { plan: form.get('plan'), status: form.get('status') });
    const changes = changedFields(data, edited);
    const metadata = metadataPatch(data.metadata, readMetadata(form));
    if (metadata) changes.metadata = metadata;
    await patchIfChanged(`/organizations/${encodeURIComponent(data.id)}`, changes, etag);
    done();
  };
  return html`
    <${Dialog} title="Edit organization" send=${send} close=${close} reload=${reload} fields=${['name', 'email', 'plan', 'status', 'metadata']}>${(
      error,
    ) => html`
      <${Field} label="Name" name="name" error=${error} value=${data.name} />
      <${Field} label="Email" name="email" type="email" error=${error} value=${data.email} />
      ${
        session.platform &&
        html`
        <${PlanField} session=${session} error=${error} value=${data.plan} />
        <${Select} label="Status" name="status" error=${error} value=${data.status} options=${[
          ['active', 'active'],
          ['suspended', 'suspended'],
        ]}
          hint="The keys of a suspended organization are refused at once." />`
      }
      <${MetadataField} error=${error} value=${data.metadata} />`}
    <//>`;
}

function Delete({ found, close, reload }) {
  const { data, etag } = found;
  const send = async () => {
    await remove(`/organizations/${encodeURIComponent(data.id)}`, etag);
    location.hash = '#/organizations';
  };
  return html`
    <${Dialog} title=${`Delete ${data.name}?`} action="Delete for good" danger send=${send} close=${close} reload=${reload}>
      <p>Its keys and memberships end at once, and for good. Its usage and its audit log stay.</p>
    <//>`;
}

function UsageCard({ id }) {
  const usage = useData(
    async () => (await get('/analytics/usage', { org_id: id, period: '30d' })).data,
    [id],
  );
  return html`
    <${Card} title="Requests in 30 days" actions=${html`<a href=${`#/usage?org_id=${encodeURIComponent(id)}`}>More</a>`}>
      <${Problem} error=${usage.error} retry=${usage.reload} />
      ${!usage.value && !usage.error && html`<${Loading} />`}
      ${
        usage.value &&
        (usage.value.totals.requests > 0
          ? html`<${UsageChart} usage=${usage.value} label="Requests" />`
          : html`<${Empty} title="None of its keys was verified yet.">Give it a key, and let your gateway ask for it.<//>`)
      }
    <//>`;
}

export function Organization({ session, id }) {
  const found = useData(() => get(`/organizations/${encodeURIComponent(id)}`), [id]);
  const [dialog, setDialog] = useState();
  const close = () => setDialog();
  if (found.error)
    return html`<${Page} title="Organization"><${Problem} error=${found.error} retry=${found.reload} /><//>`;
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
      ${
        session.can('admin:keys') &&
        html`<${KeyTable} session=${session} organization=${id} creating=${dialog === 'key'}
        setCreating=${(open) => setDialog(open ? 'key' : undefined)} title="API keys"
        actions=${html`<button class="small" onClick=${() => setDialog('key')}>New API key</button>`} />`
      }
      ${session.can('admin:users') && html`<${Members} id=${id} />`}
      ${session.seesAudit && html`<p><a href=${`#/audit?org_id=${encodeURIComponent(id)}`}>Its audit log</a></p>`}
      ${
        dialog === 'edit' &&
        html`<${Edit} session=${session} found=${found.value} close=${close} reload=${found.reload} done=${() => {
          close();
          found.reload();
        }} />`
      }
      ${dialog === 'delete' && html`<${Delete} found=${found.value} close=${close} reload=${found.reload} />`}
    <//>`;
}
