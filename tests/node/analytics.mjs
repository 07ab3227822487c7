// Usage and the audit log: intervals, breakdowns, time zones, exports, and the verification of the log.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { create, goTo, signIn, waitUntilLoaded } from './browser.mjs';
import { chartedRequests, done, parseCount, test } from './testing.mjs';

const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

/** The numbers in a column of a table. */
async function columnCounts(table, heading) {
  const headings = await table.locator('thead th').allInnerTexts();
  const index = headings.indexOf(heading);
  assert.ok(index >= 0, heading);
  const texts = await table.locator(`tbody td:nth-child(${index + 1})`).allInnerTexts();
  return texts.map(parseCount);
}

await test('the audit log is verified against a saved head', {}, async ({ page, expectedStatuses }) => {
  await signIn(page);
  await goTo(page, 'audit');
  const field = page.getByLabel('Saved head');
  const verifyButton = page.getByRole('button', { name: 'Verify log' });
  const result = page.locator('.chain [role="status"]');
  const verify = async (head, expectedText) => {
    await field.fill(head);
    await verifyButton.click();
    await result.getByText(expectedText).waitFor();
    return result.innerText();
  };
  const headIn = (text) => /(\d+):[0-9a-f]{64}$/.exec(text.trim());

  const wholeLog = await verify('', /^Verified: [\d,]+ events are unchanged/);
  const [head, seq] = headIn(wholeLog);
  assert.match(wholeLog, new RegExp(`later:\\s+${head}$`), 'nothing is stuck to the head');

  // The events since then: the first verification is one of them.
  const sinceHead = await verify(head, /since the saved head/);
  const [, laterSeq] = headIn(sinceHead);
  const events = parseCount(/^Verified: ([\d,]+) events/.exec(sinceHead)[1]);
  assert.ok(events > 1 && events === laterSeq - seq + 1, sinceHead);

  // Another hash at the same place, and a place that the log never reached.
  const otherHash = `${seq}:${'0'.repeat(64)}`;
  assert.match(await verify(otherHash, /failed/), new RegExp(`Event ${seq} does not match the saved head`));
  const unreached = head.replace(seq, '999999');
  assert.match(await verify(unreached, /Event 999999/), /is missing/);

  // A malformed head: the message is next to the field, and only there.
  expectedStatuses.add('400');
  await field.fill('nonsense');
  await verifyButton.click();
  await page.locator('.chain .fault').getByText('seq:hash').waitFor();
  assert.equal(await field.getAttribute('aria-invalid'), 'true');
  assert.equal(await page.getByRole('alert').count(), 0);
  assert.equal(await result.innerText(), '');
  expectedStatuses.delete('400');
  await verify(head, /since the saved head/);
  assert.equal(await page.locator('.chain .fault').count(), 0);
});

await test('usage is shown per hour or day, and broken down', {}, async ({ page, expectedStatuses }) => {
  await signIn(page);
  await goTo(page, 'usage?org_id=org_kestrel');
  const waitForInterval = async (interval) => {
    await page.getByRole('heading', { name: `Requests per ${interval}`, exact: true }).waitFor();
  };
  const table = page.getByRole('region', { name: 'Requests' });
  const rows = table.locator('tbody tr');
  await waitForInterval('day');
  await page.getByText('Show as table').click();
  const days = await rows.count();
  assert.ok(days >= 29 && days <= 31, `${days} days`);
  assert.equal(sum(await columnCounts(table, 'Requests')), await chartedRequests(page));

  await page.getByLabel('Interval').selectOption('hour');
  await waitForInterval('hour');
  const hours = await rows.count();
  assert.ok(hours > 20 * days, `${hours} hours`);
  assert.match(await table.locator('tbody td').first().innerText(), /^\w{3} \d+, \d\d:00$/);
  assert.equal(sum(await columnCounts(table, 'Requests')), await chartedRequests(page));

  // A day is shown per hour unless another interval is selected.
  await page.getByLabel('Period').selectOption('24h');
  await page.getByLabel('Interval').selectOption('day');
  await waitForInterval('day');
  assert.ok((await rows.count()) <= 2);
  await page.getByLabel('Interval').selectOption('');
  await waitForInterval('hour');
  assert.ok((await rows.count()) <= 25);

  // Hourly usage is not kept for a year. The page says so, and works again with another interval.
  await page.getByLabel('Interval').selectOption('hour');
  await waitUntilLoaded(page);
  expectedStatuses.add('400');
  await page.getByLabel('Period').selectOption('365d');
  await page.getByRole('alert').getByText('90 days').waitFor();
  expectedStatuses.delete('400');
  await page.getByLabel('Interval').selectOption('day');
  await waitForInterval('day');
  assert.equal(await page.getByRole('alert').count(), 0);

  const breakdown = page.getByRole('region', { name: 'Breakdown' });
  const breakDownBy = async (value, heading) => {
    await page.getByLabel('Break down by').selectOption(value);
    await breakdown.getByRole('columnheader', { name: heading, exact: true }).waitFor();
    assert.equal(sum(await columnCounts(breakdown, 'Requests')), await chartedRequests(page), heading);
    const links = breakdown.getByRole('link');
    return links.evaluateAll((elements) => elements.map((link) => link.getAttribute('href')));
  };
  assert.deepEqual(await breakDownBy('organization', 'Organization'), ['#/organizations/org_kestrel']);
  const keyLinks = await breakDownBy('key', 'Key');
  assert.ok(keyLinks.length > 1, `${keyLinks}`);
  assert.ok(
    keyLinks.every((href) => href.startsWith('#/api-keys/key_kestrel')),
    `${keyLinks}`,
  );
  const userLinks = await breakDownBy('user', 'User');
  assert.ok(
    userLinks.every((href) => href.startsWith('#/users/user_')),
    `${userLinks}`,
  );
  assert.deepEqual(await breakDownBy('code', 'Outcome'), []);
  const outcomeCounts = async (name) => {
    const row = breakdown.getByRole('row').filter({ hasText: name });
    const cells = await row.getByRole('cell').allInnerTexts();
    return cells.slice(1).map(parseCount);
  };
  const [requests, allowed, denied] = await outcomeCounts('Valid');
  assert.ok(requests > 0 && allowed === requests && denied === 0);
  const limited = await outcomeCounts('Rate limited');
  assert.deepEqual(limited, [limited[0], 0, limited[0], limited[0], 0, 0]);
});

await test('an organization’s key breaks down only its own usage', {}, async ({ page }) => {
  const scopes = ['admin:analytics'];
  const analyst = await create('/api-keys', { organization_id: 'org_123', name: 'Analyst', scopes });
  await signIn(page, analyst.key);
  await goTo(page, 'usage');
  const groupings = page.getByLabel('Break down by').locator('option');
  assert.deepEqual(await groupings.allInnerTexts(), ['Key', 'User', 'Outcome']);
  assert.equal(await page.getByLabel('Organization').count(), 0);
  const links = page.getByRole('region', { name: 'Breakdown' }).getByRole('link');
  assert.equal(await links.count(), 0, 'its scopes do not include the pages of keys');
});

const MONTHS = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec'];

/** The label of a bucket, read from its start, which is in UTC: `Nov 27` or `Nov 27, 14:00`. */
function utcLabel(start, interval) {
  const [, month, day, time] = /^\d{4}-(\d\d)-(\d\d)T(\d\d:\d\d)/.exec(start);
  const label = `${MONTHS[Number(month) - 1]} ${Number(day)}`;
  return interval === 'day' ? label : `${label}, ${time}`;
}

/** Records the dates that are drawn on canvases, with their positions in CSS pixels. Runs in the page. */
function recordDrawnDates() {
  const fillText = CanvasRenderingContext2D.prototype.fillText;
  const drawn = [];
  CanvasRenderingContext2D.prototype.fillText = function record(text, x, y) {
    if (/^[A-Z][a-z]{2} \d/.test(text)) drawn.push({ text, x: x / devicePixelRatio, canvas: this.canvas });
    return fillText.call(this, text, x, y);
  };
  globalThis.drawnDates = () => drawn.filter(({ canvas }) => canvas.isConnected);
}

/** The labels of the time axis, each with the bucket that it is centered on. */
async function axisLabels(page, interval, bucketCount) {
  // The chart of the previous interval may still be there.
  await page.waitForFunction((isHourly) => {
    const dates = globalThis.drawnDates();
    return dates.length >= 3 && dates.every(({ text }) => text.includes(':') === isHourly);
  }, interval === 'hour');
  return page.evaluate((count) => {
    const plots = document.querySelectorAll('.plot .u-over');
    const { offsetLeft: left, offsetWidth: width } = [...plots].at(-1);
    return globalThis
      .drawnDates()
      .map(({ text, x }) => ({ text, bucket: ((x - left) / width) * count - 0.5 }));
  }, bucketCount);
}

// Far west and far east: at any time, the date in one of them differs from the date in UTC.
for (const timezoneId of ['America/Los_Angeles', 'Pacific/Auckland']) {
  await test(`days and hours are in UTC in ${timezoneId}`, { timezoneId }, async ({ page, context }) => {
    await context.addInitScript(recordDrawnDates);
    await signIn(page);
    for (const interval of ['day', 'hour']) {
      // The overview, where the session begins, loads the usage of all organizations.
      const loading = page.waitForResponse((response) =>
        /\/analytics\/usage\?.*org_id=org_kestrel/.test(response.url()),
      );
      if (interval === 'day') await goTo(page, 'usage?org_id=org_kestrel');
      else await page.getByLabel('Period').selectOption('24h');
      const { series } = (await (await loading).json()).data;
      const labels = series.map(({ start }) => utcLabel(start, interval));
      const unit = interval === 'day' ? 'Day' : 'Hour';
      await page.getByText(`${unit}s are in UTC.`).waitFor();

      // The axis: each label is below the bar of its own bucket.
      for (const { text, bucket } of await axisLabels(page, interval, series.length)) {
        assert.equal(text, labels[Math.round(bucket)]);
        assert.ok(Math.abs(bucket - Math.round(bucket)) < 0.1, `${text} at ${bucket}`);
      }

      // The tip for the last bar.
      const plot = page.locator('.plot .u-over').last();
      const { width, height } = await plot.boundingBox();
      const barCenter = { x: width - width / series.length / 2, y: height / 2 };
      await plot.hover({ position: barCenter });
      await page
        .locator('.chart-tip')
        .getByText(`${labels.at(-1)} (UTC): `)
        .waitFor();

      // The table.
      if (interval === 'day') await page.getByText('Show as table').click();
      const table = page.getByRole('region', { name: 'Requests' });
      await table.getByRole('columnheader', { name: `${unit} (UTC)`, exact: true }).waitFor();
      const busyLabels = labels.filter((label, index) => series[index].requests > 0);
      assert.deepEqual(await table.locator('tbody td:first-child').allInnerTexts(), busyLabels);
    }

    // Times of events are local and name the time zone. So do the fields for times.
    await goTo(page, 'audit');
    const time = page.getByRole('region', { name: 'Events' }).locator('time').first();
    const occurredAt = new Date(await time.getAttribute('datetime'));
    const title = await time.getAttribute('title');
    const localDay = new Intl.DateTimeFormat('en', { timeZone: timezoneId, day: 'numeric' }).format(
      occurredAt,
    );
    assert.match(title, /(GMT|P[SD]T)[+\d]*$/);
    assert.ok(title.includes(` ${localDay}, `), `${title} for ${occurredAt.toISOString()}`);
    for (const label of ['From', 'To']) {
      const field = page.locator('.field', { has: page.getByLabel(label, { exact: true }) });
      assert.ok((await field.innerText()).includes(timezoneId));
    }
  });
}

/** Parses CSV into rows of cells. */
function parseCsv(text) {
  const rows = [[]];
  const cells = text.matchAll(/(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r?\n|$)/g);
  for (const [, quoted, plain, end] of cells) {
    rows.at(-1).push(quoted?.replaceAll('""', '"') ?? plain);
    if (end !== ',') rows.push([]);
  }
  return rows.filter((row) => row.length > 1);
}

await test('a CSV export has the events that are listed', {}, async ({ page }) => {
  const name = 'Comma, "Quote" & Sons';
  await create('/organizations', { id: 'org_comma', name, email: 'comma@example.com' });
  await signIn(page);
  await goTo(page, 'audit');
  const listing = page.waitForResponse((response) => {
    return /audit-logs\?.*action=organization.create/.test(response.url());
  });
  await page.getByLabel('Action').fill('organization.create');
  await page.getByLabel('Action').press('Enter');
  await listing;
  await waitUntilLoaded(page);
  const targets = page.getByRole('region', { name: 'Events' }).locator('tbody td:nth-child(3)');
  const listedNames = await targets.allInnerTexts();
  assert.equal(listedNames[0], name);

  const exporting = page.waitForEvent('download');
  await page.getByRole('button', { name: 'Export CSV' }).click();
  const download = await exporting;
  assert.equal(download.suggestedFilename(), 'audit-logs.csv');
  const [headings, ...rows] = parseCsv(await readFile(await download.path(), 'utf8'));
  const events = rows.map((row) => Object.fromEntries(row.map((cell, index) => [headings[index], cell])));
  assert.ok(
    events.every(({ action, access }) => action === 'organization.create' && access === 'write'),
    JSON.stringify(events),
  );
  // The list starts with the latest event, the file with the first.
  const exportedNames = events.map((event) => event.target_name).filter(Boolean);
  assert.deepEqual(
    exportedNames.reverse(),
    listedNames.filter((listed) => listed !== '–'),
  );
  const event = events.find(({ target_id: id }) => id === 'org_comma');
  assert.equal(event.outcome, 'success');
  assert.equal(event.method, 'POST');
  assert.equal(event.path, '/admin/v1/organizations');
  assert.equal(event.status, '201');
  assert.match(event.hash, /^[0-9a-f]{64}$/);
});

await done();
