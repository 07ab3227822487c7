// The operations by tag, with a field that filters them. On a narrow screen they are behind a button.
import { html, useLayoutEffect, useRef, useState } from '../console/html.js';
import { Method } from './status.js';

export const hrefOf = ({ id }) => `#${encodeURIComponent(id)}`;

export const tagHref = ({ name }) => `#tag/${encodeURIComponent(name)}`;

/**
 * Scrolls the navigation to the current operation. `scrollIntoView` would also move the point from which the
 * Tab key continues.
 */
function scrollToCurrent(navigation) {
  const link = navigation.querySelector('[aria-current]');
  if (!link) return;
  const top = link.offsetTop - navigation.scrollTop;
  const isVisible = top >= 0 && top + link.offsetHeight <= navigation.clientHeight;
  if (!isVisible) navigation.scrollTop = link.offsetTop - navigation.clientHeight / 3;
}

function resultText(count) {
  if (count === 0) return 'No operation matches.';
  return count === 1 ? '1 operation' : `${count} operations`;
}

function Group({ tag, operations, currentHash }) {
  const current = (href) => (href === currentHash ? 'page' : undefined);
  const items = operations.map((operation) => {
    const href = hrefOf(operation);
    return html`
      <li key=${operation.id}>
        <a href=${href} aria-current=${current(href)}>
          <span>${operation.summary}</span><${Method} method=${operation.method} />
        </a>
      </li>`;
  });
  const href = tagHref(tag);
  return html`
    <li class="nav-group">
      <a class="nav-tag" href=${href} aria-current=${current(href)}>${tag.name}</a>
      <ul>${items}</ul>
    </li>`;
}

export function Navigation({ api, currentHash }) {
  const [query, setQuery] = useState('');
  const [isOpen, setOpen] = useState(false);
  const list = useRef();
  const matches = api.search(query);
  const isFiltered = query.trim() !== '';

  useLayoutEffect(() => {
    setOpen(false);
    scrollToCurrent(list.current);
  }, [currentHash]);

  const openFirst = (event) => {
    event.preventDefault();
    if (matches.length > 0) location.hash = hrefOf(matches[0]);
  };
  const groups = api.tags.map((tag) => {
    const operations = tag.operations.filter((operation) => matches.includes(operation));
    return (
      operations.length > 0 &&
      html`<${Group} key=${tag.name} tag=${tag} operations=${operations} currentHash=${currentHash} />`
    );
  });
  return html`
    <nav class=${isOpen ? 'docs-nav open' : 'docs-nav'} aria-label="Operations">
      <button
        type="button"
        class="nav-button"
        aria-expanded=${String(isOpen)}
        aria-controls="nav-body"
        onClick=${() => setOpen(!isOpen)}
      >Operations</button>
      <div id="nav-body" class="nav-body">
        <form class="nav-search" role="search" onSubmit=${openFirst}>
          <input
            type="search"
            aria-label="Find an operation"
            placeholder="Find an operation"
            autocomplete="off"
            spellcheck="false"
            value=${query}
            onInput=${(event) => setQuery(event.target.value)}
          />
          <p class="small-text quiet" role="status">${isFiltered && resultText(matches.length)}</p>
        </form>
        <ul class="nav-list" ref=${list}>${groups}</ul>
      </div>
    </nav>`;
}
