// What is taken away for good: it is shown what ends, and the name is typed where it is in use.
import assert from 'node:assert/strict';
import { callApi, create, goTo, read, signIn, waitUntilLoaded } from './browser.mjs';
import { done, test } from './testing.mjs';

/** Verifies the key, and waits until the server has counted it. It stores counts once a second. */
async function use(key) {
  assert.equal((await callApi('POST', '/v1/keys/verify', { key: key.key })).data.code, 'VALID');
  const deadline = Date.now() + 90_000;
  for (;;) {
    assert.ok(Date.now() < deadline, 'the verification is never counted');
    const { totals } = await read(`/analytics/usage?key_id=${key.id}&period=24h`);
    if (totals.requests > 0) return;
  }
}

const confirmation = 'Type the name to confirm';

await test('the name is typed where a key is in use', {}, async ({ page }) => {
  const createKey = (name) => create('/api-keys', { organization_id: 'org_123', name, scopes: [] });
  const [used, unused] = [await createKey('Used now'), await createKey('Never used')];
  await use(used);
  await signIn(page);
  const dialog = page.getByRole('dialog');
  const revokeButton = dialog.getByRole('button', { name: 'Revoke key' });
  const statusOf = async ({ id }) => (await read(`/api-keys/${id}`)).status;

  await goTo(page, `api-keys/${used.id}`);
  await page.getByRole('button', { name: 'Revoke' }).click();
  await dialog.getByText('In use now.').waitFor();
  const facts = await dialog.locator('.facts').innerText();
  assert.match(facts, /Requests in 24 hours\s+1\b/);
  for (const typed of ['', 'used now']) {
    await dialog.getByLabel(confirmation).fill(typed);
    await revokeButton.click();
    await dialog.locator('.fault').getByText('This is not the name.').waitFor();
    assert.equal(await statusOf(used), 'active');
  }
  await dialog.getByLabel(confirmation).fill(' Used now ');
  await revokeButton.click();
  await dialog.waitFor({ state: 'detached' });
  assert.equal(await statusOf(used), 'revoked');

  await goTo(page, `api-keys/${unused.id}`);
  await page.getByRole('button', { name: 'Revoke' }).click();
  await revokeButton.waitFor();
  assert.equal(await dialog.getByLabel(confirmation).count(), 0);
  await revokeButton.click();
  await dialog.waitFor({ state: 'detached' });
  assert.equal(await statusOf(unused), 'revoked');
});

await test('an organization and a user show what ends with them', {}, async ({ page }) => {
  await create('/organizations', { id: 'org_ending', name: 'Ending', email: 'ending@example.com' });
  await create('/users', { id: 'user_ending', name: 'Leaver', email: 'leaver@example.com' });
  await create('/users', { id: 'user_stays', name: 'Stays', email: 'stays@example.com' });
  for (const [user, role] of [
    ['user_ending', 'member'],
    ['user_stays', 'owner'],
  ]) {
    await create('/organizations/org_ending/members', { user_id: user, role });
  }
  const keyOf = (id, user) => {
    return create('/api-keys', { id, organization_id: 'org_ending', user_id: user, name: id, scopes: [] });
  };
  await keyOf('key_ending1', 'user_ending');
  await use(await keyOf('key_ending2', 'user_stays'));
  await signIn(page);
  const dialog = page.getByRole('dialog');
  const factsOf = async () => (await dialog.locator('.facts').innerText()).replaceAll(/\s+/g, ' ');

  await goTo(page, 'organizations/org_ending');
  await page.getByRole('button', { name: 'Remove Leaver' }).click();
  await dialog.getByRole('button', { name: 'Remove' }).waitFor();
  assert.equal(await factsOf(), 'Keys that stop working 1 Last used never');
  await page.keyboard.press('Escape');
  await page.getByRole('button', { name: 'Delete', exact: true }).click();
  await dialog.getByText('In use now.').waitFor();
  assert.match(await factsOf(), /^Requests in 24 hours 1 Keys that stop working 2 Last used/);
  await page.keyboard.press('Escape');

  await goTo(page, 'users/user_ending');
  await page.getByRole('button', { name: 'Delete' }).click();
  await dialog.getByRole('button', { name: 'Delete user' }).waitFor();
  assert.equal(await factsOf(), 'Keys that stop working 1 Last used never');
  await dialog.getByRole('button', { name: 'Delete user' }).click();
  await page.getByRole('heading', { name: 'Users', level: 1 }).waitFor();
  assert.equal((await read('/api-keys/key_ending1')).status, 'revoked');

  // What can't be found out counts as in use: here, a key may not read keys or usage.
  const people = await create('/api-keys', { name: 'People', scopes: ['admin:users'] });
  await page.getByRole('button', { name: 'Sign out' }).click();
  await signIn(page, people.key);
  await goTo(page, 'users/user_stays');
  await page.getByRole('button', { name: 'Delete' }).click();
  await dialog.getByLabel(confirmation).waitFor();
  assert.equal(await dialog.locator('.facts').count(), 0);
});

await test('disabling and revoking never depend on a stale page', {}, async ({ page }) => {
  const key = await create('/api-keys', { organization_id: 'org_123', name: 'Leaked', scopes: [] });
  const path = `/admin/v1/api-keys/${key.id}`;
  const status = async () => (await read(`/api-keys/${key.id}`)).status;
  await signIn(page);
  await goTo(page, `api-keys/${key.id}`);
  assert.equal((await callApi('PATCH', path, { metadata: { note: 'changed elsewhere' } })).status, 200);
  await page.getByRole('button', { name: 'Disable' }).click();
  await page.getByRole('button', { name: 'Enable' }).waitFor();
  assert.equal(await status(), 'disabled');
  assert.equal((await callApi('PATCH', path, { status: 'active' })).status, 200);
  await page.getByRole('button', { name: 'Revoke' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Revoke key' }).click();
  await page.getByRole('dialog').waitFor({ state: 'detached' });
  await waitUntilLoaded(page);
  assert.equal(await status(), 'revoked');
});

await done();
