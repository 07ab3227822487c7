// The page at / in a real browser, and where it leads.
import assert from 'node:assert/strict';
import { URL, signIn } from './browser.mjs';
import { done, test } from './testing.mjs';

await test('the first page leads to the others', {}, async ({ page }) => {
  for (const [name, path] of [
    ['Console', 'console/'],
    ['API reference', 'docs/'],
    ['OpenAPI document', 'openapi.json'],
    ['Health', 'healthz'],
    ['Readiness', 'readyz'],
  ]) {
    await page.goto(`${URL}/`);
    const answered = page.waitForResponse(`${URL}/${path}`);
    await page.getByRole('link', { name, exact: true }).click();
    assert.equal((await answered).status(), 200, name);
  }
  await signIn(page);
});

for (const colorScheme of ['light', 'dark']) {
  await test(
    `it is ${colorScheme} where everything is, and fits a phone`,
    { colorScheme, viewport: { width: 320, height: 640 } },
    async ({ page }) => {
      await page.goto(`${URL}/`);
      const { color, width } = await page.evaluate(() => ({
        color: getComputedStyle(document.body).backgroundColor,
        width: document.documentElement.scrollWidth,
      }));
      // Its style sheet is in force, which the policy has to allow.
      assert.equal(color, colorScheme === 'light' ? 'rgb(251, 251, 250)' : 'rgb(28, 32, 34)');
      assert.equal(width, 320);
    },
  );
}

await done();
