// The pages in a real browser, against the server at TOLLHOUSE_URL with sample data: what a person does first, and what
// must never happen. Fails at what is not as it should be.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { URL, KEY, call, go, settled, signIn } from './browser.mjs';
import { charted, done, test } from './testing.mjs';

const NASTY = '<img src=x onerror="alert(1)"><script>alert(2)</script>';

await test(
  'from a sign-in to a key, its use and its end',
  { permissions: ['clipboard-read', 'clipboard-write'] },
  async ({ page, context, expected }) => {
    // A key that is none.
    expected.add('401');
    await page.goto(`${URL}/console/`);
    await page.getByLabel('API key').fill('toll_nonsense');
    await page.getByRole('button', { name: 'Sign in' }).click();
    await page.getByRole('alert').getByText('not good').waitFor();
    expected.delete('401');
    await signIn(page);
    await page.getByRole('heading', { name: 'Overview' }).waitFor();
    assert.ok((await charted(page)) > 100_000, 'the sample month is in the chart');

    // An organization whose name is a script.
    await go(page, 'organizations');
    await page.getByRole('button', { name: 'New organization' }).click();
    const dialog = page.getByRole('dialog');
    await dialog.getByLabel('Email').fill('not an address');
    expected.add('400');
    await dialog.getByRole('button', { name: 'Create' }).click();
    assert.match(
      await dialog.locator('.field', { hasText: 'Name' }).locator('.fault').first().innerText(),
      /\w/,
    );
    assert.match(await dialog.locator('.field', { hasText: 'Email' }).locator('.fault').innerText(), /\w/);
    expected.delete('400');
    await dialog.getByLabel('Name').fill(NASTY);
    await dialog.getByLabel('Email').fill('nasty@example.com');
    await dialog.getByLabel('Id').fill('org_nasty');
    await dialog.getByRole('button', { name: 'Create' }).click();
    await page.getByRole('heading', { level: 1, name: NASTY }).waitFor();
    await go(page, 'organizations');
    await page.getByRole('link', { name: NASTY }).click();
    await settled(page);
    assert.equal(await page.locator('main img, main script').count(), 0);

    // A key for it; the secret is shown once.
    await page.getByRole('button', { name: 'New API key' }).click();
    await dialog.getByLabel('Name').fill('Checkout');
    await dialog.getByLabel('workflows:read').check();
    await dialog.getByLabel('Expires').selectOption('90');
    await dialog.getByLabel('May be used from').fill('203.0.113.0/24');
    await dialog.getByLabel('Rate limit', { exact: false }).first().fill('5');
    await dialog.getByLabel('Quota', { exact: false }).first().fill('1000');
    await dialog.getByRole('button', { name: 'Create' }).click();
    await dialog.getByRole('heading', { name: 'Your new key' }).waitFor();
    await dialog.getByRole('button', { name: 'Copy' }).click();
    await dialog.getByRole('button', { name: 'Copied' }).waitFor();
    const secret = await page.evaluate(() => navigator.clipboard.readText());
    assert.equal(secret, await dialog.locator('.secret code').innerText());
    assert.match(secret, /^toll_[0-9A-Za-z]{38}$/);
    // One careless key does not lose it.
    await page.keyboard.press('Escape');
    await dialog.getByRole('button', { name: 'Close' }).click();
    await page.getByRole('link', { name: 'Checkout' }).click();
    await settled(page);
    assert.ok(!(await page.content()).includes(secret), 'it is not shown again');
    await page.getByText('It was not verified yet.').waitFor();
    const id = decodeURIComponent(page.url().split('/').at(-1));

    // It is verified as a gateway would, and counted.
    const ask = async (key) =>
      (await call('POST', '/v1/keys/verify', { key, scopes: ['workflows:read'], ip: '203.0.113.7' })).data
        .code;
    assert.equal(await ask(secret), 'VALID');
    assert.equal(await ask(secret), 'VALID');
    const elsewhere = await call('POST', '/v1/keys/verify', { key: secret, ip: '192.0.2.1' });
    assert.equal(elsewhere.data.code, 'IP_NOT_ALLOWED');
    await counted(id, 3);
    await page.reload();
    await settled(page);
    assert.equal(await charted(page), 3);
    await go(page, `denials?key_id=${id}`);
    await page.getByRole('cell', { name: 'IP not allowed' }).waitFor();

    // It is rotated, with a grace, which is ended.
    await go(page, `api-keys/${id}`);
    await page.getByRole('button', { name: 'Rotate' }).click();
    await dialog.getByRole('button', { name: 'Rotate' }).click();
    await dialog.getByRole('heading', { name: 'The new secret' }).waitFor();
    const second = await dialog.locator('.secret code').innerText();
    assert.notEqual(second, secret);
    assert.deepEqual([await ask(secret), await ask(second)], ['VALID', 'VALID']);
    await dialog.getByRole('button', { name: 'Close' }).click();
    await page.getByRole('button', { name: 'End it now' }).click();
    await page.getByText('The secret before the rotation').waitFor({ state: 'detached' });
    assert.deepEqual([await ask(secret), await ask(second)], ['EXPIRED', 'VALID']);

    // Who edits what somebody else has changed is told so, and changes nothing.
    await page.getByRole('button', { name: 'Edit' }).click();
    await dialog.getByLabel('Name').fill('Too late');
    assert.equal((await call('PATCH', `/admin/v1/api-keys/${id}`, { name: 'Checkout 2' })).status, 200);
    expected.add('412');
    await dialog.getByRole('button', { name: 'Save' }).click();
    await dialog.getByText('Somebody changed this').waitFor();
    expected.delete('412');
    await dialog.getByRole('button', { name: 'Load it again' }).click();
    await dialog.getByText('What you typed is still here').waitFor();
    assert.equal(await dialog.getByLabel('Name').inputValue(), 'Too late');
    await page.keyboard.press('Escape');
    await page.getByRole('heading', { level: 1, name: 'Checkout 2' }).waitFor();

    // It ends, with a reason, after a question.
    await page.getByRole('button', { name: 'Revoke' }).click();
    await dialog.getByLabel('Reason').fill('Leaked in a log');
    await dialog.getByRole('button', { name: 'Revoke for good' }).click();
    await page.getByText('Leaked in a log').waitFor();
    assert.equal(await ask(second), 'REVOKED');

    // All of it is in the audit log, with what changed.
    await page.getByRole('link', { name: 'What was done to it' }).click();
    await settled(page);
    const done = await page.getByRole('row').locator('td:nth-child(2)').allInnerTexts();
    // The edit that came too late is there as well.
    const expectedActions = ['revoke', 'update', 'update', 'expire previous', 'rotate', 'create'];
    assert.deepEqual(
      done,
      expectedActions.map((action) => `API key: ${action}`),
    );
    await page.getByRole('button', { name: 'Details of API key: revoke' }).click();
    const change = page.locator('.changes').getByRole('row', { name: 'revoked_reason' });
    assert.match(await change.innerText(), /Leaked in a log/);
    await page.getByRole('button', { name: 'Check the chain' }).click();
    await page.getByText(/^Whole: [\d,]+ events/).waitFor();
    const [download] = await Promise.all([
      page.waitForEvent('download'),
      page.getByRole('button', { name: 'Export NDJSON' }).click(),
    ]);
    const lines = (await readFile(await download.path(), 'utf8'))
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
    assert.equal(download.suggestedFilename(), 'audit-logs.ndjson');
    assert.deepEqual(lines.map(({ action }) => action)[0], 'api_key.create');

    // The key was in the tab alone, and goes with the sign-out.
    assert.equal(await page.evaluate(() => localStorage.length), 0);
    assert.equal((await context.cookies()).length, 0);
    assert.ok(!page.url().includes(KEY));
    assert.equal(await page.evaluate(() => Object.values(sessionStorage).length), 1);
    await page.getByRole('button', { name: 'Sign out' }).click();
    await page.getByRole('heading', { name: 'Sign in' }).waitFor();
    assert.equal(await page.evaluate(() => sessionStorage.length), 0);
  },
);

/** Until so many verifications of the key are counted: the server writes them down once a second. */
async function counted(id, many) {
  const end = Date.now() + 90_000;
  for (;;) {
    assert.ok(Date.now() < end, 'it is never counted');
    const { data } = await call('GET', `/admin/v1/analytics/usage?key_id=${id}&period=24h`);
    if (data.totals.requests >= many) return;
  }
}

await test('a key with fewer scopes sees less, and of its organization alone', {}, async ({ page }) => {
  const made = await call('POST', '/admin/v1/api-keys', {
    organization_id: 'org_123',
    name: 'Support',
    scopes: ['admin:users', 'admin:audit'],
  });
  await signIn(page, made.data.key);
  await settled(page);
  const offered = await page.getByRole('navigation', { name: 'Pages' }).getByRole('listitem').allInnerTexts();
  assert.deepEqual(offered, ['Users', 'Audit log', 'Scopes']);
  await go(page, 'users');
  const users = await page.getByRole('row').locator('td:first-child').allInnerTexts();
  assert.deepEqual(users.sort(), ['Ada Brandt', 'Jonas Weber', 'Mei Tanaka', 'Tomás Rivera']);
  await page.getByRole('link', { name: 'Ada Brandt' }).click();
  await settled(page);
  assert.equal(await page.getByRole('button', { name: /Edit|Delete/ }).count(), 0);
  await go(page, 'api-keys');
  await page.getByText('There is no such page').waitFor();
  await go(page, 'audit');
  assert.equal(await page.getByRole('button', { name: 'Check the chain' }).count(), 0);
});

/** The settings as the API tells them. */
const settings = async () => (await call('GET', '/admin/v1/config')).data;

await test('settings are changed, and nobody’s change is lost', {}, async ({ page, expected }) => {
  await signIn(page);
  await go(page, 'settings');
  const plan = (name) => page.getByRole('group', { name, exact: true });
  const rate = plan('standard').getByLabel('Requests of a key');
  const expiry = page.getByLabel('Expire after days at most');
  const save = page.getByRole('button', { name: 'Save' });
  await rate.fill('120');
  await expiry.fill('400');
  await save.click();
  await page.getByText('Saved.').waitFor();
  const told = await settings();
  assert.deepEqual([told.plans.standard.requests_per_minute, told.keys.max_expiry_days], [120, 400]);
  await page.reload();
  await settled(page);
  assert.deepEqual([await rate.inputValue(), await expiry.inputValue()], ['120', '400']);

  // What is wrong is told where it stands, and the rest of what was typed stays.
  await page.getByLabel('Begin with').fill('No Good');
  await page.getByLabel('Its name').fill('startup');
  const added = plan('Another plan (optional)').getByLabel('Requests of a key');
  await added.fill('-1');
  await expiry.fill('300');
  expected.add('400');
  await save.click();
  await page.getByRole('alert').waitFor();
  expected.delete('400');
  for (const field of ['Begin with', 'Requests of a key']) {
    const fault = page.locator('.field', { has: page.getByLabel(field) }).locator('.fault');
    assert.match(await fault.first().innerText(), /\w/, field);
  }
  assert.equal(await page.evaluate(() => document.activeElement.getAttribute('aria-invalid')), 'true');
  assert.deepEqual([await expiry.inputValue(), await added.inputValue()], ['300', '-1']);
  assert.deepEqual(await settings(), told);
  await page.getByLabel('Begin with').fill('toll');
  await added.fill('50');

  // Somebody else is faster: refused, told what to do, and both changes hold in the end.
  const { headers } = await fetch(`${URL}/admin/v1/config`, { headers: { authorization: `Bearer ${KEY}` } });
  const other = await fetch(`${URL}/admin/v1/config`, {
    method: 'PATCH',
    headers: {
      authorization: `Bearer ${KEY}`,
      'content-type': 'application/json',
      'if-match': headers.get('etag'),
    },
    body: JSON.stringify({ plans: { standard: { requests_per_minute: 130 } } }),
  });
  assert.equal(other.status, 200);
  expected.add('412');
  await save.click();
  await page.getByRole('alert').getByText('Somebody changed this').waitFor();
  expected.delete('412');
  assert.equal((await settings()).keys.max_expiry_days, 400);
  await page.getByRole('button', { name: 'Load it again' }).click();
  await page.getByText('What you typed is still here').waitFor();
  assert.deepEqual(
    [await rate.inputValue(), await expiry.inputValue(), await added.inputValue()],
    ['130', '300', '50'],
  );
  await save.click();
  await page.getByText('Saved.').waitFor();
  const both = await settings();
  assert.deepEqual(
    [
      both.plans.standard.requests_per_minute,
      both.plans.startup.requests_per_minute,
      both.keys.max_expiry_days,
    ],
    [130, 50, 300],
  );

  // A plan goes again, and the rule with it.
  await plan('startup').getByLabel('Remove this plan').check();
  await expiry.fill('0');
  await save.click();
  await plan('startup').waitFor({ state: 'detached' });
  assert.equal((await settings()).plans.startup, undefined);
});

await test('members come, change and go, by what was shown of them', {}, async ({ page, expected }) => {
  const made = await call('POST', '/admin/v1/organizations', {
    id: 'org_people',
    name: 'People',
    email: 'people@example.com',
  });
  assert.equal(made.status, 201);
  for (const id of ['user_first', 'user_second']) {
    const user = await call('POST', '/admin/v1/users', { id, name: id, email: `${id}@example.com` });
    assert.equal(user.status, 201);
  }
  await call('POST', '/admin/v1/organizations/org_people/members', { user_id: 'user_first', role: 'owner' });
  const role = async () =>
    (await call('GET', '/admin/v1/organizations/org_people/members/user_second')).data?.role;
  await signIn(page);
  await go(page, 'organizations/org_people');
  const dialog = page.getByRole('dialog');
  await page.getByRole('button', { name: 'Add a member' }).click();
  await dialog.getByLabel('User').fill('user_second');
  await dialog.getByRole('button', { name: 'Add' }).click();
  await page.getByRole('button', { name: 'Change user_second' }).click();
  const choice = dialog.getByLabel('Role');
  assert.equal(await choice.inputValue(), 'member');

  await call('PATCH', '/admin/v1/organizations/org_people/members/user_second', { role: 'viewer' });
  await choice.selectOption('admin');
  expected.add('412');
  await dialog.getByRole('button', { name: 'Save' }).click();
  await dialog.getByText('Somebody changed this').waitFor();
  expected.delete('412');
  assert.equal(await role(), 'viewer');
  await dialog.getByRole('button', { name: 'Load it again' }).click();
  await dialog.getByText('What you typed is still here').waitFor();
  assert.equal(await choice.inputValue(), 'admin');
  await dialog.getByRole('button', { name: 'Save' }).click();
  await dialog.waitFor({ state: 'detached' });
  assert.equal(await role(), 'admin');

  // The last owner stays, which is said.
  await page.getByRole('button', { name: 'Remove user_first' }).click();
  expected.add('409');
  await dialog.getByRole('button', { name: 'Remove' }).click();
  await dialog.getByRole('alert').getByText('owner').waitFor();
  expected.delete('409');
  await dialog.getByRole('button', { name: 'Cancel' }).click();
  await page.getByRole('button', { name: 'Remove user_second' }).click();
  await dialog.getByRole('button', { name: 'Remove' }).click();
  await page.getByRole('button', { name: 'Remove user_second' }).waitFor({ state: 'detached' });
  assert.equal(await role(), undefined);
});

await test(
  'an organization’s key edits a key and leaves its limits as the platform set them',
  {},
  async ({ page }) => {
    const limits = { rate_limit: { limit: 7, window_seconds: 60 }, quota: { limit: 70, period: 'day' } };
    const limited = await call('POST', '/admin/v1/api-keys', {
      organization_id: 'org_123',
      name: 'Limited',
      scopes: [],
      ...limits,
    });
    const manager = await call('POST', '/admin/v1/api-keys', {
      organization_id: 'org_123',
      name: 'Manager',
      scopes: ['admin:keys'],
    });
    await signIn(page, manager.data.key);
    await go(page, `api-keys/${limited.data.id}`);
    await page.getByRole('button', { name: 'Edit' }).click();
    const dialog = page.getByRole('dialog');
    assert.equal(await dialog.getByLabel('Rate limit').count(), 0);
    await dialog.getByLabel('Name').fill('Renamed');
    await dialog.getByRole('button', { name: 'Save' }).click();
    await page.getByRole('heading', { level: 1, name: 'Renamed' }).waitFor();
    const { data } = await call('GET', `/admin/v1/api-keys/${limited.data.id}`);
    assert.deepEqual({ rate_limit: data.rate_limit, quota: data.quota }, limits);
  },
);

await test('the reference tries the API', {}, async ({ page, expected }) => {
  await page.goto(`${URL}/docs/`);
  await page.getByRole('button', { name: 'Authorize' }).first().click();
  const panel = page.locator('.auth-container', { hasText: 'bearer' }).first();
  await panel.getByRole('textbox').fill(KEY);
  await panel.getByRole('button', { name: /Authorize|Apply/ }).click();
  await panel.getByRole('button', { name: 'Close' }).click();
  const operation = page.locator('#operations-Organizations-createOrganization');
  await operation.locator('.opblock-summary-control').click();
  await operation
    .getByLabel('Request body')
    .fill(JSON.stringify({ id: 'org_tried', name: 'Tried', email: 'tried@example.com' }));
  const answered = page.waitForResponse((response) => response.request().method() === 'POST');
  await operation.getByRole('button', { name: 'Execute' }).click();
  assert.equal((await answered).status(), 201);
  await operation.locator('.live-responses-table').getByText('"org_tried"').waitFor();
  assert.equal((await call('GET', '/admin/v1/organizations/org_tried')).data.name, 'Tried');
  // What was pasted is kept nowhere.
  const kept = await page.evaluate(() =>
    JSON.stringify([Object.entries(localStorage), Object.entries(sessionStorage), document.cookie]),
  );
  assert.ok(!kept.includes(KEY), kept);
  expected.add('401');
  await page.reload();
  const again = page.locator('#operations-Caller-getCaller');
  await again.locator('.opblock-summary-control').click();
  const refused = page.waitForResponse((response) => response.url().endsWith('/whoami'));
  await again.getByRole('button', { name: 'Execute' }).click();
  assert.equal((await refused).status(), 401);
});

await done();
