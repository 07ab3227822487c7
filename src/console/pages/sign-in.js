import { html, useEffect, useRef } from '../html.js';

/** The key is asked for; it goes into this tab's storage and nowhere else. */
export function SignIn({ enter, refused }) {
  const input = useRef();
  useEffect(() => {
    document.title = 'Sign in · Tollhouse';
    input.current.focus();
  }, []);
  const submit = (event) => {
    event.preventDefault();
    const key = input.current.value.trim();
    if (key) enter(key);
  };
  return html`
    <main class="alone">
      <form class="card sign-in" onSubmit=${submit}>
        <p class="brand"><span class="mark" aria-hidden="true"></span>Tollhouse</p>
        <h1>Sign in</h1>
        ${refused && html`<div class="problem" role="alert"><p>This key is not good. It may be mistyped, expired or revoked.</p></div>`}
        <div class="field">
          <label for="key">API key</label>
          <input id="key" type="password" ref=${input} autocomplete="off" spellcheck="false" placeholder="toll_…" required aria-describedby="key-hint" />
          <p id="key-hint" class="hint">A key with administrative scopes. It stays in this tab and is forgotten when the tab is closed.</p>
        </div>
        <button class="primary">Sign in</button>
        <p class="quiet small-text">No key? The first start wrote one into <code>admin.key</code> beside the
          database; <code>tollhouse admin-key create</code> makes another. <a href="../docs/">API reference</a></p>
      </form>
    </main>`;
}
