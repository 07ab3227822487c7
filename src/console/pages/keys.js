import { getAll, verify } from '../api.js';
import { useData } from '../data.js';
import * as format from '../format.js';
import { Filters, useFilters } from '../filters.js';
import { Dialog, Field, Problem, Select } from '../forms.js';
import { html, useState } from '../html.js';
import { limitText } from '../limits.js';
import { Picker } from '../picker.js';
import { useRequestedDialog } from '../route.js';
import { Badge, Facts, Id, Page } from '../ui.js';
import { KeyTable } from './key-table.js';

const STATUSES = [
  ['', 'Any'],
  ...['active', 'disabled', 'expired', 'revoked'].map((status) => [status, status]),
];

const NO_FILTERS = { q: '', status: '', user_id: '', scope: '', organization_id: '' };

const SUBJECTS = { key: 'the key', organization: 'its organization' };

const remainingText = (limit) => `${format.count(limit.remaining)} of ${limitText(limit)} left`;

function VerificationResult({ session, result }) {
  const remaining = result.limits.map((limit) => [`${format.words(limit.on)} limit`, remainingText(limit)]);
  const { limited_by: limitedBy, retry_after_seconds: retryTime } = result;
  const facts = [
    ['Key', html`<${Id} value=${result.key_id} href=${session.keyHref(result.key_id)} />`],
    ['Organization', result.organization_id ?? 'platform'],
    ...remaining,
    limitedBy && ['Limited by', `${limitText(limitedBy)} for ${SUBJECTS[limitedBy.on]}`],
    retryTime !== null && ['Retry after', format.duration(retryTime)],
  ];
  return html`
    <div class="result" role="status">
      <p><${Badge} label=${result.code} tone=${result.valid ? 'good' : 'bad'} /> ${result.message}</p>
      ${result.key_id && html`<${Facts} items=${facts} />`}
    </div>`;
}

/** Verifies a secret as a dry run. */
function VerifyDialog({ session, onClose }) {
  const [result, setResult] = useState();
  const submit = async (form) => {
    setResult();
    const ip = form.get('ip').trim();
    const scopes = form
      .get('scopes')
      .split(/[\s,]+/)
      .filter(Boolean);
    const body = { key: form.get('key').trim(), dry_run: true };
    if (ip) body.ip = ip;
    if (scopes.length > 0) body.scopes = scopes;
    setResult(await verify(body));
  };
  const fields = (error) => html`
    <p class="quiet">Shows what your gateway would get. It spends no limits and is not counted.</p>
    <${Field} label="Secret" name="key" error=${error} type="password" />
    <${Field} label="Required scopes (optional)" name="scopes" error=${error} placeholder="workflows:read" />
    <${Field} label="Client IP address (optional)" name="ip" error=${error} placeholder="203.0.113.7" />
    ${result && html`<${VerificationResult} session=${session} result=${result} />`}`;
  return html`
    <${Dialog}
      title="Verify a key"
      submitLabel="Verify"
      closeLabel="Close"
      onSubmit=${submit}
      onClose=${onClose}
      fields=${['key', 'scopes', 'ip']}
    >
      ${fields}
    <//>`;
}

export function Keys({ session }) {
  const [filter, setFilter] = useFilters(NO_FILTERS);
  const requestedDialog = useRequestedDialog();
  const [isVerifying, setVerifying] = useState(requestedDialog === 'verify');
  const [isCreating, setCreating] = useState(requestedDialog === 'new');
  const catalogue = useData(() => getAll('/scopes', { order: 'asc' }), []);
  const scopes = ['*', ...(catalogue.value ?? []).map(({ scope }) => scope)];
  const scopeOptions = [['', 'Any'], ...scopes.map((scope) => [scope, scope])];
  const verifyButton = html`<button onClick=${() => setVerifying(true)}>Verify a key</button>`;
  const actions = html`
    ${session.canVerify && verifyButton}
    <button class="primary" onClick=${() => setCreating(true)}>New API key</button>`;
  const organizationField = html`
    <${Picker}
      session=${session}
      kind="organization"
      name="organization_id"
      value=${filter.organization_id}
    />`;
  return html`
    <${Page}
      title="API keys"
      lead="Each key has its own scopes, expiry, allowed IP addresses, and limits."
      actions=${actions}
    >
      <${Filters} onApply=${setFilter}>
        <${Field} label="Search by name, start or ID" name="q" type="search" value=${filter.q} />
        <${Select} label="Status" name="status" value=${filter.status} options=${STATUSES} />
        <${Picker} session=${session} kind="user" label="Owner" name="user_id" value=${filter.user_id} />
        <${Select} label="Scope" name="scope" value=${filter.scope} options=${scopeOptions} />
        ${session.isPlatform && organizationField}
      <//>
      <${Problem} error=${catalogue.error} />
      <${KeyTable} session=${session} filter=${filter} isCreating=${isCreating} setCreating=${setCreating} />
      ${isVerifying && html`<${VerifyDialog} session=${session} onClose=${() => setVerifying(false)} />`}
    <//>`;
}
