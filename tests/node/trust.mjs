// What the console keeps and what it does not: secrets that are not stored yet, and where a key gets to.
import assert from 'node:assert/strict';
import { URL, callApi, create, goTo, signIn, waitUntilLoaded } from './browser.mjs';
import { done, test } from './testing.mjs';

const storedByButton = 'I have stored it';

await test('a new secret is shown until it is stored', {}, async ({ page, expectedDialogs }) => {
  await signIn(page);
  await goTo(page, 'organizations/org_123');
  await goTo(page, 'api-keys');
  const dialog = page.getByRole('dialog');
  const secret = dialog.locator('.secret code');
  await page.getByRole('button', { name: 'New API key' }).click();
  await dialog.getByLabel('Organization', { exact: true }).fill('org_123');
  await dialog.getByLabel('Name', { exact: true }).fill('Kept');
  await dialog.getByRole('button', { name: 'Create' }).click();
  await dialog.getByRole('heading', { name: 'API key created' }).waitFor();
  const text = await secret.innerText();

  // Back, forward, a page that is left, and a reload, before which the browser asks.
  const isShown = async (place) => {
    await dialog.getByRole('button', { name: storedByButton }).waitFor();
    assert.equal(await secret.innerText(), text, place);
    assert.ok(!page.url().includes(text), place);
  };
  await page.goBack();
  await page.getByRole('heading', { level: 1, name: 'Acme', includeHidden: true }).waitFor();
  await isShown('back');
  await page.goForward();
  await isShown('forward');
  const asking = page.waitForEvent('dialog');
  expectedDialogs.add('beforeunload');
  const reloading = page.reload();
  assert.equal((await asking).type(), 'beforeunload');
  await reloading;
  await isShown('reload');
  await page.goto(`${URL}/docs/`);
  await page.goto(`${URL}/console/`);
  await isShown('another page');
  expectedDialogs.clear();

  // Once it is stored, nothing of it is left, and the browser does not ask.
  await dialog.getByRole('button', { name: storedByButton }).click();
  await dialog.waitFor({ state: 'detached' });
  await page.reload();
  await waitUntilLoaded(page);
  assert.equal(await dialog.count(), 0);
  const kept = await page.evaluate(() => JSON.stringify([sessionStorage, history.state]));
  assert.ok(!kept.includes(text));
});

await test('a key that replaces itself shows its new secret', {}, async ({ page, expectedStatuses }) => {
  const scopes = ['admin:keys'];
  const own = await create('/api-keys', { organization_id: 'org_123', name: 'Self', scopes });
  await signIn(page, own.key);
  await goTo(page, `api-keys/${own.id}`);
  const dialog = page.getByRole('dialog');
  await page.getByRole('button', { name: 'Rotate' }).click();
  await dialog.getByLabel('Current secret expires').selectOption('0');
  expectedStatuses.add('401');
  await dialog.getByRole('button', { name: 'Rotate' }).click();
  await dialog.getByRole('heading', { name: 'API key rotated' }).waitFor();
  const secret = await dialog.locator('.secret code').innerText();
  // The page behind it is the sign-in.
  await page.getByRole('heading', { name: 'Sign in', includeHidden: true }).waitFor();
  await dialog.getByRole('button', { name: storedByButton }).click();
  await signIn(page, secret);
  assert.equal((await callApi('GET', '/admin/v1/whoami', undefined, secret)).status, 200);
});

await done();
