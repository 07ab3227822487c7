// Screenshots of each page, wide and narrow, light and dark: `node screenshots.mjs [DIRECTORY [NAME]]` writes
// `NAME-WIDTH-SCHEME.png` into the directory, for all pages or those whose name contains NAME.
import { mkdir } from 'node:fs/promises';
import { URL, callApi, goTo, launchBrowser, openPage, signIn } from './browser.mjs';
import { PAGES } from './pages.mjs';
import { openReference, sendRequest } from './reference_page.mjs';

const SIZES = [
  { width: 1280, height: 860 },
  { width: 390, height: 844 },
];

const [directory = 'target/screenshots', nameFilter = ''] = process.argv.slice(2);
await mkdir(directory, { recursive: true });
const metadata = { team: 'payments', address: '12 Harbour Street\nBristol' };
await callApi('PATCH', '/admin/v1/organizations/org_123', { metadata });
// The sample data has a suspended organization.
const harbourKeys = await callApi('GET', '/admin/v1/api-keys?organization_id=org_harbour');
const suspendedKey = harbourKeys.data[0].id;

const browser = await launchBrowser();
for (const viewport of SIZES) {
  for (const colorScheme of ['light', 'dark']) {
    const options = { colorScheme, viewport, reducedMotion: 'reduce' };
    const { context, page, faults, expectedStatuses } = await openPage(browser, options);
    const takeScreenshot = async (name) => {
      if (!name.includes(nameFilter)) return;
      await page.screenshot({ path: `${directory}/${name}-${viewport.width}-${colorScheme}.png` });
    };
    const dialog = page.getByRole('dialog');
    const openDialog = async (path, button) => {
      await goTo(page, path);
      await page.getByRole('button', { name: button, exact: true }).first().click();
      await dialog.waitFor();
    };

    await page.goto(`${URL}/console/`);
    await page.getByRole('heading', { name: 'Sign in' }).waitFor();
    await takeScreenshot('sign-in');
    await signIn(page);
    for (const [name, path] of PAGES) {
      await goTo(page, path);
      await takeScreenshot(name);
    }

    await goTo(page, `api-keys/${suspendedKey}`);
    await page.getByText('Refused:').waitFor();
    await takeScreenshot('key-suspended');
    await goTo(page, 'audit?action=organization.update');
    await page
      .getByRole('button', { name: /^Details/ })
      .first()
      .click();
    await takeScreenshot('audit-details');

    await goTo(page, 'api-keys');
    await page.getByRole('checkbox', { name: 'Select Bookings' }).check();
    await takeScreenshot('selected-keys');
    await page.keyboard.press('Control+k');
    await dialog.getByRole('combobox').fill('acme');
    await dialog.locator('[aria-busy="false"]').waitFor();
    await takeScreenshot('search');
    await page.keyboard.press('Escape');
    await openDialog('api-keys/key_123', 'Revoke');
    await dialog.getByText('In use now.').waitFor();
    await takeScreenshot('revoke');
    await dialog.getByRole('button', { name: 'Cancel' }).click();

    await openDialog('organizations/org_123', 'Edit');
    await dialog.getByLabel('Limits', { exact: true }).selectOption('Custom limits');
    await dialog.getByLabel('Limits: amount 1').fill('500');
    await dialog.getByRole('button', { name: 'Add metadata' }).click();
    await takeScreenshot('edit-organization');
    await dialog.getByRole('button', { name: 'Cancel' }).click();
    await openDialog('organizations/org_123', 'New API key');
    await takeScreenshot('new-key');
    expectedStatuses.add('400');
    await dialog.getByRole('button', { name: 'Create' }).click();
    await dialog.getByRole('alert').waitFor();
    await takeScreenshot('new-key-invalid');
    await dialog.getByLabel('Name', { exact: true }).fill('Staging API Key');
    await dialog.getByLabel('workflows:read').check();
    await dialog.getByRole('button', { name: 'Create' }).click();
    await page.getByRole('heading', { name: 'API key created' }).waitFor();
    await takeScreenshot('secret');
    await dialog.getByRole('button', { name: 'I have stored it' }).click();

    for (const path of ['home', 'quickstart', 'concepts/verification']) {
      await page.goto(`${URL}/docs/${path}`);
      await takeScreenshot(`documentation-${path.split('/').at(-1)}`);
    }
    for (const address of ['', 'verifyKey', 'createApiKey']) {
      await openReference(page, address);
      await takeScreenshot(`reference-${address || 'start'}`);
    }
    await openReference(page, 'getOrganization');
    await sendRequest(page);
    await takeScreenshot('reference-response');
    for (const fault of faults) console.error(fault);
    await context.close();
  }
}
await browser.close();
