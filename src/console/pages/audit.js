import { download, get } from '../api.js';
import { useList } from '../data.js';
import * as format from '../format.js';
import { Filters, TimeRange, useFilters } from '../filters.js';
import { Field, Problem, Select } from '../forms.js';
import { html, useState } from '../html.js';
import { Picker } from '../picker.js';
import { Badge, Card, Facts, Id, Name, NoMatches, Page, Quiet, Table, Time } from '../ui.js';

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
const ACCESS = [
  ['write', 'Changes'],
  ['read', 'Reads'],
  ['', 'All'],
];
const OUTCOMES = [
  ['', 'Any'],
  ['success', 'success'],
  ['denied', 'denied'],
  ['failed', 'failed'],
];
const NO_FILTERS = { action: '', outcome: '', org_id: '', target_id: '', actor_id: '', from: '', to: '' };
const ACTOR_NAMES = { cli: 'Command line', system: 'Tollhouse', anonymous: 'Anonymous' };

/** The filters as the API expects them. */
const apiFilter = (filter) => ({
  ...filter,
  from: format.toApiTime(filter.from),
  to: format.toApiTime(filter.to),
});

function Actor({ actor }) {
  if (actor.type in ACTOR_NAMES) return ACTOR_NAMES[actor.type];
  return actor.name ? html`<${Name}>${actor.name}<//>` : html`<${Id} value=${actor.id} />`;
}

function Changes({ changes }) {
  if (changes.length === 0) return null;
  const none = html`<${Quiet}>–<//>`;
  const rows = changes.map(({ field, from, to }) => {
    const before = from === null ? none : html`<del><${Name}>${format.auditValue(from)}<//></del>`;
    const after = to === null ? none : html`<ins><${Name}>${format.auditValue(to)}<//></ins>`;
    return html`
      <tr role="row">
        <th role="rowheader" scope="row">${field}</th>
        <td role="cell" data-label="Before"><span>${before}</span></td>
        <td role="cell" data-label="After"><span>${after}</span></td>
      </tr>`;
  });
  return html`
    <table class="changes" role="table">
      <thead role="rowgroup">
        <tr role="row">
          <th role="columnheader" scope="col">Field</th>
          <th role="columnheader" scope="col">Before</th>
          <th role="columnheader" scope="col">After</th>
        </tr>
      </thead>
      <tbody role="rowgroup">${rows}</tbody>
    </table>`;
}

function Details({ event }) {
  const { context, actor } = event;
  const request = html`<code>${context.method} ${context.path}</code> ${context.status}`;
  const code = (value) => html`<code class="id">${value}</code>`;
  const facts = [
    ['Event ID', html`<${Id} value=${event.id} />`],
    ['Time', format.exactTime(event.occurred_at)],
    actor.id && ['Actor', html`<${Id} value=${actor.id} />`],
    event.code && ['Code', event.code],
    context.method && ['Request', request],
    context.ip && ['IP address', context.ip],
    context.user_agent && ['User agent', context.user_agent],
    context.batch_id && ['Batch ID', code(context.batch_id)],
    context.request_id && ['Request ID', code(context.request_id)],
    event.seq && ['Sequence number', format.count(event.seq)],
    event.hash && ['Hash', code(event.hash)],
  ];
  return html`
    <div class="details">
      <${Changes} changes=${event.changes} />
      <${Facts} items=${facts} />
    </div>`;
}

/**
 * The result of a verification of the hash chain. `anchor` is the saved head that it started from, if any.
 */
function ChainResult({ result, anchor }) {
  const checked = format.count(result.checked);
  if (result.valid) {
    const scope = anchor ? ' since the saved head' : '';
    return html`
      <p class="note good">
        Verified: ${checked} events${scope} are unchanged. Save this head outside of Tollhouse to verify
        against it later:${' '}<code class="id">${result.last_seq}:${result.head_hash}</code>
      </p>`;
  }
  const isOtherHead = anchor && result.checked === 0;
  const event = `Event ${result.broken_at}`;
  const message = isOtherHead
    ? `${event} does not match the saved head, or is missing: the log was changed after the head was saved.`
    : `${event} was changed or moved. The ${checked} events before it are unchanged.`;
  return html`<p class="note bad">Verification failed. ${message}</p>`;
}

/** Verifies the hash chain of the whole log, or of the part since a head that was saved elsewhere. */
function ChainVerification() {
  const [state, setState] = useState({});
  const verify = async (event) => {
    event.preventDefault();
    const anchor = new FormData(event.target).get('anchor').trim();
    setState({ isBusy: true });
    try {
      const { data } = await get('/audit-logs/verify', { anchor });
      setState({ anchor, result: data });
    } catch (error) {
      setState({ error });
    }
  };
  const { result, anchor, error, isBusy } = state;
  const isErrorNextToField = Boolean(error?.messageFor?.('anchor'));
  return html`
    <form class="chain" onSubmit=${verify} novalidate>
      <${Field}
        label="Saved head (optional)"
        name="anchor"
        error=${error}
        placeholder="seq:hash"
        spellcheck="false"
      />
      <button disabled=${isBusy}>${isBusy ? 'Verifying…' : 'Verify log'}</button>
      <div role="status">${result && html`<${ChainResult} result=${result} anchor=${anchor} />`}</div>
      ${!isErrorNextToField && html`<${Problem} error=${error} />`}
    </form>`;
}

function ExportButtons({ filter }) {
  const [error, setError] = useState();
  const exportAs = (format) => async () => {
    setError();
    try {
      await download('/audit-logs/export', { ...apiFilter(filter), format }, `audit-logs.${format}`);
    } catch (failure) {
      setError(failure);
    }
  };
  return html`
    <button onClick=${exportAs('ndjson')}>Export NDJSON</button>
    <button onClick=${exportAs('csv')}>Export CSV</button>
    <${Problem} error=${error} />`;
}

function AuditFilters({ session, filter, onApply }) {
  const options = ACTIONS.map((action) => html`<option value=${action}></option>`);
  const actionInput = (control) => html`
    <input
      ...${control}
      list="actions"
      defaultValue=${filter.action}
      autocomplete="off"
      placeholder="api_key.create"
    />
    <datalist id="actions">${options}</datalist>`;
  const organizationField = html`
    <${Picker} session=${session} kind="organization" name="org_id" value=${filter.org_id} />`;
  return html`
    <${Filters} onApply=${onApply}>
      <${Select} label="Type" name="access" value=${filter.access} options=${ACCESS} />
      <${Field} label="Action" name="action">${actionInput}<//>
      <${Select} label="Outcome" name="outcome" value=${filter.outcome} options=${OUTCOMES} />
      ${session.isPlatform && organizationField}
      <${Picker} session=${session} kind="any" label="Target" name="target_id" value=${filter.target_id} />
      <${Picker} session=${session} kind="key" label="Actor" name="actor_id" value=${filter.actor_id} />
      <${TimeRange} filter=${filter} />
    <//>`;
}

export function Audit({ session }) {
  const [filter, setFilter] = useFilters({ ...NO_FILTERS, access: 'write' });
  const [openId, setOpenId] = useState();
  const list = useList('/audit-logs', apiFilter(filter));
  const isOpen = ({ id }) => id === openId;
  const toggle = (event) => setOpenId(isOpen(event) ? undefined : event.id);
  const columns = [
    { heading: 'Time', cell: ({ occurred_at: at }) => html`<${Time} at=${at} />` },
    {
      heading: 'Action',
      kind: 'wide',
      cell: ({ action, count }) => {
        const repeats = html` <${Quiet}>× ${format.count(count)}<//>`;
        return html`${format.words(action)}${count > 1 && repeats}`;
      },
    },
    {
      heading: 'Target',
      kind: 'text',
      cell: ({ target }) => {
        return target
          ? html`<span title=${target.id}><${Name}>${target.name || target.id}<//></span>`
          : html`<${Quiet}>–<//>`;
      },
    },
    { heading: 'Actor', kind: 'text', cell: ({ actor }) => html`<${Actor} actor=${actor} />` },
    { heading: 'Outcome', cell: ({ outcome }) => html`<${Badge} label=${outcome} />` },
    {
      heading: '',
      kind: 'end',
      cell: (event) => html`
        <button
          class="small"
          aria-expanded=${isOpen(event)}
          aria-label=${`Details of ${format.words(event.action)}`}
          onClick=${() => toggle(event)}
        >
          Details
        </button>`,
    },
  ];
  const renderRow = (event, cells) => {
    const details = html`
      <tr role="row" class="opened">
        <td role="cell" colspan=${columns.length}><${Details} event=${event} /></td>
      </tr>`;
    return html`<tr role="row" key=${event.id}>${cells}</tr>${isOpen(event) && details}`;
  };
  const canVerifyChain = session.isPlatform && session.can('admin:audit');
  return html`
    <${Page}
      title="Audit log"
      lead="Who did what, when, and what it changed."
      actions=${html`<${ExportButtons} filter=${filter} />`}
    >
      ${canVerifyChain && html`<${ChainVerification} />`}
      <${AuditFilters} session=${session} filter=${filter} onApply=${setFilter} />
      <${Card}>
        <${Table}
          list=${list}
          columns=${columns}
          label="Events"
          isEndless
          renderRow=${renderRow}
          empty=${html`<${NoMatches} />`}
        />
      <//>
    <//>`;
}
