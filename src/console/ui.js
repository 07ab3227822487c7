// The building blocks of pages.
import * as format from './format.js';
import { Problem } from './forms.js';
import { html, useCallback, useEffect, useRef } from './html.js';
import { useCurrentText } from './now.js';

export function Page({ title, lead, actions, children }) {
  useEffect(() => {
    document.title = `${title} · Tollhouse`;
  }, [title]);
  return html`
    <header class="page-head">
      <div>
        <h1 tabindex="-1"><bdi>${title}</bdi></h1>
        ${lead && html`<p class="lead">${lead}</p>`}
      </div>
      ${actions && html`<div class="actions">${actions}</div>`}
    </header>
    ${children}`;
}

export function Card({ title, actions, children, ...attributes }) {
  const header = html`<header class="card-head">${title && html`<h2>${title}</h2>`}${actions}</header>`;
  return html`
    <section class="card" ...${attributes}>
      ${(title || actions) && header}
      ${children}
    </section>`;
}

/** A time relative to now; the tooltip has the exact one. */
export function Time({ at, none = 'never' }) {
  return at ? html`<${RelativeTime} at=${at} />` : html`<${Quiet}>${none}<//>`;
}

function RelativeTime({ at }) {
  const text = useCurrentText(useCallback(() => format.relative(at), [at]));
  return html`<time datetime=${at} title=${format.exactTime(at)}>${text}</time>`;
}

const TONES = {
  active: 'good',
  success: 'good',
  owner: 'accent',
  admin: 'accent',
  enterprise: 'accent',
  disabled: 'warn',
  expired: 'warn',
  suspended: 'warn',
  denied: 'warn',
  failed: 'bad',
  revoked: 'bad',
};

export function Badge({ label, tone = TONES[label] ?? 'plain', title }) {
  return html`<span class="badge ${tone}" title=${title}>${label}</span>`;
}

/** Text of less importance, such as the note that there is no value. */
export function Quiet({ children, title }) {
  return html`<span class="quiet" title=${title}>${children}</span>`;
}

export function Id({ value, href }) {
  if (!value) return html`<${Quiet}>–<//>`;
  return href ? html`<a class="id" href=${href}>${value}</a>` : html`<code class="id">${value}</code>`;
}

/**
 * A text that someone chose, such as a name. It is isolated, so that one in Arabic or Hebrew does not reorder
 * what is next to it.
 */
export const Name = ({ children }) => html`<bdi>${children}</bdi>`;

/** A resource by its name, or by its ID if the name is not known. The tooltip has the ID. */
export function Reference({ id, name, href }) {
  if (!id || !name) return html`<${Id} value=${id} href=${href} />`;
  const shown = html`<${Name}>${name}<//>`;
  return href ? html`<a href=${href} title=${id}>${shown}</a>` : html`<span title=${id}>${shown}</span>`;
}

export function Empty({ title, children }) {
  return html`
    <div class="empty">
      <p class="empty-title">${title}</p>
      <div class="quiet">${children}</div>
    </div>`;
}

export const NoMatches = () => html`<${Empty} title="No matches.">Change or clear the filters above.<//>`;

export const Loading = () => html`<p class="loading" role="status">Loading…</p>`;

/** A page until its resource is loaded, or the error if it can't be. */
export function PendingPage({ title, resource }) {
  const { error, reload } = resource;
  const content = error ? html`<${Problem} error=${error} retry=${reload} />` : html`<${Loading} />`;
  return html`<${Page} title=${title}>${content}<//>`;
}

/** How far below the window the end of a table is when more rows are loaded. */
const NEAR_MARGIN = '0px 0px 800px';

/** A button that loads more rows. After an error, only a click tries again. */
function MoreRows({ list, isAutomatic }) {
  const { rows, loadMore, loadingMore, error } = list;
  const element = useRef();
  const isWaiting = isAutomatic && !loadingMore && !error;
  useEffect(() => {
    if (!isWaiting) return undefined;
    const observer = new IntersectionObserver(([entry]) => entry.isIntersecting && loadMore(), {
      rootMargin: NEAR_MARGIN,
    });
    observer.observe(element.current);
    return () => observer.disconnect();
  }, [isWaiting, rows.length]);
  return html`
    <div class="more" ref=${element}>
      <button onClick=${loadMore} disabled=${loadingMore}>${loadingMore ? 'Loading…' : 'Show more'}</button>
    </div>`;
}

const plainRow = (item, cells) => html`<tr role="row">${cells}</tr>`;

/**
 * A table of a list. Each column has a `heading`, or a `headingCell` in its place, a function that renders
 * the `cell` of an item, and a `kind` for the style sheet: `wide`, `text`, `num`, `select`, or `end`.
 * `renderRow` gets an item and its cells. A table that `isEndless` loads more rows when its end comes near;
 * only the last one of a page can be.
 *
 * The roles repeat what a table has by itself: on a narrow screen, where rows are laid out as cards, it loses
 * them.
 */
export function Table({ list, columns, label, empty, renderRow = plainRow, isEndless = false }) {
  if (list.error && !list.rows) return html`<${Problem} error=${list.error} retry=${list.reload} />`;
  if (!list.rows) return html`<${Loading} />`;
  const more = html`<${MoreRows} list=${list} isAutomatic=${isEndless} />`;
  // A search for few of many rows may return a page without any, and a cursor that continues it.
  if (list.rows.length === 0 && list.loadMore) {
    return html`<${Quiet}>No matches so far.<//> <${Problem} error=${list.error} />${more}`;
  }
  if (list.rows.length === 0) return empty;
  const headings = columns.map(({ heading, headingCell, kind }) => {
    const content = headingCell ?? (heading || html`<span class="unseen">Actions</span>`);
    return html`<th role="columnheader" scope="col" class=${kind}>${content}</th>`;
  });
  const rows = list.rows.map((item) => {
    const cells = columns.map(({ heading, cell, kind }) => {
      return html`<td role="cell" class=${kind} data-label=${heading}><span>${cell(item)}</span></td>`;
    });
    return renderRow(item, cells);
  });
  return html`
    <div class="table-wrap" tabindex="0" role="region" aria-label=${label} aria-busy=${list.loading}>
      <table class="cards" role="table">
        <thead role="rowgroup"><tr role="row">${headings}</tr></thead>
        <tbody role="rowgroup">${rows}</tbody>
      </table>
    </div>
    <${Problem} error=${list.error} />
    ${list.loadMore && more}`;
}

/** A list of pairs of a name and a value. Items that are `false` or missing are left out. */
export function Facts({ items }) {
  const facts = items.filter(Boolean).map(([name, value]) => {
    return html`<div><dt>${name}</dt><dd>${value}</dd></div>`;
  });
  return html`<dl class="facts">${facts}</dl>`;
}

export function MetadataList({ metadata }) {
  const pairs = Object.entries(metadata);
  if (pairs.length === 0) return html`<${Quiet}>none<//>`;
  const items = pairs.map(([name, value]) => html`<li><code>${name}</code> <bdi>${value}</bdi></li>`);
  return html`<ul class="pairs">${items}</ul>`;
}

/** Short codes next to each other: scopes, or IP ranges. */
export function CodeList({ values, max = values.length }) {
  const shown = values.slice(0, max).map((value) => html`<code>${value}</code> `);
  const hidden = values.length - max;
  return html`
    <span class="codes">
      ${shown}${hidden > 0 && html`<${Quiet} title=${values.join(' ')}>+${hidden}<//>`}
    </span>`;
}
