// Forms and dialogs.
import { html, useId, useLayoutEffect, useRef, useState } from './html.js';

const CONFLICT_MESSAGE =
  'Someone else changed this after you opened it. Reload to get the latest version; your edits are kept.';
const RELOADED_MESSAGE = 'This is the latest version with your edits. Review it, then save again.';

/** True if the resource was changed after it was loaded. */
export const isConflict = (error) => error?.code === 'PRECONDITION_FAILED';

/**
 * An error, and a button if it can be retried. Messages about the `fields` are not repeated: the form shows
 * them next to each field.
 */
export function Problem({ error, fields = [], retry }) {
  if (!error) return null;
  const otherDetails = error.detailsOutside?.(fields) ?? [];
  const areAllNextToFields = error.details?.length > 0 && otherDetails.length === 0;
  const isIdShown = error.requestId && !areAllNextToFields && !isConflict(error);
  let message = error.message;
  if (isConflict(error)) message = CONFLICT_MESSAGE;
  else if (areAllNextToFields) message = 'Some fields are not valid. See the messages next to them.';
  const items = otherDetails.map((detail) => {
    const place = detail.pointer ?? detail.parameter;
    return html`<li>${place && html`<code>${place}</code> `}${detail.message}</li>`;
  });
  const retryLabel = isConflict(error) ? 'Reload' : 'Try again';
  const retryButton = html`<button type="button" class="small" onClick=${retry}>${retryLabel}</button>`;
  return html`
    <div class="problem" role="alert">
      <p>${message}</p>
      ${items.length > 1 && html`<ul>${items}</ul>`}
      ${retry && retryButton}
      ${isIdShown && html`<p class="quiet small-text">Request ID: ${error.requestId}</p>`}
    </div>`;
}

/**
 * A labeled control with a hint, or with the error's message about it. `value` is the initial value: a form
 * that renders again keeps what was typed. `children` renders another control than an input, and gets its
 * attributes. The API reports errors about `name`, or about `pointer` where a field is nested, and about the
 * items of a nested list.
 */
export function Field({ label, name, hint, error, pointer, isList, value, children, ...attributes }) {
  const id = useId();
  let message = error?.messageFor?.(name);
  if (pointer) message = isList ? error?.messageWithin?.(pointer) : error?.messageAt?.(pointer);
  const descriptionId = `${id}-description`;
  const control = {
    id,
    name,
    'aria-describedby': hint || message ? descriptionId : undefined,
    'aria-invalid': message ? 'true' : undefined,
  };
  const input = html`<input autocomplete="off" defaultValue=${value} ...${control} ...${attributes} />`;
  const description = html`<p id=${descriptionId} class=${message ? 'fault' : 'hint'}>${message || hint}</p>`;
  return html`
    <div class="field">
      <label for=${id}>${label}</label>
      ${children ? children(control) : input}
      ${(hint || message) && description}
    </div>`;
}

/**
 * A select element; each option is a pair of value and text. Without `onChange`, `value` is the initial
 * value: the choice follows it until the user makes one.
 */
export function Choice({ options, value, onChange, ...attributes }) {
  const [chosen, setChosen] = useState();
  const selected = onChange ? value : (chosen ?? value);
  const items = options.map(([option, text]) => {
    return html`<option key=${option} value=${option} selected=${option === selected}>${text}</option>`;
  });
  const onNativeChange = onChange ?? ((event) => setChosen(event.target.value));
  return html`<select ...${attributes} onChange=${onNativeChange}>${items}</select>`;
}

/** A labeled select element. */
export function Select({ options, value, onChange, ...field }) {
  const choice = (control) => {
    return html`<${Choice} ...${control} options=${options} value=${value} onChange=${onChange} />`;
  };
  return html`<${Field} ...${field}>${choice}<//>`;
}

/** Moves the focus to the first field at fault, and opens the section that it is in. */
export function focusFirstInvalid(form) {
  const field = form?.querySelector('[aria-invalid="true"]');
  if (!field) return;
  const section = field.closest('details');
  if (section) section.open = true;
  field.focus();
}

/**
 * A dialog with a form. `onSubmit` gets the form's data; if it throws, the dialog shows the error above its
 * buttons, and the focus goes to the first field at fault. After a conflict, `reload` gets the latest
 * version: fields follow it, except those that were edited. The `fields` show messages about themselves. A
 * dialog that `isProtected` is only closed by its button.
 */
export function Dialog({
  title,
  children,
  onSubmit,
  submitLabel = 'Save',
  closeLabel = onSubmit ? 'Cancel' : 'Close',
  isDangerous = false,
  isProtected = false,
  onClose,
  fields = [],
  reload,
}) {
  const dialog = useRef();
  const form = useRef();
  const titleId = useId();
  const [error, setError] = useState();
  const [isBusy, setBusy] = useState(false);
  const [isReloaded, setReloaded] = useState(false);

  useLayoutEffect(() => {
    const element = dialog.current;
    const opener = document.activeElement;
    element.showModal();
    // A browser closes a dialog at the second Escape, whatever the page does at the first.
    const onNativeClose = isProtected ? () => element.showModal() : onClose;
    element.addEventListener('close', onNativeClose);
    return () => {
      element.removeEventListener('close', onNativeClose);
      element.close();
      // The opener may be gone: a dialog that was open before, or a page that was left.
      const focusTarget = opener?.isConnected ? opener : document.querySelector('h1');
      focusTarget?.focus();
    };
  }, []);
  useLayoutEffect(() => {
    if (error) focusFirstInvalid(form.current);
  }, [error]);

  const submit = async (event) => {
    event.preventDefault();
    if (isBusy || !onSubmit) return;
    setBusy(true);
    setReloaded(false);
    try {
      await onSubmit(new FormData(event.target));
      setError();
    } catch (failure) {
      setError(failure);
    }
    setBusy(false);
  };
  const reloadAfterConflict = async () => {
    await reload();
    setError();
    setReloaded(true);
  };
  const onCancel = isProtected ? (event) => event.preventDefault() : onClose;
  const submitClass = isDangerous ? 'danger' : 'primary';
  // A button that is disabled loses the focus, which an error leaves where it is.
  const closeButton = html`<button type="button" onClick=${onClose}>${closeLabel}</button>`;
  const submitButton = html`<button class=${submitClass} aria-disabled=${isBusy}>${submitLabel}</button>`;
  return html`
    <dialog ref=${dialog} aria-labelledby=${titleId} onCancel=${onCancel}>
      <form ref=${form} onSubmit=${submit} novalidate>
        <h2 id=${titleId}>${title}</h2>
        <div class="dialog-body">${typeof children === 'function' ? children(error) : children}</div>
        <footer class="dialog-foot">
          <${Problem}
            error=${error}
            fields=${fields}
            retry=${isConflict(error) && reload ? reloadAfterConflict : undefined}
          />
          ${isReloaded && html`<p class="note" role="status">${RELOADED_MESSAGE}</p>`}
          <div class="dialog-buttons">
            ${!isProtected && closeButton}
            ${onSubmit && submitButton}
          </div>
        </footer>
      </form>
    </dialog>`;
}

export function CopyButton({ text }) {
  const [isCopied, setCopied] = useState(false);
  const copy = async (event) => {
    try {
      await navigator.clipboard.writeText(text);
      setCopied(true);
    } catch {
      // Without HTTPS there is no clipboard. The secret is selected instead, so that it can be copied by
      // hand.
      const secret = event.target.closest('.secret').querySelector('code');
      getSelection().selectAllChildren(secret);
    }
  };
  const label = isCopied ? 'Copied' : 'Copy';
  return html`<button type="button" onClick=${copy} aria-live="polite">${label}</button>`;
}
