import { get } from '../api.js';
import { UsageChart } from '../chart.js';
import { useData } from '../data.js';
import * as format from '../format.js';
import { html, useState } from '../html.js';
import { Badge, Card, Empty, Field, Filters, Loading, Page, Problem, Rows, Select } from '../ui.js';
import { OrganizationField } from './keys.js';

const PERIODS = [
  ['24h', '24 hours'],
  ['7d', '7 days'],
  ['30d', '30 days'],
  ['90d', '90 days'],
  ['365d', '1 year'],
];
const INTERVALS = [
  ['', 'As fits'],
  ['hour', 'Hours'],
  ['day', 'Days'],
];

export function Usage({ session, query }) {
  const [filter, setFilter] = useState({
    period: '30d',
    interval: '',
    group_by: 'key',
    org_id: query.org_id ?? '',
    key_id: query.key_id ?? '',
  });
  const groupings = [
    ['key', 'Key'],
    session.platform && ['organization', 'Organization'],
    ['code', 'Outcome'],
  ].filter(Boolean);
  // What is shown until the next answer is there is still broken down as it was.
  const usage = useData(
    async () => ({ ...(await get('/analytics/usage', filter)).data, by: filter.group_by }),
    [JSON.stringify(filter)],
  );
  const { value } = usage;
  const by = value?.by ?? filter.group_by;
  const links = {
    key: session.can('admin:keys') && '#/api-keys/',
    organization: session.can('admin:orgs') && '#/organizations/',
  };
  const name = ({ id, name: text }) => {
    if (by === 'code')
      return html`<${Badge} is=${format.words(id)} tone=${id === 'VALID' ? 'good' : 'warn'} />`;
    const to = links[by];
    return id && to ? html`<a href=${to + id}>${text}</a>` : (text ?? 'The platform itself');
  };
  const figure =
    (field) =>
    ({ totals }) =>
      format.count(totals[field]);
  const columns = [
    [groupings.find(([key]) => key === by)[1], name, 'wide'],
    ['Requests', figure('requests'), 'num'],
    ['Allowed', figure('allowed'), 'num'],
    ['Denied', figure('denied'), 'num'],
    ['Rate limited', figure('rate_limited'), 'num'],
    ['Over quota', figure('quota_exceeded'), 'num'],
    ['Cost', figure('cost'), 'num'],
  ];
  return html`
    <${Page} title="Usage" lead="How often keys were verified, and how that ended.">
      <${Filters} onApply=${(form) => setFilter({ ...filter, ...form })}>
        <${Select} label="Period" name="period" value=${filter.period} options=${PERIODS} />
        <${Select} label="Interval" name="interval" value=${filter.interval} options=${INTERVALS} />
        <${Select} label="Break down by" name="group_by" value=${filter.group_by} options=${groupings} />
        ${session.platform && html`<${OrganizationField} session=${session} name="org_id" value=${filter.org_id} hint="" />`}
        <${Field} label="Key" name="key_id" value=${filter.key_id} placeholder="key_…" />
      <//>
      <${Problem} error=${usage.error} retry=${usage.reload} />
      ${!value && !usage.error && html`<${Loading} />`}
      ${
        value &&
        value.totals.requests === 0 &&
        html`<${Card}><${Empty} title="Nothing was verified in this time.">
        Choose a longer period, or let your gateway ask <code>POST /v1/keys/verify</code>.<//><//>`
      }
      ${
        value &&
        value.totals.requests > 0 &&
        html`
        <div class="figures">${[
          ['Requests', 'requests'],
          ['Allowed', 'allowed'],
          ['Denied', 'denied'],
          ['Rate limited', 'rate_limited'],
          ['Over quota', 'quota_exceeded'],
        ].map(
          ([text, field]) => html`
          <div class="figure"><span class="figure-value">${format.compact(value.totals[field])}</span><span class="figure-name">${text}</span>
            ${field !== 'requests' && html`<span class="quiet small-text">${format.percent(value.totals[field], value.totals.requests)}</span>`}</div>`,
        )}</div>
        <${Card} title=${`Requests by the ${value.interval}`}><${UsageChart} usage=${value} label="Requests" /><//>
        <${Card} title="Breakdown"><${Rows} list=${{ rows: value.groups, loading: usage.loading }} columns=${columns} label="Breakdown" /><//>`
      }
    <//>`;
}
