// Metadata as rows of a name and a value.
import { ApiError } from '../api.js';
import { html, useId, useLayoutEffect, useRef, useState } from '../html.js';

const MAX_NAME_LENGTH = 40;
const MAX_VISIBLE_LINES = 6;
const DUPLICATE_NAME = 'DUPLICATE_NAME';

// Prefixes of row IDs: a stored pair is identified by its name, an added one by a number.
const STORED = 'stored:';
const ADDED = 'added:';

/** A text area shows each line break as `\n`. */
const asShown = (text) => text.replace(/\r\n?/g, '\n');

/** A row for a pair with the edits made to it. Only a name that was edited loses surrounding spaces. */
function editedRow(id, name, value, edit = {}) {
  const isSameName = edit.name === undefined || edit.name === name;
  const isSameValue = edit.value === undefined || edit.value === asShown(value);
  return {
    id,
    shownName: edit.name ?? name,
    name: isSameName ? name : edit.name.trim(),
    value: isSameValue ? value : edit.value,
  };
}

/**
 * The rows of the stored pairs, then those of added pairs. A pair that someone else removed while it was
 * being edited counts as added.
 */
function rowsOf(stored, edits) {
  const storedRows = Object.entries(stored).map(([name, value]) => {
    const id = STORED + name;
    return editedRow(id, name, value, edits[id]);
  });
  const isStored = (id) => storedRows.some((row) => row.id === id);
  const otherIds = Object.keys(edits).filter((id) => !isStored(id));
  const otherRows = otherIds.map((id) => {
    const name = id.startsWith(STORED) ? id.slice(STORED.length) : '';
    return editedRow(id, name, '', edits[id]);
  });
  return [...storedRows, ...otherRows].filter(({ id }) => !edits[id]?.isRemoved);
}

/** The JSON pointer (RFC 6901) of a pair. */
const pointerOf = (name) => `/metadata/${name.replaceAll('~', '~0').replaceAll('/', '~1')}`;

function Row({ row, position, error, onEdit, onRemove }) {
  const messageId = useId();
  const message = error?.messageAt?.(pointerOf(row.name));
  const nameLength = [...row.name].length;
  const isNameInvalid = nameLength === 0 || nameLength > MAX_NAME_LENGTH || error?.code === DUPLICATE_NAME;
  const validity = (isInvalid) => ({
    'aria-invalid': message && isInvalid ? 'true' : undefined,
    'aria-describedby': message ? messageId : undefined,
  });
  const shownValue = asShown(row.value);
  const lines = shownValue.split('\n').length;
  return html`
    <div class="metadata-row" data-row=${row.id}>
      <input
        ...${validity(isNameInvalid)}
        aria-label=${`Metadata name ${position}`}
        value=${row.shownName}
        onInput=${(event) => onEdit({ name: event.target.value })}
        placeholder="Name"
        autocomplete="off"
        spellcheck="false"
      />
      <textarea
        ...${validity(!isNameInvalid)}
        aria-label=${`Metadata value ${position}`}
        value=${shownValue}
        onInput=${(event) => onEdit({ value: event.target.value })}
        placeholder="Value"
        rows=${Math.min(lines, MAX_VISIBLE_LINES)}
        spellcheck="false"
      />
      <button type="button" aria-label=${`Remove metadata ${position}`} onClick=${onRemove}>Remove</button>
      ${message && html`<p id=${messageId} class="fault">${message}</p>`}
    </div>`;
}

/**
 * Metadata with a row for each pair. A hidden field of the form has the pairs as JSON, for `readMetadata`.
 */
export function MetadataField({ error, value = {} }) {
  const [edits, setEdits] = useState({});
  const [rowToFocus, setRowToFocus] = useState();
  const fieldset = useRef();
  const addButton = useRef();
  const hintId = useId();

  useLayoutEffect(() => {
    if (!rowToFocus) return;
    fieldset.current.querySelector(`[data-row="${rowToFocus}"] input`).focus();
    setRowToFocus();
  }, [rowToFocus]);

  const edit = (id, change) => setEdits({ ...edits, [id]: { ...edits[id], ...change } });
  const add = () => {
    const id = ADDED + Object.keys(edits).length;
    edit(id, {});
    setRowToFocus(id);
  };
  const remove = (id) => {
    edit(id, { isRemoved: true });
    addButton.current.focus();
  };

  const rows = rowsOf(value, edits);
  const pairs = rows.map((row) => [row.name, row.value]);
  const message = error?.messageAt?.('/metadata');
  const rowElements = rows.map((row, index) => {
    const onEdit = (change) => edit(row.id, change);
    const onRemove = () => remove(row.id);
    const handlers = { onEdit, onRemove };
    return html`<${Row} key=${row.id} row=${row} position=${index + 1} error=${error} ...${handlers} />`;
  });
  return html`
    <fieldset ref=${fieldset} class="metadata" aria-describedby=${hintId}>
      <legend>Metadata (optional)</legend>
      <p id=${hintId} class="hint">Your own names and values. A value can have several lines.</p>
      <input type="hidden" name="metadata" value=${JSON.stringify(pairs)} />
      ${rowElements}
      ${message && html`<p class="fault">${message}</p>`}
      <div><button type="button" class="small" ref=${addButton} onClick=${add}>Add metadata</button></div>
    </fieldset>`;
}

/** The pairs in the form. Empty rows are ignored; a name that occurs twice is an error. */
export function readMetadata(form) {
  const rows = JSON.parse(form.get('metadata'));
  const pairs = rows.filter(([name, value]) => name !== '' || value !== '');
  const names = pairs.map(([name]) => name);
  const duplicate = names.find((name, index) => names.indexOf(name) !== index);
  if (duplicate !== undefined) {
    const details = [{ pointer: pointerOf(duplicate), message: 'Use each name only once.' }];
    throw new ApiError(0, { code: DUPLICATE_NAME, message: 'Two metadata names are the same.', details });
  }
  return Object.fromEntries(pairs);
}
