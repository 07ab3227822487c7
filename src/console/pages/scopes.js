import { post, remove } from '../api.js';
import { useList } from '../data.js';
import { html, useState } from '../html.js';
import { Badge, Card, Dialog, Empty, Field, Page, Rows } from '../ui.js';

function Create({ close, done }) {
  const send = async (form) => {
    const body = { scope: form.get('scope').trim() };
    if (form.get('description')) body.description = form.get('description').trim();
    await post('/scopes', body);
    done();
  };
  return html`
    <${Dialog} title="New scope" action="Create" send=${send} close=${close} fields=${['scope', 'description']}>${(
      error,
    ) => html`
      <${Field} label="Scope" name="scope" error=${error} placeholder="invoices:read" hint="resource:action, in lower case" />
      <${Field} label="Description (optional)" name="description" error=${error} />`}
    <//>`;
}

export function Scopes({ session }) {
  const list = useList('/scopes', { limit: 100, order: 'asc' });
  const [dialog, setDialog] = useState();
  const close = () => setDialog();
  const done = () => {
    close();
    list.reload();
  };
  const create =
    session.configures && html`<button class="primary" onClick=${() => setDialog('new')}>New scope</button>`;
  const columns = [
    ['Scope', ({ scope }) => html`<code>${scope}</code>`, 'wide'],
    ['What it allows', ({ description }) => description ?? html`<span class="quiet">–</span>`, 'text'],
    [
      'Belongs to',
      ({ built_in: own }) =>
        html`<${Badge} is=${own ? 'Tollhouse' : 'your API'} tone=${own ? 'accent' : 'plain'} />`,
    ],
    session.configures && [
      '',
      (one) =>
        !one.built_in &&
        html`
      <button class="small" aria-label=${`Remove ${one.scope}`} onClick=${() => setDialog(one)}>Remove</button>`,
      'end',
    ],
  ].filter(Boolean);
  return html`
    <${Page} title="Scopes" lead="What keys can be allowed. Those of Tollhouse administer it; the others are yours, and your API decides what they mean." actions=${create}>
      <${Card}><${Rows} list=${list} columns=${columns} label="Scopes" empty=${html`<${Empty} title="No scopes." />`} /><//>
      ${dialog === 'new' && html`<${Create} close=${close} done=${done} />`}
      ${
        dialog?.scope &&
        html`<${Dialog} title=${`Remove ${dialog.scope}?`} action="Remove" danger close=${close}
        send=${async () => {
          await remove(`/scopes/${encodeURIComponent(dialog.scope)}`);
          done();
        }}>
        <p>It can be removed once only revoked keys hold it. No new key gets it then.</p><//>`
      }
    <//>`;
}
