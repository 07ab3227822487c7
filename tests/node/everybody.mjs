// Whether everybody can use the pages: with the keyboard, on a phone, and as axe-core sees them.
import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { URL, KEY, call, go, settled, signIn } from './browser.mjs';
import { PAGES } from './pages.mjs';
import { done, test } from './testing.mjs';

const AXE = await readFile(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

await test('with the keyboard alone', {}, async ({ page }) => {
  await page.goto(`${URL}/console/`);
  await page.waitForFunction(() => document.activeElement?.id === 'key');
  await page.keyboard.type(KEY);
  await page.keyboard.press('Enter');
  await settled(page);
  await page.reload();
  await settled(page);
  await page.keyboard.press('Tab');
  await page.keyboard.press('Enter');
  assert.equal(
    await page.evaluate(() => document.activeElement.id),
    'main',
    'the first stop skips to the page',
  );
  await go(page, 'organizations');
  await page.getByRole('button', { name: 'New organization' }).focus();
  await page.keyboard.press('Enter');
  await page.getByRole('dialog').waitFor();
  // Twice, since browsers let no page keep a dialog open; each time it gives the focus back.
  for (let times = 0; times < 2; times += 1) {
    await page.keyboard.press('Escape');
    await page.getByRole('dialog').waitFor({ state: 'detached' });
    assert.equal(await page.evaluate(() => document.activeElement.textContent), 'New organization');
    await page.keyboard.press('Enter');
    await page.getByRole('dialog').waitFor();
  }
});

await test(
  'on the narrowest phone nothing is cut off',
  { viewport: { width: 360, height: 740 } },
  async ({ page }) => {
    await signIn(page);
    const wide = [];
    const look = async (name) => {
      const width = await page.evaluate(() => document.documentElement.scrollWidth);
      if (width > 360) wide.push(`${name}: ${width}`);
    };
    for (const [name, path] of PAGES) {
      await go(page, path);
      await look(name);
      const unnamed = await page.evaluate(() =>
        [...document.querySelectorAll('input, select, textarea')]
          .filter(({ labels, ariaLabel }) => labels.length === 0 && !ariaLabel)
          .map(({ outerHTML: html }) => html),
      );
      assert.deepEqual(unnamed, [], name);
    }
    await go(page, 'api-keys');
    await page.getByRole('button', { name: 'New API key' }).click();
    const inside = await page
      .getByRole('dialog')
      .evaluate((dialog) => dialog.scrollWidth - dialog.clientWidth);
    assert.equal(inside, 0, 'the dialog needs no scrolling sideways');
    assert.deepEqual(wide, []);
  },
);

await test(
  'where a table is wider than its page, the table alone scrolls',
  { viewport: { width: 800, height: 1000 } },
  async ({ page }) => {
    const name = 'An organization whose name was typed in full by somebody who had the time';
    const made = await call('POST', '/admin/v1/organizations', {
      id: 'org_long',
      name,
      email: 'long@example.com',
    });
    assert.equal(made.status, 201);
    await signIn(page);
    const wide = [];
    let scrolled = 0;
    for (const [title, path] of PAGES) {
      await go(page, path);
      const width = await page.evaluate(() => document.documentElement.scrollWidth);
      if (width > 800) wide.push(`${title}: ${width}`);
      scrolled += await page
        .locator('.table-wrap')
        .evaluateAll((tables) => tables.filter((table) => table.scrollWidth > table.clientWidth).length);
    }
    assert.ok(scrolled > 0, 'some are wider');
    assert.deepEqual(wide, []);
  },
);

/** The dialogs that are looked at: on which page, behind which button. */
const DIALOGS = [
  ['api-keys', 'New API key'],
  ['api-keys/key_123', 'Edit'],
  ['api-keys/key_123', 'Revoke'],
  ['organizations', 'New organization'],
  ['organizations/org_123', 'Add a member'],
  ['organizations/org_123', 'Change Ada Brandt'],
  ['organizations/org_123', 'Remove Ada Brandt'],
];

/** Violations that get in somebody's way, as axe-core rates them. */
async function violations(page) {
  await page.evaluate(AXE);
  const { violations: found } = await page.evaluate(() =>
    globalThis.axe.run(document, { resultTypes: ['violations'] }),
  );
  const bad = found.filter(({ impact }) => ['serious', 'critical'].includes(impact));
  return bad.map(
    ({ id, help, nodes }) =>
      `${id}: ${help}\n${nodes
        .slice(0, 5)
        .map(({ html, failureSummary }) => `  ${html}\n  ${failureSummary}`)
        .join('\n')}`,
  );
}

for (const colorScheme of ['light', 'dark']) {
  await test(
    `everybody can use it, ${colorScheme}`,
    { colorScheme, reducedMotion: 'reduce', bypassCSP: true },
    async ({ page }) => {
      const found = [];
      const look = async (name) => found.push(...(await violations(page)).map((one) => `${name}: ${one}`));
      const narrow = async () => {
        assert.equal(
          await page.evaluate(() => document.documentElement.scrollWidth),
          390,
          'a phone needs no scrolling sideways',
        );
      };
      await page.goto(`${URL}/console/`);
      await page.getByRole('heading', { name: 'Sign in' }).waitFor();
      await look('sign-in');
      await signIn(page);
      for (const [name, path] of PAGES) {
        await go(page, path);
        await look(name);
      }
      await go(page, 'audit');
      await page
        .getByRole('button', { name: /^Details/ })
        .first()
        .click();
      await look('audit, opened');
      for (const [path, button] of DIALOGS) {
        await go(page, path);
        await page.getByRole('button', { name: button, exact: true }).click();
        await page.getByRole('dialog').waitFor();
        // Some load what they are about.
        await settled(page);
        await look(`${path}: ${button}`);
        await page.keyboard.press('Escape');
      }
      await page.setViewportSize({ width: 390, height: 844 });
      await go(page, '');
      await look('overview, narrow');
      await narrow();
      await page.goto(`${URL}/docs/`);
      await page.locator('.opblock').first().waitFor();
      await look('reference');
      const operation = page.locator('#operations-Organizations-createOrganization');
      await operation.locator('.opblock-summary-control').click();
      await operation.getByLabel('Request body').waitFor();
      await look('reference, opened');
      await narrow();
      assert.deepEqual(found, []);
    },
  );
}

await done();
