// The console with a keyboard only, on narrow screens, and as axe-core rates them.
import assert from 'node:assert/strict';
import { findViolations, pageWidth } from './axe.mjs';
import { KEY, URL, create, goTo, signIn, waitUntilLoaded } from './browser.mjs';
import { PAGES } from './pages.mjs';
import { done, test } from './testing.mjs';

await test('the console works with the keyboard only', {}, async ({ page }) => {
  await page.goto(`${URL}/console/`);
  await page.waitForFunction(() => document.activeElement?.id === 'key');
  await page.keyboard.type(KEY);
  await page.keyboard.press('Enter');
  await waitUntilLoaded(page);
  await page.reload();
  await waitUntilLoaded(page);
  await page.keyboard.press('Tab');
  await page.keyboard.press('Enter');
  const focusedId = await page.evaluate(() => document.activeElement.id);
  assert.equal(focusedId, 'main', 'the first stop is the link that skips the navigation');

  await goTo(page, 'organizations');
  await page.getByRole('button', { name: 'New organization' }).focus();
  await page.keyboard.press('Enter');
  await page.getByRole('dialog').waitFor();
  // Twice, because browsers treat a second Escape differently. The focus returns to the button each time.
  for (let times = 0; times < 2; times += 1) {
    await page.keyboard.press('Escape');
    await page.getByRole('dialog').waitFor({ state: 'detached' });
    const focusedText = await page.evaluate(() => document.activeElement.textContent);
    assert.equal(focusedText, 'New organization');
    await page.keyboard.press('Enter');
    await page.getByRole('dialog').waitFor();
  }
});

const NARROWEST = { width: 360, height: 740 };

await test('nothing is cut off on the narrowest phone', { viewport: NARROWEST }, async ({ page }) => {
  await signIn(page);
  const tooWide = [];
  for (const [name, path] of PAGES) {
    await goTo(page, path);
    const width = await pageWidth(page);
    if (width > NARROWEST.width) tooWide.push(`${name}: ${width}`);
    const unlabeled = await page.evaluate(() => {
      const controls = [...document.querySelectorAll('input:not([type="hidden"]), select, textarea')];
      const isLabeled = ({ labels, ariaLabel }) => labels.length > 0 || ariaLabel;
      return controls.filter((control) => !isLabeled(control)).map(({ outerHTML }) => outerHTML);
    });
    assert.deepEqual(unlabeled, [], name);
  }
  await goTo(page, 'api-keys');
  await page.getByRole('button', { name: 'New API key' }).click();
  const dialog = page.getByRole('dialog');
  await dialog.getByLabel('Limits', { exact: true }).selectOption('Custom limits');
  await dialog.getByRole('button', { name: 'Add metadata' }).click();
  const body = dialog.locator('.dialog-body');
  const hiddenWidth = await body.evaluate((element) => element.scrollWidth - element.clientWidth);
  assert.equal(hiddenWidth, 0, 'the dialog does not scroll sideways');
  assert.deepEqual(tooWide, []);
});

const TABLET = { width: 800, height: 1000 };

await test(
  'a table that is wider than the page scrolls by itself',
  { viewport: TABLET },
  async ({ page }) => {
    const name = 'An organization whose name was typed in full by somebody who had the time';
    await create('/organizations', { id: 'org_long', name, email: 'long@example.com' });
    await signIn(page);
    const tooWide = [];
    let scrollingTables = 0;
    for (const [title, path] of PAGES) {
      await goTo(page, path);
      const width = await pageWidth(page);
      if (width > TABLET.width) tooWide.push(`${title}: ${width}`);
      scrollingTables += await page.locator('.table-wrap').evaluateAll((wraps) => {
        return wraps.filter((wrap) => wrap.scrollWidth > wrap.clientWidth).length;
      });
    }
    assert.ok(scrollingTables > 0, 'some tables are wider');
    assert.deepEqual(tooWide, []);
  },
);

/** The dialogs to check: the page, and the button that opens the dialog. */
const DIALOGS = [
  ['api-keys', 'New API key'],
  ['api-keys/key_123', 'Edit'],
  ['api-keys/key_123', 'Revoke'],
  ['organizations', 'New organization'],
  ['organizations/org_123', 'Edit'],
  ['organizations/org_123', 'Add member'],
  ['organizations/org_123', 'Change role of Ada Brandt'],
  ['organizations/org_123', 'Remove Ada Brandt'],
];

for (const colorScheme of ['light', 'dark']) {
  const options = { colorScheme, reducedMotion: 'reduce', bypassCSP: true };
  await test(`axe-core finds no violation, ${colorScheme}`, options, async ({ page, expectedStatuses }) => {
    const found = [];
    const check = async (name) => {
      const violations = await findViolations(page);
      found.push(...violations.map((violation) => `${name}: ${violation}`));
    };
    await page.goto(`${URL}/console/`);
    await page.getByRole('heading', { name: 'Sign in' }).waitFor();
    await check('sign-in');
    await signIn(page);
    for (const [name, path] of PAGES) {
      await goTo(page, path);
      await check(name);
    }
    await goTo(page, 'audit');
    await page
      .getByRole('button', { name: /^Details/ })
      .first()
      .click();
    await check('audit with details');
    for (const [path, button] of DIALOGS) {
      await goTo(page, path);
      await page.getByRole('button', { name: button, exact: true }).click();
      await page.getByRole('dialog').waitFor();
      await waitUntilLoaded(page);
      if (button === 'New organization') {
        await page.getByLabel('Limits', { exact: true }).selectOption('Custom limits');
        await page.getByRole('button', { name: 'Add metadata' }).click();
        expectedStatuses.add('400');
        await page.getByRole('button', { name: 'Create' }).click();
        await page.getByRole('alert').waitFor();
        expectedStatuses.delete('400');
      }
      await check(`${path}: ${button}`);
      await page.keyboard.press('Escape');
    }
    await goTo(page, 'api-keys');
    await page.getByRole('checkbox', { name: 'Select Bookings' }).check();
    await check('selected keys');
    await page.getByRole('button', { name: 'New API key' }).click();
    await page.getByRole('dialog').getByRole('combobox', { name: 'Organization' }).fill('kestrel');
    await page.locator('.options', { hasText: 'org_kestrel' }).waitFor();
    await check('an open picker');
    await page.keyboard.press('Escape');
    await page.keyboard.press('Escape');
    await goTo(page, 'api-keys/key_123');
    await page.getByText('Check a request').click();
    await page.getByText('Verify in code').click();
    await check('a key with its code');
    await page.setViewportSize({ width: 390, height: 844 });
    await goTo(page, '');
    await check('overview on a phone');
    assert.equal(await pageWidth(page), 390, 'a phone does not scroll sideways');
    assert.deepEqual(found, []);
  });
}

await done();
