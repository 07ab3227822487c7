import { get } from '../api.js';
import { Busiest, UsageChart } from '../chart.js';
import { useData, useRefresh } from '../data.js';
import * as format from '../format.js';
import { useFilters } from '../filters.js';
import { Problem } from '../forms.js';
import { html } from '../html.js';
import { Card, Empty, Loading, Name, Page, PendingPage } from '../ui.js';
import { Checklist } from './checklist.js';

const PERIODS = [
  ['24h', '24 hours'],
  ['7d', '7 days'],
  ['30d', '30 days'],
];
const NO_REQUESTS = 'No requests in the last 24 hours.';

/** The longest period of usage. If there is none in it, nothing was verified yet. */
const EVER = { period: '365d', interval: 'day' };

function Figure({ name, value, note, href }) {
  const content = html`
    <span class="figure-value">${value}</span>
    <span class="figure-name">${name}</span>
    ${note && html`<span class="quiet small-text">${note}</span>`}`;
  return href
    ? html`<a class="figure" href=${href}>${content}</a>`
    : html`<div class="figure">${content}</div>`;
}

function Figures({ session, overview }) {
  const { organizations, users, api_keys: keys, last_24h: lastDay } = overview;
  const linkIfAllowed = (scope, href) => (session.can(scope) ? href : undefined);
  const otherStatuses = ['disabled', 'expired', 'revoked'].filter((status) => keys[status] > 0);
  const otherKeys = otherStatuses.map((status) => `${format.count(keys[status])} ${status}`).join(', ');
  const organizationsFigure = html`
    <${Figure}
      name="Organizations"
      value=${format.count(organizations)}
      href=${linkIfAllowed('admin:orgs', '#/organizations')}
    />`;
  return html`
    <div class="figures">
      ${session.isPlatform && organizationsFigure}
      <${Figure} name="Users" value=${format.count(users)} href=${linkIfAllowed('admin:users', '#/users')} />
      <${Figure}
        name="Active keys"
        value=${format.count(keys.active)}
        note=${otherKeys}
        href=${linkIfAllowed('admin:keys', '#/api-keys')}
      />
      <${Figure} name="Requests in 24 hours" value=${format.compact(lastDay.requests)} href="#/usage" />
      <${Figure}
        name="Denied in 24 hours"
        value=${format.compact(lastDay.denied)}
        note=${format.percent(lastDay.denied, lastDay.requests)}
        href="#/denials"
      />
    </div>`;
}

function Requests() {
  const [{ period }, setFilter] = useFilters({ period: '30d' });
  const usage = useData(async () => (await get('/analytics/usage', { period })).data, [period]);
  const buttons = PERIODS.map(([value, name]) => {
    const choose = () => setFilter({ period: value });
    return html`<button aria-pressed=${value === period} onClick=${choose}>${name}</button>`;
  });
  const periods = html`<div class="segments" role="group" aria-label="Period">${buttons}</div>`;
  const empty = html`
    <${Empty} title="No requests yet.">
      Requests appear here within a second after your gateway calls <code>POST /v1/keys/verify</code>.${' '}
      <a href="../docs/#/Verification">How to verify a key</a>
    <//>`;
  const chart = html`<${UsageChart} usage=${usage.value} label="Requests" />`;
  const content = usage.value?.totals.requests > 0 ? chart : empty;
  return html`
    <${Card} title="Requests" actions=${periods}>
      <${Problem} error=${usage.error} retry=${usage.reload} />
      ${!usage.value && !usage.error && html`<${Loading} />`}
      ${usage.value && content}
    <//>`;
}

export function Overview({ session }) {
  const overview = useData(async () => (await get('/analytics/overview')).data, []);
  useRefresh(overview.reload);
  const wasQuiet = overview.value?.last_24h.requests === 0;
  // Only asked where the last day does not say it: this read is recorded in the audit log.
  const usage = useData(
    async () => (wasQuiet ? (await get('/analytics/usage', EVER)).data : undefined),
    [wasQuiet],
  );
  const isKnown = !wasQuiet || Boolean(usage.value ?? usage.error);
  const isNew = wasQuiet && usage.value?.totals.requests === 0 && session.can('admin:keys');
  if (!overview.value) return html`<${PendingPage} title="Overview" resource=${overview} />`;
  const { busiest_organizations: organizations, busiest_keys: keys } = overview.value;
  const busiestOrganizations = html`
    <${Card} title="Busiest organizations">
      <${Busiest}
        groups=${organizations}
        empty=${NO_REQUESTS}
        href=${(id) => session.organizationHref(id)}
      />
    <//>`;
  const lead = session.organization ? html`<${Name}>${session.organization.name}<//>` : 'All organizations';
  return html`
    <${Page} title="Overview" lead=${lead}>
      ${isNew && html`<${Checklist} session=${session} overview=${overview.value} />`}
      <${Figures} session=${session} overview=${overview.value} />
      ${isKnown && !isNew && html`<${Requests} />`}
      <div class="columns">
        ${session.isPlatform && busiestOrganizations}
        <${Card} title="Busiest keys">
          <${Busiest} groups=${keys} empty=${NO_REQUESTS} href=${(id) => session.keyHref(id)} />
        <//>
      </div>
    <//>`;
}
