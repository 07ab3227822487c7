// Metadata as rows of a name and a value. Values may have several lines.
import { ApiError } from '../api.js';
import { html, useId, useLayoutEffect, useRef, useState } from '../html.js';

const MAX_NAME_LENGTH = 40;
const DUPLICATE_NAME = 'DUPLICATE_NAME';

// Row IDs: a stored pair is known by its name, an added one by a number.
const STORED = 'stored:';
const ADDED = 'added:';

/** A text area reports each line break as `\n`. */
const asShown = (text) => text.replace(/\r\n?/g, '\n');

/** One row: a stored pair with the edits made to it. Only a name that was edited loses surrounding spaces. */
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
 * The rows to show: the stored pairs, then the added ones. A stored pair that someone else removed while it was being
 * edited stays, as an added one.
 */
function rowsOf(stored, edits) {
  const storedIds = Object.keys(stored).map((name) => STORED + name);
  const otherIds = Object.keys(edits).filter((id) => !storedIds.includes(id));
  const storedRows = Object.entries(stored).map(([name, value]) => {
    const id = STORED + name;
    return editedRow(id, name, value, edits[id]);
  });
  const otherRows = otherIds.map((id) => {
    const name = id.startsWith(STORED) ? id.slice(STORED.length) : '';
    return editedRow(id, name, '', edits[id]);
  });
  return [...storedRows, ...otherRows].filter(({ id }) => !edits[id]?.isRemoved);
}

/** A part of a pointer, escaped as RFC 6901 requires. */
const escapePointer = (part) => part.replaceAll('~', '~0').replaceAll('/', '~1');

/** Messages about one pair. */
function messageFor(error, name) {
  const pairPointer = `/metadata/${escapePointer(name)}`;
  const details = (error?.details ?? []).filter(({ pointer }) => pointer === pairPointer);
  return details.map(({ message }) => message).join(' ');
}

function Row({ row, position, error, onEdit, onRemove }) {
  const id = useId();
  const message = messageFor(error, row.name);
  const nameLength = [...row.name].length;
  const isNameWrong = nameLength === 0 || nameLength > MAX_NAME_LENGTH || error?.code === DUPLICATE_NAME;
  const invalid = (isAtFault) => (message && isAtFault ? 'true' : undefined);
  const description = message ? `${id}-error` : undefined;
  const lines = asShown(row.value).split('\n').length;
  return html`
    <div class="metadata-row" data-row=${row.id}>
      <input
        aria-label=${`Metadata name ${position}`}
        aria-invalid=${invalid(isNameWrong)}
        aria-describedby=${description}
        value=${row.shownName}
        onInput=${(event) => onEdit({ name: event.target.value })}
        placeholder="Name"
        autocomplete="off"
        spellcheck="false"
      />
      <textarea
        aria-label=${`Metadata value ${position}`}
        aria-invalid=${invalid(!isNameWrong)}
        aria-describedby=${description}
        value=${asShown(row.value)}
        onInput=${(event) => onEdit({ value: event.target.value })}
        placeholder="Value"
        rows=${Math.min(lines, 6)}
        spellcheck="false"
      />
      <button type="button" aria-label=${`Remove metadata ${position}`} onClick=${onRemove}>Remove</button>
      ${message && html`<p id=${description} class="fault">${message}</p>`}
    </div>`;
}

export function MetadataField({ error, value = {} }) {
  const [edits, setEdits] = useState({});
  const [focused, setFocused] = useState();
  const fieldset = useRef();
  const addButton = useRef();
  const hintId = useId();
  const rows = rowsOf(value, edits);

  useLayoutEffect(() => {
    if (!focused) return;
    fieldset.current.querySelector(`[data-row="${focused}"] input`).focus();
    setFocused();
  }, [focused]);

  const edit = (id, change) => setEdits({ ...edits, [id]: { ...edits[id], ...change } });
  const add = () => {
    const id = ADDED + Object.keys(edits).length;
    edit(id, {});
    setFocused(id);
  };
  const remove = (id) => {
    edit(id, { isRemoved: true });
    addButton.current.focus();
  };

  const pairs = rows.map((row) => [row.name, row.value]);
  const general = (error?.details ?? []).filter(({ pointer }) => pointer === '/metadata');
  const rowElements = rows.map(
    (row, index) => html`
      <${Row}
        key=${row.id}
        row=${row}
        position=${index + 1}
        error=${error}
        onEdit=${(change) => edit(row.id, change)}
        onRemove=${() => remove(row.id)}
      />`,
  );
  return html`
    <fieldset ref=${fieldset} class="metadata" aria-describedby=${hintId}>
      <legend>Metadata (optional)</legend>
      <p id=${hintId} class="hint">Names and values of your own. Values can have several lines.</p>
      <input type="hidden" name="metadata" value=${JSON.stringify(pairs)} />
      ${rowElements}
      ${general.map(({ message }) => html`<p class="fault">${message}</p>`)}
      <div><button type="button" class="small" ref=${addButton} onClick=${add}>Add metadata</button></div>
    </fieldset>`;
}

/** The pairs in the form. Rows that are empty are ignored; a name that occurs twice is an error. */
export function readMetadata(form) {
  const pairs = JSON.parse(form.get('metadata')).filter(([name, value]) => name !== '' || value !== '');
  const names = pairs.map(([name]) => name);
  const duplicate = names.find((name, index) => names.indexOf(name) !== index);
  if (duplicate !== undefined) {
    const pointer = `/metadata/${escapePointer(duplicate)}`;
    const details = [{ pointer, code: DUPLICATE_NAME, message: 'Use each name only once.' }];
    throw new ApiError(0, { code: DUPLICATE_NAME, message: 'Two metadata names are the same.', details });
  }
  return Object.fromEntries(pairs);
}
