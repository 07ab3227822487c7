// The scroll position, which is part of the address: after Back and a reload, a page is where it was left.
import { useEffect, useLayoutEffect, useRef } from './html.js';
import { readQuery, replaceParameters } from './route.js';

/**
 * The time without scrolling after which the position is noted. Browsers limit how often an address changes.
 */
const SETTLED_MILLISECONDS = 150;

/** What a user scrolls with. It ends a restoration that still waits for content. */
const USER_EVENTS = ['wheel', 'touchstart', 'pointerdown', 'keydown'];

/** Scrolls to a position as soon as the content is tall enough. Returns a function that stops waiting. */
function scrollWhenPossible(content, position, onDone) {
  const stop = () => {
    observer.disconnect();
    for (const name of USER_EVENTS) removeEventListener(name, stop, true);
    onDone();
  };
  const tryToScroll = () => {
    scrollTo(0, position);
    if (Math.abs(scrollY - position) < 2) stop();
  };
  const observer = new ResizeObserver(tryToScroll);
  observer.observe(content);
  for (const name of USER_EVENTS) addEventListener(name, stop, true);
  tryToScroll();
  return stop;
}

/** Notes the position of each visit in the address, and restores it when the `visit` changes. */
export function useScrollPosition(content, visit) {
  // Until the position is restored, the one that the browser is at says nothing.
  const isSettled = useRef(false);
  const timer = useRef();

  useEffect(() => {
    history.scrollRestoration = 'manual';
    const note = () => {
      clearTimeout(timer.current);
      if (isSettled.current) replaceParameters({ scroll: Math.round(scrollY) || undefined });
    };
    const noteLater = () => {
      clearTimeout(timer.current);
      timer.current = setTimeout(note, SETTLED_MILLISECONDS);
    };
    const onLeave = () => {
      clearTimeout(timer.current);
      isSettled.current = false;
    };
    addEventListener('scroll', noteLater, { passive: true });
    // A click may be on a link, which leaves the page before the position is noted.
    addEventListener('click', note, true);
    addEventListener('pagehide', note);
    // This event comes before `hashchange`, at which the next page is rendered.
    addEventListener('popstate', onLeave);
    return () => {
      removeEventListener('scroll', noteLater);
      removeEventListener('click', note, true);
      removeEventListener('pagehide', note);
      removeEventListener('popstate', onLeave);
    };
  }, []);

  useLayoutEffect(() => {
    const position = Number(readQuery().scroll) || 0;
    isSettled.current = false;
    return scrollWhenPossible(content.current, position, () => {
      isSettled.current = true;
    });
  }, [visit]);
}
