// Numbers, times and words as people read them.

const number = new Intl.NumberFormat('en');
const short = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 });
const share = new Intl.NumberFormat('en', { style: 'percent', maximumFractionDigits: 1 });
const relative = new Intl.RelativeTimeFormat('en', { numeric: 'auto' });
const exact = new Intl.DateTimeFormat('en', { dateStyle: 'medium', timeStyle: 'medium' });
const day = new Intl.DateTimeFormat('en', { month: 'short', day: 'numeric' });
const hour = new Intl.DateTimeFormat('en', { month: 'short', day: 'numeric', hour: '2-digit', minute: '2-digit', hour12: false });

const UNITS = [['year', 31_536_000], ['month', 2_592_000], ['day', 86_400], ['hour', 3600], ['minute', 60]];

export const count = (value) => number.format(value);
export const compact = (value) => (value < 10_000 ? number.format(value) : short.format(value));
export const percent = (part, whole) => (whole === 0 ? '–' : share.format(part / whole));
export const exactly = (time) => exact.format(new Date(time));
export const bucket = (time, interval) => (interval === 'day' ? day : hour).format(new Date(time));

export function ago(time) {
  const seconds = (new Date(time) - Date.now()) / 1000;
  const [unit, length] = UNITS.find(([, length]) => Math.abs(seconds) >= length) ?? [];
  return unit ? relative.format(Math.round(seconds / length), unit) : seconds > 0 ? 'in a moment' : 'just now';
}

/** `3600` as `1 hour`. */
export function duration(seconds) {
  const [unit, length] = UNITS.find(([, length]) => seconds >= length && seconds % length === 0) ?? ['second', 1];
  const many = seconds / length;
  return `${number.format(many)} ${unit}${many === 1 ? '' : 's'}`;
}

/** `RATE_LIMITED` and `api_key.rotate` as words. */
export function words(code) {
  const text = code.toLowerCase().replaceAll('_', ' ').replace('.', ': ').replace(/\bip\b/, 'IP').replace(/\bapi\b/, 'API');
  return text[0].toUpperCase() + text.slice(1);
}

/** A value of an audit event's change. */
export const value = (value) => (typeof value === 'string' ? value : JSON.stringify(value));

/** What a `datetime-local` field holds, as the API wants it. */
export const toTime = (local) => (local ? new Date(local).toISOString() : undefined);
