import { get } from '../api.js';
import { Busiest, UsageChart } from '../chart.js';
import { useData } from '../data.js';
import * as format from '../format.js';
import { html, useState } from '../html.js';
import { Card, Empty, Loading, Page, Problem } from '../ui.js';

const PERIODS = [
  ['24h', '24 hours'],
  ['7d', '7 days'],
  ['30d', '30 days'],
];

function Figure({ name, value, note, href }) {
  const shown = html`<span class="figure-value">${value}</span><span class="figure-name">${name}</span>
    ${note && html`<span class="quiet small-text">${note}</span>`}`;
  return href ? html`<a class="figure" href=${href}>${shown}</a>` : html`<div class="figure">${shown}</div>`;
}

export function Overview({ session }) {
  const [period, setPeriod] = useState('30d');
  const overview = useData(async () => (await get('/analytics/overview')).data, []);
  const usage = useData(async () => (await get('/analytics/usage', { period })).data, [period]);
  if (overview.error)
    return html`<${Page} title="Overview"><${Problem} error=${overview.error} retry=${overview.reload} /><//>`;
  if (!overview.value) return html`<${Page} title="Overview"><${Loading} /><//>`;
  const {
    organizations,
    users,
    api_keys: keys,
    last_24h: day,
    busiest_organizations: busy,
    busiest_keys: busyKeys,
  } = overview.value;
  const links = (scope, path) => (session.can(scope) ? path : undefined);
  const rest = ['disabled', 'expired', 'revoked']
    .filter((state) => keys[state] > 0)
    .map((state) => `${format.count(keys[state])} ${state}`);
  return html`
    <${Page} title="Overview" lead=${session.organization ? session.organization.name : 'The whole platform'}>
      <div class="figures">
        ${session.platform && html`<${Figure} name="Organizations" value=${format.count(organizations)} href=${links('admin:orgs', '#/organizations')} />`}
        <${Figure} name="Users" value=${format.count(users)} href=${links('admin:users', '#/users')} />
        <${Figure} name="Active keys" value=${format.count(keys.active)} note=${rest.join(', ')} href=${links('admin:keys', '#/api-keys')} />
        <${Figure} name="Requests in 24 h" value=${format.compact(day.requests)} href="#/usage" />
        <${Figure} name="Denied in 24 h" value=${format.compact(day.denied)} note=${format.percent(day.denied, day.requests)} href="#/denials" />
      </div>
      <${Card} title="Requests" actions=${html`
        <div class="segments" role="group" aria-label="Period">${PERIODS.map(
          ([value, name]) => html`
          <button aria-pressed=${value === period} onClick=${() => setPeriod(value)}>${name}</button>`,
        )}</div>`}>
        <${Problem} error=${usage.error} retry=${usage.reload} />
        ${
          usage.value &&
          (usage.value.totals.requests > 0
            ? html`<${UsageChart} usage=${usage.value} label="Requests" />`
            : html`<${Empty} title="Nothing was verified yet.">Once your gateway asks <code>POST /v1/keys/verify</code> for a key,
              it is counted here within a second. <a href="../docs/#/Verification">How to verify a key</a><//>`)
        }
      <//>
      <div class="columns">
        ${
          session.platform &&
          html`<${Card} title="Busiest organizations"><${Busiest} groups=${busy} none="Nothing in the last 24 hours."
          href=${links('admin:orgs', true) && ((id) => `#/organizations/${id}`)} /><//>`
        }
        <${Card} title="Busiest keys"><${Busiest} groups=${busyKeys} none="Nothing in the last 24 hours."
          href=${links('admin:keys', true) && ((id) => `#/api-keys/${id}`)} /><//>
      </div>
    <//>`;
}
