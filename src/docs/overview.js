// The start page, and the page of a tag.
import { html } from '../console/html.js';
import { Inline, Markdown } from './markdown.js';
import { hrefOf, tagHref } from './navigation.js';
import { Method } from './status.js';

function OperationList({ operations }) {
  const items = operations.map((operation) => {
    return html`
      <li>
        <a href=${hrefOf(operation)}>${operation.summary}</a>
        <span class="endpoint"><${Method} method=${operation.method} /> <code>${operation.path}</code></span>
      </li>`;
  });
  return html`<ul class="operation-list">${items}</ul>`;
}

/** How a key is sent. */
function schemeTitle({ type, scheme, name }) {
  if (type === 'http') return `Authorization: ${scheme[0].toUpperCase()}${scheme.slice(1)}`;
  return name;
}

function Authentication({ api }) {
  const items = api.securitySchemes.map(([id, source]) => {
    const scheme = api.resolve(source);
    return html`
      <li class="property" key=${id}>
        <p class="property-head"><code class="property-name">${schemeTitle(scheme)}</code></p>
        <${Markdown} text=${scheme.description} />
      </li>`;
  });
  return html`<ul class="properties">${items}</ul>`;
}

export function Overview({ api }) {
  const groups = api.tags.map((tag) => {
    return html`
      <section key=${tag.name} class="tag">
        <h3><a href=${tagHref(tag)}>${tag.name}</a></h3>
        <p class="quiet"><${Inline} text=${tag.description} /></p>
        <${OperationList} operations=${tag.operations} />
      </section>`;
  });
  return html`
    <article class="page">
      <header class="docs-head">
        <p class="eyebrow">Version ${api.info.version}</p>
        <h1 tabindex="-1">${api.info.title} API</h1>
      </header>
      <${Markdown} text=${api.info.description} />
      <p>The address of this server’s API: <code>${api.baseUrl}</code></p>
      <h2>Authentication</h2>
      <${Authentication} api=${api} />
      <h2>Operations</h2>
      ${groups}
    </article>`;
}

export function TagPage({ tag }) {
  return html`
    <article class="page">
      <header class="docs-head"><h1 tabindex="-1">${tag.name}</h1></header>
      <${Markdown} text=${tag.description} />
      <${OperationList} operations=${tag.operations} />
    </article>`;
}

export function NotFound() {
  return html`
    <article class="page">
      <header class="docs-head"><h1 tabindex="-1">Operation not found</h1></header>
      <p>The API of this server has no such operation. <a href="#">Go to the start page</a></p>
    </article>`;
}
