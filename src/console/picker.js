// A field for an organization, a user or a key: searched for by words, shown by name, sent as an ID.
import { get } from './api.js';
import { useData } from './data.js';
import { searchText } from './format.js';
import { Field } from './forms.js';
import { html, useEffect, useLayoutEffect, useRef, useState } from './html.js';
import { withoutSecrets } from './redact.js';

/** The time without typing after which the typed text is searched for. */
const DEBOUNCE_MILLISECONDS = 150;
const MAX_OPTIONS = 8;

/**
 * What can be picked: the usual label, the list of the API, the scope that it needs, and what an option shows
 * beside the name. Anything that the session can read is found by the search for all kinds.
 */
const KINDS = {
  organization: {
    label: 'Organization',
    path: '/organizations',
    scope: 'admin:orgs',
    pattern: /^org_/,
    detail: ({ email }) => email,
  },
  user: {
    label: 'User',
    path: '/users',
    scope: 'admin:users',
    pattern: /^user_/,
    detail: ({ email }) => email,
  },
  key: {
    label: 'Key',
    path: '/api-keys',
    scope: 'admin:keys',
    pattern: /^key_/,
    detail: ({ start }) => `${start}…`,
  },
  any: { pattern: /^(org|user|key|evt)_/ },
};

async function loadOptions(kind, typed) {
  const { path, detail } = KINDS[kind];
  const q = searchText(typed);
  if (!path) {
    const { data } = q ? await get('/search', { q }) : { data: [] };
    return data.map(({ id, title, subtitle }) => ({ id, name: title, detail: subtitle }));
  }
  // The list refuses a text without a word to search for, such as a single letter.
  if (!q && typed.trim()) return [];
  const { data } = await get(path, { q, limit: MAX_OPTIONS });
  return data.map((item) => ({ id: item.id, name: item.name, detail: detail(item) }));
}

/** The name of the resource with an ID; the ID itself if it has none, or none that can be read. */
async function loadName(kind, id) {
  const found = Object.values(KINDS).find(({ path, pattern }) => path && pattern.test(id));
  const path = KINDS[kind].path ?? found?.path;
  if (!path || !id) return id;
  try {
    return (await get(`${path}/${encodeURIComponent(id)}`)).data.name;
  } catch {
    return id;
  }
}

/** Keeps the list at its input. It is in the top layer, so that no dialog or card cuts it off. */
function placeBelow(list, input) {
  const { left, bottom, width } = input.getBoundingClientRect();
  Object.assign(list.style, {
    left: `${left}px`,
    top: `${bottom + 4}px`,
    width: `${Math.max(width, 240)}px`,
  });
}

function Options({ id, input, options, active, note, onPick }) {
  const list = useRef();
  useLayoutEffect(() => {
    const place = () => placeBelow(list.current, input.current);
    list.current.showPopover();
    place();
    addEventListener('scroll', place, true);
    addEventListener('resize', place);
    return () => {
      removeEventListener('scroll', place, true);
      removeEventListener('resize', place);
    };
  }, []);
  useLayoutEffect(() => list.current.children[active]?.scrollIntoView({ block: 'nearest' }), [active]);
  const items = options.map((option, index) => {
    // The press of the button would move the focus out of the input.
    const pick = (event) => {
      event.preventDefault();
      onPick(option);
    };
    return html`
      <li
        key=${option.id}
        id=${`${id}-${index}`}
        role="option"
        aria-selected=${index === active ? 'true' : 'false'}
        onMouseDown=${pick}
      >
        <bdi class="option-name">${option.name}</bdi>
        <span class="quiet small-text">${option.detail}</span>
        <code class="id">${option.id}</code>
      </li>`;
  });
  const noteItem = html`<li role="option" aria-disabled="true" class="quiet">${note}</li>`;
  return html`
    <ul id=${id} ref=${list} role="listbox" class="options" popover="manual" aria-label="Matches">
      ${options.length > 0 ? items : noteItem}
    </ul>`;
}

/** The input and its list. `control` has the attributes that a field gives to its control. */
function PickerControl({ kind, control, value, placeholder }) {
  const { name, ...attributes } = control;
  const [picked, setPicked] = useState({ id: value ?? '', name: value ?? '' });
  const [typed, setTyped] = useState();
  const [searched, setSearched] = useState('');
  const [isOpen, setOpen] = useState(false);
  const [active, setActive] = useState(0);
  const input = useRef();
  const hidden = useRef();
  const { pattern } = KINDS[kind];
  const isTyping = typed !== undefined;

  useEffect(() => {
    if (!value) return;
    loadName(kind, value).then((shownName) => {
      setPicked((before) => (before.id === value ? { id: value, name: shownName } : before));
    });
  }, [value]);
  useEffect(() => {
    const timer = setTimeout(() => setSearched(typed ?? ''), DEBOUNCE_MILLISECONDS);
    return () => clearTimeout(timer);
  }, [typed]);
  const found = useData(async () => {
    if (!isOpen) return undefined;
    return { searched, options: await loadOptions(kind, searched) };
  }, [isOpen, searched]);
  const isCurrent = !found.loading && found.value?.searched === (typed ?? '');
  const options = found.value?.options ?? [];
  useEffect(() => setActive(0), [found.value]);

  /** Sets the ID, and tells the form about it, as if the user had changed an input. */
  const pick = (option) => {
    setPicked(option);
    setTyped();
    setOpen(false);
    hidden.current.value = option.id;
    if (picked.id === option.id) return;
    hidden.current.dispatchEvent(new Event('change', { bubbles: true }));
  };
  /** An ID is taken as it is; other words stand for the option that is marked, or else the first one. */
  const settle = async () => {
    setOpen(false);
    if (!isTyping) return;
    const text = typed.trim();
    if (text === '' || pattern.test(text)) {
      pick(options.find(({ id }) => id === text) ?? { id: text, name: text });
      return;
    }
    const matches = isCurrent ? options : await loadOptions(kind, text).catch(() => []);
    pick(matches[isCurrent ? active : 0] ?? { id: text, name: text });
  };
  const onInput = (event) => {
    const text = withoutSecrets(event.target.value);
    event.target.value = text;
    setTyped(text);
    setOpen(true);
    // A form that is submitted right away gets what was typed.
    hidden.current.value = text.trim();
  };
  const onKeyDown = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step) {
      event.preventDefault();
      setOpen(true);
      if (isOpen) setActive((active + step + options.length) % Math.max(options.length, 1));
    }
    if (!isOpen) return;
    if (event.key === 'Escape') {
      event.preventDefault();
      setTyped();
      setOpen(false);
      hidden.current.value = picked.id;
    }
    if (event.key === 'Enter') {
      event.preventDefault();
      const marked = isTyping ? undefined : options[active];
      if (marked) pick(marked);
      else settle();
    }
  };
  const listId = `${control.id}-options`;
  const list = html`
    <${Options}
      id=${listId}
      input=${input}
      options=${options}
      active=${active}
      note=${found.error?.message ?? (isCurrent ? 'No matches.' : 'Loading…')}
      onPick=${pick}
    />`;
  return html`
    <input
      ...${attributes}
      ref=${input}
      role="combobox"
      aria-autocomplete="list"
      aria-expanded=${isOpen ? 'true' : 'false'}
      aria-controls=${isOpen ? listId : undefined}
      aria-activedescendant=${isOpen && options.length > 0 ? `${listId}-${active}` : undefined}
      autocomplete="off"
      spellcheck="false"
      placeholder=${placeholder}
      value=${typed ?? picked.name}
      title=${picked.id === picked.name ? undefined : picked.id}
      onInput=${onInput}
      onChange=${(event) => event.stopPropagation()}
      onFocus=${(event) => event.target.select()}
      onClick=${() => setOpen(true)}
      onBlur=${settle}
      onKeyDown=${onKeyDown}
    />
    <input type="hidden" name=${name} ref=${hidden} defaultValue=${value ?? ''} />
    ${isOpen && list}`;
}

/**
 * A field for a resource of a `kind`. `value` is the ID of the one that is picked at first. A session that
 * can't search types an ID.
 */
export function Picker({ session, kind, label, name, value, error, hint }) {
  const { scope, label: usualLabel } = KINDS[kind];
  const field = { label: label ?? usualLabel, name, error, hint };
  if (scope && !session.can(scope)) {
    return html`
      <${Field} ...${field} value=${value} placeholder=${`${kind === 'organization' ? 'org' : kind}_…`} />`;
  }
  const control = (attributes) => html`
    <${PickerControl}
      kind=${kind}
      control=${attributes}
      value=${value}
      placeholder="Name or ID"
    />`;
  return html`<${Field} ...${field}>${control}<//>`;
}
