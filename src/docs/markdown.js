// The descriptions of the OpenAPI document: paragraphs, lists, and code in backticks. They are rendered as
// text, so that nothing in a description becomes markup.
import { html } from '../console/html.js';

const ITEM = /^[-*] /;

/** Splits a text into paragraphs and lists: `{ text }` or `{ items }`. */
export function parseBlocks(markdown) {
  const blocks = [];
  for (const part of markdown.split(/\n\s*\n/)) {
    const lines = part
      .split('\n')
      .map((line) => line.trim())
      .filter(Boolean);
    for (const line of lines) {
      const last = blocks.at(-1);
      const isSamePart = last?.part === part;
      if (ITEM.test(line)) {
        const item = line.replace(ITEM, '');
        if (isSamePart && last.items) last.items.push(item);
        else blocks.push({ part, items: [item] });
      } else if (isSamePart && last.items) {
        last.items.push(`${last.items.pop()} ${line}`);
      } else if (isSamePart) {
        last.text += ` ${line}`;
      } else {
        blocks.push({ part, text: line });
      }
    }
  }
  return blocks.map(({ text, items }) => (items ? { items } : { text }));
}

/** Text with code in backticks. */
export function Inline({ text = '' }) {
  const parts = text.split(/`([^`]+)`/);
  return html`${parts.map((part, index) => (index % 2 === 1 ? html`<code>${part}</code>` : part))}`;
}

export function Markdown({ text = '' }) {
  return html`${parseBlocks(text).map(({ text: paragraph, items }) => {
    if (!items) return html`<p><${Inline} text=${paragraph} /></p>`;
    return html`<ul class="bullets">${items.map((item) => html`<li><${Inline} text=${item} /></li>`)}</ul>`;
  })}`;
}
