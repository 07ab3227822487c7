import { get, post } from '../api.js';
import { useData, useList } from '../data.js';
import { html, useState } from '../html.js';
import { Badge, Card, Dialog, Empty, Field, Filters, Id, Page, Rows, Select, Time } from '../ui.js';
import { MetadataField, readMetadata } from './metadata.js';

const SHIPPED = ['standard', 'enterprise'];

/** The names of plans: the configuration knows them, for those who may read it. */
export function usePlans(session) {
  const { value } = useData(async () => {
    if (!session.configures) return SHIPPED;
    return get('/config').then(
      ({ data }) => Object.keys(data.plans),
      () => SHIPPED,
    );
  }, []);
  return value ?? SHIPPED;
}

export function PlanField({ session, error, value = SHIPPED[0] }) {
  const options = [...new Set([value, ...usePlans(session)])].map((name) => [name, name]);
  return html`<${Select} label="Plan" name="plan" error=${error} value=${value} options=${options}
    hint="Says how often each of its keys may be used in a minute." />`;
}

function Create({ session, close, done }) {
  const send = async (form) => {
    const body = { name: form.get('name').trim(), email: form.get('email').trim(), plan: form.get('plan') };
    if (form.get('id')) body.id = form.get('id').trim();
    const metadata = readMetadata(form);
    if (Object.keys(metadata).length > 0) body.metadata = metadata;
    done((await post('/organizations', body)).data);
  };
  return html`
    <${Dialog} title="New organization" action="Create" send=${send} close=${close} fields=${['name', 'email', 'plan', 'id', 'metadata']}>${(
      error,
    ) => html`
      <${Field} label="Name" name="name" error=${error} autofocus />
      <${Field} label="Email" name="email" type="email" error=${error} />
      <${PlanField} session=${session} error=${error} />
      <${Field} label="Id (optional)" name="id" error=${error} placeholder="org_…" hint="Left empty, one is made. An id never changes." />
      <${MetadataField} error=${error} />`}
    <//>`;
}

export function Organizations({ session }) {
  const [filter, setFilter] = useState({});
  const [creating, setCreating] = useState(false);
  const list = useList('/organizations', filter);
  const plans = usePlans(session);
  const create =
    session.platform &&
    html`<button class="primary" onClick=${() => setCreating(true)}>New organization</button>`;
  const columns = [
    ['Name', ({ id, name }) => html`<a href=${`#/organizations/${id}`}>${name}</a>`, 'wide'],
    ['Id', ({ id }) => html`<${Id} of=${id} />`],
    ['Plan', ({ plan }) => html`<${Badge} is=${plan} />`],
    ['Status', ({ status }) => html`<${Badge} is=${status} />`],
    ['Created', ({ created_at: at }) => html`<${Time} at=${at} />`],
  ];
  const filtered = Object.values(filter).some(Boolean);
  return html`
    <${Page} title="Organizations" lead="Whose keys, members and usage are whose." actions=${create}>
      <${Filters} onApply=${setFilter}>
        <${Field} label="Name or email begins with" name="q" type="search" />
        <${Select} label="Status" name="status" options=${[
          ['', 'Any'],
          ['active', 'active'],
          ['suspended', 'suspended'],
        ]} />
        <${Select} label="Plan" name="plan" options=${[['', 'Any'], ...plans.map((plan) => [plan, plan])]} />
      <//>
      <${Card}><${Rows} list=${list} columns=${columns} label="Organizations" empty=${
        filtered
          ? html`<${Empty} title="Nothing matches.">Change or clear the filters above.<//>`
          : html`<${Empty} title="No organizations yet.">Create the first one; then give it keys. ${create}<//>`
      } /><//>
      ${
        creating &&
        html`<${Create} session=${session} close=${() => setCreating(false)} done=${({ id }) => {
          location.hash = `#/organizations/${id}`;
        }} />`
      }
    <//>`;
}
