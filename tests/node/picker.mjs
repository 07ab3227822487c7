// One field for organizations, users and keys: by words, by ID, with the keyboard. And names in place of IDs.
import assert from 'node:assert/strict';
import { KEY, URL, create, goTo, read, signIn, waitUntilLoaded } from './browser.mjs';
import { done, test } from './testing.mjs';

const parametersOf = (page) => new URLSearchParams(page.url().split('?')[1]);

await test('an organization is picked by words, with the keyboard only', {}, async ({ page, context }) => {
  await signIn(page);
  await goTo(page, 'api-keys');
  await page.getByRole('button', { name: 'New API key' }).click();
  const dialog = page.getByRole('dialog');
  const organization = dialog.getByRole('combobox', { name: 'Organization' });
  const option = page.locator('.options [role=option]');

  // What is typed quickly is searched for once.
  const searches = [];
  context.on('request', (request) => {
    const query = new globalThis.URL(request.url()).searchParams;
    if (request.url().includes('/admin/v1/organizations?')) searches.push(query.get('q'));
  });
  await organization.pressSequentially('kestrel', { delay: 5 });
  await option.filter({ hasText: 'org_kestrel' }).waitFor();
  assert.ok(searches.filter(Boolean).length <= 2, `${searches}`);
  await option.nth(1).waitFor({ state: 'detached' });
  assert.equal(await option.count(), 1);
  // Escape closes the list, not the dialog. The arrow opens it again.
  await page.keyboard.press('Escape');
  await option.waitFor({ state: 'detached' });
  assert.equal(await organization.inputValue(), '');
  await page.keyboard.press('ArrowDown');
  assert.ok((await option.count()) >= 1);
  await organization.fill('kestrel');
  await option.filter({ hasText: 'org_kestrel' }).waitFor();
  await page.keyboard.press('Enter');
  await option.waitFor({ state: 'detached' });
  const { name } = await read('/organizations/org_kestrel');
  assert.equal(await organization.inputValue(), name);

  const owner = dialog.getByRole('combobox', { name: 'Owner (optional)' });
  const members = await read('/organizations/org_kestrel/members');
  const { user } = members[0];
  await owner.fill(user.email);
  await option.filter({ hasText: user.id }).click();
  assert.equal(await owner.inputValue(), user.name);
  await dialog.getByLabel('Name', { exact: true }).fill('Picked');
  await dialog.getByLabel('ID (optional)').fill('key_picked');
  await dialog.getByRole('button', { name: 'Create' }).click();
  await dialog.getByRole('button', { name: 'I have stored it' }).click();
  const created = await read('/api-keys/key_picked');
  assert.deepEqual([created.organization_id, created.user_id], ['org_kestrel', user.id]);

  // Names are shown in place of the IDs.
  const row = page.getByRole('row', { name: 'Picked' });
  await row.getByRole('link', { name }).waitFor();
  await row.getByRole('link', { name: 'Picked' }).click();
  await page.locator('.facts').getByRole('link', { name }).waitFor();
  await page.locator('.facts').getByRole('link', { name: user.name }).waitFor();
  await goTo(page, `users/${user.id}`);
  await page.getByRole('region', { name: 'Memberships' }).getByRole('link', { name }).waitFor();
});

await test('a platform key is a choice, and has a warning', {}, async ({ page }) => {
  await signIn(page);
  await goTo(page, 'api-keys');
  await page.getByRole('button', { name: 'New API key' }).click();
  const dialog = page.getByRole('dialog');
  await dialog.getByLabel('Name', { exact: true }).fill('Chosen');
  await dialog.getByLabel('ID (optional)').fill('key_chosen-platform');
  await dialog.getByRole('button', { name: 'Create' }).click();
  const field = dialog.locator('.field', { has: page.getByRole('combobox', { name: 'Organization' }) });
  await field.locator('.fault').getByText('Choose an organization.').waitFor();
  assert.equal(await read('/api-keys/key_chosen-platform'), undefined);
  assert.equal(await dialog.locator('.note.warn').count(), 0);
  await dialog.getByLabel('No organization (platform key)').check();
  await dialog.locator('.note.warn').getByText('reaches every organization').waitFor();
  await dialog.getByRole('button', { name: 'Create' }).click();
  await dialog.getByRole('button', { name: 'I have stored it' }).click();
  assert.equal((await read('/api-keys/key_chosen-platform')).organization_id, null);
});

await test('a filter keeps what was picked, by name', {}, async ({ page }) => {
  await signIn(page);
  await goTo(page, 'usage');
  const organization = page.getByRole('combobox', { name: 'Organization' });
  const { name } = await read('/organizations/org_kestrel');
  await organization.fill('kestrel');
  await page.locator('.options [role=option]').filter({ hasText: 'org_kestrel' }).click();
  await page.waitForFunction(() => location.hash.includes('org_id=org_kestrel'));
  await page.reload();
  await waitUntilLoaded(page);
  await page.waitForFunction((expected) => {
    return [...document.querySelectorAll('[role=combobox]')].some(({ value }) => value === expected);
  }, name);
  // Nothing is nothing: the filter is gone.
  await organization.fill('');
  await page.keyboard.press('Tab');
  await page.waitForFunction(() => !location.hash.includes('org_id'));

  // A key by the start of its secret, in which no list of names helps.
  const key = await create('/api-keys', { organization_id: 'org_123', name: 'By start', scopes: [] });
  await goTo(page, 'denials');
  await page.getByRole('combobox', { name: 'Key' }).fill(key.key);
  await page.keyboard.press('Enter');
  await page.waitForFunction((id) => location.hash.includes(`key_id=${id}`), key.id);
  assert.equal(await page.getByRole('combobox', { name: 'Key' }).inputValue(), 'By start');
  assert.equal(parametersOf(page).get('key_id'), key.id);
});

await test('scopes are grouped, filtered and preset', {}, async ({ page }) => {
  await signIn(page);
  await goTo(page, 'organizations/org_123');
  await page.getByRole('button', { name: 'New API key' }).click();
  const dialog = page.getByRole('dialog');
  const box = (scope) => dialog.locator(`input[name="scope"][value="${scope}"]`);
  const chosen = () => {
    return dialog
      .locator('input[name="scope"]:checked')
      .evaluateAll((boxes) => boxes.map(({ value }) => value));
  };
  await box('workflows:read').waitFor();
  const groups = await dialog.locator('.scope-group').evaluateAll((elements) => {
    return elements.map((element) =>
      [...element.querySelectorAll('code')].map(({ textContent }) => textContent),
    );
  });
  assert.deepEqual(
    groups.find(([first]) => first.startsWith('workflows')),
    ['workflows:read', 'workflows:write', 'workflows:*'],
  );
  for (const group of groups) {
    assert.equal(new Set(group.map((scope) => scope.split(':')[0])).size, 1, `${group}`);
  }

  await dialog.getByRole('button', { name: 'Read only' }).click();
  const readOnly = await chosen();
  assert.ok(readOnly.includes('workflows:read') && readOnly.includes('transactions:read'));
  assert.ok(
    readOnly.every((scope) => scope.endsWith(':read')),
    `${readOnly}`,
  );
  await dialog.getByRole('button', { name: 'Verify keys' }).click();
  assert.deepEqual(await chosen(), ['keys:verify']);
  await dialog.getByText('Administrative scopes').waitFor();
  assert.ok(await box('keys:verify').isVisible());
  await dialog.getByRole('button', { name: 'None', exact: true }).click();
  assert.deepEqual(await chosen(), []);

  // A filter hides boxes; those that were chosen stay chosen.
  await box('workflows:read').check();
  await dialog.getByLabel('Filter scopes').fill('transac');
  await box('workflows:read').waitFor({ state: 'hidden' });
  await box('transactions:write').check();
  await dialog.getByLabel('Name', { exact: true }).fill('Filtered');
  await dialog.getByLabel('ID (optional)').fill('key_filtered');
  await dialog.getByRole('button', { name: 'Create' }).click();
  await dialog.getByRole('button', { name: 'I have stored it' }).click();
  const { scopes } = await read('/api-keys/key_filtered');
  assert.deepEqual(scopes.toSorted(), ['transactions:write', 'workflows:read']);
});

await test('a key of an organization types the prefix', {}, async ({ page, expectedStatuses }) => {
  const headers = { authorization: `Bearer ${KEY}`, 'content-type': 'application/json' };
  const config = await fetch(`${URL}/admin/v1/config`, { headers });
  const configured = await fetch(`${URL}/admin/v1/config`, {
    method: 'PATCH',
    headers: { ...headers, 'if-match': config.headers.get('etag') },
    body: JSON.stringify({ keys: { prefixes: ['toll', 'acme_test'] } }),
  });
  assert.equal(configured.status, 200);
  const body = { organization_id: 'org_123', name: 'Own keys', scopes: ['admin:keys'] };
  await signIn(page, (await create('/api-keys', body)).key);
  await goTo(page, 'api-keys');
  const dialog = page.getByRole('dialog');
  const prefix = dialog.getByLabel('Prefix (optional)');
  const createKey = async (typed) => {
    await page.getByRole('button', { name: 'New API key' }).click();
    await dialog.getByLabel('Name', { exact: true }).fill('Prefixed');
    await prefix.fill(typed);
    await dialog.getByRole('button', { name: 'Create' }).click();
  };
  for (const [typed, start] of [
    ['', 'toll_'],
    ['acme_test', 'acme_test_'],
  ]) {
    await createKey(typed);
    const secret = await dialog.locator('.secret code').innerText();
    assert.ok(secret.startsWith(start) && secret.length === start.length + 38, secret.slice(0, 12));
    await dialog.getByRole('button', { name: 'I have stored it' }).click();
  }
  expectedStatuses.add('400');
  await createKey('unknown');
  const field = dialog.locator('.field', { has: page.getByLabel('Prefix (optional)') });
  await field.locator('.fault').waitFor();
});

await done();
