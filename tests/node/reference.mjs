// The API reference at `/docs/` in a browser. Requests are sent as Swagger UI fills them in.
import assert from 'node:assert/strict';
import { KEY, URL } from './browser.mjs';
import { done, test } from './testing.mjs';

const AUTHORIZE = { name: 'Authorize', exact: true };

/** The authentication schemes of operations, in the order in which they are offered. */
const SCHEMES = [
  ['Verification-forwardAuth', ['bearer', 'xApiKey']],
  ['Verification-introspectToken', ['bearer', 'basic']],
  ['Verification-verifyKey', ['bearer']],
  ['Organizations-listOrganizations', ['bearer']],
  ['Configuration-getConfiguration', ['bearer']],
];

/** Operations in the order in which they are sent, and their expected statuses. */
const OPERATIONS = [
  ['Organizations-createOrganization', 201],
  ['Users-createUser', 201],
  ['Scopes-createScope', 201],
  ['API keys-createApiKey', 201],
  ['API keys-rotateApiKey', 200],
  ['Analytics-getUsage', 200],
  ['Batch-runBatch', 200],
];

const operationOf = (page, id) => page.locator(`[id="operations-${id}"]`);

/** Opens the dialog behind a button, pastes a key into the focused field, and confirms with Enter. */
async function authorize(page, button) {
  await button.click();
  const dialog = page.locator('.dialog-ux');
  await dialog.waitFor();
  await page.keyboard.insertText(KEY);
  await page.keyboard.press('Enter');
  await dialog.getByRole('button', { name: /Logout|Remove/ }).waitFor();
  await dialog.getByRole('button', { name: 'Close' }).first().click();
}

/** The schemes that the dialog behind a button offers, in order, and the ID of the focused field. */
async function readDialog(page, button) {
  await button.click();
  const dialog = page.locator('.dialog-ux');
  const schemes = await dialog.locator('h4 > code').allInnerTexts();
  const focusedId = await page.evaluate(() => document.activeElement.id);
  await page.keyboard.press('Escape');
  await dialog.waitFor({ state: 'detached' });
  return { schemes, focusedId };
}

/** Sends an operation and returns the response. */
async function execute(page, id) {
  const operation = operationOf(page, id);
  await operation.locator('.opblock-summary-control').click();
  const responding = page.waitForResponse((response) => response.url().includes('/admin/v1/'));
  await operation.getByRole('button', { name: 'Execute' }).click();
  return responding;
}

await test('a key pasted at Authorize is sent as the Bearer key', {}, async ({ page }) => {
  await page.goto(`${URL}/docs/`);
  const button = page.getByRole('button', AUTHORIZE).first();
  const { schemes, focusedId } = await readDialog(page, button);
  assert.deepEqual(schemes, ['bearer']);
  assert.equal(focusedId, 'auth-bearer-value');
  await authorize(page, button);
  const response = await execute(page, 'Caller-getCaller');
  assert.equal(response.status(), 200);
  assert.equal(response.url(), `${URL}/admin/v1/whoami`);
  const headers = await response.request().allHeaders();
  assert.equal(headers['x-api-key'], undefined);
});

await test('operations offer their other schemes after the Bearer key', {}, async ({ page }) => {
  await page.goto(`${URL}/docs/`);
  for (const [id, expectedSchemes] of SCHEMES) {
    const padlock = operationOf(page, id).locator('.authorization__btn');
    const { schemes, focusedId } = await readDialog(page, padlock);
    // Swagger UI lists a scheme once for each of its scopes.
    assert.deepEqual([...new Set(schemes)], expectedSchemes, id);
    assert.equal(focusedId, 'auth-bearer-value', id);
  }
});

await test('operations succeed one after the other as they are filled in', {}, async ({ page }) => {
  await page.goto(`${URL}/docs/`);
  await authorize(page, page.getByRole('button', AUTHORIZE).first());
  for (const [id, status] of OPERATIONS) {
    const response = await execute(page, id.replace(' ', '_'));
    assert.equal(response.status(), status, `${id}: ${await response.text()}`);
    assert.ok(response.url().startsWith(`${URL}/admin/v1/`), response.url());
    const headers = await response.request().allHeaders();
    assert.equal(headers['idempotency-key'], undefined, id);
  }
});

await done();
