import { getAll, get, patch, patchIfChanged, post } from '../api.js';
import { useData } from '../data.js';
import { Dialog, Field, Problem, Select, isConflict } from '../forms.js';
import { html, useState } from '../html.js';
import { KeyStatus, useDependencies } from '../key-status.js';
import { showSecret } from '../new-secret.js';
import {
  Card,
  CodeList,
  Facts,
  Id,
  MetadataList,
  Name,
  Page,
  PendingPage,
  Quiet,
  Reference,
  Time,
} from '../ui.js';
import { DestructionDialog } from './destruction.js';
import { KeyAnswer, KeyDenials } from './key-answer.js';
import { KEY_FIELDS, KeyFields, readKeyChanges } from './key-form.js';
import { Limits } from './limits-field.js';
import { canChangeKey } from './scope-boxes.js';
import { UsageCard } from './usage-card.js';

const GRACE_PERIODS = [
  ['0', 'Immediately'],
  ['3600', 'After 1 hour'],
  ['86400', 'After 1 day'],
  ['604800', 'After 7 days'],
];

function EditDialog({ session, resource, path, onClose, onSaved }) {
  const { data, etag } = resource.value;
  const catalogue = useData(() => getAll('/scopes', { order: 'asc' }), []);
  const save = async (form) => {
    await patchIfChanged(path, readKeyChanges(form, data), etag);
    onSaved();
  };
  const fields = (error) => html`
    <${KeyFields} session=${session} catalogue=${catalogue.value ?? []} error=${error} before=${data} />`;
  return html`
    <${Dialog}
      title="Edit API key"
      onSubmit=${save}
      onClose=${onClose}
      reload=${resource.reload}
      fields=${KEY_FIELDS}
    >
      ${fields}
    <//>`;
}

function RotateDialog({ apiKey, path, onClose, onRotated }) {
  const rotate = async (form) => {
    const gracePeriod = Number(form.get('grace_period_seconds'));
    const { data } = await post(`${path}/rotate`, { grace_period_seconds: gracePeriod });
    onRotated(data);
  };
  const fields = (error) => html`
    <p>The key gets a new secret. Its ID, limits, and usage stay the same.</p>
    <${Select}
      label="Current secret expires"
      name="grace_period_seconds"
      error=${error}
      value="86400"
      options=${GRACE_PERIODS}
    />`;
  return html`
    <${Dialog}
      title=${html`Rotate <${Name}>${apiKey.name}<//>`}
      submitLabel="Rotate"
      onSubmit=${rotate}
      onClose=${onClose}
      fields=${['grace_period_seconds']}
    >
      ${fields}
    <//>`;
}

function RevokeDialog({ session, apiKey, path, onClose, onRevoked }) {
  const revoke = async (form) => {
    const reason = form.get('reason').trim();
    await post(`${path}/revoke`, reason ? { reason } : {});
    onRevoked();
  };
  const fields = (error) => html`
    <p>Requests with this key are refused immediately. This can’t be undone.</p>
    <${Field}
      label="Reason (optional)"
      name="reason"
      error=${error}
      placeholder="Leaked in a log"
      hint="Saved with the key."
    />`;
  return html`
    <${DestructionDialog}
      session=${session}
      subject=${{ apiKey, usageFilter: { key_id: apiKey.id } }}
      name=${apiKey.name}
      title=${html`Revoke <${Name}>${apiKey.name}<//>?`}
      submitLabel="Revoke key"
      onSubmit=${revoke}
      onClose=${onClose}
      fields=${['reason']}
    >
      ${fields}
    <//>`;
}

function KeyFacts({ session, apiKey }) {
  const none = (text) => html`<${Quiet}>${text}<//>`;
  const codes = (values) => html`<${CodeList} values=${values} />`;
  const organizationHref = session.organizationHref(apiKey.organization_id);
  const ownerHref = session.userHref(apiKey.user_id);
  const { organization: expanded, user } = apiKey;
  const organizationName = expanded?.name ?? session.organization?.name;
  const organization = html`
    <${Reference} id=${apiKey.organization_id} name=${organizationName} href=${organizationHref} />`;
  const owner = html`<${Reference} id=${apiKey.user_id} name=${user?.name} href=${ownerHref} />`;
  const hasPlan = apiKey.organization_id !== null;
  const facts = [
    ['ID', html`<${Id} value=${apiKey.id} />`],
    ['Organization', apiKey.organization_id ? organization : none('platform')],
    apiKey.user_id && ['Owner', owner],
    ['Scopes', apiKey.scopes.length > 0 ? codes(apiKey.scopes) : none('none')],
    ['Expires', html`<${Time} at=${apiKey.expires_at} />`],
    ['Allowed IP addresses', apiKey.allowed_ips ? codes(apiKey.allowed_ips) : none('any')],
    ['Can rotate itself', apiKey.self_rotation ? 'Yes' : none('no')],
    ['Limits', html`<${Limits} limits=${apiKey.limits} hasPlan=${hasPlan} />`],
    ['Last used', html`<${Time} at=${apiKey.last_used_at} />`],
    ['Created', html`<${Time} at=${apiKey.created_at} />`],
    apiKey.rotated_at && ['Rotated', html`<${Time} at=${apiKey.rotated_at} />`],
    ['Metadata', html`<${MetadataList} metadata=${apiKey.metadata} />`],
  ];
  return html`<${Card}><${Facts} items=${facts} /><//>`;
}

export function Key({ session, id }) {
  const path = `/api-keys/${encodeURIComponent(id)}`;
  const resource = useData(() => get(path, { expand: session.expand('organization', 'user') }), [id]);
  const apiKey = resource.value?.data;
  const dependencies = useDependencies(session, apiKey && [apiKey]);
  const [dialog, setDialog] = useState();
  const [error, setError] = useState();
  if (resource.error || !apiKey) return html`<${PendingPage} title="API key" resource=${resource} />`;

  const close = () => setDialog();
  const onChanged = () => {
    close();
    resource.reload();
  };
  const onRotated = (newKey) => {
    onChanged();
    showSecret('API key rotated', newKey);
  };
  /** An action without a dialog: its error is shown on the page. */
  const action = (send) => async () => {
    setError();
    try {
      await send();
      resource.reload();
    } catch (failure) {
      setError(failure);
    }
  };
  const reloadAfterConflict = () => {
    setError();
    resource.reload();
  };

  const isRevoked = apiKey.status === 'revoked';
  const isDisabled = apiKey.status === 'disabled';
  const canChange = canChangeKey(session, apiKey);
  const newStatus = isDisabled ? 'active' : 'disabled';
  // Disabling is for emergencies, so it does not depend on what others changed in the meantime.
  const setStatus = action(() => {
    return patch(path, { status: newStatus }, isDisabled ? resource.value.etag : undefined);
  });
  const expirePrevious = action(() => post(`${path}/expire-previous`));
  const usableActions = html`
    <button onClick=${() => setDialog('rotate')}>Rotate</button>
    <button onClick=${setStatus}>${isDisabled ? 'Enable' : 'Disable'}</button>`;
  const actions = html`
    <button onClick=${() => setDialog('edit')}>Edit</button>
    ${apiKey.status !== 'expired' && usableActions}
    <button class="danger" onClick=${() => setDialog('revoke')}>Revoke</button>`;
  const lead = html`
    <${KeyStatus} apiKey=${apiKey} dependencies=${dependencies} /> <code class="id">${apiKey.start}…</code>`;

  const graceEnd = apiKey.previous_secret_expires_at;
  const graceNote = html`
    <div class="note" role="status">
      <p>The previous secret still works. It expires <${Time} at=${graceEnd} />.</p>
      <button class="small" onClick=${expirePrevious}>Expire now</button>
    </div>`;
  const reason = apiKey.revoked_reason && html`: <${Name}>${apiKey.revoked_reason}<//>`;
  const revokedNote = html`
    <div class="note"><p>Revoked <${Time} at=${apiKey.revoked_at} />${reason}</p></div>`;
  const usage = html`
    <${UsageCard}
      filter=${{ key_id: id }}
      emptyText="Verifications of this key appear here within a second."
    />`;
  const activityLink = html`<p><a href=${`#/audit?target_id=${encodeURIComponent(id)}`}>Activity</a></p>`;
  const dialogProps = { apiKey, path, onClose: close };
  const editDialog = html`
    <${EditDialog}
      session=${session}
      resource=${resource}
      path=${path}
      onClose=${close}
      onSaved=${onChanged}
    />`;
  const revokeDialog = html`
    <${RevokeDialog} session=${session} ...${dialogProps} onRevoked=${onChanged} />`;
  return html`
    <${Page} title=${apiKey.name} lead=${lead} actions=${!isRevoked && canChange && actions}>
      <${Problem} error=${error} retry=${isConflict(error) ? reloadAfterConflict : undefined} />
      ${graceEnd && graceNote}
      ${isRevoked && revokedNote}
      ${!isRevoked && html`<${KeyAnswer} session=${session} apiKey=${apiKey} />`}
      <${KeyFacts} session=${session} apiKey=${apiKey} />
      ${session.canReadUsage && usage}
      ${session.canReadUsage && html`<${KeyDenials} apiKey=${apiKey} />`}
      ${session.canReadAudit && activityLink}
      ${dialog === 'edit' && editDialog}
      ${dialog === 'rotate' && html`<${RotateDialog} ...${dialogProps} onRotated=${onRotated} />`}
      ${dialog === 'revoke' && revokeDialog}
    <//>`;
}
