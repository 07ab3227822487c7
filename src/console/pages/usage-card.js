import { get } from '../api.js';
import { UsageChart } from '../chart.js';
import { useData } from '../data.js';
import { Problem } from '../forms.js';
import { html } from '../html.js';
import { Card, Empty, Loading } from '../ui.js';

/** The usage of one key or organization in the last 30 days. `filter` has its ID. */
export function UsageCard({ filter, emptyText }) {
  const query = new URLSearchParams(filter).toString();
  const load = async () => (await get('/analytics/usage', { ...filter, period: '30d' })).data;
  const { value, error, reload } = useData(load, [query]);
  const link = html`<a href=${`#/usage?${query}`}>Details</a>`;
  const chart = html`<${UsageChart} usage=${value} label="Requests" />`;
  const empty = html`<${Empty} title="No requests yet.">${emptyText}<//>`;
  return html`
    <${Card} title="Requests in the last 30 days" actions=${link}>
      <${Problem} error=${error} retry=${reload} />
      ${!value && !error && html`<${Loading} />`}
      ${value?.totals.requests > 0 ? chart : value && empty}
    <//>`;
}
