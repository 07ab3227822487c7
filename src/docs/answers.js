// The responses of an operation: the example of each, and the one that was received.
import { html, useState } from '../console/html.js';
import { CodeBlock } from './code-block.js';
import { isSuccess } from './document.js';
import { bodyText } from './request.js';
import { MAX_BYTES } from './send.js';
import { Status, statusText } from './status.js';

const CUT = `Only the first ${MAX_BYTES / 1024} KiB of the response are shown.`;

const hasText = ({ value }) => value !== undefined && value !== '';

/** The examples of an operation: of each success, then of each error. */
function examplesOf({ responses, errors }) {
  const successes = responses.filter(isSuccess).flatMap(({ status, contents }) => {
    if (contents.length === 0) return [{ label: `${statusText(status)}, without a body`, text: '' }];
    return contents.flatMap((content) =>
      content.examples.filter(hasText).map((example) => {
        const details = [statusText(status)];
        if (contents.length > 1) details.push(content.mediaType.split(';')[0]);
        if (content.examples.length > 1) details.push(example.summary || example.name);
        return { label: details.join(' · '), text: bodyText(content, example.value) };
      }),
    );
  });
  const failures = errors
    .filter(({ example }) => example && hasText(example))
    .map(({ status, code, example }) => {
      const text = JSON.stringify(example.value, null, 2);
      return { label: [statusText(status), code].filter(Boolean).join(' · '), text };
    });
  return [...successes, ...failures];
}

/** The example of one response at a time. */
export function ExampleAnswers({ operation }) {
  const [chosen, setChosen] = useState(0);
  const examples = examplesOf(operation);
  if (examples.length === 0) return null;
  const options = examples.map(({ label }, index) => {
    return html`<option value=${index} selected=${index === chosen}>${label}</option>`;
  });
  const choose = (event) => setChosen(Number(event.target.value));
  return html`
    <section class="panel" aria-label="Example responses">
      <${CodeBlock} text=${examples[chosen].text} label="Example response">
        <select aria-label="Response" onChange=${choose}>${options}</select>
      <//>
    </section>`;
}

const time = (milliseconds) => `${milliseconds < 10 ? milliseconds.toFixed(1) : Math.round(milliseconds)} ms`;

function Headers({ headers }) {
  const items = headers.map(([name, value]) => html`<div><dt>${name}</dt><dd>${value}</dd></div>`);
  return html`
    <details class="answer-headers">
      <summary>${headers.length} headers</summary>
      <dl>${items}</dl>
    </details>`;
}

/** The response that was received. Screen readers announce its status, not its body. */
export function Answer({ answer, isBusy, head }) {
  const isReceived = answer?.status !== undefined;
  const status = isReceived && html`<${Status} status=${answer.status} /> ${time(answer.milliseconds)}`;
  const block = html`<${CodeBlock} text=${answer?.text} label="Response body"><span>Response</span><//>`;
  return html`
    <p class="answer-head" role="status" ref=${head}>${isBusy ? 'Sending…' : status}</p>
    ${answer?.failure && html`<p class="problem" role="alert">${answer.failure}</p>`}
    ${isReceived && (answer.text === '' ? html`<p class="quiet">The response has no body.</p>` : block)}
    ${answer?.isCut && html`<p class="quiet small-text">${CUT}</p>`}
    ${isReceived && html`<${Headers} headers=${answer.headers} />`}`;
}
