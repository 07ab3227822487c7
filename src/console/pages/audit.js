import { get, save } from '../api.js';
import { useList } from '../data.js';
import * as format from '../format.js';
import { html, useState } from '../html.js';
import { Badge, Card, Empty, Facts, Field, Filters, Id, Page, Problem, Rows, Select, Time } from '../ui.js';
import { OrganizationField } from './keys.js';

const ACTIONS = [
  'organization.create',
  'organization.update',
  'organization.delete',
  'membership.create',
  'membership.update',
  'membership.delete',
  'user.create',
  'user.update',
  'user.delete',
  'api_key.create',
  'api_key.update',
  'api_key.rotate',
  'api_key.expire_previous',
  'api_key.revoke',
  'scope.create',
  'scope.delete',
  'config.update',
  'audit_log.export',
  'request.refused',
];

const read = (filter) => ({ ...filter, from: format.toTime(filter.from), to: format.toTime(filter.to) });

function Actor({ of }) {
  const names = { cli: 'Command line', system: 'Tollhouse itself', anonymous: 'Somebody without a key' };
  return names[of.type] ?? of.name ?? html`<${Id} of=${of.id} />`;
}

function Changes({ of }) {
  if (of.length === 0) return null;
  return html`
    <table class="changes">
      <thead><tr><th scope="col">Field</th><th scope="col">Before</th><th scope="col">After</th></tr></thead>
      <tbody>${of.map(
        ({ field, from, to }) => html`<tr><th scope="row">${field}</th>
        <td>${from === null ? html`<span class="quiet">–</span>` : html`<del>${format.value(from)}</del>`}</td>
        <td>${to === null ? html`<span class="quiet">–</span>` : html`<ins>${format.value(to)}</ins>`}</td></tr>`,
      )}</tbody>
    </table>`;
}

function Details({ of }) {
  const { context, actor } = of;
  return html`
    <div class="details">
      <${Changes} of=${of.changes} />
      <${Facts} of=${[
        ['Event', html`<${Id} of=${of.id} />`],
        ['When', format.exactly(of.occurred_at)],
        actor.id && ['By', html`<${Id} of=${actor.id} />`],
        of.code && ['Code', of.code],
        context.method && ['Call', html`<code>${context.method} ${context.path}</code> ${context.status}`],
        context.ip && ['Address', context.ip],
        context.user_agent && ['Program', context.user_agent],
        context.batch_id && ['Batch', html`<code class="id">${context.batch_id}</code>`],
        context.request_id && ['Request', html`<code class="id">${context.request_id}</code>`],
        of.seq && ['Place in the chain', format.count(of.seq)],
        of.hash && ['Hash', html`<code class="id">${of.hash}</code>`],
      ]} />
    </div>`;
}

/** Is the chain whole, as far as it is kept, or since a head that was kept elsewhere? */
function Chain() {
  const [state, setState] = useState({});
  const check = async (event) => {
    event.preventDefault();
    const anchor = new FormData(event.target).get('anchor').trim();
    setState({ busy: true });
    try {
      setState({ anchor, found: (await get('/audit-logs/verify', { anchor })).data });
    } catch (error) {
      setState({ error });
    }
  };
  const { found, anchor, error, busy } = state;
  const isAnother = anchor && found?.checked === 0;
  return html`
    <form class="chain" onSubmit=${check} novalidate>
      <${Field} label="Head that was kept elsewhere (optional)" name="anchor" error=${error} placeholder="seq:hash" spellcheck="false" />
      <button disabled=${busy}>${busy ? 'Checking …' : 'Check the chain'}</button>
      <div role="status">
        ${
          found?.valid &&
          html`<p class="note good">Whole: ${format.count(found.checked)} events ${anchor && 'from that head on '}as they were written. Keep this head elsewhere to prove it later:${' '}
          <code class="id">${found.last_seq}:${found.head_hash}</code></p>`
        }
        ${
          found &&
          !found.valid &&
          html`<p class="note bad">${
            isAnother
              ? `Broken: event ${found.broken_at} is not the one of that head, or is missing. The log was changed after the head was kept.`
              : `Broken at event ${found.broken_at}: it or its place was changed. ${format.count(found.checked)} events before it are whole.`
          }</p>`
        }
      </div>
      ${!error?.at?.('anchor') && html`<${Problem} error=${error} />`}
    </form>`;
}

function Export({ filter }) {
  const [error, setError] = useState();
  const to = (kind) => async () => {
    setError();
    try {
      await save('/audit-logs/export', { ...read(filter), format: kind }, `audit-logs.${kind}`);
    } catch (fault) {
      setError(fault);
    }
  };
  return html`<button onClick=${to('ndjson')}>Export NDJSON</button><button onClick=${to('csv')}>Export CSV</button><${Problem} error=${error} />`;
}

export function Audit({ session, query }) {
  const [filter, setFilter] = useState({ access: 'write', ...query });
  const [open, setOpen] = useState();
  const list = useList('/audit-logs', read(filter));
  const toggle = ({ id }) => setOpen(open === id ? undefined : id);
  const columns = [
    ['When', ({ occurred_at: at }) => html`<${Time} at=${at} />`],
    [
      'What',
      ({ action, count }) =>
        html`${format.words(action)}${count > 1 && html` <span class="quiet">× ${format.count(count)}</span>`}`,
      'wide',
    ],
    [
      'To',
      ({ target }) =>
        target
          ? html`<span title=${target.id}>${target.name || target.id}</span>`
          : html`<span class="quiet">–</span>`,
      'text',
    ],
    ['By', ({ actor }) => html`<${Actor} of=${actor} />`, 'text'],
    ['Outcome', ({ outcome }) => html`<${Badge} is=${outcome} />`],
    [
      '',
      (event) =>
        html`<button class="small" aria-expanded=${open === event.id} onClick=${() => toggle(event)} aria-label=${`Details of ${format.words(event.action)}`}>Details</button>`,
      'end',
    ],
  ];
  const row = (event, cells) => html`
    <tr role="row" key=${event.id}>${cells(event)}</tr>
    ${open === event.id && html`<tr role="row" class="opened"><td role="cell" colspan=${columns.length}><${Details} of=${event} /></td></tr>`}`;
  return html`
    <${Page} title="Audit log" lead="Who did what, and what it changed." actions=${html`<${Export} filter=${filter} />`}>
      ${session.platform && session.can('admin:audit') && html`<${Chain} />`}
      <${Filters} onApply=${(form) => setFilter(form)}>
        <${Select} label="Kind" name="access" value=${filter.access} options=${[
          ['write', 'Changes'],
          ['read', 'Reads'],
          ['', 'Both'],
        ]} />
        <${Field} label="Action" name="action" value=${filter.action}>${(shared) => html`
          <input ...${shared} list="actions" defaultValue=${filter.action} autocomplete="off" placeholder="api_key.create" />
          <datalist id="actions">${ACTIONS.map((action) => html`<option value=${action}></option>`)}</datalist>`}<//>
        <${Select} label="Outcome" name="outcome" value=${filter.outcome} options=${[
          ['', 'Any'],
          ['success', 'success'],
          ['denied', 'denied'],
          ['failed', 'failed'],
        ]} />
        ${session.platform && html`<${OrganizationField} session=${session} name="org_id" value=${filter.org_id} hint="" />`}
        <${Field} label="Done to" name="target_id" value=${filter.target_id} placeholder="key_…" />
        <${Field} label="Done by" name="actor_id" value=${filter.actor_id} placeholder="key_…" />
        <${Field} label="From" name="from" type="datetime-local" hint=${format.localZone} />
        <${Field} label="To" name="to" type="datetime-local" hint=${format.localZone} />
      <//>
      <${Card}><${Rows} list=${list} columns=${columns} label="Events" row=${row} empty=${html`<${Empty} title="Nothing matches.">Change or clear the filters above.<//>`} /><//>
    <//>`;
}
