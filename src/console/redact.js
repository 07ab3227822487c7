// Secrets in text that gets into an address or a query, where logs and histories would keep them.
import { readKey } from './key-storage.js';

// A prefix, `_`, and 38 letters and digits, or most of them if some were not copied. IDs have other prefixes.
const SECRET =
  /(?<![0-9a-z_])(?!(?:org|user|key|evt|req|wh)_)([a-z][0-9a-z_]*_[0-9A-Za-z]{4})[0-9A-Za-z]{24,}/g;

/** The characters of a key in another format that stay visible. */
const VISIBLE_CHARACTERS = 4;

/** Cuts what has the form of a secret, and the key of this tab, to its start: `toll_AbCd`. */
export function withoutSecrets(text) {
  const shortened = text.replace(SECRET, '$1');
  const ownKey = readKey();
  return ownKey ? shortened.replaceAll(ownKey, ownKey.slice(0, VISIBLE_CHARACTERS)) : shortened;
}
