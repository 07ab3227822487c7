// The current time, for what is shown relative to it.
import { useEffect, useState } from './html.js';

/** A minute is the smallest unit of relative times. */
const INTERVAL_MILLISECONDS = 15_000;

const listeners = new Set();
let timer;

const notify = () => listeners.forEach((listener) => listener());

/** All times of a page change at the same moment. */
function subscribe(listener) {
  listeners.add(listener);
  timer ??= setInterval(notify, INTERVAL_MILLISECONDS);
  return () => {
    listeners.delete(listener);
    if (listeners.size > 0) return;
    clearInterval(timer);
    timer = undefined;
  };
}

/** The text that `format` makes of the current time. The component renders again when the text changes. */
export function useCurrentText(format) {
  const [, setText] = useState(format);
  useEffect(() => subscribe(() => setText(format())), [format]);
  return format();
}
