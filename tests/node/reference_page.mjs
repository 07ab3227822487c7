// What the tests of the API reference do on the page at `/docs/`.
import { KEY, URL } from './browser.mjs';

/** Goes to the page of an operation, of a tag, or with an empty address to the start page. */
export async function openReference(page, address = '') {
  await page.goto(`${URL}/docs/${address && `#${address}`}`);
  await waitForPage(page, address && `#${address}`);
}

/** Waits until the page with this address is shown. */
export async function waitForPage(page, hash) {
  await page.waitForFunction((expected) => {
    return document.querySelector('main')?.dataset.hash === expected && document.querySelector('h1');
  }, hash);
}

/** Pastes a key into the dialog of the page. */
export async function useKey(page, key = KEY) {
  await page.getByRole('button', { name: 'Use an API key' }).click();
  const dialog = page.getByRole('dialog');
  await dialog.getByLabel('API key').fill(key);
  await dialog.getByRole('button', { name: 'Use this key' }).click();
  await dialog.waitFor({ state: 'detached' });
}

export const removeKey = (page) => page.getByRole('button', { name: 'Remove key' }).click();

export const tryIt = (page) => page.getByRole('region', { name: 'Try it' });

/** Fills in the fields of Try it, by their names. Optional parameters are unfolded. */
export async function fill(page, values) {
  const form = tryIt(page);
  for (const [name, value] of Object.entries(values)) {
    const field = form.locator(`[name="${name}"]`);
    await form.locator('details.optional').evaluateAll((sections) => {
      for (const section of sections) section.open = true;
    });
    const isChoice = await field.evaluate((element) => element.tagName === 'SELECT');
    await (isChoice ? field.selectOption(value) : field.fill(value));
  }
}

/** True for a request of Try it, false for those with which the browser loads the page's own files. */
const isOfApi = (request) => request.resourceType() === 'fetch';

/** Fills in the ETag of the resource. */
export async function useCurrentEtag(page) {
  const etag = tryIt(page).locator('[name="header.If-Match"]');
  const reading = page.waitForResponse((response) => isOfApi(response.request()));
  await tryIt(page).getByRole('button', { name: 'Use the current ETag' }).click();
  await reading;
  await page.waitForFunction((input) => input.value.startsWith('"'), await etag.elementHandle());
}

/** Sends the request that is filled in, and confirms it. Returns the response as the page shows it. */
export async function sendRequest(page) {
  const form = tryIt(page);
  // Not until it is finished: of a long response, the page reads only the first part.
  const sending = page.waitForRequest(isOfApi);
  const button = form.getByRole('button', { name: 'Send request' });
  const isDangerous = await button.evaluate((element) => element.classList.contains('danger'));
  await button.click();
  if (isDangerous) await page.getByRole('dialog').getByRole('button', { name: 'Send' }).click();
  const request = await sending;
  const status = form.locator('.answer-head .status');
  await status.waitFor();
  const headers = await form.locator('.answer-headers div').evaluateAll((pairs) => {
    return pairs.map((pair) => [pair.querySelector('dt').textContent, pair.querySelector('dd').textContent]);
  });
  const body = form.locator('pre');
  return {
    request,
    status: Number((await status.textContent()).split(' ')[0]),
    headers: Object.fromEntries(headers),
    text: (await body.count()) > 0 ? await body.textContent() : '',
  };
}
