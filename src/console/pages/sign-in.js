import { AskOtherTab } from '../hand-over.js';
import { html, useEffect, useRef } from '../html.js';

/** Asks for the key, which is kept in the storage of this tab and nowhere else. */
export function SignIn({ onKey, isRefused }) {
  const input = useRef();
  useEffect(() => {
    document.title = 'Sign in · Tollhouse';
    input.current.focus();
  }, []);
  const submit = (event) => {
    event.preventDefault();
    const key = input.current.value.trim();
    if (key) onKey(key);
  };
  const refusal = html`
    <div class="problem" role="alert">
      <p>This key is not valid. It may be mistyped, disabled, expired, or revoked.</p>
    </div>`;
  return html`
    <main class="alone">
      <form class="card sign-in" onSubmit=${submit}>
        <p class="brand"><span class="mark" aria-hidden="true"></span>Tollhouse</p>
        <h1>Sign in</h1>
        ${isRefused && refusal}
        <div class="field">
          <label for="key">API key</label>
          <input
            id="key"
            type="password"
            ref=${input}
            autocomplete="off"
            spellcheck="false"
            placeholder="toll_…"
            required
            aria-describedby="key-hint"
          />
          <p id="key-hint" class="hint">
            Use a key with administrative scopes. It is kept until you close this tab.
          </p>
        </div>
        <button class="primary">Sign in</button>
        <${AskOtherTab} onKey=${onKey} />
        <p class="quiet small-text">
          No key? The first start creates one: it is printed on a terminal, and otherwise saved as${' '}
          <code>admin.key</code> in the data directory. To create another one, run${' '}
          <code>tollhouse admin-key create</code>. <a href="../docs/">API reference</a>
        </p>
      </form>
    </main>`;
}
