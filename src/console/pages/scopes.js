import { post, remove } from '../api.js';
import { useList } from '../data.js';
import { Dialog, Field } from '../forms.js';
import { html, useState } from '../html.js';
import { Badge, Card, Empty, Page, Quiet, Table } from '../ui.js';

function CreateDialog({ onClose, onChanged }) {
  const create = async (form) => {
    const body = { scope: form.get('scope').trim() };
    const description = form.get('description').trim();
    if (description) body.description = description;
    await post('/scopes', body);
    onChanged();
  };
  const fields = (error) => html`
    <${Field}
      label="Scope"
      name="scope"
      error=${error}
      placeholder="invoices:read"
      hint="A resource and an action in lowercase."
    />
    <${Field} label="Description (optional)" name="description" error=${error} />`;
  return html`
    <${Dialog}
      title="New scope"
      submitLabel="Create"
      onSubmit=${create}
      onClose=${onClose}
      fields=${['scope', 'description']}
    >
      ${fields}
    <//>`;
}

function DeleteDialog({ scope, onClose, onChanged }) {
  const confirm = async () => {
    await remove(`/scopes/${encodeURIComponent(scope)}`);
    onChanged();
  };
  return html`
    <${Dialog}
      title=${`Delete ${scope}?`}
      submitLabel="Delete scope"
      isDangerous
      onSubmit=${confirm}
      onClose=${onClose}
    >
      <p>
        Before you delete this scope, remove it from all keys that are not revoked. No key can get it
        afterward.
      </p>
    <//>`;
}

export function Scopes({ session }) {
  const list = useList('/scopes', { order: 'asc' });
  const [isCreating, setCreating] = useState(false);
  const [deletedScope, setDeletedScope] = useState();
  const closeDialogs = () => {
    setCreating(false);
    setDeletedScope();
  };
  const onChanged = () => {
    closeDialogs();
    list.reload();
  };
  const newButton = html`<button class="primary" onClick=${() => setCreating(true)}>New scope</button>`;
  const deleteButton = (scope) => {
    const open = () => setDeletedScope(scope);
    return html`<button class="small" aria-label=${`Delete ${scope}`} onClick=${open}>Delete</button>`;
  };
  const columns = [
    { heading: 'Scope', kind: 'wide', cell: ({ scope }) => html`<code>${scope}</code>` },
    { heading: 'Description', kind: 'text', cell: ({ description }) => description ?? html`<${Quiet}>–<//>` },
    {
      heading: 'Type',
      cell: ({ built_in: isBuiltIn }) => {
        return isBuiltIn
          ? html`<${Badge} label="built-in" tone="accent" />`
          : html`<${Badge} label="custom" />`;
      },
    },
    session.canConfigure && {
      heading: '',
      kind: 'end',
      cell: ({ scope, built_in: isBuiltIn }) => !isBuiltIn && deleteButton(scope),
    },
  ].filter(Boolean);
  const empty = html`<${Empty} title="No scopes yet." />`;
  const dialogProps = { onClose: closeDialogs, onChanged };
  return html`
    <${Page}
      title="Scopes"
      lead="Built-in scopes control access to Tollhouse. Custom scopes are enforced by your API."
      actions=${session.canConfigure && newButton}
    >
      <${Card}><${Table} list=${list} columns=${columns} label="Scopes" empty=${empty} /><//>
      ${isCreating && html`<${CreateDialog} ...${dialogProps} />`}
      ${deletedScope && html`<${DeleteDialog} scope=${deletedScope} ...${dialogProps} />`}
    <//>`;
}
