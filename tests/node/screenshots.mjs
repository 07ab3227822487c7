// Pictures of each page, wide and narrow, light and dark, into the directory that is named: `NAME-WIDTH-SCHEME.png`.
import { mkdir } from 'node:fs/promises';
import { URL, go, open, signIn, visit } from './browser.mjs';
import { PAGES } from './pages.mjs';

const [directory = 'target/screenshots', only] = process.argv.slice(2);
await mkdir(directory, { recursive: true });
const browser = await open();
for (const [width, height] of [
  [1280, 860],
  [390, 844],
]) {
  for (const colorScheme of ['light', 'dark']) {
    const { context, page, faults } = await visit(browser, {
      colorScheme,
      viewport: { width, height },
      reducedMotion: 'reduce',
    });
    const shot = async (name) => {
      if (only && !name.includes(only)) return;
      await page.screenshot({ path: `${directory}/${name}-${width}-${colorScheme}.png` });
    };
    await page.goto(`${URL}/console/`);
    await page.getByRole('heading', { name: 'Sign in' }).waitFor();
    await shot('sign-in');
    await signIn(page);
    for (const [name, path] of PAGES) {
      await go(page, path);
      await shot(name);
    }
    await go(page, 'audit?action=organization.update');
    await page
      .getByRole('button', { name: /^Details/ })
      .first()
      .click();
    await shot('audit-opened');
    await go(page, 'organizations/org_123');
    await page.getByRole('button', { name: 'New API key' }).click();
    await shot('new-key');
    await page.getByRole('dialog').getByLabel('Name').fill('Staging API Key');
    await page.getByRole('dialog').getByLabel('workflows:read').check();
    await page.getByRole('dialog').getByRole('button', { name: 'Create' }).click();
    await page.getByRole('heading', { name: 'Your new key' }).waitFor();
    await shot('secret');
    await page.goto(`${URL}/docs/`);
    await page.locator('.opblock').first().waitFor();
    await shot('reference');
    for (const fault of faults) console.error(fault);
    await context.close();
  }
}
await browser.close();
