import { get } from '../api.js';
import { useData } from '../data.js';
import { searchWords } from '../format.js';
import { Field } from '../forms.js';
import { html, useState } from '../html.js';

/** An organization by its ID, with suggestions if the session may list organizations. */
export function OrganizationField({ session, error, value, hint, name = 'organization_id' }) {
  const [typed, setTyped] = useState('');
  const suggestions = useData(async () => {
    if (!session.can('admin:orgs')) return [];
    return (await get('/organizations', { q: searchWords(typed), limit: 20 })).data;
  }, [typed]);
  const options = (suggestions.value ?? []).map((organization) => {
    return html`<option value=${organization.id}>${organization.name}</option>`;
  });
  const input = (control) => html`
    <input
      ...${control}
      list=${`${control.id}-list`}
      defaultValue=${value}
      autocomplete="off"
      placeholder="org_…"
      onInput=${(event) => setTyped(event.target.value)}
    />
    <datalist id=${`${control.id}-list`}>${options}</datalist>`;
  return html`<${Field} label="Organization" name=${name} error=${error} hint=${hint}>${input}<//>`;
}
