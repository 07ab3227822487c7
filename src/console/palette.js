// The command palette: goes to any page, action, organization, user or key by a few letters.
import { get } from './api.js';
import { useData } from './data.js';
import { searchText, words } from './format.js';
import { Problem } from './forms.js';
import { html, useEffect, useId, useLayoutEffect, useRef, useState } from './html.js';
import { withoutSecrets } from './redact.js';
import { Name } from './ui.js';

/** The time without typing after which the typed text is searched for. */
const DEBOUNCE_MILLISECONDS = 120;

const SHORTCUT = /mac|iphone|ipad/i.test(navigator.platform) ? '⌘K' : 'Ctrl K';

/** Dialogs that can be opened on any page, by the path of the page that they belong to. */
const ACTIONS = [
  { title: 'New API key', path: 'api-keys', dialog: 'new', isAllowed: () => true },
  { title: 'Verify a key', path: 'api-keys', dialog: 'verify', isAllowed: (session) => session.canVerify },
  { title: 'New user', path: 'users', dialog: 'new', isAllowed: () => true },
  {
    title: 'New organization',
    path: 'organizations',
    dialog: 'new',
    isAllowed: (session) => session.isPlatform,
  },
];

const HREFS = {
  organization: (session, id) => session.organizationHref(id),
  user: (session, id) => session.userHref(id),
  api_key: (session, id) => session.keyHref(id),
};

/** True if each typed word begins a word of the title. */
function matches(title, typed) {
  const titleWords = title.toLowerCase().split(/\s+/);
  const typedWords = typed.toLowerCase().split(/\s+/).filter(Boolean);
  return typedWords.every((typedWord) => titleWords.some((word) => word.startsWith(typedWord)));
}

/** The pages and actions that match. Actions are offered if their page is. */
function commands(session, pages, typed) {
  const actions = ACTIONS.filter(({ path, isAllowed }) => {
    return pages.some((page) => page.path === path) && isAllowed(session);
  });
  const all = [
    ...pages.map(({ title, path }) => ({ title, kind: 'Page', href: `#/${path}` })),
    ...actions.map(({ title, path, dialog }) => {
      return { title, kind: 'Action', href: `#/${path}?dialog=${dialog}` };
    }),
  ];
  return all.filter(({ title }) => matches(title, typed));
}

async function search(session, typed) {
  const q = searchText(typed);
  if (!q) return [];
  const { data } = await get('/search', { q });
  return data.map(({ type, id, title, subtitle }) => {
    return { title, kind: words(type), detail: subtitle, href: HREFS[type](session, id) };
  });
}

function PaletteDialog({ session, pages, onClose }) {
  const dialog = useRef();
  const list = useRef();
  const listId = useId();
  const [typed, setTyped] = useState('');
  const [searched, setSearched] = useState('');
  const [active, setActive] = useState(0);
  const [isSubmitted, setSubmitted] = useState(false);
  useLayoutEffect(() => {
    const element = dialog.current;
    const opener = document.activeElement;
    element.showModal();
    element.addEventListener('close', onClose);
    return () => {
      element.removeEventListener('close', onClose);
      element.close();
      opener?.focus();
    };
  }, []);
  useEffect(() => {
    const timer = setTimeout(() => setSearched(typed), DEBOUNCE_MILLISECONDS);
    return () => clearTimeout(timer);
  }, [typed]);
  const found = useData(async () => ({ searched, results: await search(session, searched) }), [searched]);
  const ownItems = commands(session, pages, typed);
  const items = [...ownItems, ...(found.value?.results ?? [])];
  const isPending = found.value?.searched !== typed && !found.error;
  const current = Math.min(active, items.length - 1);
  useLayoutEffect(() => list.current.children[current]?.scrollIntoView({ block: 'nearest' }), [current]);

  const go = (item) => {
    setSubmitted(false);
    if (!item) return;
    onClose();
    location.hash = item.href;
  };
  // The results of what was typed before are shown until there are others, but not gone to.
  useEffect(() => {
    if (isSubmitted && !isPending) go(items[current]);
  }, [isSubmitted, isPending]);
  const onInput = (event) => {
    const text = withoutSecrets(event.target.value);
    event.target.value = text;
    setTyped(text);
    setActive(0);
    setSubmitted(false);
  };
  const onKeyDown = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) setActive((current + step + items.length) % Math.max(items.length, 1));
    const isOwn = items.length > 0 && current < ownItems.length;
    if (event.key === 'Enter' && isOwn) go(items[current]);
    else if (event.key === 'Enter') setSubmitted(true);
    if (step || event.key === 'Enter') event.preventDefault();
  };
  const options = items.map((item, index) => {
    return html`
      <li
        key=${item.href}
        id=${`${listId}-${index}`}
        role="option"
        aria-selected=${index === current ? 'true' : 'false'}
        onClick=${() => go(item)}
      >
        <span><${Name}>${item.title}<//> <span class="quiet small-text">${item.detail}</span></span>
        <span class="quiet small-text">${item.kind}</span>
      </li>`;
  });
  const note = html`<p class="quiet" role="status">${isPending ? 'Searching…' : 'No matches.'}</p>`;
  // A click beside the dialog is one on the dialog itself, because its content fills it.
  const onClick = (event) => event.target === dialog.current && onClose();
  return html`
    <dialog ref=${dialog} class="palette" aria-label="Search" onClick=${onClick}>
      <div class="palette-body" aria-busy=${isPending}>
        <input
          type="text"
          role="combobox"
          aria-label="Search for pages, actions, organizations, users and keys"
          aria-expanded="true"
          aria-controls=${listId}
          aria-activedescendant=${items.length > 0 ? `${listId}-${current}` : undefined}
          aria-autocomplete="list"
          autocomplete="off"
          spellcheck="false"
          placeholder="Name, ID, or the start of a key"
          onInput=${onInput}
          onKeyDown=${onKeyDown}
        />
        <ul id=${listId} ref=${list} role="listbox" aria-label="Matches" class="options">${options}</ul>
        <${Problem} error=${found.error} />
        ${items.length === 0 && !found.error && note}
      </div>
    </dialog>`;
}

/**
 * The button that opens the palette. So does its shortcut, unless a dialog is open: its edits would be lost.
 */
export function Palette({ session, pages }) {
  const [isOpen, setOpen] = useState(false);
  useEffect(() => {
    const onKeyDown = (event) => {
      if (event.key?.toLowerCase() !== 'k' || !(event.metaKey || event.ctrlKey)) return;
      if (event.shiftKey || event.altKey) return;
      event.preventDefault();
      if (!document.querySelector('dialog[open]')) setOpen(true);
    };
    addEventListener('keydown', onKeyDown);
    return () => removeEventListener('keydown', onKeyDown);
  }, []);
  const dialog = html`
    <${PaletteDialog} session=${session} pages=${pages} onClose=${() => setOpen(false)} />`;
  return html`
    <button class="small search" aria-keyshortcuts="Control+K Meta+K" onClick=${() => setOpen(true)}>
      Search <kbd>${SHORTCUT}</kbd>
    </button>
    ${isOpen && dialog}`;
}
