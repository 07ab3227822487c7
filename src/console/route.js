// The address of a page below its hash.
import { useEffect, useState } from './html.js';

/** Decodes a part of the address. A malformed one is returned as it is. */
export function decodePart(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** What `readRoute` makes of the address, with its `hash`; read again whenever the address changes. */
export function useRoute(readRoute) {
  const [route, setRoute] = useState(readRoute);
  useEffect(() => {
    const update = () => setRoute(readRoute());
    addEventListener('hashchange', update);
    // Effects run after the first paint. The address may have changed in the meantime.
    if (location.hash !== route.hash) update();
    return () => removeEventListener('hashchange', update);
  }, []);
  return route;
}
