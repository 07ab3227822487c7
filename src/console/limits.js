// Limits of keys, organizations, and plans: as text, and as rows of a form.
import * as format from './format.js';

/** The maximum number of limits of one key, organization, or plan. */
export const MAX_LIMITS = 8;

/** The meter that is always configured. */
export const REQUESTS = 'requests';

/** Units of the window of a rate limit, and their lengths in seconds. */
const WINDOW_UNITS = { seconds: 1, minutes: 60, hours: 3600 };

/** The periods of a quota. An hour and a day can also be windows, so the text tells them apart. */
const PERIODS = {
  hour: 'per calendar hour',
  day: 'per calendar day',
  week: 'per week',
  month: 'per month',
  total: 'in total',
};

/** A limit: `100 requests per minute`. */
export function limitText({ meter, limit, window_seconds: seconds, period }) {
  const span = period ? PERIODS[period] : `per ${format.duration(seconds).replace(/^1 /, '')}`;
  return `${format.count(limit)} ${meter} ${span}`;
}

/** Limits of a key or an organization. `null` stands for those of the plan; a platform key has no plan. */
export function limitsText(limits, hasPlan = true) {
  if (limits?.length > 0) return limits.map(limitText).join(' · ');
  return limits === null && hasPlan ? 'Plan’s limits' : 'No limits';
}

/** The options for the unit of time in a row. Those of a window are singular if the `count` of them is 1. */
export function timeUnitOptions(count) {
  const textOf = (unit) => (count === '1' ? unit.slice(0, -1) : unit);
  const windowUnits = Object.keys(WINDOW_UNITS).map((unit) => [unit, textOf(unit)]);
  const periods = ['hour', 'day', 'week', 'month'].map((period) => [period, `calendar ${period}`]);
  return [...windowUnits, ...periods, ['total', PERIODS.total]];
}

/** True for the units of a window, of which a rate limit has a number; false for the periods of a quota. */
export const isWindowUnit = (unit) => Object.hasOwn(WINDOW_UNITS, unit);

/** The row of a limit to add. */
export const NEW_ROW = { meter: REQUESTS, amount: '', count: '1', unit: 'minutes' };

/** The row of a limit: the texts of its controls. */
export function rowOf({ meter, limit, window_seconds: seconds, period }) {
  const row = { ...NEW_ROW, meter, amount: String(limit) };
  if (period) return { ...row, unit: period };
  const units = Object.entries(WINDOW_UNITS);
  const [unit, length] = units.findLast(([, unitLength]) => seconds % unitLength === 0);
  return { ...row, count: String(seconds / length), unit };
}

/** The limit in a row, as the API expects it. An empty number becomes 0, which the API refuses. */
export function limitOf({ meter, amount, count, unit }) {
  const limit = { meter: meter.trim(), limit: Number(amount) };
  if (!isWindowUnit(unit)) return { ...limit, period: unit };
  return { ...limit, window_seconds: Number(count) * WINDOW_UNITS[unit] };
}
