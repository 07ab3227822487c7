import { useList } from '../data.js';
import * as format from '../format.js';
import { Filters, TimeRange, isFiltered, useFilters } from '../filters.js';
import { Field, Select } from '../forms.js';
import { html } from '../html.js';
import { Badge, Card, Empty, Id, NoMatches, Page, Quiet, Table, Time } from '../ui.js';
import { OrganizationField } from './organization-field.js';

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
const REASONS = [['', 'Any'], ...CODES.map((code) => [code, format.words(code)])];

const NO_FILTERS = { code: '', org_id: '', key_id: '', ip: '', from: '', to: '' };

function columnsFor(session) {
  return [
    { heading: 'Time', cell: ({ last_at: at }) => html`<${Time} at=${at} />` },
    {
      heading: 'Reason',
      kind: 'wide',
      cell: ({ code }) => html`<${Badge} label=${code ? format.words(code) : 'Various'} tone="warn" />`,
    },
    { heading: 'Count', kind: 'num', cell: ({ count }) => format.count(count) },
    {
      heading: 'Key',
      cell: ({ key_id: id }) => {
        return id ? html`<${Id} value=${id} href=${session.keyHref(id)} />` : html`<${Quiet}>unknown<//>`;
      },
    },
    session.isPlatform && {
      heading: 'Organization',
      cell: ({ organization_id: id }) => html`<${Id} value=${id} href=${session.organizationHref(id)} />`,
    },
    { heading: 'IP address', cell: ({ ip }) => ip ?? html`<${Quiet}>not given<//>` },
  ].filter(Boolean);
}

export function Denials({ session }) {
  const [filter, setFilter] = useFilters(NO_FILTERS);
  const list = useList('/analytics/logs', {
    ...filter,
    from: format.toApiTime(filter.from),
    to: format.toApiTime(filter.to),
  });
  const noDenials = html`
    <${Empty} title="No denials yet.">Denied verifications appear here with their reasons.<//>`;
  const organizationField = html`
    <${OrganizationField} session=${session} name="org_id" value=${filter.org_id} />`;
  return html`
    <${Page} title="Denials" lead="Denied verifications, counted per minute, reason, and key or IP address.">
      <${Filters} onApply=${setFilter}>
        <${Select} label="Reason" name="code" value=${filter.code} options=${REASONS} />
        ${session.isPlatform && organizationField}
        <${Field} label="Key" name="key_id" value=${filter.key_id} placeholder="key_…" />
        <${Field} label="IP address" name="ip" value=${filter.ip} placeholder="203.0.113.7" />
        <${TimeRange} filter=${filter} />
      <//>
      <${Card}>
        <${Table}
          list=${list}
          columns=${columnsFor(session)}
          label="Denials"
          empty=${isFiltered(filter) ? html`<${NoMatches} />` : noDenials}
        />
      <//>
    <//>`;
}
