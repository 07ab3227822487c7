// Whether a key works now: what a gateway would get for it, and how much of each limit is left.
import { get, verify } from '../api.js';
import { useData, useRefresh } from '../data.js';
import * as format from '../format.js';
import { Field, Problem } from '../forms.js';
import { html, useState } from '../html.js';
import { limitText } from '../limits.js';
import { Snippets } from '../snippets.js';
import { Badge, Card, Empty, Loading, Quiet, Table, Time } from '../ui.js';

const REASONS = {
  REVOKED: 'it is revoked',
  DISABLED: 'it is disabled',
  EXPIRED: 'it has expired',
  ORGANIZATION_SUSPENDED: 'its organization is suspended',
  OWNER_INACTIVE: 'its owner is suspended, deleted, or no longer a member',
  IP_NOT_ALLOWED: 'this IP address is not allowed',
  INSUFFICIENT_SCOPE: 'it does not have a required scope',
  QUOTA_EXCEEDED: 'a quota is used up',
  RATE_LIMITED: 'a rate limit is reached',
};

/** The suspended organization or owner of a key, of which the page shows more. */
function causeOf(code, session, apiKey) {
  if (code === 'ORGANIZATION_SUSPENDED') {
    return { label: 'View organization', href: session.organizationHref(apiKey.organization_id) };
  }
  if (code === 'OWNER_INACTIVE') return { label: 'View owner', href: session.userHref(apiKey.user_id) };
  return {};
}

/** An address that the allowlist of a key has, if it has one: without an address, such a key is refused. */
const allowedAddress = ({ allowed_ips: ranges }) => ranges?.[0]?.split('/')[0];

function Answer({ session, apiKey, result }) {
  if (result.valid) {
    return html`<div class="note good" role="status"><p><strong>Works.</strong> ${result.message}</p></div>`;
  }
  const reason = REASONS[result.code] ?? format.words(result.code);
  const { label, href } = causeOf(result.code, session, apiKey);
  const retry = result.retry_after_seconds;
  return html`
    <div class="note warn" role="status">
      <p>
        <strong>Refused:</strong> ${reason}.
        ${retry !== null && ` It works again ${format.relative(Date.now() + retry * 1000)}.`}
        ${href && html` <a href=${href}>${label}</a>`}
      </p>
    </div>`;
}

/** When a limit has all of its units again: a window refills continuously, and a quota begins anew. */
function refillText({ remaining, limit, period, resets_at: at }) {
  if (remaining >= limit || !at) return '';
  return ` · ${period ? 'resets' : 'full again'} ${format.relative(at)}`;
}

function Gauge({ limit }) {
  const { on, limit: units, remaining } = limit;
  const left = Math.max(0, remaining);
  const owner = on === 'key' ? 'Limit of the key' : 'Limit of its organization';
  const width = `${(left / units) * 100}%`;
  return html`
    <li class="gauge">
      <p><span>${limitText(limit)}</span> <span class="quiet small-text">${owner}</span></p>
      <div
        class="bar ${left / units < 0.1 ? 'low' : ''}"
        role="meter"
        aria-label=${limitText(limit)}
        aria-valuemin="0"
        aria-valuemax=${units}
        aria-valuenow=${left}
      >
        <i style=${{ width }}></i>
      </div>
      <p class="quiet small-text">${format.count(remaining)} left${refillText(limit)}</p>
    </li>`;
}

/** A dry run with scopes, an address and a cost, which are those of a request to ask about. */
function Check({ session, apiKey }) {
  const [state, setState] = useState({});
  const check = async (event) => {
    event.preventDefault();
    const form = new FormData(event.target);
    const scopes = form
      .get('scopes')
      .split(/[\s,]+/)
      .filter(Boolean);
    const ip = form.get('ip').trim();
    const body = { key_id: apiKey.id, cost: Number(form.get('cost')) };
    if (scopes.length > 0) body.scopes = scopes;
    if (ip) body.ip = ip;
    try {
      setState({ result: await verify(body) });
    } catch (error) {
      setState({ error });
    }
  };
  const { result, error } = state;
  return html`
    <details>
      <summary>Check a request</summary>
      <form class="check" onSubmit=${check} novalidate>
        <${Field} label="Required scopes" name="scopes" error=${error} placeholder="workflows:read" />
        <${Field}
          label="Client IP address"
          name="ip"
          error=${error}
          value=${allowedAddress(apiKey)}
          placeholder="203.0.113.7"
        />
        <${Field} label="Cost in requests" name="cost" type="number" min="0" error=${error} value="1" />
        <button>Check</button>
      </form>
      <p class="hint">Shows what your gateway would get. It spends no limits and is not counted.</p>
      <${Problem} error=${error} fields=${['scopes', 'ip', 'cost']} />
      ${result && html`<${Answer} session=${session} apiKey=${apiKey} result=${result} />`}
    </details>`;
}

/** The answer for a key, with its limits. It is asked for again while the page is in sight. */
export function KeyAnswer({ session, apiKey }) {
  const load = () => verify({ key_id: apiKey.id, ip: allowedAddress(apiKey) });
  const answer = useData(load, [apiKey.id, apiKey.updated_at, apiKey.status]);
  useRefresh(answer.reload);
  const result = answer.value;
  const gauges = result?.limits.map((limit) => html`<${Gauge} limit=${limit} />`);
  return html`
    <${Card} title="Now">
      <${Problem} error=${answer.error} retry=${answer.reload} />
      ${!result && !answer.error && html`<${Loading} />`}
      ${result && html`<${Answer} session=${session} apiKey=${apiKey} result=${result} />`}
      ${gauges?.length > 0 && html`<ul class="gauges">${gauges}</ul>`}
      <${Check} session=${session} apiKey=${apiKey} />
      <details>
        <summary>Verify in code</summary>
        <${Snippets} />
      </details>
    <//>`;
}

const MAX_DENIALS = 5;

/** The latest denials of a key. */
export function KeyDenials({ apiKey }) {
  const load = async () => (await get('/analytics/logs', { key_id: apiKey.id, limit: MAX_DENIALS })).data;
  const denials = useData(load, [apiKey.id]);
  useRefresh(denials.reload);
  const columns = [
    { heading: 'Time', cell: ({ last_at: at }) => html`<${Time} at=${at} />` },
    {
      heading: 'Reason',
      kind: 'wide',
      cell: ({ code }) => html`<${Badge} label=${code ? format.words(code) : 'Various'} tone="warn" />`,
    },
    { heading: 'IP address', cell: ({ ip }) => ip ?? html`<${Quiet}>not given<//>` },
    { heading: 'Count', kind: 'num', cell: ({ count }) => format.count(count) },
  ];
  const link = html`<a href=${`#/denials?key_id=${encodeURIComponent(apiKey.id)}`}>All denials</a>`;
  const list = { rows: denials.value, error: denials.error, reload: denials.reload };
  const empty = html`<${Empty} title="No denials." />`;
  return html`
    <${Card} title="Latest denials" actions=${link}>
      <${Table} list=${list} columns=${columns} label="Latest denials" empty=${empty} />
    <//>`;
}
