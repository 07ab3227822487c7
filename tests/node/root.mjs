// The page at `/` in a browser.
import assert from 'node:assert/strict';
import { URL, signIn } from './browser.mjs';
import { done, test } from './testing.mjs';

/** The links of the page, and their targets. */
const LINKS = [
  ['Console', 'console/'],
  ['Documentation', 'docs/home'],
  ['API reference', 'docs/'],
  ['OpenAPI document', 'openapi.json'],
  ['Health', 'healthz'],
  ['Readiness', 'readyz'],
];
const BACKGROUNDS = { light: 'rgb(251, 251, 250)', dark: 'rgb(28, 32, 34)' };
const NARROW = { width: 320, height: 640 };

await test('the links of the page lead to the others', {}, async ({ page }) => {
  for (const [name, path] of LINKS) {
    await page.goto(`${URL}/`);
    const loading = page.waitForResponse(`${URL}/${path}`);
    await page.getByRole('link', { name, exact: true }).click();
    assert.equal((await loading).status(), 200, name);
  }
  await signIn(page);
});

for (const colorScheme of ['light', 'dark']) {
  const options = { colorScheme, viewport: NARROW };
  await test(`the page follows the ${colorScheme} scheme and fits a phone`, options, async ({ page }) => {
    await page.goto(`${URL}/`);
    const { color, width } = await page.evaluate(() => ({
      color: getComputedStyle(document.body).backgroundColor,
      width: document.documentElement.scrollWidth,
    }));
    assert.equal(color, BACKGROUNDS[colorScheme], 'the security policy allows the style sheet');
    assert.equal(width, NARROW.width);
  });
}

await done();
