// The first steps with a new server or organization, until the first verification.
import { get } from '../api.js';
import { useData } from '../data.js';
import { html } from '../html.js';
import { Snippets } from '../snippets.js';
import { Card } from '../ui.js';
import { isAdministrative } from './scope-boxes.js';

const isClientKey = ({ organization_id: organization, scopes }) =>
  organization !== null && !scopes.some(isAdministrative);

function Step({ title, isDone, href, action, children }) {
  const state = isDone ? 'done' : 'to do';
  return html`
    <li class="step ${isDone ? 'done' : ''}">
      <span class="tick" role="img" aria-label=${state}>${isDone ? '✓' : ''}</span>
      <div>
        <p class="step-title">${title}</p>
        ${!isDone && html`<div class="quiet">${children}</div>`}
      </div>
      ${!isDone && href && html`<a class="step-action" href=${href}>${action}</a>`}
    </li>`;
}

/** Whether there are keys for clients and services. Of many keys, it reads only the newest. */
async function readKeys() {
  const lists = [{ limit: 100 }, { scope: 'keys:verify', limit: 1 }].map((query) => {
    return get('/api-keys', { ...query, status: 'active' });
  });
  const [newest, services] = await Promise.all(lists);
  return { hasClient: newest.data.some(isClientKey), hasService: services.data.length > 0 };
}

/**
 * The steps, each with a tick when it is done. The `overview` is loaded again and again; keys are read when
 * their number in it changes.
 */
export function Checklist({ session, overview }) {
  const { organizations, api_keys: counts } = overview;
  const keys = useData(readKeys, [counts.active]).value ?? {};
  const organizationStep = html`
    <${Step}
      title="Create an organization"
      isDone=${organizations > 0}
      href="#/organizations?dialog=new"
      action="New organization"
    >
      A customer of your API, who owns keys.
    <//>`;
  return html`
    <${Card} title="First steps">
      <ol class="steps">
        ${session.isPlatform && organizationStep}
        <${Step}
          title="Create a key for a client"
          isDone=${keys.hasClient}
          href="#/api-keys?dialog=new"
          action="New API key"
        >
          The client sends it with each request to your API.
        <//>
        <${Step}
          title="Create a service key"
          isDone=${keys.hasService}
          href="#/api-keys?dialog=new"
          action="New API key"
        >
          Your API verifies keys with it. It needs only the scope <code>keys:verify</code>.
        <//>
        <${Step} title="Verify the first key">
          This page shows its requests within a few seconds.
          <${Snippets} />
        <//>
      </ol>
    <//>`;
}
