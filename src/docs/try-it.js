// The form of an operation, which sends a real request.
import { Dialog, Field, focusFirstInvalid } from '../console/forms.js';
import { html, useEffect, useLayoutEffect, useRef, useState } from '../console/html.js';
import { readKey } from '../console/key-storage.js';
import { Answer } from './answers.js';
import {
  authenticationOf,
  bodyNote,
  bodyText,
  buildRequest,
  findFaults,
  isDangerous,
  isIfMatch,
  nameOf,
  renewed,
} from './request.js';
import { send } from './send.js';
import { Method } from './status.js';

/** The longest body that is shown without scrolling, in lines. */
const MAX_ROWS = 16;

/** The request with the key of this tab. */
function authenticated(request, authentication, key) {
  if (!authentication || !key) return request;
  const header = [authentication.header, `${authentication.prefix}${key}`];
  return { ...request, headers: [...request.headers, header] };
}

function choicesOf({ enum: values, types }) {
  if (values) return values.map(String);
  return types.includes('boolean') ? ['true', 'false'] : undefined;
}

function ParameterField({ parameter, value, fault, onValue, children }) {
  const { name, location, isRequired, schema, example } = parameter;
  const choices = choicesOf(schema);
  const isList = schema.types.includes('array');
  const kind = isRequired ? `${location}, required` : location;
  const label = html`<code>${name}</code> <span class="quiet">${kind}</span>`;
  const onInput = (event) => onValue(event.target.value);
  const control = (attributes) => {
    if (choices) {
      const options = ['', ...choices].map((choice) => {
        return html`<option value=${choice} selected=${choice === value}>${choice || '–'}</option>`;
      });
      return html`<select ...${attributes} onChange=${onInput}>${options}</select>`;
    }
    return html`
      <input
        ...${attributes}
        value=${value}
        onInput=${onInput}
        autocomplete="off"
        spellcheck="false"
        placeholder=${example === undefined ? '' : String(example)}
      />`;
  };
  const error = fault && { messageFor: () => fault };
  return html`
    <div>
      <${Field}
        label=${label}
        name=${nameOf(parameter)}
        error=${error}
        hint=${isList && 'Separate several by commas.'}
      >${control}<//>
      ${children}
    </div>`;
}

function BodyField({ body, value, onValue, operation }) {
  const [chosen, setChosen] = useState(0);
  const { examples } = body;
  const choose = (event) => {
    const index = Number(event.target.value);
    setChosen(index);
    onValue(bodyText(body, examples[index].value));
  };
  const options = examples.map(({ name, summary }, index) => {
    return html`<option value=${index} selected=${index === chosen}>${summary || name || 'Example'}</option>`;
  });
  const choice = html`
    <${Field} label="Example" name="example">${(control) => {
      return html`<select ...${control} onChange=${choose}>${options}</select>`;
    }}<//>`;
  const note = bodyNote(operation, value);
  const rows = Math.min(MAX_ROWS, Math.max(3, value.split('\n').length + 1));
  return html`
    ${examples.length > 1 && choice}
    <${Field} label="Request body" name="body" hint=${note || body.mediaType}>${(control) => {
      const onInput = (event) => onValue(event.target.value);
      return html`
        <textarea ...${control} rows=${rows} spellcheck="false" value=${value} onInput=${onInput} />`;
    }}<//>`;
}

/** Asks before a request that takes something away. */
function Confirmation({ request, onConfirm, onClose }) {
  const confirm = () => {
    onClose();
    onConfirm();
  };
  return html`
    <${Dialog}
      title="Send this request?"
      submitLabel="Send"
      isDangerous
      onSubmit=${confirm}
      onClose=${onClose}
    >
      <p>It changes the data of this server and can’t be undone.</p>
      <p class="endpoint"><${Method} method=${request.method} /> <code>${request.url}</code></p>
    <//>`;
}

/** Fills in the ETag of the resource, so that the request changes only the version that was read. */
function CurrentEtag({ api, reader, values, apiKey, askForKey, onValue }) {
  const [failure, setFailure] = useState('');
  const load = async () => {
    if (!apiKey) {
      askForKey();
      return;
    }
    const request = buildRequest(api, reader, { ...values, body: '' });
    const answer = await send(authenticated(request, authenticationOf(api, reader), readKey()));
    const [, etag] = answer.headers?.find(([name]) => name === 'etag') ?? [];
    setFailure(etag ? '' : 'The resource could not be read. Check the path parameters and the key.');
    if (etag) onValue(etag);
  };
  return html`
    <button type="button" class="small" onClick=${load}>Use the current ETag</button>
    ${failure && html`<p class="fault" role="alert">${failure}</p>`}`;
}

export function TryIt({ api, operation, values, setValues, apiKey, askForKey }) {
  const [faults, setFaults] = useState({});
  const [answer, setAnswer] = useState();
  const [isBusy, setBusy] = useState(false);
  const [isConfirming, setConfirming] = useState(false);
  const form = useRef();
  const head = useRef();
  const authentication = authenticationOf(api, operation);
  const request = buildRequest(api, operation, values);
  const reader = api.readerOf(operation);

  useLayoutEffect(() => focusFirstInvalid(form.current), [faults]);
  useEffect(() => {
    if (answer) head.current.scrollIntoView({ block: 'nearest' });
  }, [answer]);

  const execute = async () => {
    setBusy(true);
    setAnswer();
    // Read again, because the key may have been removed on another page of this tab.
    setAnswer(await send(authenticated(request, authentication, readKey())));
    setBusy(false);
    setValues((before) => renewed(operation, before));
  };
  const submit = (event) => {
    event.preventDefault();
    if (isBusy) return;
    const found = findFaults(operation, values);
    setFaults(found);
    if (Object.keys(found).length > 0) return;
    if (authentication && !apiKey) askForKey();
    else if (isDangerous(operation)) setConfirming(true);
    else execute();
  };

  const fieldOf = (parameter) => {
    const name = nameOf(parameter);
    const onValue = (value) => setValues((before) => ({ ...before, [name]: value }));
    const etag = html`
      <${CurrentEtag} ...${{ api, reader, values, apiKey, askForKey, onValue }} />`;
    return html`
      <${ParameterField}
        key=${name}
        parameter=${parameter}
        value=${values[name]}
        fault=${faults[name]}
        onValue=${onValue}
      >${isIfMatch(parameter) && reader && etag}<//>`;
  };
  const required = operation.parameters.filter(({ isRequired }) => isRequired);
  const optional = operation.parameters.filter(({ isRequired }) => !isRequired);
  const noun = optional.length === 1 ? 'parameter' : 'parameters';
  const optionalFields = html`
    <details class="optional">
      <summary>${optional.length} optional ${noun}</summary>
      <div class="fields">${optional.map(fieldOf)}</div>
    </details>`;
  const onBody = (body) => setValues((before) => ({ ...before, body }));
  const bodyField = html`
    <${BodyField} body=${operation.body} operation=${operation} value=${values.body} onValue=${onBody} />`;
  const keyNote = apiKey ? 'With the API key of this tab.' : 'Requires an API key.';
  const confirmation = html`
    <${Confirmation} request=${request} onConfirm=${execute} onClose=${() => setConfirming(false)} />`;
  const buttonClass = isDangerous(operation) ? 'danger' : 'primary';
  return html`
    <section class="panel try" aria-label="Try it">
      <form ref=${form} onSubmit=${submit} novalidate>
        <h2>Try it</h2>
        ${required.map(fieldOf)}
        ${operation.body && bodyField}
        ${optional.length > 0 && optionalFields}
        <div class="try-foot">
          <button class=${buttonClass} aria-disabled=${isBusy}>Send request</button>
          <span class="quiet small-text">${authentication ? keyNote : 'Requires no API key.'}</span>
        </div>
      </form>
      <${Answer} answer=${answer} isBusy=${isBusy} head=${head} />
      ${isConfirming && confirmation}
    </section>`;
}
