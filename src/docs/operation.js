// The page of an operation: its text, and in a column beside it the code, Try it and example responses.
import { html, useState } from '../console/html.js';
import { ExampleAnswers } from './answers.js';
import { FORMS } from './code.js';
import { CodeBlock } from './code-block.js';
import { isJson, isSuccess } from './document.js';
import { Markdown } from './markdown.js';
import { hrefOf, tagHref } from './navigation.js';
import { Parts, Property } from './properties.js';
import { authenticationOf, buildRequest, initialValues } from './request.js';
import { hasParts, typeText } from './schema.js';
import { Method, Status, statusText } from './status.js';
import { TryIt } from './try-it.js';

function Parameters({ parameters, location, title }) {
  const located = parameters.filter((parameter) => parameter.location === location);
  if (located.length === 0) return null;
  const items = located.map((parameter) => html`<${Property} key=${parameter.name} ...${parameter} />`);
  return html`<h2>${title}</h2><ul class="properties">${items}</ul>`;
}

function Body({ body }) {
  return html`
    <h2>Request body <span class="type">${body.mediaType}${body.isRequired ? '' : ', optional'}</span></h2>
    <${Markdown} text=${body.description} />
    <${Parts} schema=${body.schema} />`;
}

function ResponseHeaders({ headers }) {
  const items = headers.map((header) => {
    return html`<${Property} key=${header.name} ...${header} isRequired=${true} isResponse=${true} />`;
  });
  return html`
    <details class="parts">
      <summary>${headers.length === 1 ? '1 header' : `${headers.length} headers`}</summary>
      <ul class="properties">${items}</ul>
    </details>`;
}

function Success({ response }) {
  const contents = response.contents.map(({ mediaType, schema }) => {
    const parts = html`<${Parts} schema=${schema} isResponse=${true} opensFirst=${true} />`;
    return html`
      <p class="type">${mediaType.split(';')[0]}${hasParts(schema) ? '' : `: ${typeText(schema)}`}</p>
      ${hasParts(schema) && parts}`;
  });
  return html`
    <section class="response">
      <h3><${Status} status=${response.status} /></h3>
      <${Markdown} text=${response.description} />
      ${contents}
      ${response.headers.length > 0 && html`<${ResponseHeaders} headers=${response.headers} />`}
    </section>`;
}

/** An error: when it happens, and an example. */
function Failure({ error }) {
  const { status, code, explanation, example } = error;
  const text = example && JSON.stringify(example.value, null, 2);
  const name = code || status;
  const label = `Example of ${name}`;
  // There are many, and folded: without colors, the operation opens faster.
  const block = html`
    <details class="parts">
      <summary>Example<span class="unseen"> of ${name}</span></summary>
      <${CodeBlock} text=${text} label=${label} isColored=${false}><span>${statusText(status)}</span><//>
    </details>`;
  return html`
    <li class="failure">
      <p class="property-head">
        <${Status} status=${status} text=${status} />${' '}
        <code class="property-name">${code || statusText(status)}</code>
      </p>
      <${Markdown} text=${explanation} />
      ${text && block}
    </li>`;
}

function Failures({ operation }) {
  const { errors, responses } = operation;
  const items = errors.map((error) => {
    return html`<${Failure} key=${`${error.status} ${error.code}`} error=${error} />`;
  });
  // All errors of an operation have the same fields.
  const described = responses.find((response) => !isSuccess(response) && response.contents.length > 0);
  const fields =
    described &&
    html`
    <details class="parts error-fields">
      <summary>Fields of an error</summary>
      <${Parts} schema=${described.contents[0].schema} isResponse=${true} opensFirst=${true} />
    </details>`;
  return html`<h2>Errors</h2>${fields}<ul class="failures">${items}</ul>`;
}

function Code({ request, language, onLanguage }) {
  const [name, write] = FORMS.find(([form]) => form === language) ?? FORMS[0];
  const buttons = FORMS.map(([form]) => {
    const choose = () => onLanguage(form);
    const isChosen = String(form === name);
    return html`<button type="button" aria-pressed=${isChosen} onClick=${choose}>${form}</button>`;
  });
  return html`
    <section class="panel" aria-label="Code">
      <${CodeBlock} text=${write(request)} label=${`${name} code`}>
        <div class="segments" role="group" aria-label="Language">${buttons}</div>
      <//>
    </section>`;
}

/** Links to the operations before and after this one. */
function Neighbors({ api, operation }) {
  const index = api.operations.indexOf(operation);
  const link = (neighbor, label, kind) => {
    if (!neighbor) return null;
    const href = hrefOf(neighbor);
    return html`<a class=${kind} href=${href}><span class="quiet">${label}</span> ${neighbor.summary}</a>`;
  };
  return html`
    <nav class="neighbors" aria-label="Neighboring operations">
      ${link(api.operations[index - 1], 'Previous', 'previous')}
      ${link(api.operations[index + 1], 'Next', 'next')}
    </nav>`;
}

/** Everything about the operation that doesn't depend on what the reader fills in. */
function Details({ api, operation }) {
  const { parameters, body } = operation;
  const successes = operation.responses.filter(isSuccess);
  return html`
    <div class="operation-details">
      <${Parameters} parameters=${parameters} location="path" title="Path parameters" />
      <${Parameters} parameters=${parameters} location="query" title="Query parameters" />
      ${body && html`<${Body} body=${body} />`}
      <${Parameters} parameters=${parameters} location="header" title="Request headers" />
      <h2>${successes.length === 1 ? 'Response' : 'Responses'}</h2>
      ${successes.map((response) => html`<${Success} key=${response.status} response=${response} />`)}
      ${operation.errors.length > 0 && html`<${Failures} operation=${operation} />`}
      <${Neighbors} api=${api} operation=${operation} />
    </div>`;
}

export function Operation({ api, operation, language, onLanguage, apiKey, askForKey }) {
  const [values, setValues] = useState(() => initialValues(operation));
  // The same element each time, so that it isn't compared again with each key that is pressed.
  const [details] = useState(() => html`<${Details} api=${api} operation=${operation} />`);
  const request = {
    ...buildRequest(api, operation, values),
    authentication: authenticationOf(api, operation),
    isJsonBody: isJson(operation.body?.mediaType),
    isJsonAnswer: isJson(operation.responses.find(isSuccess)?.contents[0]?.mediaType),
  };
  const tag = api.tag(operation.tag);
  return html`
    <article class="operation">
      <header class="docs-head">
        <p class="eyebrow"><a href=${tagHref(tag)}>${tag.name}</a></p>
        <h1 tabindex="-1">${operation.summary}</h1>
        <p class="endpoint"><${Method} method=${operation.method} /> <code>${operation.path}</code></p>
      </header>
      <div class="operation-intro"><${Markdown} text=${operation.description} /></div>
      <div class="operation-side">
        <${Code} request=${request} language=${language} onLanguage=${onLanguage} />
        <${TryIt} ...${{ api, operation, values, setValues, apiKey, askForKey }} />
        <${ExampleAnswers} operation=${operation} />
      </div>
      ${details}
    </article>`;
}
