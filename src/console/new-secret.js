// The secrets of new and rotated keys, which the server shows only once.
import { CopyButton, Dialog } from './forms.js';
import { html, useEffect, useLayoutEffect, useState } from './html.js';

// Until the user confirms that a secret is stored, it is kept in the session storage of this tab, so that it
// survives Back and a reload. Other tabs can't read that storage, and the browser clears it when the tab is
// closed. The history and the address would keep the secret after the confirmation.
const STORAGE_KEY = 'tollhouse.new-secrets';

const CHANGED = 'tollhouse:new-secrets';

const readSecrets = () => JSON.parse(sessionStorage.getItem(STORAGE_KEY)) ?? [];

function storeSecrets(secrets) {
  if (secrets.length > 0) sessionStorage.setItem(STORAGE_KEY, JSON.stringify(secrets));
  else sessionStorage.removeItem(STORAGE_KEY);
  dispatchEvent(new Event(CHANGED));
}

/** Shows the secret of a key above every page until the user confirms that it is stored. */
export function showSecret(title, { name, key }) {
  storeSecrets([...readSecrets(), { title, name, key }]);
}

/** Asks before the page is left: browsers show a text of their own. */
const warn = (event) => event.preventDefault();

/**
 * The secret that is not stored yet. It is shown without a session, too: a key that replaces its own secret
 * immediately is signed out.
 */
export function NewSecret() {
  const [secrets, setSecrets] = useState(readSecrets);
  const [secret, ...others] = secrets;
  useEffect(() => {
    const update = () => setSecrets(readSecrets());
    addEventListener(CHANGED, update);
    return () => removeEventListener(CHANGED, update);
  }, []);
  // Not later than the dialog: the page may be left at once.
  useLayoutEffect(() => {
    if (!secret) return undefined;
    addEventListener('beforeunload', warn);
    return () => removeEventListener('beforeunload', warn);
  }, [Boolean(secret)]);

  if (!secret) return null;
  return html`
    <${Dialog}
      key=${secret.key}
      title=${secret.title}
      submitLabel="I have stored it"
      onSubmit=${() => storeSecrets(others)}
      isProtected
    >
      <p>
        Copy the secret of <strong><bdi>${secret.name}</bdi></strong> now and store it safely. It is shown
        only once: Tollhouse keeps a hash of it, not the secret.
      </p>
      <div class="secret"><code>${secret.key}</code><${CopyButton} text=${secret.key} /></div>
    <//>`;
}
