// The reference at /docs/ in a real browser, against the server at TOLLHOUSE_URL with sample data.
// What Swagger UI fills in by itself is sent unchanged.
import assert from 'node:assert/strict';
import { URL, KEY } from './browser.mjs';
import { done, test } from './testing.mjs';

const operation = (page, id) => page.locator(`[id="operations-${id}"]`);

/** Opens the dialog behind a button, pastes a key without choosing a field, and confirms with Enter. */
async function authorize(page, button) {
  await button.click();
  const dialog = page.locator('.dialog-ux');
  await dialog.waitFor();
  await page.keyboard.insertText(KEY);
  await page.keyboard.press('Enter');
  await dialog.getByRole('button', { name: /Logout|Remove/ }).waitFor();
  return dialog;
}

/** The schemes of the dialog, in their order, and the field that has the focus. */
async function offered(page, button) {
  await button.click();
  const dialog = page.locator('.dialog-ux');
  const schemes = await dialog.locator('h4 > code').allInnerTexts();
  const focus = await page.evaluate(() => document.activeElement.id);
  await page.keyboard.press('Escape');
  await dialog.waitFor({ state: 'detached' });
  return { schemes, focus };
}

/** Sends an operation as it is filled in. */
async function execute(page, id) {
  const shown = operation(page, id);
  await shown.locator('.opblock-summary-control').click();
  const answered = page.waitForResponse((response) => response.url().includes('/admin/v1/'));
  await shown.getByRole('button', { name: 'Execute' }).click();
  return answered;
}

const AUTHORIZE = { name: 'Authorize', exact: true };

await test('a key that is pasted at Authorize is the Bearer key of the Admin API', {}, async ({ page }) => {
  await page.goto(`${URL}/docs/`);
  const button = page.getByRole('button', AUTHORIZE).first();
  assert.deepEqual(await offered(page, button), { schemes: ['bearer'], focus: 'auth-bearer-value' });
  const dialog = await authorize(page, button);
  await dialog.getByRole('button', { name: 'Close' }).first().click();
  const answer = await execute(page, 'Caller-getCaller');
  assert.equal(answer.status(), 200);
  assert.equal(answer.url(), `${URL}/admin/v1/whoami`);
  assert.equal((await answer.request().allHeaders())['x-api-key'], undefined);
});

await test(
  'other schemes are offered by the operations that take them, behind the Bearer key',
  {},
  async ({ page }) => {
    await page.goto(`${URL}/docs/`);
    for (const [id, schemes] of [
      ['Verification-forwardAuth', ['bearer', 'xApiKey']],
      ['Verification-introspectToken', ['bearer', 'basic']],
      ['Verification-verifyKey', ['bearer']],
      ['Organizations-listOrganizations', ['bearer']],
      ['Configuration-getConfiguration', ['bearer']],
    ]) {
      const padlock = operation(page, id).locator('.authorization__btn');
      const { schemes: found, focus } = await offered(page, padlock);
      // The schemes of HTTP stand there with their type, and once for each scope.
      assert.deepEqual([...new Set(found)], schemes, id);
      assert.equal(focus, 'auth-bearer-value', id);
    }
  },
);

await test('one operation after the other succeeds as it is filled in', {}, async ({ page }) => {
  await page.goto(`${URL}/docs/`);
  const dialog = await authorize(page, page.getByRole('button', AUTHORIZE).first());
  await dialog.getByRole('button', { name: 'Close' }).first().click();
  for (const [id, status] of [
    ['Organizations-createOrganization', 201],
    ['Users-createUser', 201],
    ['Scopes-createScope', 201],
    ['API keys-createApiKey', 201],
    ['API keys-rotateApiKey', 200],
    ['Analytics-getUsage', 200],
    ['Batch-runBatch', 200],
  ]) {
    const answer = await execute(page, id.replace(' ', '_'));
    assert.equal(answer.status(), status, `${id}: ${await answer.text()}`);
    assert.ok(answer.url().startsWith(`${URL}/admin/v1/`), answer.url());
    assert.equal((await answer.request().allHeaders())['idempotency-key'], undefined, id);
  }
});

await done();
