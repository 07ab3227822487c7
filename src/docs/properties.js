// Fields of a schema, nested: name, type, bounds, and description.
import { html } from '../console/html.js';
import { Inline, Markdown } from './markdown.js';
import { constraintsOf, hasParts, typeText } from './schema.js';

/** The bounds of a value: `1 to 200 characters`, `One of a, b`. */
function Constraints({ schema }) {
  const facts = constraintsOf(schema);
  if (facts.length === 0) return null;
  const items = facts.map(({ label, codes }) => {
    return html`<li>${label}${codes.map((code) => html` <code>${code}</code>`)}</li>`;
  });
  return html`<ul class="constraints">${items}</ul>`;
}

/** In a request a field can be required; in a response, one that isn't can be absent. */
function Presence({ isRequired, isResponse }) {
  if (isRequired && !isResponse) return html`<span class="required">required</span>`;
  if (!isRequired && isResponse) return html`<span class="quiet">may be absent</span>`;
  return null;
}

/** What the parts of a schema are. */
function partsTitle(schema) {
  if (schema.variants.length > 0) return `${schema.variants.length} variants`;
  if (schema.items) return 'Fields of each item';
  return schema.values ? 'Entries' : 'Fields';
}

/** A named value, and in a section below it what it consists of. */
export function Property({ name, isRequired, schema, description, isResponse, isOpen = false, children }) {
  const text = description ?? schema.description ?? schema.items?.description ?? '';
  const parts = html`
    <details class="parts" open=${isOpen}>
      <summary>${partsTitle(schema)}<span class="unseen"> of ${name}</span></summary>
      <${Parts} schema=${schema} isResponse=${isResponse} />
    </details>`;
  return html`
    <li class="property">
      <p class="property-head">
        <code class="property-name">${name}</code>${' '}
        <span class="type">${typeText(schema)}</span>${' '}
        <${Presence} isRequired=${isRequired} isResponse=${isResponse} />
      </p>
      <${Markdown} text=${text} />
      <${Constraints} schema=${schema} />
      ${schema.items && html`<${Constraints} schema=${schema.items} />`}
      ${schema.isRecursive && html`<p class="quiet">Has the same fields as the object that contains it.</p>`}
      ${hasParts(schema) && parts}
      ${children}
    </li>`;
}

/** What the names of an object's entries must be like. */
function Names({ schema }) {
  if (constraintsOf(schema).length === 0) return null;
  return html`<div class="names"><span>The name:</span><${Constraints} schema=${schema} /></div>`;
}

function Variants({ variants, isResponse }) {
  const items = variants.map((variant) => {
    const title = variant.title ?? typeText(variant);
    return html`
      <li class="variant">
        <p class="variant-title">${title}</p>
        ${variant.description && html`<p><${Inline} text=${variant.description} /></p>`}
        <${Constraints} schema=${variant} />
        <${Parts} schema=${variant} isResponse=${isResponse} />
      </li>`;
  });
  return html`<ul class="properties">${items}</ul>`;
}

/**
 * What a value consists of: its fields, its items, its entries, or its variants. With `opensFirst`, the first
 * field that has parts shows them.
 */
export function Parts({ schema, isResponse, opensFirst = false }) {
  if (schema.variants.length > 0) {
    return html`<${Variants} variants=${schema.variants} isResponse=${isResponse} />`;
  }
  if (schema.items) return html`<${Parts} schema=${schema.items} isResponse=${isResponse} />`;
  const opened = opensFirst && schema.fields.find((field) => hasParts(field.schema));
  const fields = schema.fields.map((field) => {
    const isOpen = field === opened;
    return html`<${Property} ...${field} key=${field.name} isResponse=${isResponse} isOpen=${isOpen} />`;
  });
  const entries =
    schema.values &&
    html`
      <${Property} name="any name" isRequired=${isResponse} schema=${schema.values} isResponse=${isResponse}>
        ${schema.names && html`<${Names} schema=${schema.names} />`}
      <//>`;
  return html`<ul class="properties">${fields}${entries}</ul>`;
}
