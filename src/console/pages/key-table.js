import { ApiError, getAll, post } from '../api.js';
import { useData, useList } from '../data.js';
import { isFiltered } from '../filters.js';
import { Dialog, Field } from '../forms.js';
import { html, useState } from '../html.js';
import { KeyStatus, useDependencies } from '../key-status.js';
import { showSecret } from '../new-secret.js';
import { Picker } from '../picker.js';
import { Card, CodeList, Empty, Name, NoMatches, Quiet, Reference, Table, Time } from '../ui.js';
import { KEY_FIELDS, KeyFields, readNewKey } from './key-form.js';
import { SelectionBar, useSelection } from './key-selection.js';
import { Limits } from './limits-field.js';
import { canChangeKey } from './scope-boxes.js';

const MAX_SHOWN_SCOPES = 3;

const isPlatformKey = (form) => form.get('ownership') === 'platform';

/** A key without an organization reaches all of them, so that must be what the user chose. */
function requireOrganization(form) {
  if (isPlatformKey(form) || form.get('organization_id').trim()) return;
  const message = 'Choose an organization.';
  const details = [{ pointer: '/organization_id', message }];
  throw new ApiError(0, { code: 'NO_ORGANIZATION', message, details });
}

/** The choice between a key of an organization and a platform key. */
function OwnershipField({ session, error }) {
  const [isPlatform, setPlatform] = useState(false);
  const option = (value, text) => html`
    <label class="box">
      <input
        type="radio"
        name="ownership"
        value=${value}
        checked=${isPlatform === (value === 'platform')}
        onChange=${() => setPlatform(value === 'platform')}
      />
      <span>${text}</span>
    </label>`;
  const warning = html`
    <div class="note warn">
      <p>A platform key reaches every organization. Create one only for your own services.</p>
    </div>`;
  const organization = html`
    <${Picker} session=${session} kind="organization" name="organization_id" error=${error} />`;
  return html`
    <fieldset class="ownership">
      <legend>Belongs to</legend>
      <div class="boxes">
        ${option('organization', 'An organization')}
        ${option('platform', 'No organization (platform key)')}
      </div>
      ${isPlatform ? warning : organization}
    </fieldset>`;
}

function CreateDialog({ session, organization, onClose, onCreated }) {
  const catalogue = useData(() => getAll('/scopes', { order: 'asc' }), []);
  const choosesOrganization = session.isPlatform && !organization;
  const create = async (form) => {
    if (choosesOrganization) requireOrganization(form);
    const body = readNewKey(form);
    if (session.isPlatform && organization) body.organization_id = organization;
    for (const name of ['organization_id', 'user_id', 'id']) {
      const value = form.get(name)?.trim();
      if (value) body[name] = value;
    }
    const { data } = await post('/api-keys', body);
    onCreated(data);
  };
  const fields = (error) => {
    const idField = html`
      <${Field}
        label="ID (optional)"
        name="id"
        error=${error}
        placeholder="key_…"
        hint="Leave empty to generate one. IDs can’t be changed."
      />`;
    return html`
      ${choosesOrganization && html`<${OwnershipField} session=${session} error=${error} />`}
      <${KeyFields} session=${session} catalogue=${catalogue.value ?? []} error=${error} />
      <${Picker}
        session=${session}
        kind="user"
        label="Owner (optional)"
        name="user_id"
        error=${error}
        hint="A member of the organization. The key is revoked when the membership ends."
      />
      ${session.isPlatform && idField}`;
  };
  const ownFields = choosesOrganization ? ['organization_id', 'user_id', 'id'] : ['user_id', 'id'];
  return html`
    <${Dialog}
      title="New API key"
      submitLabel="Create"
      onSubmit=${create}
      onClose=${onClose}
      fields=${[...ownFields, ...KEY_FIELDS]}
    >
      ${fields}
    <//>`;
}

/** The keys of an organization, or all keys that match the filter. */
export function KeyTable({
  session,
  organization,
  filter = {},
  isCreating,
  setCreating,
  title,
  actions,
  empty,
}) {
  const list = useList('/api-keys', {
    ...filter,
    expand: session.expand('organization'),
    organization_id: organization ?? filter.organization_id,
  });
  const dependencies = useDependencies(session, list.rows);
  const canSelect = (apiKey) => apiKey.status !== 'revoked' && canChangeKey(session, apiKey);
  const selection = useSelection(list.rows, canSelect);
  const onCreated = (apiKey) => {
    setCreating(false);
    showSecret('API key created', apiKey);
    list.reload();
  };
  const columns = [
    selection.column,
    {
      heading: 'Name',
      kind: 'wide',
      cell: ({ id, name, start }) => html`
        <a href=${session.keyHref(id)}><${Name}>${name}<//></a>
        <code class="id second-line">${start}…</code>`,
    },
    !organization &&
      session.isPlatform && {
        heading: 'Organization',
        kind: 'text',
        cell: ({ organization_id: id, organization: expanded }) => {
          if (!id) return html`<${Quiet}>platform<//>`;
          return html`<${Reference} id=${id} name=${expanded?.name} href=${session.organizationHref(id)} />`;
        },
      },
    {
      heading: 'Scopes',
      cell: ({ scopes }) => {
        if (scopes.length === 0) return html`<${Quiet}>none<//>`;
        return html`<${CodeList} values=${scopes} max=${MAX_SHOWN_SCOPES} />`;
      },
    },
    {
      heading: 'Limits',
      kind: 'text',
      cell: ({ limits, organization_id: id }) => html`<${Limits} limits=${limits} hasPlan=${id !== null} />`,
    },
    {
      heading: 'Status',
      cell: (apiKey) => html`<${KeyStatus} apiKey=${apiKey} dependencies=${dependencies} />`,
    },
    { heading: 'Last used', cell: ({ last_used_at: at }) => html`<${Time} at=${at} />` },
  ].filter(Boolean);
  const noKeys = html`
    <${Empty} title="No API keys yet.">Create a key and give its secret to a client of your API.<//>`;
  const createDialog = html`
    <${CreateDialog}
      session=${session}
      organization=${organization}
      onClose=${() => setCreating(false)}
      onCreated=${onCreated}
    />`;
  return html`
    <${Card} title=${title} actions=${actions}>
      <${Table}
        list=${list}
        columns=${columns}
        label="API keys"
        isEndless=${!title}
        empty=${empty ?? (isFiltered(filter) ? html`<${NoMatches} />` : noKeys)}
      />
      <${SelectionBar} selection=${selection} onChanged=${list.reload} />
      ${isCreating && createDialog}
    <//>`;
}
