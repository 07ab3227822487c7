// The scopes of a key: a box for each, grouped by resource, with presets and a filter.
import { html, useId, useRef, useState } from '../html.js';

/** True for scopes that give access to Tollhouse itself. */
export const isAdministrative = (scope) =>
  scope === '*' || scope.startsWith('admin:') || scope.startsWith('keys:');

/** True if the session may change a key: it has all of the key's administrative scopes. */
export const canChangeKey = (session, { scopes }) =>
  scopes.every((scope) => !isAdministrative(scope) || session.canGrant(scope));

const resourceOf = (scope) => scope.split(':')[0];

/**
 * The scopes to choose from: the catalogue, wildcards for each of its resources, and those that the key has.
 */
function offeredScopes(session, catalogue, chosen) {
  const single = catalogue.map(({ scope }) => scope);
  const wildcards = single.map((scope) => `${resourceOf(scope)}:*`);
  const all = [...new Set([...single, ...wildcards, ...chosen, '*'])];
  const isOffered = (scope) => session.canGrant(scope) || chosen.includes(scope);
  return {
    api: all.filter((scope) => !isAdministrative(scope)),
    administrative: all.filter((scope) => isAdministrative(scope) && isOffered(scope)),
  };
}

/** Scopes by their resources, in alphabetical order. Each group ends with the wildcard. */
function groupByResource(scopes) {
  const groups = new Map();
  for (const scope of scopes) {
    const resource = resourceOf(scope);
    groups.set(resource, [...(groups.get(resource) ?? []), scope]);
  }
  const isWildcard = (scope) => Number(scope.endsWith('*'));
  const sorted = [...groups].map(([resource, group]) => {
    return [resource, group.toSorted((one, other) => isWildcard(one) - isWildcard(other))];
  });
  return sorted.toSorted(([one], [other]) => one.localeCompare(other));
}

function describeScope(scope, catalogue) {
  if (scope === '*') return 'Full access';
  if (scope.endsWith(':*')) return `All ${scope.slice(0, -2)} scopes, including future ones`;
  return catalogue.find((entry) => entry.scope === scope)?.description ?? '';
}

/** What keys are often for: the scopes that are offered, and which of them such a key has. */
const PRESETS = [
  ['Read only', ({ api }) => api.filter((scope) => scope.endsWith(':read'))],
  ['All of your API', ({ api }) => api.filter((scope) => scope.endsWith(':*'))],
  ['Verify keys', ({ administrative }) => administrative.filter((scope) => scope === 'keys:verify')],
];

/**
 * The scopes that an error is about, by their index in the body that was sent. An error about all has none.
 */
function invalidScopes(error) {
  const pointers = (error?.details ?? []).map(({ pointer }) => /^\/scopes\/(\d+)/.exec(pointer ?? ''));
  return pointers.filter(Boolean).map(([, index]) => error.body.scopes[index]);
}

/** The number of scopes from which on a filter is offered. */
const MIN_FILTERED_SCOPES = 12;

export function ScopeBoxes({ session, catalogue, chosen, error }) {
  const messageId = useId();
  const filterId = useId();
  const container = useRef();
  const [filter, setFilter] = useState('');
  const offered = offeredScopes(session, catalogue, chosen);
  const { api, administrative } = offered;
  const message = error?.messageFor?.('scopes');
  const invalid = invalidScopes(error);
  const isInvalid = (scope) => Boolean(message) && (invalid.length === 0 || invalid.includes(scope));
  const isShown = (scope) => {
    const text = `${scope} ${describeScope(scope, catalogue)}`.toLowerCase();
    return text.includes(filter.trim().toLowerCase());
  };

  const isVisible = (scope) => isShown(scope) || isInvalid(scope);

  // Boxes keep what the user chose, so they are changed as a user would.
  const choose = (scopes) => () => {
    for (const box of container.current.querySelectorAll('input[name="scope"]')) {
      box.checked = scopes.includes(box.value);
    }
    const section = container.current.querySelector('details');
    if (section && scopes.some(isAdministrative)) section.open = true;
  };
  const presets = PRESETS.map(([label, scopesOf]) => [label, scopesOf(offered)]);
  const presetButtons = [...presets.filter(([, scopes]) => scopes.length > 0), ['None', []]].map(
    ([label, scopes]) => html`
      <button type="button" class="small" onClick=${choose(scopes)}>${label}</button>`,
  );

  // A box that does not match is hidden, not removed: it stays chosen.
  const box = (scope) => html`
    <label class="box" key=${scope} hidden=${!isVisible(scope)}>
      <input
        type="checkbox"
        name="scope"
        value=${scope}
        defaultChecked=${chosen.includes(scope)}
        aria-invalid=${isInvalid(scope) ? 'true' : undefined}
        aria-describedby=${isInvalid(scope) ? messageId : undefined}
      />
      <code>${scope}</code>
      <span class="quiet small-text"><bdi>${describeScope(scope, catalogue)}</bdi></span>
    </label>`;
  const groups = (scopes) =>
    groupByResource(scopes).map(
      ([resource, group]) => html`
        <div class="scope-group" key=${resource} hidden=${!group.some(isVisible)}>${group.map(box)}</div>`,
    );
  const administrativeBoxes = html`
    <details open=${chosen.some(isAdministrative) || (filter !== '' && administrative.some(isShown))}>
      <summary>Administrative scopes</summary>
      <div class="scope-groups">${groups(administrative)}</div>
    </details>`;
  const onFilter = (event) => setFilter(event.target.value);
  const filterField = html`
    <input
      id=${filterId}
      type="search"
      class="scope-filter"
      aria-label="Filter scopes"
      placeholder="Filter scopes"
      value=${filter}
      onInput=${onFilter}
    />`;
  return html`
    <fieldset class="scopes" ref=${container}>
      <legend>Scopes</legend>
      <div class="presets" role="group" aria-label="Presets of scopes">${presetButtons}</div>
      ${api.length + administrative.length >= MIN_FILTERED_SCOPES && filterField}
      <div class="scope-groups">${groups(api)}</div>
      ${administrative.length > 0 && administrativeBoxes}
      ${message && html`<p id=${messageId} class="fault">${message}</p>`}
    </fieldset>`;
}
