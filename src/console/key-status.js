// Whether keys work. An active key is refused while its organization or its owner is suspended.
import { getMany } from './api.js';
import { useData } from './data.js';
import { html } from './html.js';
import { Badge } from './ui.js';

/** The paths of the organizations and users that the keys depend on, as far as the session may read them. */
function dependencyPaths(session, keys) {
  const paths = keys.flatMap((key) => [
    session.can('admin:orgs') && key.organization_id && organizationPath(key),
    session.can('admin:users') && key.user_id && userPath(key),
  ]);
  return [...new Set(paths.filter(Boolean))];
}

const organizationPath = (key) => `/organizations/${encodeURIComponent(key.organization_id)}`;
const userPath = (key) => `/users/${encodeURIComponent(key.user_id)}`;

/** The status of each path's resource. A resource that can't be found is `deleted`. */
async function readStatuses(paths) {
  const statuses = new Map();
  for (const [path, { status, body }] of await getMany(paths)) {
    if (status === 200) statuses.set(path, body.data.status);
    if (status === 404) statuses.set(path, 'deleted');
  }
  return statuses;
}

/**
 * Reads what active keys depend on: the status of each organization and owner, by path. A status that can't
 * be read is missing.
 */
export function useDependencies(session, keys = []) {
  const activeKeys = keys.filter(({ status }) => status === 'active');
  const paths = dependencyPaths(session, activeKeys);
  const { value } = useData(() => readStatuses(paths), [paths.join(' ')]);
  return value ?? new Map();
}

/** What keeps an active key from working: its organization or its owner, and the status of that. */
function blockerOf(key, dependencies) {
  if (key.status !== 'active') return undefined;
  const organization = key.organization_id && dependencies.get(organizationPath(key));
  const owner = key.user_id && dependencies.get(userPath(key));
  if (organization && organization !== 'active') {
    return { subject: 'organization', status: organization, href: `#${organizationPath(key)}` };
  }
  if (owner && owner !== 'active') return { subject: 'owner', status: owner, href: `#${userPath(key)}` };
  return undefined;
}

/** True if everything that the key depends on was read. */
function areDependenciesKnown(key, dependencies) {
  const isOrganizationKnown = !key.organization_id || dependencies.has(organizationPath(key));
  const isOwnerKnown = !key.user_id || dependencies.has(userPath(key));
  return isOrganizationKnown && isOwnerKnown;
}

/** The status of a key. It is shown as working only if nothing that the key depends on says otherwise. */
export function KeyStatus({ apiKey, dependencies }) {
  const blocker = blockerOf(apiKey, dependencies);
  if (blocker) return html`<${Badge} label=${`${blocker.subject} ${blocker.status}`} tone="warn" />`;
  const isUncertain = apiKey.status === 'active' && !areDependenciesKnown(apiKey, dependencies);
  return html`<${Badge} label=${apiKey.status} tone=${isUncertain ? 'plain' : undefined} />`;
}
