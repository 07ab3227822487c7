import { post } from '../api.js';
import { useList } from '../data.js';
import { Filters, isFiltered, useFilters } from '../filters.js';
import { Dialog, Field, Select } from '../forms.js';
import { html, useState } from '../html.js';
import { useRequestedDialog } from '../route.js';
import { Badge, Card, Empty, Id, Name, NoMatches, Page, Table, Time } from '../ui.js';
import { OrganizationLimitsField, readLimits } from './limits-field.js';
import { MetadataField, readMetadata } from './metadata.js';
import { PlanField, useConfiguredNames } from './plans.js';

const STATUS_FILTER = [
  ['', 'Any'],
  ['active', 'active'],
  ['suspended', 'suspended'],
];

function CreateDialog({ plans, meters, onClose, onCreated }) {
  const create = async (form) => {
    const id = form.get('id').trim();
    const limits = readLimits(form, 'limits');
    const metadata = readMetadata(form);
    const body = { name: form.get('name').trim(), email: form.get('email').trim(), plan: form.get('plan') };
    if (id) body.id = id;
    if (limits) body.limits = limits;
    if (Object.keys(metadata).length > 0) body.metadata = metadata;
    const { data } = await post('/organizations', body);
    onCreated(data);
  };
  const fields = (error) => html`
    <${Field} label="Name" name="name" error=${error} autofocus />
    <${Field} label="Email" name="email" type="email" error=${error} />
    <${PlanField} plans=${plans} error=${error} />
    <${OrganizationLimitsField} meters=${meters} error=${error} />
    <${Field}
      label="ID (optional)"
      name="id"
      error=${error}
      placeholder="org_…"
      hint="Leave empty to generate one. IDs can’t be changed."
    />
    <${MetadataField} error=${error} />`;
  return html`
    <${Dialog}
      title="New organization"
      submitLabel="Create"
      onSubmit=${create}
      onClose=${onClose}
      fields=${['name', 'email', 'plan', 'limits', 'id', 'metadata']}
    >
      ${fields}
    <//>`;
}

export function Organizations({ session }) {
  const [filter, setFilter] = useFilters({ q: '', status: '', plan: '' });
  const [isCreating, setCreating] = useState(useRequestedDialog() === 'new');
  const list = useList('/organizations', filter);
  const { plans, meters } = useConfiguredNames(session);
  const planFilter = [['', 'Any'], ...plans.map((plan) => [plan, plan])];
  const newButton =
    session.isPlatform &&
    html`
    <button class="primary" onClick=${() => setCreating(true)}>New organization</button>`;
  const columns = [
    {
      heading: 'Name',
      kind: 'wide',
      cell: ({ id, name }) => html`<a href=${session.organizationHref(id)}><${Name}>${name}<//></a>`,
    },
    { heading: 'ID', cell: ({ id }) => html`<${Id} value=${id} />` },
    { heading: 'Plan', cell: ({ plan }) => html`<${Badge} label=${plan} />` },
    { heading: 'Status', cell: ({ status }) => html`<${Badge} label=${status} />` },
    { heading: 'Created', cell: ({ created_at: at }) => html`<${Time} at=${at} />` },
  ];
  const noOrganizations = html`
    <${Empty} title="No organizations yet.">Create an organization, then create its keys. ${newButton}<//>`;
  const dialog = html`
    <${CreateDialog}
      plans=${plans}
      meters=${meters}
      onClose=${() => setCreating(false)}
      onCreated=${({ id }) => {
        location.hash = `#/organizations/${id}`;
      }}
    />`;
  return html`
    <${Page} title="Organizations" lead="Organizations own keys, members, and usage." actions=${newButton}>
      <${Filters} onApply=${setFilter}>
        <${Field} label="Search by name, email or ID" name="q" type="search" value=${filter.q} />
        <${Select} label="Status" name="status" value=${filter.status} options=${STATUS_FILTER} />
        <${Select} label="Plan" name="plan" value=${filter.plan} options=${planFilter} />
      <//>
      <${Card}>
        <${Table}
          list=${list}
          columns=${columns}
          label="Organizations"
          isEndless
          empty=${isFiltered(filter) ? html`<${NoMatches} />` : noOrganizations}
        />
      <//>
      ${isCreating && dialog}
    <//>`;
}
