// What the pages let somebody choose: a head for the chain, what a new key holds and is called, how usage is broken
// down, and which events are exported.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { call, go, settled, signIn } from './browser.mjs';
import { charted, done, test } from './testing.mjs';

/** The words of an element, each number as one. */
const number = (text) => Number(text.replaceAll(',', ''));

await test('the chain is held against a head that was kept elsewhere', {}, async ({ page, expected }) => {
  await signIn(page);
  await go(page, 'audit');
  const field = page.getByLabel('Head that was kept elsewhere');
  const said = page.locator('.chain [role="status"]');
  const check = async (head, words) => {
    await field.fill(head);
    await page.getByRole('button', { name: 'Check the chain' }).click();
    await said.getByText(words).waitFor();
    return said.innerText();
  };
  const told = (text) => /(\d+):[0-9a-f]{64}$/.exec(text.trim());
  const whole = await check('', /^Whole: [\d,]+ events as they were written/);
  const [head, seq] = told(whole);
  // Written as it can be pasted, with nothing stuck to it.
  assert.match(whole, new RegExp(`later:\\s+${head}$`));

  // What was recorded since, the first check among it, and no more than that.
  const since = await check(head, /from that head on/);
  const [, later] = told(since);
  const events = number(/^Whole: ([\d,]+) events/.exec(since)[1]);
  assert.ok(events > 1 && events === later - seq + 1, since);

  // Another hash in the same place, and a place that the log never reached.
  const another = `${seq}:${'0'.repeat(64)}`;
  assert.match(await check(another, /^Broken/), new RegExp(`event ${seq} is not the one of that head`));
  const beyond = head.replace(seq, '999999');
  assert.match(await check(beyond, /event 999999/), /is missing/);

  // What is no head is told at the field, and once.
  expected.add('400');
  await field.fill('nonsense');
  await page.getByRole('button', { name: 'Check the chain' }).click();
  await page.locator('.chain .fault').getByText('seq:hash').waitFor();
  assert.equal(await field.getAttribute('aria-invalid'), 'true');
  assert.deepEqual([await page.getByRole('alert').count(), await said.innerText()], [0, '']);
  expected.delete('400');
  await check(head, /from that head on/);
  assert.equal(await page.locator('.chain .fault').count(), 0);
});

/** Fills in the nth pair of metadata, counted from 1. */
async function fillPair(dialog, position, name, value) {
  await dialog.getByLabel(`Metadata name ${position}`).fill(name);
  await dialog.getByLabel(`Metadata value ${position}`).fill(value);
}

await test(
  'a key is made with a whole resource, metadata and an id of its own',
  {},
  async ({ page, expected }) => {
    await signIn(page);
    await go(page, 'api-keys');
    await page.getByRole('button', { name: 'New API key' }).click();
    const dialog = page.getByRole('dialog');
    const box = (scope) => dialog.getByRole('checkbox', { name: `${scope} `, exact: false });
    await dialog.getByLabel('Organization', { exact: true }).fill('org_123');
    await dialog.getByLabel('Name').fill('All of it');
    await box('workflows:*').check();
    const addPair = dialog.getByRole('button', { name: 'Add metadata' });
    await addPair.click();
    await fillPair(dialog, 1, ' team ', 'payments');
    await addPair.click();
    assert.equal(await page.evaluate(() => document.activeElement.ariaLabel), 'Metadata name 2');
    await addPair.click();
    await fillPair(dialog, 3, 'rule', 'a = b');
    const own = dialog.getByLabel('Id (optional)');
    await own.fill('chosen');
    expected.add('400');
    await dialog.getByRole('button', { name: 'Create' }).click();
    await dialog
      .locator('.field', { has: page.getByLabel('Id (optional)') })
      .locator('.fault')
      .getByText('key_')
      .waitFor();
    await dialog.getByRole('alert').getByText('marked above').waitFor();
    expected.delete('400');
    // A taken one is refused in the words of the API, and what was typed stays.
    await own.fill('key_123');
    expected.add('409');
    await dialog.getByRole('button', { name: 'Create' }).click();
    await dialog.getByRole('alert').getByText('is taken').waitFor();
    expected.delete('409');
    await own.fill('key_chosen');
    await dialog.getByRole('button', { name: 'Create' }).click();
    await dialog.getByRole('heading', { name: 'Your new key' }).waitFor();
    const secret = await dialog.locator('.secret code').innerText();
    await dialog.getByRole('button', { name: 'Close' }).click();
    const made = async () => {
      const { data } = await call('GET', '/admin/v1/api-keys/key_chosen');
      return { organization: data.organization_id, scopes: data.scopes, metadata: data.metadata };
    };
    assert.deepEqual(await made(), {
      organization: 'org_123',
      scopes: ['workflows:*'],
      metadata: { team: 'payments', rule: 'a = b' },
    });
    const ask = async (scope) =>
      (await call('POST', '/v1/keys/verify', { key: secret, scopes: [scope] })).data.code;
    assert.deepEqual(
      [await ask('workflows:write'), await ask('transactions:read')],
      ['VALID', 'INSUFFICIENT_SCOPE'],
    );

    // Its page shows all of it, and the form begins with it.
    await go(page, 'api-keys/key_chosen');
    const facts = await page.locator('.facts').innerText();
    for (const text of ['key_chosen', 'workflows:*', 'team payments', 'rule a = b'])
      assert.ok(facts.includes(text), `${text}: ${facts}`);
    await page.getByRole('button', { name: 'Edit' }).click();
    await box('workflows:read').waitFor();
    const checked = await dialog
      .locator('input:checked')
      .evaluateAll((boxes) => boxes.map(({ value }) => value));
    assert.deepEqual(checked, ['workflows:*']);
    assert.equal(await dialog.getByLabel('Metadata name 1').inputValue(), 'rule');
    assert.equal(await dialog.getByLabel('Metadata value 2').inputValue(), 'payments');
    await box('workflows:*').uncheck();
    await box('workflows:read').check();
    await dialog.getByRole('button', { name: 'Remove metadata 1' }).click();
    await dialog.getByLabel('Metadata value 1').fill('checkout');
    await dialog.getByRole('button', { name: 'Save' }).click();
    await dialog.waitFor({ state: 'detached' });
    assert.deepEqual(await made(), {
      organization: 'org_123',
      scopes: ['workflows:read'],
      metadata: { team: 'checkout' },
    });
    assert.equal(await ask('workflows:write'), 'INSUFFICIENT_SCOPE');
  },
);

/** The bodies of the PATCH requests that the page sends. */
function recordPatches(page) {
  const bodies = [];
  page.on('request', (request) => {
    if (request.method() === 'PATCH') bodies.push(request.postDataJSON());
  });
  return bodies;
}

/** The resources that have metadata. */
const WITH_METADATA = [
  ['organizations', 'org_metadata', { name: 'Before', email: 'metadata@example.com', plan: 'enterprise' }],
  ['users', 'user_metadata', { name: 'Before', email: 'metadata@example.com', external_id: 'id-1' }],
  [
    'api-keys',
    'key_metadata',
    {
      name: 'Before',
      organization_id: 'org_123',
      scopes: ['workflows:write', 'workflows:read', 'admin:users'],
      allowed_ips: ['203.0.113.0/24', '192.0.2.1'],
      rate_limit: { limit: 7, window_seconds: 90 },
      quota: { limit: 70, period: 'day' },
    },
  ],
];

await test('saving sends only what was changed', {}, async ({ page, expected }) => {
  const metadata = { 'a=b': 'one', multi: 'line 1\nline 2', crlf: ' 1\r\n2 ', 'a/~b': '', constructor: 'c' };
  const bodies = recordPatches(page);
  const dialog = page.getByRole('dialog');
  const save = async () => {
    await page.getByRole('button', { name: 'Save' }).click();
    await dialog.waitFor({ state: 'detached' });
  };
  await signIn(page);
  for (const [path, id, body] of WITH_METADATA) {
    const created = await call('POST', `/admin/v1/${path}`, { id, ...body, metadata });
    assert.equal(created.status, 201, JSON.stringify(created));
    const stored = async () => (await call('GET', `/admin/v1/${path}/${id}`)).data;
    const edit = async () => {
      await page.getByRole('button', { name: 'Edit', exact: true }).click();
      await dialog.getByLabel('Name', { exact: true }).waitFor();
      await settled(page);
    };
    await go(page, `${path}/${id}`);
    await edit();
    await save();
    assert.deepEqual(bodies.splice(0), [], 'nothing was changed');

    await edit();
    await dialog.getByLabel('Name', { exact: true }).fill('After');
    await save();
    assert.deepEqual(bodies.splice(0), [{ name: 'After' }]);
    assert.deepEqual((await stored()).metadata, metadata);

    // The pairs are shown in the order of their names: a/~b, a=b, constructor, crlf, multi.
    await edit();
    const position = async (name) => {
      const names = dialog.getByLabel(/^Metadata name/);
      return (await names.evaluateAll((inputs) => inputs.map(({ value }) => value))).indexOf(name) + 1;
    };
    assert.equal(
      await dialog.getByLabel(`Metadata value ${await position('multi')}`).inputValue(),
      'line 1\nline 2',
    );
    await dialog.getByLabel(`Metadata value ${await position('multi')}`).fill('line 1\nline 2\nline 3');
    await dialog.getByRole('button', { name: `Remove metadata ${await position('a=b')}` }).click();
    await dialog.getByLabel(`Metadata name ${await position('constructor')}`).fill('toString');
    await dialog.getByRole('button', { name: 'Add metadata' }).click();
    await fillPair(dialog, 5, '__proto__', ' x = y ');
    await save();
    const [sent] = bodies.splice(0);
    const expectedPatch = JSON.parse(`{
      "a=b": null, "constructor": null, "multi": "line 1\\nline 2\\nline 3", "toString": "c", "__proto__": " x = y "
    }`);
    assert.deepEqual(Object.keys(sent), ['metadata']);
    assert.deepEqual(Object.entries(sent.metadata).sort(), Object.entries(expectedPatch).sort());
    const kept = Object.entries((await stored()).metadata);
    const { 'a=b': removed, constructor: renamed, ...rest } = { ...metadata, ...expectedPatch };
    assert.deepEqual([removed, renamed], [null, null]);
    assert.deepEqual(kept.sort(), Object.entries(rest).sort());

    // A name that occurs twice is refused by the form, one that is too long by the server; both next to the pair.
    await edit();
    await dialog.getByRole('button', { name: 'Add metadata' }).click();
    await fillPair(dialog, 6, 'multi', 'again');
    await dialog.getByRole('button', { name: 'Save' }).click();
    await dialog.locator('.metadata-row .fault').getByText('only once').first().waitFor();
    await dialog.getByLabel('Metadata name 6').fill('n'.repeat(41));
    expected.add('400');
    await dialog.getByRole('button', { name: 'Save' }).click();
    await dialog
      .locator('.metadata-row', { has: page.getByLabel('Metadata name 6') })
      .getByText('40 characters')
      .waitFor();
    expected.delete('400');
    assert.equal(await dialog.locator('.metadata-row .fault').count(), 1);
    bodies.splice(0);
    await dialog.getByRole('button', { name: 'Cancel' }).click();
  }
});

await test('what a key may not hand out or name is not offered', {}, async ({ page }) => {
  const manager = await call('POST', '/admin/v1/api-keys', {
    organization_id: 'org_123',
    name: 'Hands out',
    scopes: ['admin:keys', 'keys:*'],
  });
  await signIn(page, manager.data.key);
  await go(page, 'api-keys');
  await page.getByRole('button', { name: 'New API key' }).click();
  const dialog = page.getByRole('dialog');
  await dialog.getByText('Administration of Tollhouse').click();
  const offered = await dialog.getByRole('checkbox').evaluateAll((boxes) => boxes.map(({ value }) => value));
  const high = offered.filter((scope) => /^(admin|keys|\*)/.test(scope));
  assert.deepEqual(high.sort(), ['admin:keys', 'keys:*', 'keys:verify']);
  for (const scope of ['workflows:*', 'transactions:*', 'invoices:*'])
    assert.ok(offered.includes(scope), `${scope}: ${offered}`);
  assert.deepEqual(
    [
      await dialog.getByLabel('Id (optional)').count(),
      await dialog.getByLabel('Organization', { exact: true }).count(),
    ],
    [0, 0],
  );
  await dialog.getByLabel('Name').fill('Handed out');
  for (const scope of ['transactions:*', 'keys:*']) await dialog.locator(`input[value="${scope}"]`).check();
  await dialog.getByRole('button', { name: 'Create' }).click();
  await dialog.getByRole('heading', { name: 'Your new key' }).waitFor();
  await dialog.getByRole('button', { name: 'Close' }).click();
  await page.getByRole('link', { name: 'Handed out' }).click();
  await settled(page);
  const id = decodeURIComponent(page.url().split('/').at(-1));
  const { data } = await call('GET', `/admin/v1/api-keys/${id}`);
  assert.deepEqual([data.organization_id, data.scopes.sort()], ['org_123', ['keys:*', 'transactions:*']]);
});

/** The figures of a column, from the rows of a table. */
async function figures(table, heading) {
  const place = (await table.locator('thead th').allInnerTexts()).indexOf(heading);
  assert.ok(place >= 0, heading);
  return (await table.locator(`tbody td:nth-child(${place + 1})`).allInnerTexts()).map(number);
}

const sum = (numbers) => numbers.reduce((all, one) => all + one, 0);

await test(
  'usage is told by the hour or the day, and broken down as chosen',
  {},
  async ({ page, expected }) => {
    await signIn(page);
    await go(page, 'usage?org_id=org_kestrel');
    const by = (interval) =>
      page.getByRole('heading', { name: `Requests by the ${interval}`, exact: true }).waitFor();
    const series = page.getByRole('region', { name: 'Requests' });
    await by('day');
    await page.getByText('As a table').click();
    const days = await series.locator('tbody tr').count();
    assert.ok(days >= 29 && days <= 31, `${days} days`);
    assert.equal(sum(await figures(series, 'Requests')), await charted(page));

    await page.getByLabel('Interval').selectOption('hour');
    await by('hour');
    const hours = await series.locator('tbody tr').count();
    assert.ok(hours > 20 * days, `${hours} hours`);
    assert.match(await series.locator('tbody td').first().innerText(), /^\w{3} \d+, \d\d:00$/);
    assert.equal(sum(await figures(series, 'Requests')), await charted(page));

    // A day is told by the hour unless something else is chosen.
    await page.getByLabel('Period').selectOption('24h');
    await page.getByLabel('Interval').selectOption('day');
    await by('day');
    assert.ok((await series.locator('tbody tr').count()) <= 2);
    await page.getByLabel('Interval').selectOption('');
    await by('hour');
    assert.ok((await series.locator('tbody tr').count()) <= 25);

    // Hours are not kept for a year, which is said; another choice goes on from there.
    await page.getByLabel('Interval').selectOption('hour');
    await settled(page);
    expected.add('400');
    await page.getByLabel('Period').selectOption('365d');
    await page.getByRole('alert').getByText('90 days').waitFor();
    expected.delete('400');
    await page.getByLabel('Interval').selectOption('day');
    await by('day');
    assert.equal(await page.getByRole('alert').count(), 0);

    const breakdown = page.getByRole('region', { name: 'Breakdown' });
    const broken = async (value, heading) => {
      await page.getByLabel('Break down by').selectOption(value);
      await breakdown.getByRole('columnheader', { name: heading, exact: true }).waitFor();
      assert.equal(sum(await figures(breakdown, 'Requests')), await charted(page), heading);
      return breakdown
        .getByRole('link')
        .evaluateAll((links) => links.map((link) => link.getAttribute('href')));
    };
    assert.deepEqual(await broken('organization', 'Organization'), ['#/organizations/org_kestrel']);
    const keys = await broken('key', 'Key');
    assert.ok(keys.length > 1 && keys.every((href) => href.startsWith('#/api-keys/key_kestrel')), `${keys}`);
    assert.deepEqual(await broken('code', 'Outcome'), []);
    const outcome = async (name) => {
      const cells = await breakdown
        .getByRole('row')
        .filter({ hasText: name })
        .getByRole('cell')
        .allInnerTexts();
      return cells.slice(1).map(number);
    };
    const [asked, allowed, denied] = await outcome('Valid');
    assert.ok(asked > 0 && allowed === asked && denied === 0);
    const limited = await outcome('Rate limited');
    assert.deepEqual(limited, [limited[0], 0, limited[0], limited[0], 0, 0]);
  },
);

await test('an organization’s key breaks its usage down by what it sees', {}, async ({ page }) => {
  const made = await call('POST', '/admin/v1/api-keys', {
    organization_id: 'org_123',
    name: 'Looks',
    scopes: ['admin:analytics'],
  });
  await signIn(page, made.data.key);
  await go(page, 'usage');
  assert.deepEqual(await page.getByLabel('Break down by').locator('option').allInnerTexts(), [
    'Key',
    'Outcome',
  ]);
  assert.equal(await page.getByLabel('Organization').count(), 0);
  assert.equal(
    await page.getByRole('region', { name: 'Breakdown' }).getByRole('link').count(),
    0,
    'it may not look at keys',
  );
});

const MONTHS = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec'];

/** The label of a bucket, read from the text of its start, which is UTC: `Nov 27` or `Nov 27, 14:00`. */
function utcLabel(start, interval) {
  const [, month, day, time] = /^\d{4}-(\d\d)-(\d\d)T(\d\d:\d\d)/.exec(start);
  const label = `${MONTHS[Number(month) - 1]} ${Number(day)}`;
  return interval === 'day' ? label : `${label}, ${time}`;
}

/** Records the text that is drawn on each canvas, with its position. */
function recordDrawnText() {
  const draw = CanvasRenderingContext2D.prototype.fillText;
  globalThis.drawn = [];
  CanvasRenderingContext2D.prototype.fillText = function record(text, x, y) {
    globalThis.drawn.push({ text, x: x / devicePixelRatio, isShown: () => this.canvas.isConnected });
    return draw.call(this, text, x, y);
  };
}

/** True if at least three labels of a chart match the pattern, and none is left of the chart before it. */
function isAxisDrawn(pattern) {
  const labels = globalThis.drawn.filter(({ text, isShown }) => isShown() && /^[A-Z][a-z]{2} \d/.test(text));
  return labels.length >= 3 && labels.every(({ text }) => new RegExp(pattern).test(text));
}

/** The labels drawn below the bars, each with the bucket that it is centered on. */
function axisLabels(page, count) {
  return page.evaluate((buckets) => {
    const plot = [...document.querySelectorAll('.plot .u-over')].at(-1);
    const { offsetLeft: left, offsetWidth: width } = plot;
    const labels = globalThis.drawn.filter(
      ({ text, isShown }) => isShown() && /^[A-Z][a-z]{2} \d/.test(text),
    );
    return labels.map(({ text, x }) => ({ text, bucket: ((x - left) / width) * buckets - 0.5 }));
  }, count);
}

// Far west and far east: at any time, one of them has another date than UTC.
for (const timezoneId of ['America/Los_Angeles', 'Pacific/Auckland']) {
  await test(`days and hours are in UTC in ${timezoneId}`, { timezoneId }, async ({ page, context }) => {
    await context.addInitScript(recordDrawnText);
    await signIn(page);
    for (const interval of ['day', 'hour']) {
      const period = interval === 'day' ? '30d' : '24h';
      const answered = page.waitForResponse((response) => response.url().includes('/analytics/usage?'));
      if (interval === 'day') await go(page, 'usage?org_id=org_kestrel');
      else await page.getByLabel('Period').selectOption(period);
      const { series } = (await (await answered).json()).data;
      const labels = series.map(({ start }) => utcLabel(start, interval));
      await page.getByRole('heading', { name: `Requests by the ${interval}`, exact: true }).waitFor();
      const unit = interval === 'day' ? 'Day' : 'Hour';
      await page.getByText(`${unit}s are in UTC.`).waitFor();

      // The axis: each label is centered on its own bar.
      const pattern = interval === 'day' ? '^[A-Z][a-z]{2} \\d+$' : '^[A-Z][a-z]{2} \\d+, \\d\\d:00$';
      await page.waitForFunction(isAxisDrawn, pattern);
      const drawn = await axisLabels(page, series.length);
      for (const { text, bucket } of drawn) {
        assert.equal(text, labels[Math.round(bucket)]);
        assert.ok(Math.abs(bucket - Math.round(bucket)) < 0.1, `${text} at ${bucket}`);
      }

      // The tip: what it says about the last bar.
      const plot = page.locator('.plot .u-over').last();
      const { width, height } = await plot.boundingBox();
      await plot.hover({ position: { x: width - width / series.length / 2, y: height / 2 } });
      await page
        .locator('.chart-tip')
        .getByText(`${labels.at(-1)} (UTC): `)
        .waitFor();

      // The table.
      const table = page.getByRole('region', { name: 'Requests' });
      if (interval === 'day') await page.getByText('As a table').click();
      await table.getByRole('columnheader', { name: `${unit} (UTC)`, exact: true }).waitFor();
      const busy = series.map(({ requests }, nth) => requests > 0 && labels[nth]).filter(Boolean);
      assert.deepEqual(await table.locator('tbody td:first-child').allInnerTexts(), busy);
    }

    // Times of events are local, and say so; so do the fields for times.
    await go(page, 'audit');
    const time = page.getByRole('region', { name: 'Events' }).locator('time').first();
    const [at, title] = [await time.getAttribute('datetime'), await time.getAttribute('title')];
    assert.match(title, /(GMT|P[SD]T)[+\d]*$/);
    const local = new Intl.DateTimeFormat('en', { timeZone: timezoneId, day: 'numeric' }).format(
      new Date(at),
    );
    assert.ok(title.includes(` ${local}, `), `${title} for ${at}`);
    for (const field of ['From', 'To']) {
      assert.match(
        await page.locator('.field', { has: page.getByLabel(field, { exact: true }) }).innerText(),
        new RegExp(timezoneId),
      );
    }
  });
}

/** The cells of CSV. */
function cells(text) {
  const rows = [[]];
  for (const [, quoted, plain, end] of text.matchAll(/(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r?\n|$)/g)) {
    rows.at(-1).push(quoted?.replaceAll('""', '"') ?? plain);
    if (end !== ',') rows.push([]);
  }
  return rows.filter((row) => row.length > 1);
}

await test('an export as CSV has the events that are shown', {}, async ({ page }) => {
  const named = await call('POST', '/admin/v1/organizations', {
    id: 'org_comma',
    name: 'Comma, "Quote" & Sons',
    email: 'comma@example.com',
  });
  assert.equal(named.status, 201);
  await signIn(page);
  await go(page, 'audit');
  const listed = page.waitForResponse((response) =>
    /audit-logs\?.*action=organization.create/.test(response.url()),
  );
  await page.getByLabel('Action').fill('organization.create');
  await page.getByLabel('Action').press('Enter');
  await listed;
  await settled(page);
  const shown = await page
    .getByRole('region', { name: 'Events' })
    .locator('tbody td:nth-child(3)')
    .allInnerTexts();
  assert.equal(shown[0], named.data.name);
  const [download] = await Promise.all([
    page.waitForEvent('download'),
    page.getByRole('button', { name: 'Export CSV' }).click(),
  ]);
  assert.equal(download.suggestedFilename(), 'audit-logs.csv');
  const [names, ...rows] = cells(await readFile(await download.path(), 'utf8'));
  const events = rows.map((row) => Object.fromEntries(row.map((cell, nth) => [names[nth], cell])));
  assert.ok(
    events.every(({ action, access }) => action === 'organization.create' && access === 'write'),
    JSON.stringify(events),
  );
  // The list begins with the latest, the file with the first.
  const exported = events
    .filter(({ target_name: name }) => name)
    .map(({ target_name: name }) => name)
    .reverse();
  assert.deepEqual(
    exported,
    shown.filter((name) => name !== '–'),
  );
  const last = events.find(({ target_id: id }) => id === 'org_comma');
  assert.deepEqual(
    [last.outcome, last.method, last.path, last.status],
    ['success', 'POST', '/admin/v1/organizations', '201'],
  );
  assert.match(last.hash, /^[0-9a-f]{64}$/);
});

await done();
