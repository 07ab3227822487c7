// The pieces that pages are made of.
import * as format from './format.js';
import { html, useEffect, useId, useLayoutEffect, useRef, useState } from './html.js';

export function Page({ title, lead, actions, children }) {
  useEffect(() => {
    document.title = `${title} · Tollhouse`;
  }, [title]);
  return html`
    <header class="page-head">
      <div>
        <h1 tabindex="-1">${title}</h1>
        ${lead && html`<p class="lead">${lead}</p>`}
      </div>
      ${actions && html`<div class="actions">${actions}</div>`}
    </header>
    ${children}`;
}

export function Card({ title, actions, children, ...rest }) {
  return html`
    <section class="card" ...${rest}>
      ${(title || actions) && html`<header class="card-head">${title && html`<h2>${title}</h2>`}${actions}</header>`}
      ${children}
    </section>`;
}

export function Time({ at, none = 'never' }) {
  if (!at) return html`<span class="quiet">${none}</span>`;
  return html`<time datetime=${at} title=${format.exactly(at)}>${format.ago(at)}</time>`;
}

const TONES = {
  active: 'good',
  success: 'good',
  VALID: 'good',
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

export function Badge({ is, tone = TONES[is] ?? 'plain' }) {
  return html`<span class="badge ${tone}">${is}</span>`;
}

export function Id({ of, href }) {
  if (!of) return html`<span class="quiet">–</span>`;
  return href ? html`<a class="id" href=${href}>${of}</a>` : html`<code class="id">${of}</code>`;
}

/** An error in words, with what to do about it. What is wrong with fields that are `known` is told at these. */
export function Problem({ error, known = [], retry }) {
  if (!error) return null;
  const rest = error.beside ? error.beside(known) : [];
  const stale = error.code === 'PRECONDITION_FAILED';
  const marked = error.details?.length > 0 && rest.length === 0;
  const text = stale
    ? 'Somebody changed this since you opened it. Load it again: what you typed stays, and can be saved over it.'
    : marked
      ? 'Some of it can’t be taken as it is: look at what is marked above.'
      : error.message;
  return html`
    <div class="problem" role="alert">
      <p>${text}</p>
      ${
        rest.length > 1 &&
        html`<ul>${rest.map(
          ({ pointer, parameter, message }) => html`
        <li>${(pointer ?? parameter) && html`<code>${pointer ?? parameter}</code> `}${message}</li>`,
        )}</ul>`
      }
      ${retry && html`<button type="button" class="small" onClick=${retry}>${stale ? 'Load it again' : 'Try again'}</button>`}
      ${error.requestId && html`<p class="quiet small-text">Request ${error.requestId}</p>`}
    </div>`;
}

export function Empty({ title, children }) {
  return html`<div class="empty"><p class="empty-title">${title}</p><div class="quiet">${children}</div></div>`;
}

export const Loading = () => html`<p class="loading" role="status">Loading …</p>`;

/** A table of a list: `columns` are `[heading, cell, class]`. */
export function Rows({ list, columns, label, empty, row }) {
  if (list.error && !list.rows) return html`<${Problem} error=${list.error} retry=${list.reload} />`;
  if (!list.rows) return html`<${Loading} />`;
  if (list.rows.length === 0) return empty;
  const draw = row ?? ((one) => html`<tr role="row">${cells(one)}</tr>`);
  // Roles that a table has by itself, but for a narrow screen, where its rows are laid out as cards.
  const cells = (one) =>
    columns.map(
      ([heading, cell, kind]) => html`
    <td role="cell" class=${kind} data-label=${heading}><span>${cell(one)}</span></td>`,
    );
  return html`
    <div class="table-wrap" tabindex="0" role="region" aria-label=${label} aria-busy=${list.loading}>
      <table class="cards" role="table">
        <thead role="rowgroup"><tr role="row">${columns.map(
          ([heading, , kind]) => html`
          <th role="columnheader" scope="col" class=${kind}>${heading || html`<span class="unseen">Actions</span>`}</th>`,
        )}</tr></thead>
        <tbody role="rowgroup">${list.rows.map((one) => draw(one, cells))}</tbody>
      </table>
    </div>
    <${Problem} error=${list.error} />
    ${
      list.loadMore &&
      html`
      <div class="more"><button onClick=${list.loadMore} disabled=${list.loadingMore}>
        ${list.loadingMore ? 'Loading …' : 'Show more'}</button></div>`
    }`;
}

/** A labelled control; what is wrong with it stands below it. `value` is what it begins with: a form drawn anew keeps what was typed. */
export function Field({ label, name, hint, error, value, children, ...rest }) {
  const id = useId();
  const fault = error?.at?.(name);
  const about = `${id}-about`;
  const shared = {
    id,
    name,
    'aria-describedby': hint || fault ? about : undefined,
    'aria-invalid': fault ? 'true' : undefined,
  };
  return html`
    <div class="field">
      <label for=${id}>${label}</label>
      ${children ? children(shared) : html`<input autocomplete="off" defaultValue=${value} ...${shared} ...${rest} />`}
      ${(hint || fault) && html`<p id=${about} class=${fault ? 'fault' : 'hint'}>${fault || hint}</p>`}
    </div>`;
}

/** What is chosen of a few; `value` is what it begins with, and follows until something was chosen. */
export function Choice({ options, value, onChange, ...rest }) {
  const [chosen, setChosen] = useState();
  const shown = onChange ? value : (chosen ?? value);
  return html`
    <select ...${rest} onChange=${onChange ?? ((event) => setChosen(event.target.value))}>
      ${options.map(([one, text]) => html`<option key=${one} value=${one} selected=${one === shown}>${text}</option>`)}
    </select>`;
}

export function Select({ options, value, onChange, ...rest }) {
  return html`<${Field} ...${rest}>${(shared) => html`<${Choice} ...${shared} options=${options} value=${value} onChange=${onChange} />`}<//>`;
}

/**
 * A dialog with a form. `send` does the work and may throw; then it stays open and says why. When somebody else was
 * faster, `reload` loads the thing again: fields follow it, but for those in which something was typed. What `keep`
 * says is not lost by one careless Escape.
 */
export function Dialog({
  title,
  children,
  send,
  action = 'Save',
  leave = send ? 'Cancel' : 'Close',
  danger,
  close,
  fields = [],
  reload,
  keep,
}) {
  const dialog = useRef();
  const id = useId();
  const [error, setError] = useState();
  const [busy, setBusy] = useState(false);
  const [said, setSaid] = useState();
  useLayoutEffect(() => {
    const shown = dialog.current;
    const opener = document.activeElement;
    shown.showModal();
    // Also when the browser closes it without asking, as it does at a second Escape.
    shown.addEventListener('close', close);
    // However it ends, the focus goes back to where it was opened.
    return () => {
      shown.removeEventListener('close', close);
      shown.close();
      opener?.focus();
    };
  }, []);
  const submit = async (event) => {
    event.preventDefault();
    setBusy(true);
    setSaid();
    try {
      await send(new FormData(event.target));
    } catch (fault) {
      setError(fault);
      setBusy(false);
    }
  };
  const again =
    error?.code === 'PRECONDITION_FAILED' && reload
      ? async () => {
          await reload();
          setError();
          setSaid('This is how it is now. What you typed is still here; look, then confirm once more.');
        }
      : undefined;
  return html`
    <dialog ref=${dialog} aria-labelledby=${id} onCancel=${keep ? (event) => event.preventDefault() : close}>
      <form onSubmit=${submit} novalidate>
        <h2 id=${id}>${title}</h2>
        ${typeof children === 'function' ? children(error) : children}
        <${Problem} error=${error} known=${fields} retry=${again} />
        ${said && html`<p class="note" role="status">${said}</p>`}
        <footer class="dialog-foot">
          <button type="button" onClick=${close}>${leave}</button>
          ${send && html`<button class=${danger ? 'danger' : 'primary'} disabled=${busy}>${action}</button>`}
        </footer>
      </form>
    </dialog>`;
}

export function CopyButton({ text }) {
  const [done, setDone] = useState(false);
  const copy = async (event) => {
    event.preventDefault();
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // Without https the browser gives no clipboard; what is selected can be copied by hand.
      const shown = event.target.closest('.secret')?.querySelector('code');
      if (shown) getSelection().selectAllChildren(shown);
      return;
    }
    setDone(true);
  };
  return html`<button type="button" onClick=${copy} aria-live="polite">${done ? 'Copied' : 'Copy'}</button>`;
}

/** A new secret, this once. */
export function Secret({ made, close, title = 'Your new key' }) {
  return html`
    <${Dialog} title=${title} close=${close} keep>
      <p>This is the only time that the secret of <strong>${made.name}</strong> is shown. Copy it now and keep it safe;
        Tollhouse stores nothing but a hash of it.</p>
      <div class="secret"><code>${made.key}</code><${CopyButton} text=${made.key} /></div>
    <//>`;
}

/** Facts of a thing, as a list of names and values. */
export function Facts({ of }) {
  return html`<dl class="facts">${of.filter(Boolean).map(
    ([name, value]) => html`
    <div><dt>${name}</dt><dd>${value}</dd></div>`,
  )}</dl>`;
}

export function MetadataList({ of }) {
  const pairs = Object.entries(of ?? {});
  if (pairs.length === 0) return html`<span class="quiet">none</span>`;
  return html`<ul class="pairs">${pairs.map(([name, value]) => html`<li><code>${name}</code> <span>${value}</span></li>`)}</ul>`;
}

/** A form of filters: what is in it goes to `onApply` when it changes. */
export function Filters({ children, onApply }) {
  const apply = (event) => {
    if (event.type === 'submit') event.preventDefault();
    onApply(Object.fromEntries(new FormData(event.currentTarget)));
  };
  return html`<form class="filters" role="search" onSubmit=${apply} onChange=${apply}>${children}</form>`;
}
