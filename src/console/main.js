// The console: signing in, the frame around the pages, and which page an address means.
import * as api from './api.js';
import { useData } from './data.js';
import { html, render, useEffect, useRef, useState } from './html.js';
import { Audit } from './pages/audit.js';
import { Denials } from './pages/denials.js';
import { Key } from './pages/key.js';
import { Keys } from './pages/keys.js';
import { Organization } from './pages/organization.js';
import { Organizations } from './pages/organizations.js';
import { Overview } from './pages/overview.js';
import { Scopes } from './pages/scopes.js';
import { Settings } from './pages/settings.js';
import { SignIn } from './pages/sign-in.js';
import { Usage } from './pages/usage.js';
import { User } from './pages/user.js';
import { Users } from './pages/users.js';
import { Session } from './session.js';
import { Empty, Loading, Page, Problem } from './ui.js';

// What the key may not do isn't there.
const PAGES = [
  { path: '', title: 'Overview', page: Overview, may: (session) => session.seesUsage },
  {
    path: 'organizations',
    title: 'Organizations',
    page: Organizations,
    one: Organization,
    may: (session) => session.can('admin:orgs'),
  },
  { path: 'users', title: 'Users', page: Users, one: User, may: (session) => session.can('admin:users') },
  { path: 'api-keys', title: 'API keys', page: Keys, one: Key, may: (session) => session.can('admin:keys') },
  { path: 'usage', title: 'Usage', page: Usage, may: (session) => session.seesUsage },
  { path: 'denials', title: 'Denials', page: Denials, may: (session) => session.seesUsage },
  { path: 'audit', title: 'Audit log', page: Audit, may: (session) => session.seesAudit },
  { path: 'scopes', title: 'Scopes', page: Scopes, may: () => true },
  {
    path: 'settings',
    title: 'Settings',
    page: Settings,
    may: (session) => session.configures,
    needs: '/config',
  },
];

/** A part of the address; one that was mistyped is taken as it is. */
function decoded(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

function useRoute() {
  const read = () => {
    const [path, query] = location.hash.replace(/^#\/?/, '').split('?');
    const [first, second] = path.split('/').map(decoded);
    return { first, second, query: Object.fromEntries(new URLSearchParams(query)), at: location.hash };
  };
  const [route, setRoute] = useState(read);
  useEffect(() => {
    const follow = () => setRoute(read());
    addEventListener('hashchange', follow);
    // Effects run after the first paint. The address may have changed in the meantime.
    if (location.hash !== route.at) follow();
    return () => removeEventListener('hashchange', follow);
  }, []);
  return route;
}

/**
 * Scrolls the navigation of a narrow screen to the current page. `scrollIntoView` would also move the point from which
 * the Tab key continues, past the skip link.
 */
function scrollToCurrent(navigation) {
  const link = navigation.querySelector('[aria-current]');
  if (!link) return;
  navigation.scrollLeft = link.offsetLeft - (navigation.clientWidth - link.offsetWidth) / 2;
}

/** Pages whose part of the API this server hasn't got are not offered either. */
async function offered(session) {
  const allowed = PAGES.filter(({ may }) => may(session));
  const there = await Promise.all(
    allowed.map(async ({ needs }) => {
      if (!needs) return true;
      return api.get(needs).then(
        () => true,
        (error) => error.status !== 404,
      );
    }),
  );
  return allowed.filter((_, nth) => there[nth]);
}

function Frame({ session, pages, leave }) {
  const route = useRoute();
  const [main, side] = [useRef(), useRef()];
  const where = route.at;
  const before = useRef(where);
  useEffect(() => {
    // A new page is read from its heading on.
    if (before.current !== where) main.current.querySelector('h1')?.focus();
    before.current = where;
    scrollTo(0, 0);
    scrollToCurrent(side.current);
  }, [where]);
  const found = pages.find(({ path }) => path === route.first);
  const here = found ?? (route.first === '' ? pages[0] : undefined);
  const Shown = route.second && here?.one ? here.one : here?.page;
  return html`
    <a class="skip" href="#main" onClick=${(event) => {
      event.preventDefault();
      main.current.focus();
    }}>Skip to the page</a>
    <header class="top">
      <a class="brand" href="#/"><span class="mark" aria-hidden="true"></span>Tollhouse</a>
      <p class="who"><span class="who-name">${session.key.name}</span>
        <span class="quiet">${session.organization ? session.organization.name : 'Platform'}</span></p>
      <button class="small" onClick=${leave}>Sign out</button>
    </header>
    <div class="frame">
      <nav class="side" aria-label="Pages" ref=${side}>
        <ul>${pages.map(
          ({ path, title }) => html`
          <li><a href=${`#/${path}`} aria-current=${path === here?.path ? 'page' : undefined}>${title}</a></li>`,
        )}</ul>
        <p class="side-foot"><a href="../docs/">API reference</a></p>
      </nav>
      <main id="main" tabindex="-1" ref=${main} data-at=${where}>
        ${
          Shown
            ? html`<${Shown} key=${where} session=${session} id=${route.second} query=${route.query} />`
            : html`<${Page} title="Not here"><${Empty} title="There is no such page, or your key may not see it.">
              <a href="#/">Go to the start</a><//><//>`
        }
      </main>
    </div>`;
}

function Console() {
  const [signedIn, setSignedIn] = useState(api.hasKey());
  const [refused, setRefused] = useState(false);
  const leave = () => {
    api.signOut();
    setSignedIn(false);
  };
  api.whenRefused(() => {
    leave();
    setRefused(true);
  });
  const found = useData(async () => {
    if (!signedIn) return undefined;
    const session = new Session((await api.get('/whoami')).data);
    return { session, pages: await offered(session) };
  }, [signedIn]);
  if (!signedIn) {
    const enter = (key) => {
      // Anything else could not even be sent.
      const isKey = /^[\x21-\x7e]+$/.test(key);
      if (isKey) api.signIn(key);
      setRefused(!isKey);
      setSignedIn(isKey);
    };
    return html`<${SignIn} enter=${enter} refused=${refused} />`;
  }
  if (found.value?.session)
    return html`<${Frame} ...${found.value} leave=${() => {
      setRefused(false);
      leave();
    }} />`;
  return html`<main class="alone">${
    found.error
      ? html`<h1>Tollhouse</h1><${Problem} error=${found.error} retry=${found.reload} />
    <button onClick=${leave}>Sign out</button>`
      : html`<${Loading} />`
  }</main>`;
}

render(html`<${Console} />`, document.getElementById('console'));
