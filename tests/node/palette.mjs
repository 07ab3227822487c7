// The command palette: pages, actions and resources by a few letters, with the keyboard.
import assert from 'node:assert/strict';
import { callApi, create, goTo, signIn, waitUntilLoaded } from './browser.mjs';
import { findViolations } from './axe.mjs';
import { done, test } from './testing.mjs';

await test('everything is found with the keyboard', { bypassCSP: true }, async ({ page, context }) => {
  const body = { organization_id: 'org_123', name: 'Sent by a customer', scopes: [] };
  const key = await create('/api-keys', body);
  await signIn(page);
  await goTo(page, 'audit');
  const palette = page.getByRole('dialog', { name: 'Search' });
  const input = palette.getByRole('combobox');
  const options = palette.getByRole('option');
  const open = async (text) => {
    await page.keyboard.press('Control+k');
    await input.fill(text);
    await palette.locator('[aria-busy="false"]').waitFor();
  };

  // A page.
  await open('usa');
  assert.deepEqual(await palette.getByRole('option', { name: /Page$/ }).allInnerTexts(), ['Usage\nPage']);
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'Usage', level: 1 }).waitFor();
  assert.equal(await palette.count(), 0);

  // An action, which opens its dialog once.
  await open('new org');
  await page.keyboard.press('Enter');
  await page.getByRole('dialog', { name: 'New organization' }).waitFor();
  // No palette above a dialog, whose edits would be lost.
  await page.keyboard.press('Control+k');
  assert.equal(await palette.count(), 0);
  await page.reload();
  await waitUntilLoaded(page);
  assert.equal(await page.getByRole('dialog').count(), 0);

  // A resource: by words, by its ID, and a key by the secret that a customer sent, which is cut.
  await open('bluebird tra');
  await options.filter({ hasText: 'Bluebird Travel' }).click();
  await page.getByRole('heading', { name: 'Bluebird Travel', level: 1 }).waitFor();
  const urls = [];
  context.on('request', (request) => urls.push(request.url()));
  await open(key.key);
  assert.equal(await input.inputValue(), key.start);
  await page.keyboard.press('ArrowDown');
  await page.keyboard.press('ArrowUp');
  await page.keyboard.press('Enter');
  await page.getByRole('heading', { name: 'Sent by a customer', level: 1 }).waitFor();
  assert.ok(!urls.some((url) => url.includes(key.key)));

  await page.getByRole('button', { name: 'Search' }).click();
  await input.fill('acme');
  await palette.locator('[aria-busy="false"]').waitFor();
  assert.deepEqual(await findViolations(page), []);
  await page.keyboard.press('Escape');
  await palette.waitFor({ state: 'detached' });
});

await test('the palette offers what the key may use', {}, async ({ page }) => {
  const body = { organization_id: 'org_123', name: 'Users only', scopes: ['admin:users'] };
  const { data } = await callApi('POST', '/admin/v1/api-keys', body);
  await signIn(page, data.key);
  await page.keyboard.press('Control+k');
  const palette = page.getByRole('dialog', { name: 'Search' });
  await palette.getByRole('option').first().waitFor();
  const titles = await palette.locator('[role=option] bdi').allInnerTexts();
  assert.deepEqual(titles, ['Members', 'Users', 'Scopes', 'New user']);
});

await done();
