// The address of a page below its hash.
import { useEffect, useState } from './html.js';

const REPLACED = 'tollhouse:address-replaced';

/** Decodes a part of the address. A malformed one is returned as it is. */
export function decodePart(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** The parameters behind the `?` in the address. */
export const readQuery = () => Object.fromEntries(new URLSearchParams(location.hash.split('?')[1]));

/** Replaces the address without a visit: what is shown is already there. */
export function replaceHash(hash) {
  if (hash === location.hash) return;
  history.replaceState(history.state, '', hash || '#');
  dispatchEvent(new Event(REPLACED));
}

/** Replaces parameters of the address. Those that are `undefined` are removed. */
export function replaceParameters(changes) {
  const [path] = location.hash.split('?');
  const all = Object.entries({ ...readQuery(), ...changes });
  const query = new URLSearchParams(all.filter(([, value]) => value !== undefined)).toString();
  replaceHash(query ? `${path || '#/'}?${query}` : path);
}

/**
 * The dialog that a page opens at first, because its address names it. It is removed from the address: a
 * reload shows the page.
 */
export function useRequestedDialog() {
  const [dialog] = useState(() => readQuery().dialog);
  useEffect(() => replaceParameters({ dialog: undefined }), []);
  return dialog;
}

/**
 * What `readRoute` makes of the address, with its `hash`; read again whenever the address changes. `visit` is
 * another number for each address that the browser went to, and the same when an address was only replaced.
 */
export function useRoute(readRoute) {
  const [route, setRoute] = useState(() => ({ ...readRoute(), visit: 0 }));
  useEffect(() => {
    const read = (visits) => setRoute((before) => ({ ...readRoute(), visit: before.visit + visits }));
    const onVisit = () => read(1);
    const onReplaced = () => read(0);
    addEventListener('hashchange', onVisit);
    addEventListener(REPLACED, onReplaced);
    // Effects run after the first paint. The address may have changed in the meantime.
    if (location.hash !== route.hash) onVisit();
    return () => {
      removeEventListener('hashchange', onVisit);
      removeEventListener(REPLACED, onReplaced);
    };
  }, []);
  return route;
}
