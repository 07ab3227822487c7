import { get } from '../api.js';
import { UsageChart } from '../chart.js';
import { useData } from '../data.js';
import * as format from '../format.js';
import { Filters, useFilters } from '../filters.js';
import { Problem, Select } from '../forms.js';
import { html } from '../html.js';
import { Picker } from '../picker.js';
import { Badge, Card, Empty, Loading, Name, Page, Table } from '../ui.js';

const PERIODS = [
  ['24h', '24 hours'],
  ['7d', '7 days'],
  ['30d', '30 days'],
  ['90d', '90 days'],
  ['365d', '1 year'],
];
const INTERVALS = [
  ['', 'Automatic'],
  ['hour', 'Hours'],
  ['day', 'Days'],
];
const DEFAULT_FILTERS = { period: '30d', interval: '', group_by: 'key', org_id: '', key_id: '' };
const GROUPINGS = { key: 'Key', organization: 'Organization', user: 'User', code: 'Outcome' };
/** The addresses of groups, and the name of the group without an ID. */
const GROUP_LINKS = {
  key: { href: (session, id) => session.keyHref(id) },
  organization: { href: (session, id) => session.organizationHref(id), nameOfNull: 'Platform' },
  user: { href: (session, id) => session.userHref(id), nameOfNull: 'No user' },
};
const FIGURES = [
  ['requests', 'Requests'],
  ['allowed', 'Allowed'],
  ['denied', 'Denied'],
  ['rate_limited', 'Rate limited'],
  ['quota_exceeded', 'Quota exceeded'],
];

function Figures({ totals }) {
  const figures = FIGURES.map(([field, name]) => {
    const percent = format.percent(totals[field], totals.requests);
    const share = html`<span class="quiet small-text">${percent}</span>`;
    return html`
      <div class="figure">
        <span class="figure-value">${format.compact(totals[field])}</span>
        <span class="figure-name">${name}</span>
        ${field !== 'requests' && share}
      </div>`;
  });
  return html`<div class="figures">${figures}</div>`;
}

/** The name of a group: an outcome, or a key, organization or user with a link if the session may read it. */
function GroupName({ session, grouping, group }) {
  const { id, name } = group;
  if (grouping === 'code') {
    return html`<${Badge} label=${format.words(id)} tone=${id === 'VALID' ? 'good' : 'warn'} />`;
  }
  const { href, nameOfNull } = GROUP_LINKS[grouping];
  // A user that the session can't read has no name and no page.
  if (id && !name) return html`<code>${id}</code>`;
  const target = href(session, id);
  const shownName = html`<${Name}>${name ?? nameOfNull}<//>`;
  return target ? html`<a href=${target}>${shownName}</a>` : shownName;
}

function Breakdown({ session, usage, grouping, isLoading }) {
  const number = (field, heading) => ({
    heading,
    kind: 'num',
    cell: ({ totals }) => format.count(totals[field]),
  });
  const columns = [
    {
      heading: GROUPINGS[grouping],
      kind: 'wide',
      cell: (group) => html`<${GroupName} session=${session} grouping=${grouping} group=${group} />`,
    },
    ...FIGURES.map(([field, name]) => number(field, name)),
    number('cost', 'Cost'),
  ];
  const list = { rows: usage.groups, loading: isLoading };
  return html`<${Card} title="Breakdown"><${Table} list=${list} columns=${columns} label="Breakdown" /><//>`;
}

export function Usage({ session }) {
  const [filter, setFilter] = useFilters(DEFAULT_FILTERS);
  // The grouping is kept with the data: until the next response arrives, the previous data are shown.
  const usage = useData(async () => {
    const { data } = await get('/analytics/usage', filter);
    return { data, grouping: filter.group_by };
  }, [JSON.stringify(filter)]);
  const groupings = Object.entries(GROUPINGS).filter(
    ([name]) => session.isPlatform || name !== 'organization',
  );
  const { data, grouping } = usage.value ?? {};
  const organizationField = html`
    <${Picker} session=${session} kind="organization" name="org_id" value=${filter.org_id} />`;
  const empty = html`
    <${Card}>
      <${Empty} title="No requests in this period.">
        Select a longer period, or let your gateway call <code>POST /v1/keys/verify</code>.
      <//>
    <//>`;
  const results =
    data &&
    html`
    <${Figures} totals=${data.totals} />
    <${Card} title=${`Requests per ${data.interval}`}><${UsageChart} usage=${data} label="Requests" /><//>
    <${Breakdown} session=${session} usage=${data} grouping=${grouping} isLoading=${usage.loading} />`;
  return html`
    <${Page} title="Usage" lead="Verifications of keys and their outcomes.">
      <${Filters} onApply=${setFilter}>
        <${Select} label="Period" name="period" value=${filter.period} options=${PERIODS} />
        <${Select} label="Interval" name="interval" value=${filter.interval} options=${INTERVALS} />
        <${Select} label="Break down by" name="group_by" value=${filter.group_by} options=${groupings} />
        ${session.isPlatform && organizationField}
        <${Picker} session=${session} kind="key" name="key_id" value=${filter.key_id} />
      <//>
      <${Problem} error=${usage.error} retry=${usage.reload} />
      ${!data && !usage.error && html`<${Loading} />`}
      ${data?.totals.requests > 0 ? results : data && empty}
    <//>`;
}
