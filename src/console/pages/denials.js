import { getMany } from '../api.js';
import { useData, useList } from '../data.js';
import * as format from '../format.js';
import { Filters, TimeRange, isFiltered, useFilters } from '../filters.js';
import { Field, Select } from '../forms.js';
import { html } from '../html.js';
import { Picker } from '../picker.js';
import { Badge, Card, Empty, NoMatches, Page, Quiet, Reference, Table, Time } from '../ui.js';

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

const keyPath = (id) => `/api-keys/${encodeURIComponent(id)}`;
const organizationPath = (id) => `/organizations/${encodeURIComponent(id)}`;

/** The names of keys and organizations, by path, as far as the session may read them. */
function useNames(session, rows = []) {
  const ids = (field) => [...new Set(rows.map((row) => row[field]).filter(Boolean))];
  const keys = session.can('admin:keys') ? ids('key_id').map(keyPath) : [];
  const organizations = session.can('admin:orgs') ? ids('organization_id').map(organizationPath) : [];
  const paths = [...keys, ...organizations];
  const { value } = useData(async () => {
    const results = await getMany(paths);
    return new Map([...results].map(([path, { body }]) => [path, body.data?.name]));
  }, [paths.join(' ')]);
  return value ?? new Map();
}

function columnsFor(session, names) {
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
        if (!id) return html`<${Quiet}>unknown<//>`;
        const name = names.get(keyPath(id));
        return html`<${Reference} id=${id} name=${name} href=${session.keyHref(id)} />`;
      },
    },
    session.isPlatform && {
      heading: 'Organization',
      cell: ({ organization_id: id }) => {
        const name = id && names.get(organizationPath(id));
        return html`<${Reference} id=${id} name=${name} href=${session.organizationHref(id)} />`;
      },
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
  const names = useNames(session, list.rows);
  const noDenials = html`
    <${Empty} title="No denials yet.">Denied verifications appear here with their reasons.<//>`;
  const organizationField = html`
    <${Picker} session=${session} kind="organization" name="org_id" value=${filter.org_id} />`;
  return html`
    <${Page} title="Denials" lead="Denied verifications, counted per minute, reason, and key or IP address.">
      <${Filters} onApply=${setFilter}>
        <${Select} label="Reason" name="code" value=${filter.code} options=${REASONS} />
        ${session.isPlatform && organizationField}
        <${Picker} session=${session} kind="key" name="key_id" value=${filter.key_id} />
        <${Field} label="IP address" name="ip" value=${filter.ip} placeholder="203.0.113.7" />
        <${TimeRange} filter=${filter} />
      <//>
      <${Card}>
        <${Table}
          list=${list}
          columns=${columnsFor(session, names)}
          label="Denials"
          isEndless
          empty=${isFiltered(filter) ? html`<${NoMatches} />` : noDenials}
        />
      <//>
    <//>`;
}
