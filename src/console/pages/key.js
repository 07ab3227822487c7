import { all, get, patch, patchIfChanged, post } from '../api.js';
import { UsageChart } from '../chart.js';
import { useData } from '../data.js';
import * as format from '../format.js';
import { html, useState } from '../html.js';
import {
  Badge,
  Card,
  Dialog,
  Empty,
  Facts,
  Field,
  Id,
  Loading,
  MetadataList,
  Page,
  Problem,
  Secret,
  Select,
  Time,
} from '../ui.js';
import { KEY_FIELDS, KeyFields, readKeyChanges } from './key-form.js';

const GRACES = [
  ['0', 'None: the old secret ends now'],
  ['3600', '1 hour'],
  ['86400', '1 day'],
  ['604800', '7 days'],
];

function Edit({ session, found, path, close, done, reload }) {
  const { data, etag } = found;
  const catalogue = useData(() => all('/scopes', { order: 'asc' }), []);
  const send = async (form) => {
    await patchIfChanged(path, readKeyChanges(form, data), etag);
    done();
  };
  return html`
    <${Dialog} title="Edit API key" send=${send} close=${close} reload=${reload} fields=${KEY_FIELDS}>${(
      error,
    ) => html`
      <${KeyFields} session=${session} catalogue=${catalogue.value ?? []} error=${error} before=${data} />`}
    <//>`;
}

function Rotate({ data, path, close, done }) {
  const send = async (form) =>
    done(
      (await post(`${path}/rotate`, { grace_period_seconds: Number(form.get('grace_period_seconds')) })).data,
    );
  return html`
    <${Dialog} title=${`Rotate ${data.name}`} action="Rotate" send=${send} close=${close} fields=${['grace_period_seconds']}>${(
      error,
    ) => html`
      <p>The key gets a new secret and keeps its id, its limits and its usage.</p>
      <${Select} label="The old secret still works for" name="grace_period_seconds" error=${error} value="86400" options=${GRACES} />`}
    <//>`;
}

function Revoke({ data, path, close, done }) {
  const send = async (form) => {
    const reason = form.get('reason').trim();
    await post(`${path}/revoke`, reason ? { reason } : {});
    done();
  };
  return html`
    <${Dialog} title=${`Revoke ${data.name}?`} action="Revoke for good" danger send=${send} close=${close} fields=${['reason']}>${(
      error,
    ) => html`
      <p>The next call with this key is refused. This can’t be undone.</p>
      <${Field} label="Reason (optional)" name="reason" error=${error} placeholder="Leaked in a log" hint="Kept with the key." />`}
    <//>`;
}

function UsageCard({ id }) {
  const usage = useData(
    async () => (await get('/analytics/usage', { key_id: id, period: '30d' })).data,
    [id],
  );
  return html`
    <${Card} title="Requests in 30 days" actions=${html`<a href=${`#/usage?key_id=${encodeURIComponent(id)}`}>More</a>`}>
      <${Problem} error=${usage.error} retry=${usage.reload} />
      ${!usage.value && !usage.error && html`<${Loading} />`}
      ${
        usage.value &&
        (usage.value.totals.requests > 0
          ? html`<${UsageChart} usage=${usage.value} label="Requests" />`
          : html`<${Empty} title="It was not verified yet.">When your gateway asks for it, that is counted here within a second.<//>`)
      }
    <//>`;
}

const limit = (one) => one && `${format.count(one.limit)} in ${format.duration(one.window_seconds)}`;

export function Key({ session, id }) {
  const path = `/api-keys/${encodeURIComponent(id)}`;
  const found = useData(() => get(path), [id]);
  const [dialog, setDialog] = useState();
  const [made, setMade] = useState();
  const [error, setError] = useState();
  if (found.error)
    return html`<${Page} title="API key"><${Problem} error=${found.error} retry=${found.reload} /><//>`;
  if (!found.value) return html`<${Page} title="API key"><${Loading} /><//>`;
  const { data, etag } = found.value;
  const close = () => setDialog();
  const done = () => {
    close();
    found.reload();
  };
  const attempt = (work) => async () => {
    setError();
    try {
      await work();
      found.reload();
    } catch (fault) {
      setError(fault);
    }
  };
  const isOver = data.status === 'revoked';
  const mayHandOut = data.scopes.every((scope) => !/^(\*|admin:|keys:)/.test(scope) || session.gives(scope));
  const set = (status) => attempt(() => patch(path, { status }, etag));
  const actions =
    !isOver &&
    mayHandOut &&
    html`
    <button onClick=${() => setDialog('edit')}>Edit</button>
    ${
      data.status !== 'expired' &&
      html`<button onClick=${() => setDialog('rotate')}>Rotate</button>
      <button onClick=${set(data.status === 'disabled' ? 'active' : 'disabled')}>${data.status === 'disabled' ? 'Enable' : 'Disable'}</button>`
    }
    <button class="danger" onClick=${() => setDialog('revoke')}>Revoke</button>`;
  const grace = data.previous_secret_expires_at;
  const none = (text) => html`<span class="quiet">${text}</span>`;
  return html`
    <${Page} title=${data.name} lead=${html`<${Badge} is=${data.status} /> <code class="id">${data.start}…</code>`} actions=${actions}>
      <${Problem} error=${error} retry=${
        error?.code === 'PRECONDITION_FAILED'
          ? () => {
              setError();
              found.reload();
            }
          : undefined
      } />
      ${
        grace &&
        html`<div class="note" role="status"><p>The secret before the rotation works too, and ends <${Time} at=${grace} />.</p>
        <button class="small" onClick=${attempt(() => post(`${path}/expire-previous`))}>End it now</button></div>`
      }
      ${isOver && html`<div class="note"><p>Revoked <${Time} at=${data.revoked_at} />${data.revoked_reason ? `: ${data.revoked_reason}` : ''}</p></div>`}
      <${Card}><${Facts} of=${[
        ['Id', html`<${Id} of=${data.id} />`],
        [
          'Organization',
          data.organization_id
            ? html`<${Id} of=${data.organization_id} href=${session.can('admin:orgs') ? `#/organizations/${data.organization_id}` : undefined} />`
            : none('the platform'),
        ],
        data.user_id && [
          'Belongs to',
          html`<${Id} of=${data.user_id} href=${session.can('admin:users') ? `#/users/${data.user_id}` : undefined} />`,
        ],
        [
          'Scopes',
          data.scopes.length > 0
            ? html`<span class="scopes">${data.scopes.map((scope) => html`<code>${scope}</code> `)}</span>`
            : none('none'),
        ],
        ['Expires', html`<${Time} at=${data.expires_at} />`],
        [
          'May be used from',
          data.allowed_ips
            ? html`<span class="scopes">${data.allowed_ips.map((range) => html`<code>${range}</code> `)}</span>`
            : none('anywhere'),
        ],
        ['Rate limit', limit(data.rate_limit) ?? none(data.organization_id ? 'as the plan says' : 'none')],
        ['Quota', data.quota ? `${format.count(data.quota.limit)} a ${data.quota.period}` : none('none')],
        ['Last used', html`<${Time} at=${data.last_used_at} />`],
        ['Created', html`<${Time} at=${data.created_at} />`],
        data.rotated_at && ['Rotated', html`<${Time} at=${data.rotated_at} />`],
        ['Metadata', html`<${MetadataList} of=${data.metadata} />`],
      ]} /><//>
      ${session.seesUsage && html`<${UsageCard} id=${id} />`}
      ${session.seesAudit && html`<p><a href=${`#/audit?target_id=${encodeURIComponent(id)}`}>What was done to it</a></p>`}
      ${dialog === 'edit' && html`<${Edit} session=${session} found=${found.value} path=${path} close=${close} done=${done} reload=${found.reload} />`}
      ${
        dialog === 'rotate' &&
        html`<${Rotate} data=${data} path=${path} close=${close} done=${(key) => {
          done();
          setMade(key);
        }} />`
      }
      ${dialog === 'revoke' && html`<${Revoke} data=${data} path=${path} close=${close} done=${done} />`}
      ${made && html`<${Secret} made=${made} title="The new secret" close=${() => setMade()} />`}
    <//>`;
}
