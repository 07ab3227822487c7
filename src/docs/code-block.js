// Code and JSON with colors, and a button that copies it.
import { html, useRef, useState } from '../console/html.js';

/** A longer text is shown without colors, because each of them is an element. */
const MAX_COLORED_LENGTH = 40_000;

const STRING = /"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|`(?:\\.|[^`\\])*`/.source;
const WORD = /\b(?:true|false|null|True|False|None|const|await|import|with|as)\b/.source;
const NUMBER = /(?<![\w.-])-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?\b/.source;
const TOKEN = new RegExp(`(${STRING})(\\s*:)?|(${WORD}|${NUMBER})`, 'g');

/** The parts of a text: pairs of the class of a color, or none, and the text. */
export function tokens(text) {
  const parts = [];
  let end = 0;
  for (const match of text.matchAll(TOKEN)) {
    const [, string, colon, word] = match;
    if (match.index > end) parts.push(['', text.slice(end, match.index)]);
    const token = string ?? word;
    const isName = string !== undefined && colon !== undefined;
    parts.push([isName ? 'token-name' : string === undefined ? 'token-word' : 'token-string', token]);
    end = match.index + token.length;
  }
  if (end < text.length) parts.push(['', text.slice(end)]);
  return parts;
}

function Colored({ text }) {
  if (text.length > MAX_COLORED_LENGTH) return text;
  const parts = tokens(text).map(([kind, part]) => {
    return kind ? html`<span class=${kind}>${part}</span>` : part;
  });
  return html`${parts}`;
}

/** Without HTTPS there is no clipboard: the text is selected instead, so that it can be copied by hand. */
function CopyButton({ text, label, block }) {
  const [copied, setCopied] = useState();
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      setCopied(text);
    } catch {
      getSelection().selectAllChildren(block.current);
    }
  };
  return html`
    <button type="button" class="small copy" aria-live="polite" onClick=${copy}>
      ${copied === text ? 'Copied' : 'Copy'}<span class="unseen"> ${label}</span>
    </button>`;
}

/** A block of code under a bar of controls. `label` names it. Without colors, it is faster to render. */
export function CodeBlock({ text, label, isColored = true, children }) {
  const block = useRef();
  return html`
    <div class="code-bar">
      ${children}
      <${CopyButton} text=${text} label=${label} block=${block} />
    </div>
    <pre class="code" dir="ltr" tabindex="0" role="group" aria-label=${label} ref=${block}><code>${
      isColored ? html`<${Colored} text=${text} />` : text
    }</code></pre>`;
}
