import { useList } from '../data.js';
import * as format from '../format.js';
import { html, useState } from '../html.js';
import { Badge, Card, Empty, Field, Filters, Id, Page, Rows, Select, Time } from '../ui.js';
import { OrganizationField } from './keys.js';

const CODES = [
  'MALFORMED',
  'NOT_FOUND',
  'REVOKED',
  'DISABLED',
  'EXPIRED',
  'ORGANIZATION_SUSPENDED',
  'OWNER_INACTIVE',
  'IP_NOT_ALLOWED',
  'INSUFFICIENT_SCOPE',
  'QUOTA_EXCEEDED',
  'RATE_LIMITED',
];

export function Denials({ session, query }) {
  const [filter, setFilter] = useState(query);
  const list = useList('/analytics/logs', {
    ...filter,
    from: format.toTime(filter.from),
    to: format.toTime(filter.to),
  });
  const key = session.can('admin:keys') ? (id) => `#/api-keys/${id}` : () => undefined;
  const columns = [
    ['When', ({ last_at: at }) => html`<${Time} at=${at} />`],
    ['Why', ({ code }) => html`<${Badge} is=${code ? format.words(code) : 'Various'} tone="warn" />`, 'wide'],
    ['Times', ({ count }) => format.count(count), 'num'],
    [
      'Key',
      ({ key_id: id }) =>
        id ? html`<${Id} of=${id} href=${key(id)} />` : html`<span class="quiet">unknown</span>`,
    ],
    session.platform && [
      'Organization',
      ({ organization_id: id }) =>
        html`<${Id} of=${id} href=${id && session.can('admin:orgs') ? `#/organizations/${id}` : undefined} />`,
    ],
    ['Address', ({ ip }) => ip ?? html`<span class="quiet">not given</span>`],
  ].filter(Boolean);
  const filtered = Object.values(filter).some(Boolean);
  return html`
    <${Page} title="Denials" lead="Verifications that did not pass, counted by key or address, reason and minute.">
      <${Filters} onApply=${setFilter}>
        <${Select} label="Reason" name="code" value=${filter.code} options=${[['', 'Any'], ...CODES.map((code) => [code, format.words(code)])]} />
        ${session.platform && html`<${OrganizationField} session=${session} name="org_id" value=${filter.org_id} hint="" />`}
        <${Field} label="Key" name="key_id" value=${filter.key_id} placeholder="key_…" />
        <${Field} label="Address" name="ip" value=${filter.ip} placeholder="203.0.113.7" />
        <${Field} label="From" name="from" type="datetime-local" hint=${format.localZone} />
        <${Field} label="To" name="to" type="datetime-local" hint=${format.localZone} />
      <//>
      <${Card}><${Rows} list=${list} columns=${columns} label="Denials" empty=${
        filtered
          ? html`<${Empty} title="Nothing matches.">Change or clear the filters above.<//>`
          : html`<${Empty} title="Nothing was denied.">When a key is refused, you see here why.<//>`
      } /><//>
    <//>`;
}
