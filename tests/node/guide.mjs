// The documentation below `/docs/` in a browser, and the site that scripts/site writes, without a server.
import assert from 'node:assert/strict';
import { findViolations, pageWidth } from './axe.mjs';
import { URL } from './browser.mjs';
import { openReference, waitForPage } from './reference_page.mjs';
import { done, test } from './testing.mjs';

const SITE = process.env.TOLLHOUSE_SITE;

/** Pages that differ in what they contain: code, tables, pictures, long lists. */
const PAGES = ['home', 'quickstart', 'concepts/verification', 'reference/errors'];

const openGuide = (page, path) => page.goto(`${URL}/docs/${path}`);

/** The addresses of all pages. */
async function allPages(page) {
  await openGuide(page, 'home');
  const links = page.getByRole('navigation', { name: 'Documentation' }).getByRole('link');
  return links.evaluateAll((all) => all.map(({ href }) => href));
}

async function search(page, query) {
  await page.getByRole('button', { name: 'Search' }).click();
  const dialog = page.getByRole('dialog', { name: 'Search' });
  await dialog.getByRole('searchbox').fill(query);
  await dialog.locator('.results a').first().waitFor();
  return dialog;
}

await test('pages are read without JavaScript', { javaScriptEnabled: false }, async ({ page }) => {
  for (const width of [1280, 390]) {
    await page.setViewportSize({ width, height: 900 });
    await openGuide(page, 'concepts/verification');
    assert.ok(await page.getByRole('heading', { name: 'Freshness' }).isVisible());
    assert.equal(await page.getByRole('button').count(), 0, 'no button that does nothing');
    await page
      .getByRole('navigation', { name: 'Documentation' })
      .getByRole('link', { name: 'Limits and quotas' })
      .click();
    await page.getByRole('heading', { level: 1, name: 'Limits' }).waitFor();
    await page.locator('.neighbors .next').click();
    assert.equal(new globalThis.URL(page.url()).pathname, '/docs/concepts/audit-log');
  }
});

await test('the search finds headings, texts and operations', {}, async ({ page }) => {
  await openGuide(page, 'guides/rotate-a-key');
  const dialog = await search(page, 'privilege escalation');
  await dialog
    .getByRole('link', { name: /^No privilege escalation/ })
    .first()
    .click();
  await page.waitForURL(/#no-privilege-escalation$/);
  // With the keyboard, to an operation.
  await page.keyboard.press('/');
  await page.getByRole('dialog').getByRole('searchbox').waitFor();
  await page.keyboard.type('rotateApiKey');
  await page.getByRole('dialog').locator('.results a').first().waitFor();
  await page.keyboard.press('ArrowDown');
  await page.keyboard.press('Enter');
  await waitForPage(page, '#rotateApiKey');
  // From the reference to a page.
  await openReference(page, 'verifyKey');
  const fromReference = await search(page, 'litestream');
  await fromReference
    .getByRole('link', { name: /^Replicate with Litestream/ })
    .first()
    .click();
  await page.waitForURL(/\/docs\/operate\/litestream/);
  // What is typed is only text, and what isn't there isn't found.
  await page.keyboard.press('Control+k');
  await page.keyboard.type('<img src=x onerror=alert(1)> nothing');
  await page.getByRole('dialog').getByText('Nothing matches.').waitFor();
});

await test(
  'code is copied as it is',
  { permissions: ['clipboard-read', 'clipboard-write'] },
  async ({ page }) => {
    await openGuide(page, 'quickstart');
    const panel = page.locator('.panel').first();
    await panel.getByRole('button', { name: 'Copy' }).click();
    await panel.getByText('Copied').waitFor();
    const copied = await page.evaluate(() => navigator.clipboard.readText());
    assert.equal(copied, await panel.locator('pre').textContent());
    assert.ok(copied.startsWith('umask 077'), copied);
  },
);

await test(
  'on a phone, the navigation is behind a button',
  { viewport: { width: 390, height: 840 } },
  async ({ page }) => {
    await openGuide(page, 'guides/plans');
    const button = page.getByRole('button', { name: 'Guides' });
    const link = page.getByRole('link', { name: 'Backup and restore', exact: true });
    assert.equal(await link.first().isVisible(), false);
    await button.click();
    await page
      .getByRole('navigation', { name: 'Documentation' })
      .getByRole('link', { name: 'Metrics', exact: true })
      .click();
    await page.getByRole('heading', { level: 1, name: 'Metrics' }).waitFor();
  },
);

await test('no page scrolls sideways', {}, async ({ page }) => {
  const found = [];
  const urls = await allPages(page);
  assert.ok(urls.length > 50);
  for (const width of [360, 800, 1400]) {
    await page.setViewportSize({ width, height: 800 });
    for (const url of urls) {
      await page.goto(url);
      const wide = await pageWidth(page);
      if (wide > width) found.push(`${url} at ${width}: ${wide}`);
    }
  }
  assert.deepEqual(found, []);
});

for (const colorScheme of ['light', 'dark']) {
  const options = { colorScheme, reducedMotion: 'reduce', bypassCSP: true };
  await test(`axe-core finds no violation, ${colorScheme}`, options, async ({ page }) => {
    const found = [];
    for (const width of [390, 1400]) {
      await page.setViewportSize({ width, height: 900 });
      for (const path of PAGES) {
        await openGuide(page, path);
        const violations = await findViolations(page);
        found.push(...violations.map((violation) => `${path} at ${width}: ${violation}`));
      }
      await search(page, 'rotate');
      found.push(...(await findViolations(page)).map((violation) => `search at ${width}: ${violation}`));
    }
    assert.deepEqual(found, []);
  });
}

await test('an unknown page has the navigation and the search', {}, async ({ page, expectedStatuses }) => {
  expectedStatuses.add('404');
  await openGuide(page, 'guides/no-such-page');
  await page.getByRole('heading', { name: 'Page not found' }).waitFor();
  const dialog = await search(page, 'quickstart');
  await dialog
    .getByRole('link', { name: /^Quickstart/ })
    .first()
    .click();
  await page.waitForURL(/\/docs\/quickstart/);
});

await test('the written site needs no server', {}, async ({ page, faults }) => {
  await page.goto(`file://${SITE}/index.html`);
  await page.getByRole('main').getByRole('link', { name: 'quickstart', exact: true }).click();
  await page.getByRole('heading', { level: 1, name: 'Quickstart' }).waitFor();
  const dialog = await search(page, 'rotate an api key');
  await dialog
    .getByRole('link', { name: /^Rotate an API key/ })
    .first()
    .click();
  await page.waitForURL(/reference\/operations\.html#rotateApiKey$/);
  const background = await page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  assert.equal(background, 'rgb(247, 247, 245)', 'the style sheets are loaded');
  // Everything came from the files.
  const other = faults.filter((fault) => !fault.startsWith(`request to file://${SITE}/`));
  assert.deepEqual(other, []);
  faults.length = 0;
});

await done();
