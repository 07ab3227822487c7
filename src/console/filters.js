// The filters of a list. They are part of the address, so that Back, a reload and a link show the same list.
import { timeZone } from './format.js';
import { Field } from './forms.js';
import { html, useState } from './html.js';
import { withoutSecrets } from './redact.js';
import { readQuery, replaceHash } from './route.js';

/**
 * The filters named by `defaults`, with the values in the address where it has them, and a function that
 * changes some of them. Those that have their default value are not in the address. Other filters show
 * another list, so what was noted about the earlier one (its length, the scroll position) is removed.
 */
export function useFilters(defaults) {
  const [filter, setFilter] = useState(() => {
    const query = readQuery();
    const known = Object.keys(defaults).filter((name) => query[name] !== undefined);
    return { ...defaults, ...Object.fromEntries(known.map((name) => [name, query[name]])) };
  });
  const change = (values) => {
    const changed = { ...filter, ...values };
    const other = Object.entries(changed).filter(([name, value]) => value !== defaults[name]);
    const query = new URLSearchParams(other).toString();
    const [path] = location.hash.split('?');
    replaceHash(query ? `${path || '#/'}?${query}` : path);
    setFilter(changed);
  };
  return [filter, change];
}

/** True if a list is restricted by a filter. */
export const isFiltered = (filter) => Object.values(filter).some(Boolean);

/** Cuts a secret that was pasted or typed into a field to its start, by which keys are found, too. */
function cutSecrets({ target }) {
  if (target.type !== 'search' && target.type !== 'text') return;
  const text = withoutSecrets(target.value);
  if (text !== target.value) target.value = text;
}

/** A form of filters. Any change passes the values of all of them to `onApply`. */
export function Filters({ children, onApply }) {
  const apply = (event) => {
    if (event.type === 'submit') event.preventDefault();
    onApply(Object.fromEntries(new FormData(event.currentTarget)));
  };
  return html`
    <form class="filters" role="search" onInput=${cutSecrets} onSubmit=${apply} onChange=${apply}>
      ${children}
    </form>`;
}

/** The fields for the times between which events are listed. */
export function TimeRange({ filter }) {
  const field = (label, name) => html`
    <${Field} label=${label} name=${name} value=${filter[name]} type="datetime-local" hint=${timeZone} />`;
  return html`${field('From', 'from')}${field('To', 'to')}`;
}
