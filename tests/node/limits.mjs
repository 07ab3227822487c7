// Limits as text and as rows of a form. These tests need neither a server nor a browser.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  MAX_LIMITS,
  NEW_ROW,
  isWindowUnit,
  limitOf,
  limitText,
  limitsText,
  rowOf,
  timeUnitOptions,
} from '../../src/console/limits.js';

const rate = (limit, seconds, meter = 'requests') => ({ meter, limit, window_seconds: seconds });
const quota = (limit, period, meter = 'requests') => ({ meter, limit, period });

/** Limits, their text, and their row: amount, count, and unit of time. */
const LIMITS = [
  [rate(5, 1), '5 requests per second', ['5', '1', 'seconds']],
  [rate(100, 60), '100 requests per minute', ['100', '1', 'minutes']],
  [rate(100, 90), '100 requests per 90 seconds', ['100', '90', 'seconds']],
  [rate(100, 900), '100 requests per 15 minutes', ['100', '15', 'minutes']],
  [rate(100, 3600), '100 requests per hour', ['100', '1', 'hours']],
  [rate(100, 5400), '100 requests per 90 minutes', ['100', '90', 'minutes']],
  [rate(100, 86_399), '100 requests per 86,399 seconds', ['100', '86399', 'seconds']],
  [rate(1_000_000_000, 86_400), '1,000,000,000 requests per day', ['1000000000', '24', 'hours']],
  [quota(1000, 'hour'), '1,000 requests per calendar hour', ['1000', '1', 'hour']],
  [quota(1000, 'day'), '1,000 requests per calendar day', ['1000', '1', 'day']],
  [quota(1000, 'week'), '1,000 requests per week', ['1000', '1', 'week']],
  [quota(1_000_000, 'month', 'tokens'), '1,000,000 tokens per month', ['1000000', '1', 'month']],
  [
    quota(Number.MAX_SAFE_INTEGER, 'total', 'bytes_out'),
    '9,007,199,254,740,991 bytes_out in total',
    ['9007199254740991', '1', 'total'],
  ],
];

test('each limit has its own text', () => {
  for (const [limit, text] of LIMITS) assert.equal(limitText(limit), text);
  const texts = LIMITS.map(([, text]) => text);
  assert.equal(new Set(texts).size, LIMITS.length);
});

test('a list is told apart from the plan’s limits and from none', () => {
  const list = [rate(100, 60), quota(1_000_000, 'month', 'tokens')];
  assert.equal(limitsText(list), '100 requests per minute · 1,000,000 tokens per month');
  assert.equal(limitsText([rate(7, 60)], false), '7 requests per minute');
  assert.equal(limitsText(null), 'Plan’s limits');
  assert.equal(limitsText([]), 'No limits');
  assert.equal(limitsText(null, false), 'No limits');
});

test('a limit becomes a row, and the row the same limit', () => {
  for (const [limit, text, [amount, count, unit]] of LIMITS) {
    const row = rowOf(limit);
    assert.deepEqual(row, { meter: limit.meter, amount, count, unit }, text);
    // The order of the fields is the one of the API, so that limits that were not edited are equal as JSON.
    assert.equal(JSON.stringify(limitOf(row)), JSON.stringify(limit), text);
  }
  for (let seconds = 1; seconds <= 86_400; seconds += 1) {
    assert.equal(limitOf(rowOf(rate(1, seconds))).window_seconds, seconds);
  }
});

test('a row becomes what was typed, for the API to accept or refuse', () => {
  assert.deepEqual(limitOf({ ...NEW_ROW, amount: '10' }), rate(10, 60));
  const tokens = { meter: ' tokens ', amount: '10', count: '2', unit: 'hours' };
  assert.deepEqual(limitOf(tokens), rate(10, 7200, 'tokens'));
  assert.deepEqual(limitOf({ ...tokens, unit: 'hour' }), quota(10, 'hour', 'tokens'));
  assert.deepEqual(limitOf({ ...NEW_ROW, count: '' }), rate(0, 0));
  assert.deepEqual(limitOf({ ...NEW_ROW, amount: '-1', count: '1.5' }), rate(-1, 90));
});

test('every unit of time can be selected', () => {
  const units = timeUnitOptions('1').map(([unit]) => unit);
  assert.deepEqual(units, ['seconds', 'minutes', 'hours', 'hour', 'day', 'week', 'month', 'total']);
  assert.deepEqual(units.filter(isWindowUnit), ['seconds', 'minutes', 'hours']);
  const texts = (count) => timeUnitOptions(count).map(([, text]) => text);
  assert.deepEqual(texts('1').slice(0, 4), ['second', 'minute', 'hour', 'calendar hour']);
  assert.deepEqual(texts('15').slice(0, 4), ['seconds', 'minutes', 'hours', 'calendar hour']);
  assert.equal(new Set(texts('1')).size, units.length);
  assert.equal(MAX_LIMITS, 8);
});
