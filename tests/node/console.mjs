// The console in a browser, against a server with sample data: from the first sign-in to the settings.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { KEY, URL, callApi, create, goTo, read, signIn, waitUntilLoaded } from './browser.mjs';
import { chartedRequests, done, test } from './testing.mjs';

/** A name that would run scripts if it were parsed as HTML. */
const HTML_NAME = '<img src=x onerror="alert(1)"><script>alert(2)</script>';

/** Waits until this many verifications of the key are counted. The server stores them once a second. */
async function waitUntilCounted(keyId, requests) {
  const deadline = Date.now() + 90_000;
  for (;;) {
    assert.ok(Date.now() < deadline, 'the verifications are never counted');
    const { totals } = await read(`/analytics/usage?key_id=${keyId}&period=24h`);
    if (totals.requests >= requests) return;
  }
}

const clipboard = { permissions: ['clipboard-read', 'clipboard-write'] };

await test(
  'a key from its creation to its revocation',
  clipboard,
  async ({ page, context, expectedStatuses }) => {
    const dialog = page.getByRole('dialog');

    // An invalid key is refused.
    expectedStatuses.add('401');
    await page.goto(`${URL}/console/`);
    await page.getByLabel('API key').fill('toll_nonsense');
    await page.getByRole('button', { name: 'Sign in' }).click();
    await page.getByRole('alert').getByText('not valid').waitFor();
    expectedStatuses.delete('401');
    await signIn(page);
    await page.getByRole('heading', { name: 'Overview' }).waitFor();
    assert.ok((await chartedRequests(page)) > 100_000, 'the chart has the sample data');

    // An organization whose name looks like HTML.
    await goTo(page, 'organizations');
    await page.getByRole('button', { name: 'New organization' }).click();
    await dialog.getByLabel('Email').fill('not an address');
    expectedStatuses.add('400');
    await dialog.getByRole('button', { name: 'Create' }).click();
    for (const label of ['Name', 'Email']) {
      const field = dialog.locator('.field', { has: page.getByLabel(label, { exact: true }) });
      assert.match(await field.locator('.fault').innerText(), /\w/);
    }
    expectedStatuses.delete('400');
    await dialog.getByLabel('Name').fill(HTML_NAME);
    await dialog.getByLabel('Email').fill('html@example.com');
    await dialog.getByLabel('ID').fill('org_html');
    await dialog.getByRole('button', { name: 'Create' }).click();
    await page.getByRole('heading', { level: 1, name: HTML_NAME }).waitFor();
    await goTo(page, 'organizations');
    await page.getByRole('link', { name: HTML_NAME }).click();
    await waitUntilLoaded(page);
    assert.equal(await page.locator('main img, main script').count(), 0);

    // A key for it. Its secret is shown once.
    await page.getByRole('button', { name: 'New API key' }).click();
    await dialog.getByLabel('Name').fill('Checkout');
    await dialog.getByLabel('workflows:read').check();
    await dialog.getByLabel('Expires').selectOption('90');
    await dialog.getByLabel('Allowed IP addresses').fill('203.0.113.0/24');
    await dialog.getByLabel('Limits', { exact: true }).selectOption('Custom limits');
    await dialog.getByLabel('Limits: amount 1').fill('5');
    await dialog.getByRole('button', { name: 'Limits: add limit' }).click();
    await dialog.getByLabel('Limits: amount 2').fill('1000');
    await dialog.getByLabel('Limits: unit of time 2').selectOption('calendar month');
    await dialog.getByRole('button', { name: 'Create' }).click();
    await dialog.getByRole('heading', { name: 'API key created' }).waitFor();
    await dialog.getByRole('button', { name: 'Copy' }).click();
    await dialog.getByRole('button', { name: 'Copied' }).waitFor();
    const secret = await page.evaluate(() => navigator.clipboard.readText());
    assert.equal(secret, await dialog.locator('.secret code').innerText());
    assert.match(secret, /^toll_[0-9A-Za-z]{38}$/);
    // Escape does not close the dialog, however often.
    for (let times = 0; times < 3; times += 1) await page.keyboard.press('Escape');
    await dialog.getByRole('button', { name: 'I have stored it' }).click();
    await page.getByRole('link', { name: 'Checkout' }).click();
    await waitUntilLoaded(page);
    assert.ok(!(await page.content()).includes(secret), 'the secret is not shown again');
    await page.getByText('No requests yet.').waitFor();
    await page.locator('.facts').getByText('5 requests per minute · 1,000 requests per month').waitFor();
    const id = decodeURIComponent(page.url().split('/').at(-1));

    // It is verified as a gateway would, and counted.
    const verify = async (key, ip = '203.0.113.7') => {
      const { data } = await callApi('POST', '/v1/keys/verify', { key, scopes: ['workflows:read'], ip });
      return data.code;
    };
    assert.equal(await verify(secret), 'VALID');
    assert.equal(await verify(secret), 'VALID');
    assert.equal(await verify(secret, '192.0.2.1'), 'IP_NOT_ALLOWED');
    await waitUntilCounted(id, 3);
    await page.reload();
    await waitUntilLoaded(page);
    assert.equal(await chartedRequests(page), 3);
    await goTo(page, `denials?key_id=${id}`);
    await page.getByRole('cell', { name: 'IP not allowed' }).waitFor();

    // It is rotated with a grace period, which is ended early.
    await goTo(page, `api-keys/${id}`);
    await page.getByRole('button', { name: 'Rotate' }).click();
    await dialog.getByRole('button', { name: 'Rotate' }).click();
    await dialog.getByRole('heading', { name: 'API key rotated' }).waitFor();
    const newSecret = await dialog.locator('.secret code').innerText();
    assert.notEqual(newSecret, secret);
    assert.equal(await verify(secret), 'VALID');
    assert.equal(await verify(newSecret), 'VALID');
    await dialog.getByRole('button', { name: 'I have stored it' }).click();
    await page.getByRole('button', { name: 'Expire now' }).click();
    await page.getByText('The previous secret').waitFor({ state: 'detached' });
    assert.equal(await verify(secret), 'EXPIRED');
    assert.equal(await verify(newSecret), 'VALID');

    // An edit that conflicts with another one changes nothing.
    await page.getByRole('button', { name: 'Edit' }).click();
    await dialog.getByLabel('Name').fill('Too late');
    const renamed = await callApi('PATCH', `/admin/v1/api-keys/${id}`, { name: 'Checkout 2' });
    assert.equal(renamed.status, 200);
    expectedStatuses.add('412');
    await dialog.getByRole('button', { name: 'Save' }).click();
    await dialog.getByText('Someone else changed this').waitFor();
    expectedStatuses.delete('412');
    await dialog.getByRole('button', { name: 'Reload' }).click();
    await dialog.getByText('the latest version with your edits').waitFor();
    assert.equal(await dialog.getByLabel('Name').inputValue(), 'Too late');
    await page.keyboard.press('Escape');
    await page.getByRole('heading', { level: 1, name: 'Checkout 2' }).waitFor();

    // It is revoked with a reason.
    await page.getByRole('button', { name: 'Revoke' }).click();
    await dialog.getByLabel('Reason').fill('Leaked in a log');
    await dialog.getByLabel('Type the name to confirm').fill('Checkout 2');
    await dialog.getByRole('button', { name: 'Revoke key' }).click();
    await page.getByText('Leaked in a log').waitFor();
    assert.equal(await verify(newSecret), 'REVOKED');

    // The audit log has all of it, with the changes. The edit that conflicted is there too.
    await page.getByRole('link', { name: 'Activity' }).click();
    await waitUntilLoaded(page);
    const actions = await page.getByRole('row').locator('td:nth-child(2)').allInnerTexts();
    const expectedActions = ['revoke', 'update', 'update', 'expire previous', 'rotate', 'create'];
    assert.deepEqual(
      actions,
      expectedActions.map((action) => `API key: ${action}`),
    );
    await page.getByRole('button', { name: 'Details of API key: revoke' }).click();
    const change = page.locator('.changes').getByRole('row', { name: 'revoked_reason' });
    assert.match(await change.innerText(), /Leaked in a log/);
    await page.getByRole('button', { name: 'Verify log' }).click();
    await page.getByText(/^Verified: [\d,]+ events/).waitFor();
    const exporting = page.waitForEvent('download');
    await page.getByRole('button', { name: 'Export NDJSON' }).click();
    const download = await exporting;
    assert.equal(download.suggestedFilename(), 'audit-logs.ndjson');
    const lines = (await readFile(await download.path(), 'utf8')).trim().split('\n');
    assert.equal(JSON.parse(lines[0]).action, 'api_key.create');

    // The admin key is only in the storage of the tab, and leaves it on signing out.
    assert.equal(await page.evaluate(() => localStorage.length), 0);
    assert.equal((await context.cookies()).length, 0);
    assert.ok(!page.url().includes(KEY));
    assert.equal(await page.evaluate(() => Object.values(sessionStorage).length), 1);
    await page.getByRole('button', { name: 'Sign out' }).click();
    await page.getByRole('heading', { name: 'Sign in' }).waitFor();
    assert.equal(await page.evaluate(() => sessionStorage.length), 0);
  },
);

await test('a key sees the pages of its scopes and its own organization', {}, async ({ page }) => {
  const scopes = ['admin:users', 'admin:audit'];
  const support = await create('/api-keys', { organization_id: 'org_123', name: 'Support', scopes });
  await signIn(page, support.key);
  await waitUntilLoaded(page);
  const navigation = page.getByRole('navigation', { name: 'Pages' });
  const pages = await navigation.getByRole('listitem').allInnerTexts();
  assert.deepEqual(pages, ['Members', 'Users', 'Audit log', 'Scopes']);
  await goTo(page, 'users');
  const users = await page.getByRole('row').locator('td:first-child').allInnerTexts();
  assert.deepEqual(users.sort(), ['Ada Brandt', 'Jonas Weber', 'Mei Tanaka', 'Tomás Rivera']);
  await page.getByRole('link', { name: 'Ada Brandt' }).click();
  await waitUntilLoaded(page);
  assert.equal(await page.getByRole('button', { name: /Edit|Delete/ }).count(), 0);
  await goTo(page, 'api-keys');
  await page.getByRole('heading', { name: 'Page not found' }).waitFor();
  await goTo(page, 'audit');
  assert.equal(await page.getByRole('button', { name: 'Verify log' }).count(), 0);
});

/** A list of one limit: of requests per minute. */
const perMinute = (limit) => [{ meter: 'requests', limit, window_seconds: 60 }];

await test('settings are changed, and no change is lost', {}, async ({ page, expectedStatuses }) => {
  await signIn(page);
  await goTo(page, 'settings');
  const plan = (name) => page.getByRole('group', { name, exact: true });
  const rate = plan('standard').getByLabel('Limits of each key: amount 1');
  const maxExpiry = page.getByLabel('Maximum expiry in days');
  const prefixes = page.getByLabel('Prefixes');
  const saveButton = page.getByRole('button', { name: 'Save' });
  assert.equal(await prefixes.inputValue(), 'toll');
  await prefixes.fill('acme_live\nacme_test\n');
  await rate.fill('120');
  await maxExpiry.fill('400');
  await saveButton.click();
  await page.getByText('Saved.').waitFor();
  const saved = await read('/config');
  assert.deepEqual(saved.plans.standard.key_limits, perMinute(120));
  assert.deepEqual(saved.plans.standard.organization_limits, perMinute(1000));
  assert.equal(saved.keys.max_expiry_days, 400);
  assert.deepEqual(saved.keys.prefixes, ['acme_live', 'acme_test']);
  await page.reload();
  await waitUntilLoaded(page);
  assert.equal(await rate.inputValue(), '120');
  assert.equal(await maxExpiry.inputValue(), '400');

  // Errors are shown next to their fields, and all edits stay.
  await prefixes.fill('toll\nNo-Good');
  const newPlan = plan('New plan (optional)');
  await newPlan.getByLabel('Name').fill('startup');
  const newRate = newPlan.getByLabel('Limits of each key: amount 1');
  await newRate.fill('-1');
  await maxExpiry.fill('300');
  expectedStatuses.add('400');
  await saveButton.click();
  await page.getByRole('alert').waitFor();
  expectedStatuses.delete('400');
  const prefixField = page.locator('.field', { has: prefixes });
  const newRateField = newPlan.locator('.limit-row', { has: page.getByLabel('Limits of each key: amount') });
  for (const field of [prefixField, newRateField]) {
    assert.match(await field.locator('.fault').innerText(), /\w/);
  }
  const focusedId = await page.evaluate(() => document.activeElement.id);
  assert.equal(focusedId, await prefixes.getAttribute('id'), 'the first field at fault has the focus');
  assert.equal(await maxExpiry.inputValue(), '300');
  assert.equal(await newRate.inputValue(), '-1');
  assert.deepEqual(await read('/config'), saved);
  await prefixes.fill('toll');
  await newRate.fill('50');

  // After a conflicting change, both changes are in force in the end.
  const authorization = `Bearer ${KEY}`;
  const { headers } = await fetch(`${URL}/admin/v1/config`, { headers: { authorization } });
  const otherChange = await fetch(`${URL}/admin/v1/config`, {
    method: 'PATCH',
    headers: { authorization, 'content-type': 'application/json', 'if-match': headers.get('etag') },
    body: JSON.stringify({ plans: { standard: { key_limits: perMinute(130) } } }),
  });
  assert.equal(otherChange.status, 200);
  expectedStatuses.add('412');
  await saveButton.click();
  await page.getByRole('alert').getByText('Someone else changed this').waitFor();
  expectedStatuses.delete('412');
  assert.equal((await read('/config')).keys.max_expiry_days, 400);
  await page.getByRole('button', { name: 'Reload' }).click();
  await page.getByText('Your edits are still in the form').waitFor();
  await page.getByText('Limits of each key are now 130 requests per minute.').waitFor();
  assert.equal(await rate.inputValue(), '130');
  assert.equal(await maxExpiry.inputValue(), '300');
  assert.equal(await newRate.inputValue(), '50');
  await saveButton.click();
  await page.getByText('Saved.').waitFor();
  const merged = await read('/config');
  assert.deepEqual(merged.plans.standard.key_limits, perMinute(130));
  assert.deepEqual(merged.plans.startup, {
    key_limits: perMinute(50),
    organization_limits: perMinute(1000),
    max_keys: 0,
    max_members: 0,
  });
  assert.equal(merged.keys.max_expiry_days, 300);

  // A plan is removed, and so is the maximum.
  await plan('startup').getByLabel('Remove this plan').check();
  await maxExpiry.fill('0');
  await saveButton.click();
  await plan('startup').waitFor({ state: 'detached' });
  const last = await read('/config');
  assert.equal(last.plans.startup, undefined);
  assert.equal(last.keys.max_expiry_days, 0);
  assert.deepEqual(last.keys.prefixes, ['toll']);
});

await test('meters are added with the limits on them', {}, async ({ page, expectedStatuses }) => {
  await signIn(page);
  await goTo(page, 'settings');
  const standard = page.getByRole('group', { name: 'standard', exact: true });
  const meters = page.getByLabel('Names of meters');
  const shared = 'Limits of the organization';
  const saveButton = page.getByRole('button', { name: 'Save' });
  const before = await read('/config');
  assert.deepEqual(before.meters, ['requests']);
  assert.equal(await meters.inputValue(), 'requests');
  await meters.fill('requests\ntokens');
  await standard.getByRole('button', { name: `${shared}: add limit` }).click();
  await standard.getByLabel(`${shared}: amount 2`).fill('5000000');
  await standard.getByLabel(`${shared}: meter 2`).selectOption('tokens');
  await standard.getByLabel(`${shared}: unit of time 2`).selectOption('calendar month');
  await saveButton.click();
  await page.getByText('Saved.').waitFor();
  const after = await read('/config');
  const tokens = { meter: 'tokens', limit: 5_000_000, period: 'month' };
  assert.deepEqual(after.meters, ['requests', 'tokens']);
  assert.deepEqual(after.plans.standard, {
    ...before.plans.standard,
    organization_limits: [...before.plans.standard.organization_limits, tokens],
  });
  assert.deepEqual(after.plans.enterprise, before.plans.enterprise);

  // A meter that a limit is on can't be removed.
  await meters.fill('requests');
  expectedStatuses.add('409');
  await saveButton.click();
  await page.getByText('The plan standard has a limit on the meter tokens.').waitFor();
  expectedStatuses.delete('409');

  // A limit can only be on one of the meters. The message is in the row of the limit.
  await standard.getByLabel(`${shared}: amount 2`).fill('4000000');
  expectedStatuses.add('400');
  await saveButton.click();
  const row = standard.locator('.limit-row', { has: page.getByLabel(`${shared}: amount 2`) });
  await row.locator('.fault').getByText('requests').waitFor();
  assert.equal(await row.locator('[aria-invalid="true"]').getAttribute('aria-label'), `${shared}: meter 2`);
  await standard.getByLabel(`${shared}: amount 2`).fill('5000000');

  // The names of meters are checked, next to their field.
  await meters.fill('requests\nTokens');
  await saveButton.click();
  await page.locator('.field', { has: meters }).locator('.fault').getByText('lowercase').waitFor();
  expectedStatuses.delete('400');
  assert.deepEqual(await read('/config'), after);

  // With the limit, the meter can go.
  await meters.fill('requests');
  await standard.getByLabel(`${shared}: remove 2`).click();
  await saveButton.click();
  await page.getByText('Saved.').waitFor();
  assert.deepEqual(await read('/config'), before);
});

await test('members are added, changed, and removed', {}, async ({ page, expectedStatuses }) => {
  await create('/organizations', { id: 'org_people', name: 'People', email: 'people@example.com' });
  for (const id of ['user_first', 'user_second']) {
    await create('/users', { id, name: id, email: `${id}@example.com` });
  }
  const membersPath = '/organizations/org_people/members';
  await create(membersPath, { user_id: 'user_first', role: 'owner' });
  const storedRole = async () => (await read(`${membersPath}/user_second`))?.role;
  await signIn(page);
  await goTo(page, 'organizations/org_people');
  const dialog = page.getByRole('dialog');
  await page.getByRole('button', { name: 'Add member' }).click();
  await dialog.getByLabel('User').fill('user_second');
  await dialog.getByRole('button', { name: 'Add' }).click();
  await page.getByRole('button', { name: 'Change role of user_second' }).click();
  const roleSelect = dialog.getByLabel('Role');
  assert.equal(await roleSelect.inputValue(), 'member');

  // A conflicting change is not overwritten unseen.
  await callApi('PATCH', `/admin/v1${membersPath}/user_second`, { role: 'viewer' });
  await roleSelect.selectOption('admin');
  expectedStatuses.add('412');
  await dialog.getByRole('button', { name: 'Save' }).click();
  await dialog.getByText('Someone else changed this').waitFor();
  expectedStatuses.delete('412');
  assert.equal(await storedRole(), 'viewer');
  await dialog.getByRole('button', { name: 'Reload' }).click();
  await dialog.getByText('the latest version with your edits').waitFor();
  assert.equal(await roleSelect.inputValue(), 'admin');
  await dialog.getByRole('button', { name: 'Save' }).click();
  await dialog.waitFor({ state: 'detached' });
  assert.equal(await storedRole(), 'admin');

  // The last owner can't be removed.
  await page.getByRole('button', { name: 'Remove user_first' }).click();
  expectedStatuses.add('409');
  await dialog.getByRole('button', { name: 'Remove' }).click();
  await dialog.getByRole('alert').getByText('owner').waitFor();
  expectedStatuses.delete('409');
  await dialog.getByRole('button', { name: 'Cancel' }).click();
  await page.getByRole('button', { name: 'Remove user_second' }).click();
  await dialog.getByRole('button', { name: 'Remove' }).click();
  await page.getByRole('button', { name: 'Remove user_second' }).waitFor({ state: 'detached' });
  assert.equal(await storedRole(), undefined);
});

await done();
