// What the console says about the server: against one whose clock jumped and whose database is small.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { renameSync } from 'node:fs';
import { findViolations, pageWidth } from './axe.mjs';
import { URL, callApi, create, goTo, signIn } from './browser.mjs';
import { done, test } from './testing.mjs';

const { TOLLHOUSE_PROGRAM: PROGRAM, TOLLHOUSE_DATA: DATA } = process.env;

async function readReasons() {
  const { data } = await callApi('GET', '/readyz');
  return data.reasons.map(({ code }) => code);
}

/** Waits until the readiness check has only these reasons. */
async function waitForReasons(codes) {
  const deadline = Date.now() + 90_000;
  for (;;) {
    const actual = await readReasons();
    if (actual.join() === codes.join()) return;
    assert.ok(Date.now() < deadline, `the reasons are ${actual}`);
  }
}

const notice = (page) => page.getByRole('status').filter({ hasNotText: 'Loading' });

await test('the clock is a notice until it is accepted', {}, async ({ page }) => {
  await waitForReasons(['CLOCK_UNSETTLED']);
  await signIn(page);
  for (const path of ['', 'settings', 'api-keys']) {
    await goTo(page, path);
    await notice(page).getByText('clock jumped').waitFor();
  }
  const command = await notice(page).locator('code').innerText();
  const [program, ...args] = command.split(' ');
  assert.equal(program, 'tollhouse');
  execFileSync(PROGRAM, [...args, '--data', DATA]);
  await waitForReasons([]);
  await goTo(page, '');
  await notice(page).waitFor({ state: 'detached' });
  assert.equal(await notice(page).count(), 0);
});

/** Creates organizations until there is no room, and then takes access away until the reserve is in use. */
async function fillStorage() {
  const ids = Array.from({ length: 20 }, (_, number) => `key_revoked-${number}`);
  for (const id of ids) await create('/api-keys', { id, name: 'To revoke', scopes: [] });
  for (let status = 201, number = 0; status !== 507; number += 1) {
    assert.equal(status, 201);
    const body = { name: 'x'.repeat(100), email: `${number}@example.com` };
    ({ status } = await callApi('POST', '/admin/v1/organizations', body));
  }
  for (const id of ids) {
    const { status } = await callApi('POST', `/admin/v1/api-keys/${id}/revoke`);
    assert.equal(status, 200);
    if ((await readReasons()).includes('STORAGE_RESERVE_IN_USE')) break;
  }
  await waitForReasons(['STORAGE_RESERVE_IN_USE']);
}

const tenant = await create('/organizations', { name: 'Tenant', email: 'tenant@example.com' });
const scopes = ['admin:keys'];
const tenantKey = await create('/api-keys', { name: 'Tenant', organization_id: tenant.id, scopes });
await fillStorage();

for (const colorScheme of ['light', 'dark']) {
  const options = { colorScheme, reducedMotion: 'reduce', bypassCSP: true };
  await test(`full storage is an accessible notice, ${colorScheme}`, options, async ({ page }) => {
    await signIn(page);
    for (const viewport of [
      { width: 1280, height: 900 },
      { width: 360, height: 740 },
    ]) {
      await page.setViewportSize(viewport);
      await goTo(page, 'scopes');
      await notice(page).getByText('Storage is full').waitFor();
      assert.equal(await pageWidth(page), viewport.width, 'the page does not scroll sideways');
      assert.deepEqual(await findViolations(page), []);
    }
  });
}

await test('only platform keys see notices', {}, async ({ page }) => {
  const requests = [];
  page.on('request', (request) => requests.push(request.url()));
  await signIn(page, tenantKey.key);
  await goTo(page, 'api-keys');
  assert.ok(!requests.includes(`${URL}/readyz`), 'an organization can do nothing about the server');
  assert.equal(await notice(page).count(), 0);
});

await test('a server that is not ready says why', {}, async ({ page, faults }) => {
  await signIn(page);
  renameSync(`${DATA}/tollhouse.db`, `${DATA}/moved.db`);
  try {
    const text = notice(page).getByText("The database isn't available");
    const pages = ['scopes', 'users'];
    // The server notices it within a second, and the page asks at each change of its address.
    for (let attempt = 0; (await text.count()) === 0; attempt += 1) {
      assert.ok(attempt < 200, 'no notice');
      await goTo(page, pages[attempt % 2]);
      await page.waitForLoadState('networkidle');
    }
    assert.equal(await notice(page).count(), 1);
    assert.ok(
      faults.every((fault) => fault.includes('503')),
      faults.join(),
    );
    faults.length = 0;
  } finally {
    renameSync(`${DATA}/moved.db`, `${DATA}/tollhouse.db`);
  }
});

await done();
