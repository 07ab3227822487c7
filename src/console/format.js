// Numbers, times and words as people read them.

const number = new Intl.NumberFormat('en');
const short = new Intl.NumberFormat('en', { notation: 'compact', maximumFractionDigits: 1 });
const share = new Intl.NumberFormat('en', { style: 'percent', maximumFractionDigits: 1 });
const relative = new Intl.RelativeTimeFormat('en', { numeric: 'auto' });
// `long` names the time zone: times of events are local.
const exact = new Intl.DateTimeFormat('en', { dateStyle: 'medium', timeStyle: 'long' });
const { timeZone } = exact.resolvedOptions();

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

export const count = (value) => number.format(value);
export const compact = (value) => (value < 10_000 ? number.format(value) : short.format(value));
export const percent = (part, whole) => (whole === 0 ? '–' : share.format(part / whole));
export const exactly = (time) => exact.format(new Date(time));

/** The start of a bucket of usage in UTC, without saying so: the caption or heading next to it does. */
export const bucket = (time, interval) => bucketFormats[interval].format(new Date(time));

/** The zone in which the viewer types and reads times: `America/Los_Angeles`. */
export const localZone = timeZone;

export function ago(time) {
  const seconds = (new Date(time) - Date.now()) / 1000;
  const [unit, length] = UNITS.find(([, length]) => Math.abs(seconds) >= length) ?? [];
  return unit
    ? relative.format(Math.round(seconds / length), unit)
    : seconds > 0
      ? 'in a moment'
      : 'just now';
}

/** `3600` as `1 hour`. */
export function duration(seconds) {
  const [unit, length] = UNITS.find(([, length]) => seconds >= length && seconds % length === 0) ?? [
    'second',
    1,
  ];
  const many = seconds / length;
  return `${number.format(many)} ${unit}${many === 1 ? '' : 's'}`;
}

/** `RATE_LIMITED` and `api_key.rotate` as words. */
export function words(code) {
  const text = code
    .toLowerCase()
    .replaceAll('_', ' ')
    .replace('.', ': ')
    .replace(/\bip\b/, 'IP')
    .replace(/\bapi\b/, 'API');
  return text[0].toUpperCase() + text.slice(1);
}

/** A value of an audit event's change. */
export const value = (value) => (typeof value === 'string' ? value : JSON.stringify(value));

/** What a `datetime-local` field holds, as the API wants it. */
export const toTime = (local) => (local ? new Date(local).toISOString() : undefined);
