// The field for the limits of a key, an organization, or a plan.
import { Choice, Select } from '../forms.js';
import { html, useId, useLayoutEffect, useRef, useState } from '../html.js';
import { MAX_LIMITS, NEW_ROW, isWindowUnit, limitOf, limitsText, rowOf, timeUnitOptions } from '../limits.js';
import { Quiet } from '../ui.js';

const INHERIT = ['inherit', 'Plan’s limits'];
const NONE = ['none', 'No limits'];
const CUSTOM = ['custom', 'Custom limits'];

/** Limits as text. */
export function Limits({ limits, hasPlan }) {
  const text = limitsText(limits, hasPlan);
  return limits?.length > 0 ? text : html`<${Quiet}>${text}<//>`;
}

/** The choice for stored limits, and their rows. Each row has an ID. */
function stateOf(limits) {
  const rows = (limits ?? []).map((limit, id) => ({ id, ...rowOf(limit) }));
  if (limits === null) return { choice: 'inherit', rows };
  return { choice: rows.length > 0 ? 'custom' : 'none', rows };
}

function limitsOf({ choice, rows }) {
  if (choice === 'inherit') return null;
  return choice === 'custom' ? rows.map(limitOf) : [];
}

const newRow = (rows) => ({ id: 1 + Math.max(-1, ...rows.map(({ id }) => id)), ...NEW_ROW });

/** A select element with the configured meters, or a text field if the session may not read them. */
function MeterControl({ meters, value, onChange, ...attributes }) {
  const onInput = (event) => onChange(event.target.value);
  if (!meters) {
    return html`<input ...${attributes} value=${value} onInput=${onInput} autocomplete="off" />`;
  }
  const options = [...new Set([...meters, value])].map((meter) => [meter, meter]);
  return html`<${Choice} ...${attributes} value=${value} options=${options} onChange=${onInput} />`;
}

/** One limit. `pointer` is where the API reports errors about it. */
function Row({ label, row, position, meters, pointer, error, onEdit, onRemove }) {
  const messageId = useId();
  const message = error?.messageWithin?.(pointer);
  const parts = ['meter', 'limit', 'window_seconds', 'period'];
  const invalidParts = parts.filter((part) => error?.messageAt?.(`${pointer}/${part}`));
  // An error about the whole limit, such as a duplicate, marks the first control.
  if (message && invalidParts.length === 0) invalidParts.push('limit');
  const validity = (part) => ({
    'aria-invalid': invalidParts.includes(part) ? 'true' : undefined,
    'aria-describedby': invalidParts.includes(part) ? messageId : undefined,
  });
  const nameOf = (control) => `${label}: ${control} ${position}`;
  const edit = (name) => (event) => onEdit({ [name]: event.target.value });
  const isWindow = isWindowUnit(row.unit);
  const countInput = html`
    <input
      ...${validity('window_seconds')}
      type="number"
      min="1"
      aria-label=${nameOf('time')}
      value=${row.count}
      onInput=${edit('count')}
    />`;
  return html`
    <div class="limit-row" data-row=${row.id}>
      <input
        ...${validity('limit')}
        type="number"
        min="1"
        aria-label=${nameOf('amount')}
        value=${row.amount}
        onInput=${edit('amount')}
        placeholder="Amount"
      />
      <${MeterControl}
        ...${validity('meter')}
        aria-label=${nameOf('meter')}
        meters=${meters}
        value=${row.meter}
        onChange=${(meter) => onEdit({ meter })}
      />
      <span class="limit-span">
        ${row.unit !== 'total' && html`<span>per</span>`}
        ${isWindow && countInput}
        <${Choice}
          ...${validity('period')}
          aria-label=${nameOf('unit of time')}
          value=${row.unit}
          options=${timeUnitOptions(row.count)}
          onChange=${edit('unit')}
        />
      </span>
      <button type="button" aria-label=${nameOf('remove')} onClick=${onRemove}>Remove</button>
      ${message && html`<p id=${messageId} class="fault">${message}</p>`}
    </div>`;
}

/**
 * A choice between no limits, a list of them, and, if it `canInherit`, those of the plan. A hidden field of
 * the form has the limits as JSON, for `readLimits`: `null` for those of the plan. Without `meters`, the name
 * of a meter is typed. `pointer` is where the API reports errors about the list.
 */
export function LimitsField({
  label,
  name,
  pointer = `/${name}`,
  hint,
  value,
  canInherit = false,
  meters,
  error,
}) {
  const [edited, setEdited] = useState();
  const [outdatedError, setOutdatedError] = useState();
  const [focusTarget, setFocusTarget] = useState();
  const container = useRef();
  const state = edited ?? stateOf(value);
  const { choice, rows } = state;

  useLayoutEffect(() => {
    if (!focusTarget) return;
    container.current.querySelector(focusTarget).focus();
    setFocusTarget();
  }, [focusTarget]);

  const choose = (event) => {
    const newChoice = event.target.value;
    const needsRow = newChoice === 'custom' && rows.length === 0;
    setEdited({ choice: newChoice, rows: needsRow ? [newRow(rows)] : rows });
  };
  const setRows = (newRows) => setEdited({ choice: newRows.length > 0 ? 'custom' : 'none', rows: newRows });
  const add = () => {
    const row = newRow(rows);
    setRows([...rows, row]);
    setFocusTarget(`[data-row="${row.id}"] input`);
  };
  const remove = (id) => {
    const others = rows.filter((row) => row.id !== id);
    setRows(others);
    // Errors name positions, which are now those of other rows.
    setOutdatedError(error);
    setFocusTarget(others.length > 0 ? '.limit-add' : 'select');
  };

  const rowElements = rows.map((row, index) => {
    const onEdit = (change) => setRows(rows.map((other) => (other === row ? { ...row, ...change } : other)));
    const rowError = error === outdatedError ? undefined : error;
    const props = { label, row, meters, pointer: `${pointer}/${index}`, error: rowError, onEdit };
    return html`
      <${Row} key=${row.id} position=${index + 1} ...${props} onRemove=${() => remove(row.id)} />`;
  });
  const addButton = html`
    <button type="button" class="small limit-add" aria-label=${`${label}: add limit`} onClick=${add}>
      Add limit
    </button>`;
  const list = html`
    ${rowElements}
    <div>${rows.length < MAX_LIMITS && addButton}</div>
    <p class="hint">
      Limits per second, minute, or hour refill continuously; the longest time is 24 hours. Calendar periods
      are in UTC.
    </p>`;
  return html`
    <div class="limits" ref=${container}>
      <${Select}
        label=${label}
        hint=${hint}
        error=${error}
        pointer=${pointer}
        value=${choice}
        options=${[...(canInherit ? [INHERIT] : []), NONE, CUSTOM]}
        onChange=${choose}
      />
      <input type="hidden" name=${name} value=${JSON.stringify(limitsOf(state))} />
      ${choice === 'custom' && list}
    </div>`;
}

/** The limits of an organization as a whole. */
export function OrganizationLimitsField({ value = null, meters, error }) {
  return html`
    <${LimitsField}
      label="Limits"
      name="limits"
      error=${error}
      hint="Shared by all of its keys, in addition to the limits of each key."
      value=${value}
      canInherit
      meters=${meters}
    />`;
}

/** The limits in the form. */
export const readLimits = (form, name) => JSON.parse(form.get(name));
