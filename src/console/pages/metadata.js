// The caller's own pairs, as lines of a text.
import { html } from '../html.js';
import { Field } from '../ui.js';

export function MetadataField({ error, value }) {
  const text = Object.entries(value ?? {})
    .map(([name, text]) => `${name} = ${text}`)
    .join('\n');
  return html`
    <${Field} label="Metadata (optional)" name="metadata" error=${error} hint="Your own pairs, one a line: name = value">${(
      shared,
    ) => html`
      <textarea ...${shared} rows="3" spellcheck="false">${text}</textarea>`}<//>`;
}

/** What is in the form; a pair that is gone from it is taken away. */
export function readMetadata(form, before = {}) {
  const gone = Object.fromEntries(Object.keys(before).map((name) => [name, null]));
  const lines = form
    .get('metadata')
    .split('\n')
    .filter((line) => line.trim() !== '');
  const pairs = lines.map((line) => {
    const [name, ...rest] = line.split('=');
    return [name.trim(), rest.join('=').trim()];
  });
  return { ...gone, ...Object.fromEntries(pairs) };
}
