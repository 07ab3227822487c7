// The console: sign-in, the frame around the pages, and routing.
import * as api from './api.js';
import { useData } from './data.js';
import { Problem } from './forms.js';
import { HandOver } from './hand-over.js';
import { html, render, useEffect, useMemo, useRef, useState } from './html.js';
import { isPossibleKey } from './key-storage.js';
import { NewSecret } from './new-secret.js';
import { Notices } from './notices.js';
import { Palette } from './palette.js';
import { Audit } from './pages/audit.js';
import { Denials } from './pages/denials.js';
import { Key } from './pages/key.js';
import { Keys } from './pages/keys.js';
import { OrganizationMembers } from './pages/members.js';
import { Organization } from './pages/organization.js';
import { Organizations } from './pages/organizations.js';
import { Overview } from './pages/overview.js';
import { Scopes } from './pages/scopes.js';
import { Settings } from './pages/settings.js';
import { SignIn } from './pages/sign-in.js';
import { Usage } from './pages/usage.js';
import { User } from './pages/user.js';
import { Users } from './pages/users.js';
import { withoutSecrets } from './redact.js';
import { decodePart, replaceHash, useRoute } from './route.js';
import { useScrollPosition } from './scroll.js';
import { Session } from './session.js';
import { Empty, Loading, Name, Page } from './ui.js';

// `list` shows a page, and `detail` one of its resources. Pages that the session may not use are not offered,
// nor those whose `endpoint` the server does not have.
const PAGES = [
  { path: '', title: 'Overview', list: Overview, isAllowed: (session) => session.canReadUsage },
  {
    path: 'organizations',
    title: 'Organizations',
    list: Organizations,
    detail: Organization,
    isAllowed: (session) => session.can('admin:orgs'),
  },
  {
    path: 'members',
    title: 'Members',
    list: OrganizationMembers,
    detail: OrganizationMembers,
    // Otherwise they are on the pages of organizations.
    isAllowed: (session) => session.can('admin:users') && !session.can('admin:orgs'),
  },
  {
    path: 'users',
    title: 'Users',
    list: Users,
    detail: User,
    isAllowed: (session) => session.can('admin:users'),
  },
  {
    path: 'api-keys',
    title: 'API keys',
    list: Keys,
    detail: Key,
    isAllowed: (session) => session.can('admin:keys'),
  },
  { path: 'usage', title: 'Usage', list: Usage, isAllowed: (session) => session.canReadUsage },
  { path: 'denials', title: 'Denials', list: Denials, isAllowed: (session) => session.canReadUsage },
  { path: 'audit', title: 'Audit log', list: Audit, isAllowed: (session) => session.canReadAudit },
  { path: 'scopes', title: 'Scopes', list: Scopes, isAllowed: () => true },
  {
    path: 'settings',
    title: 'Settings',
    list: Settings,
    isAllowed: (session) => session.canConfigure,
    endpoint: '/config',
  },
];

function readRoute() {
  // An address that was typed or followed may have a secret in it, which must not stay there.
  replaceHash(withoutSecrets(location.hash));
  const { hash } = location;
  const [path] = hash.replace(/^#\/?/, '').split('?');
  const [page, id] = path.split('/').map(decodePart);
  return { page, id, hash };
}

async function loadPages(session) {
  const allowed = PAGES.filter(({ isAllowed }) => isAllowed(session));
  const isAvailable = async ({ endpoint }) => {
    if (!endpoint) return true;
    try {
      await api.get(endpoint);
      return true;
    } catch (error) {
      return error.status !== 404;
    }
  };
  const availability = await Promise.all(allowed.map(isAvailable));
  return allowed.filter((page, index) => availability[index]);
}

/**
 * Scrolls the navigation of a narrow screen to the current page. `scrollIntoView` would also move the point
 * from which the Tab key continues, past the skip link.
 */
function scrollToCurrent(navigation) {
  const link = navigation.querySelector('[aria-current]');
  if (!link) return;
  navigation.scrollLeft = link.offsetLeft - (navigation.clientWidth - link.offsetWidth) / 2;
}

function NotFound() {
  return html`
    <${Page} title="Page not found">
      <${Empty} title="This page does not exist, or your key has no access to it.">
        <a href="#/">Go to the start page</a>
      <//>
    <//>`;
}

function Navigation({ pages, currentPage, element }) {
  const items = pages.map((page) => {
    const isCurrent = page === currentPage;
    const href = `#/${page.path}`;
    return html`<li><a href=${href} aria-current=${isCurrent ? 'page' : undefined}>${page.title}</a></li>`;
  });
  return html`
    <nav class="side" aria-label="Pages" ref=${element}>
      <ul>${items}</ul>
      <p class="side-foot"><a href="../docs/">API reference</a></p>
    </nav>`;
}

function Frame({ session, pages, onSignOut }) {
  const route = useRoute(readRoute);
  const main = useRef();
  const navigation = useRef();
  useScrollPosition(main, route.visit);
  useEffect(() => {
    // Screen readers start at the heading of a new page.
    if (route.visit > 0) main.current.querySelector('h1')?.focus({ preventScroll: true });
    scrollToCurrent(navigation.current);
  }, [route.visit]);

  const namedPage = pages.find(({ path }) => path === route.page);
  const startPage = route.page === '' ? pages[0] : undefined;
  const page = namedPage ?? startPage;
  const Content = route.id && page?.detail ? page.detail : page?.list;
  // A page notes in the address what it shows, which does not change what is shown.
  const content = useMemo(() => {
    if (!Content) return html`<${NotFound} />`;
    return html`<${Content} key=${route.visit} session=${session} id=${route.id} />`;
  }, [route.visit, Content]);
  // Only operators can do something about the server.
  const notices = session.isPlatform && html`<${Notices} visit=${route.visit} />`;
  const skipToMain = (event) => {
    event.preventDefault();
    main.current.focus();
  };
  return html`
    <a class="skip" href="#main" onClick=${skipToMain}>Skip to content</a>
    <header class="top">
      <a class="brand" href="#/" aria-label="Tollhouse">
        <span class="mark" aria-hidden="true"></span><span>Tollhouse</span>
      </a>
      <${Palette} session=${session} pages=${pages} />
      <p class="caller">
        <span class="caller-name"><${Name}>${session.key.name}<//></span>
        <span class="quiet"><${Name}>${session.organization?.name ?? 'Platform'}<//></span>
      </p>
      <button class="small" onClick=${onSignOut}>Sign out</button>
    </header>
    <div class="frame">
      <${Navigation} pages=${pages} currentPage=${page} element=${navigation} />
      <main id="main" tabindex="-1" ref=${main} data-hash=${route.hash}>${notices}${content}</main>
    </div>
    <${HandOver} session=${session} />`;
}

/** Shown until the session is loaded, or if that fails. */
function PendingSession({ error, reload, onSignOut }) {
  const failure = html`
    <h1>Tollhouse</h1>
    <${Problem} error=${error} retry=${reload} />
    <button onClick=${onSignOut}>Sign out</button>`;
  return html`<main class="alone">${error ? failure : html`<${Loading} />`}</main>`;
}

/** Sign-in, and then the pages. */
function SignedIn() {
  const [isSignedIn, setSignedIn] = useState(api.hasKey());
  const [isRefused, setRefused] = useState(false);
  const signOut = () => {
    api.signOut();
    setSignedIn(false);
  };
  api.setUnauthorizedHandler(() => {
    signOut();
    setRefused(true);
  });
  const signIn = (key) => {
    const isPossible = isPossibleKey(key);
    if (isPossible) api.signIn(key);
    setRefused(!isPossible);
    setSignedIn(isPossible);
  };
  const loaded = useData(async () => {
    if (!isSignedIn) return undefined;
    const { data } = await api.get('/whoami');
    const session = new Session(data);
    return { session, pages: await loadPages(session) };
  }, [isSignedIn]);

  if (!isSignedIn) return html`<${SignIn} onKey=${signIn} isRefused=${isRefused} />`;
  const signOutByHand = () => {
    setRefused(false);
    signOut();
  };
  if (!loaded.value) {
    const { error, reload } = loaded;
    return html`<${PendingSession} error=${error} reload=${reload} onSignOut=${signOutByHand} />`;
  }
  const { session, pages } = loaded.value;
  return html`<${Frame} session=${session} pages=${pages} onSignOut=${signOutByHand} />`;
}

function Console() {
  return html`<${SignedIn} /><${NewSecret} />`;
}

render(html`<${Console} />`, document.getElementById('console'));
