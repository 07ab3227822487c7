// The search: a dialog that finds pages of the documentation, their sections, and operations of the API. The
// index is loaded when it is opened first.

const MAX_RESULTS = 24;

/** The length of the text of a result, and of its part before the first word that was found. */
const EXCERPT_LENGTH = 140;
const EXCERPT_START = 40;

const SCORES = { title: 6, heading: 10, text: 1 };

/** The pages, sections and operations of an index, with the texts in which words are found. */
export function entriesOf({ pages, operations }) {
  const sections = pages.flatMap(([path, title, parts]) =>
    parts.map(([anchor, heading, text]) => ({
      path: anchor ? `${path}#${anchor}` : path,
      title,
      heading,
      text,
      // The first section is the page itself.
      name: heading || title,
      context: heading ? title : '',
    })),
  );
  const calls = operations.map(([path, method, route, summary, tag]) => ({
    path,
    title: summary,
    heading: `${method} ${route} ${path.split('#')[1]}`,
    text: tag,
    name: summary,
    context: `${method} ${route}`,
    isOperation: true,
  }));
  const lower = (value) => value.toLowerCase();
  return [...sections, ...calls].map((entry) => ({
    ...entry,
    found: {
      title: lower(entry.title),
      heading: lower(entry.heading || entry.title),
      text: lower(entry.text),
    },
  }));
}

/** How well a word fits an entry: where it occurs, and more where a word begins with it. */
function score(found, word) {
  let sum = 0;
  for (const [part, points] of Object.entries(SCORES)) {
    const position = found[part].indexOf(word);
    if (position === -1) continue;
    const isStart = position === 0 || !/[\p{L}\p{N}]/u.test(found[part][position - 1]);
    sum += isStart ? points * 2 : points;
  }
  return sum;
}

export const wordsOf = (query) => query.toLowerCase().split(/\s+/).filter(Boolean);

/** The entries in which every word occurs, the best first. */
export function find(entries, query) {
  const words = wordsOf(query);
  if (words.length === 0) return [];
  const scored = entries.map((entry, order) => {
    const scores = words.map((word) => score(entry.found, word));
    const isFound = scores.every((value) => value > 0);
    return { entry, order, score: isFound ? scores.reduce((sum, value) => sum + value, 0) : 0 };
  });
  const found = scored.filter((one) => one.score > 0);
  found.sort((a, b) => b.score - a.score || a.order - b.order);
  return found.slice(0, MAX_RESULTS).map(({ entry }) => entry);
}

/** A part of the text around the first word that was found. */
export function excerpt({ text, found }, query) {
  const positions = wordsOf(query).map((word) => found.text.indexOf(word));
  const first = Math.min(...positions.filter((position) => position !== -1));
  const start = Number.isFinite(first) && first > EXCERPT_START ? first - EXCERPT_START : 0;
  const end = start + EXCERPT_LENGTH;
  let part = text.slice(start, end);
  // Whole words only.
  if (start > 0) part = `…${part.slice(part.indexOf(' ') + 1)}`;
  if (end < text.length) part = `${part.slice(0, part.lastIndexOf(' '))} …`;
  return part;
}

function element(name, properties = {}, ...children) {
  const node = Object.assign(document.createElement(name), properties);
  node.append(...children);
  return node;
}

/** Text in which the words are marked. */
function marked(text, query) {
  const words = wordsOf(query).map((word) => word.replace(/[.*+?^${}()|[\]\\]/g, '\\$&'));
  const parts = text.split(new RegExp(`(${words.join('|')})`, 'giu'));
  return parts.map((part, index) => (index % 2 === 1 ? element('mark', {}, part) : part));
}

/** Files that are opened without a server can't be fetched, so there the index is a script. */
function loadIndex(url) {
  if (!url.pathname.endsWith('.js')) {
    return fetch(url, { credentials: 'omit' }).then((response) => {
      if (!response.ok) throw new Error(`status ${response.status}`);
      return response.json();
    });
  }
  return new Promise((resolve, reject) => {
    const script = element('script', { src: url.href });
    script.onload = () => resolve(globalThis.tollhouseSearchIndex);
    script.onerror = reject;
    document.head.append(script);
  });
}

function resultOf(entry, root, query) {
  const { name, context, isOperation, path } = entry;
  const title = element('span', { className: 'result-title' }, ...marked(name, query));
  const place = element('span', { className: 'result-place' }, ...marked(context, query));
  const link = element('a', { href: new URL(path, root).href }, title, place);
  if (!isOperation) {
    link.append(element('span', { className: 'result-text' }, ...marked(excerpt(entry, query), query)));
  }
  return element('li', {}, link);
}

/** Creates the dialog. Returns a function that opens it. `index` and `root` are URLs. */
export function createSearch({ index, root }) {
  const input = element('input', {
    type: 'search',
    placeholder: 'Search the documentation and the API',
    ariaLabel: 'Search the documentation and the API',
    autocomplete: 'off',
    spellcheck: false,
  });
  const status = element('p', { className: 'small-text quiet', role: 'status' });
  const results = element('ul', { className: 'results' });
  const body = element('div', { className: 'search-body' }, status, results);
  const close = element('button', { type: 'button', className: 'small' }, 'Close');
  const head = element('div', { className: 'search-head' }, input, close);
  const dialog = element('dialog', { className: 'search', ariaLabel: 'Search' }, head, body);
  document.body.append(dialog);
  let entries;
  let isFailed = false;

  const show = () => {
    const query = input.value;
    const found = entries ? find(entries, query) : [];
    results.replaceChildren(...found.map((entry) => resultOf(entry, root, query)));
    body.scrollTop = 0;
    if (isFailed) status.textContent = 'The search index can’t be loaded.';
    else if (wordsOf(query).length === 0)
      status.textContent = 'Words, commands, settings, error codes, paths.';
    else if (!entries) status.textContent = 'Loading…';
    else if (found.length === 0) status.textContent = 'Nothing matches.';
    else if (found.length === MAX_RESULTS) status.textContent = `The best ${MAX_RESULTS} results`;
    else status.textContent = found.length === 1 ? '1 result' : `${found.length} results`;
  };
  const load = async () => {
    try {
      isFailed = false;
      entries ??= entriesOf(await loadIndex(index));
    } catch {
      isFailed = true;
    }
    show();
  };

  input.addEventListener('input', show);
  close.addEventListener('click', () => dialog.close());
  dialog.addEventListener('click', (event) => {
    // A click beside the dialog, or on a result: its page may be the current one.
    if (event.target === dialog || event.target.closest('a')) dialog.close();
  });
  dialog.addEventListener('keydown', (event) => {
    const links = [...results.querySelectorAll('a')];
    const current = links.indexOf(document.activeElement);
    if (event.key === 'Enter' && event.target === input) links[0]?.click();
    if (event.key !== 'ArrowDown' && event.key !== 'ArrowUp') return;
    event.preventDefault();
    const next = current + (event.key === 'ArrowDown' ? 1 : -1);
    (links[Math.min(next, links.length - 1)] ?? input).focus();
  });
  const open = () => {
    if (dialog.open) return;
    dialog.showModal();
    input.select();
    show();
    load();
  };
  addEventListener('keydown', (event) => {
    const isTyping = event.target.closest?.('input, textarea, select, dialog') != null;
    const isShortcut = event.key === 'k' && (event.ctrlKey || event.metaKey);
    const isSlash = event.key === '/' && !isTyping && !event.ctrlKey && !event.metaKey && !event.altKey;
    if (!isShortcut && !isSlash) return;
    event.preventDefault();
    open();
  });
  return open;
}
