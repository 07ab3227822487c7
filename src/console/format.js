// Numbers, times, and codes as text.

const number = new Intl.NumberFormat('en');
const compactNumber = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 });
const percentage = new Intl.NumberFormat('en', { style: 'percent', maximumFractionDigits: 1 });
const relativeTime = new Intl.RelativeTimeFormat('en', { numeric: 'auto' });

// Times of events are local. The long style names the time zone.
const localTime = new Intl.DateTimeFormat('en', { dateStyle: 'medium', timeStyle: 'long' });

// Buckets of usage begin and end in UTC, so they are labeled in UTC everywhere.
const utcDay = { month: 'short', day: 'numeric', timeZone: 'UTC' };
const utcHour = { ...utcDay, hour: '2-digit', minute: '2-digit', hourCycle: 'h23' };
const bucketFormats = {
  day: new Intl.DateTimeFormat('en', utcDay),
  hour: new Intl.DateTimeFormat('en', utcHour),
};

const UNITS = [
  ['year', 31_536_000],
  ['month', 2_592_000],
  ['day', 86_400],
  ['hour', 3600],
  ['minute', 60],
];

/** The time zone in which the viewer reads and enters times, such as `America/Los_Angeles`. */
export const { timeZone } = localTime.resolvedOptions();

export const count = (value) => number.format(value);
export const compact = (value) => (value < 10_000 ? count(value) : compactNumber.format(value));
export const percent = (part, whole) => (whole === 0 ? '–' : percentage.format(part / whole));
export const exactTime = (time) => localTime.format(new Date(time));

/**
 * The start of a bucket in UTC: `Nov 27` or `Nov 27, 14:00`. The text next to it has to name the time zone.
 */
export const bucket = (time, interval) => bucketFormats[interval].format(new Date(time));

/** A time relative to now: `3 days ago`, `in 2 hours`. */
export function relative(time) {
  const seconds = (new Date(time) - Date.now()) / 1000;
  const unit = UNITS.find(([, length]) => Math.abs(seconds) >= length);
  if (!unit) return seconds > 0 ? 'in a moment' : 'just now';
  const [name, length] = unit;
  return relativeTime.format(Math.round(seconds / length), name);
}

/** `3600` as `1 hour`. */
export function duration(seconds) {
  const isWhole = ([, length]) => seconds >= length && seconds % length === 0;
  const [name, length] = UNITS.find(isWhole) ?? ['second', 1];
  const units = seconds / length;
  return `${count(units)} ${name}${units === 1 ? '' : 's'}`;
}

/** `RATE_LIMITED` as `Rate limited`, and `api_key.rotate` as `API key: rotate`. */
export function words(code) {
  const text = code
    .toLowerCase()
    .replaceAll('_', ' ')
    .replace('.', ': ')
    .replace(/\bip\b/, 'IP')
    .replace(/\bapi\b/, 'API');
  return text[0].toUpperCase() + text.slice(1);
}

/** A value in the changes of an audit event. */
export const auditValue = (value) => (typeof value === 'string' ? value : JSON.stringify(value));

/** What was typed so far, as words that the API searches for: at most three of at least two characters. */
export const searchWords = (typed) => (typed.match(/[\p{L}\p{N}\p{M}]{2,}/gu) ?? []).slice(0, 3).join(' ');

/** The same for a text that may be an ID or the start of a key, which are searched for as they are. */
export const searchText = (typed) => (/^\w+_\w*$/.test(typed.trim()) ? typed.trim() : searchWords(typed));

/** The value of a `datetime-local` input, which is local time, as the API expects it. */
export const toApiTime = (localText) => (localText ? new Date(localText).toISOString() : undefined);
