// The API reference with a keyboard only, on screens of all sizes, and as axe-core rates it.
import assert from 'node:assert/strict';
import { findViolations, pageWidth } from './axe.mjs';
import { KEY, URL } from './browser.mjs';
import { fill, openReference, sendRequest, tryIt, useKey, waitForPage } from './reference_page.mjs';
import { done, test } from './testing.mjs';

const { paths } = await (await fetch(`${URL}/openapi.json`)).json();
const OPERATIONS = Object.values(paths).flatMap((item) =>
  Object.values(item).map(({ operationId }) => operationId),
);

await test('the reference works with the keyboard only', {}, async ({ page }) => {
  const press = (...keys) =>
    keys.reduce((pressed, key) => pressed.then(() => page.keyboard.press(key)), Promise.resolve());
  const focused = (property) => page.evaluate((name) => document.activeElement[name], property);
  await openReference(page);
  await press('Tab', 'Enter');
  assert.equal(await focused('id'), 'main', 'the first stop is the link that skips the navigation');

  await page.getByRole('searchbox').focus();
  await page.keyboard.type('calling key organization scopes whoami');
  await press('Enter');
  await waitForPage(page, '#getCaller');
  assert.equal(await focused('tagName'), 'H1');
  const send = tryIt(page).getByRole('button', { name: 'Send request' });
  await send.focus();
  await press('Enter');
  await page.getByRole('dialog').waitFor();
  await page.keyboard.type(KEY);
  await press('Enter');
  await page.getByRole('dialog').waitFor({ state: 'detached' });
  assert.equal(await focused('textContent'), 'Send request', 'the focus returns');
  await press('Enter');
  await tryIt(page).locator('.answer-head .status').waitFor();
  // The response scrolls with the keyboard, because it can be focused.
  await tryIt(page).getByRole('group', { name: 'Response body' }).focus();
  assert.equal(await focused('tagName'), 'PRE');
});

const SIZES = [360, 700, 1000, 1400, 2200];

await test('no page scrolls sideways, and all controls have names', {}, async ({ page }) => {
  const found = [];
  for (const width of SIZES) {
    await page.setViewportSize({ width, height: 800 });
    for (const address of ['', 'tag/Users', ...OPERATIONS]) {
      await openReference(page, address);
      const wide = await pageWidth(page);
      if (wide > width) found.push(`${address} at ${width}: ${wide}`);
      const unlabeled = await page.evaluate(() => {
        const controls = [...document.querySelectorAll('input, select, textarea')];
        return controls.filter(({ labels, ariaLabel }) => labels.length === 0 && !ariaLabel).length;
      });
      if (unlabeled > 0) found.push(`${address}: ${unlabeled} controls without a name`);
    }
  }
  assert.deepEqual(found, []);
});

await test(
  'on a phone, the operations are behind a button',
  { viewport: { width: 360, height: 740 } },
  async ({ page }) => {
    await openReference(page, 'verifyKey');
    const button = page.getByRole('button', { name: 'Operations' });
    const link = page.getByRole('link', { name: 'Rotate an API key' });
    assert.equal(await link.isVisible(), false);
    await button.click();
    await link.click();
    await waitForPage(page, '#rotateApiKey');
    assert.equal(await link.isVisible(), false, 'the list closes');
    assert.equal(await button.getAttribute('aria-expanded'), 'false');
  },
);

/** Pages that differ in what they contain: lists, nested schemas, variants, forms, and many parameters. */
const PAGES = [
  '',
  'tag/Users',
  'verifyKey',
  'createApiKey',
  'listAuditEvents',
  'updateConfiguration',
  'forwardAuth',
];
const WIDTHS = [390, 1400];

for (const colorScheme of ['light', 'dark']) {
  const options = { colorScheme, reducedMotion: 'reduce', bypassCSP: true };
  await test(`axe-core finds no violation, ${colorScheme}`, options, async ({ page, expectedStatuses }) => {
    const found = [];
    const check = async (name) => {
      const violations = await findViolations(page);
      found.push(...violations.map((violation) => `${name}: ${violation}`));
    };
    await openReference(page);
    await page.getByRole('button', { name: 'Use an API key' }).click();
    await check('the dialog of the key');
    await page.keyboard.press('Escape');
    await useKey(page);
    for (const width of WIDTHS) {
      await page.setViewportSize({ width, height: 900 });
      for (const address of PAGES) {
        await openReference(page, address);
        await page.locator('details').evaluateAll((sections) => {
          for (const section of sections) section.open = true;
        });
        await check(`${address || 'start page'} at ${width}`);
      }
      await openReference(page, 'getOrganization');
      await sendRequest(page);
      await check(`a response at ${width}`);
      expectedStatuses.add('404');
      await fill(page, { 'path.id': 'org_unknown' });
      await sendRequest(page);
      await check(`an error at ${width}`);
      await fill(page, { 'path.id': '' });
      await tryIt(page).getByRole('button', { name: 'Send request' }).click();
      await tryIt(page).getByText('Enter a value.').waitFor();
      await check(`a fault at ${width}`);
    }
    await page.setViewportSize({ width: 390, height: 900 });
    await page.getByRole('button', { name: 'Operations' }).click();
    await check('the operations on a phone');
    assert.deepEqual(found, []);
  });
}

await done();
