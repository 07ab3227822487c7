// The API reference: loads the OpenAPI document of this server and shows one operation at a time. The page
// makes no external requests.
import { Problem } from '../console/forms.js';
import { html, render, useEffect, useLayoutEffect, useRef, useState } from '../console/html.js';
import { readKey, removeKey, storeKey } from '../console/key-storage.js';
import { decodePart, useRoute } from '../console/route.js';
import { FORMS } from './code.js';
import { ApiDocument } from './document.js';
import { KeyControl, KeyDialog } from './key.js';
import { Navigation } from './navigation.js';
import { Operation } from './operation.js';
import { NotFound, Overview, TagPage } from './overview.js';
import { createSearch } from './search.js';

const DOCUMENT_URL = new URL('../openapi.json', document.baseURI);

const UNREACHABLE = 'The OpenAPI document can’t be loaded. Check that the server is running.';

/** The address of a page: nothing, `#tag/NAME`, or `#` and the ID of an operation. */
function readRoute() {
  const { hash } = location;
  const part = hash.slice(1);
  const isTag = part.startsWith('tag/');
  return { hash, isTag, name: decodePart(isTag ? part.slice(4) : part) };
}

/** The key of this tab. `session` changes when a key is removed, and with it everything that was received. */
function useKey() {
  const [{ hasKey, session }, setState] = useState({ hasKey: readKey() !== null, session: 0 });
  const update = () => {
    const isKept = readKey() !== null;
    setState((before) => ({ hasKey: isKept, session: isKept ? before.session : before.session + 1 }));
  };
  useEffect(() => {
    // A page that the browser kept in memory may be older than the key.
    const onShow = (event) => event.persisted && update();
    addEventListener('pageshow', onShow);
    return () => removeEventListener('pageshow', onShow);
  }, []);
  const set = (key) => {
    storeKey(key);
    update();
  };
  const remove = () => {
    removeKey();
    update();
  };
  return { hasKey, session, set, remove };
}

const openSearch = createSearch({
  index: new URL('../search-index.json', import.meta.url),
  root: new URL('.', document.baseURI),
});

function Header({ keyControl }) {
  return html`
    <header class="top">
      <a class="brand" href="#"><span class="mark" aria-hidden="true"></span>Tollhouse API</a>
      <button type="button" class="small search-button" onClick=${openSearch}>Search</button>
      <nav class="top-links" aria-label="Tollhouse">
        <a href="home">Documentation</a>
        <a href="../console/">Console</a>
        <a href="../openapi.json">openapi.json</a>
      </nav>
      <div class="top-key">${keyControl}</div>
    </header>`;
}

/** The page of an address, and its title. */
function pageOf(api, { hash, isTag, name }, properties) {
  if (name === '') return { title: 'API reference', content: html`<${Overview} api=${api} />` };
  const tag = isTag && api.tag(name);
  if (tag) return { title: tag.name, content: html`<${TagPage} key=${hash} tag=${tag} />` };
  const operation = !isTag && api.operation(name);
  if (!operation) return { title: 'Operation not found', content: html`<${NotFound} />` };
  const key = `${operation.id} ${properties.session}`;
  const content = html`<${Operation} key=${key} api=${api} operation=${operation} ...${properties} />`;
  return { title: operation.summary, content };
}

function Reference({ api }) {
  const route = useRoute(readRoute);
  const key = useKey();
  const [language, setLanguage] = useState(FORMS[0][0]);
  const [isAsking, setAsking] = useState(false);
  const main = useRef();
  const shownHash = useRef(route.hash);
  const askForKey = () => setAsking(true);
  const { title, content } = pageOf(api, route, {
    session: key.session,
    apiKey: key.hasKey,
    askForKey,
    language,
    onLanguage: setLanguage,
  });

  useLayoutEffect(() => {
    document.title = `${title} · Tollhouse API`;
    // Screen readers start at the heading of a new page.
    if (shownHash.current !== route.hash) main.current.querySelector('h1').focus();
    shownHash.current = route.hash;
    scrollTo(0, 0);
  }, [route.hash]);

  const skipToMain = (event) => {
    event.preventDefault();
    main.current.focus();
  };
  const keyControl = html`
    <${KeyControl} apiKey=${key.hasKey} onAsk=${askForKey} onRemove=${key.remove} />`;
  return html`
    <a class="skip" href="#main" onClick=${skipToMain}>Skip to content</a>
    <${Header} keyControl=${keyControl} />
    <div class="docs">
      <${Navigation} api=${api} currentHash=${route.hash} />
      <main id="main" tabindex="-1" ref=${main} data-hash=${route.hash}>${content}</main>
    </div>
    ${isAsking && html`<${KeyDialog} onKey=${key.set} onClose=${() => setAsking(false)} />`}`;
}

async function load() {
  const response = await fetch(DOCUMENT_URL, { credentials: 'omit' });
  if (!response.ok) throw new Error(`status ${response.status}`);
  return response.json();
}

async function start(root) {
  render(html`<main class="alone"><p class="loading" role="status">Loading…</p></main>`, root);
  const json = await load().catch(() => null);
  if (json) {
    render(html`<${Reference} api=${new ApiDocument(json, DOCUMENT_URL)} />`, root);
    return;
  }
  const error = new Error(UNREACHABLE);
  render(html`<main class="alone"><${Problem} error=${error} retry=${() => start(root)} /></main>`, root);
}

start(document.getElementById('reference'));
