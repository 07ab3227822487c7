// The API reference at `/docs/` in a browser: its addresses, its filter, the key of requests, and print.
import assert from 'node:assert/strict';
import { pageWidth } from './axe.mjs';
import { KEY, URL, read, signIn } from './browser.mjs';
import {
  fill,
  openReference,
  removeKey,
  sendRequest,
  tryIt,
  useKey,
  waitForPage,
} from './reference_page.mjs';
import { done, test } from './testing.mjs';

const heading = (page) => page.getByRole('heading', { level: 1 }).textContent();

/** Everything in which a page could keep or show a text. */
const traces = (page) =>
  page.evaluate(() => {
    const values = [...document.querySelectorAll('input, textarea')].map(({ value }) => value);
    const stores = [{ ...sessionStorage }, { ...localStorage }, { cookie: document.cookie }].map((store) =>
      JSON.stringify(store),
    );
    const { href } = location;
    return { href, html: document.documentElement.outerHTML, values: values.join(' '), stores };
  });

await test(
  'a pasted key is sent as the Bearer key, and nothing of it is left after its removal',
  {},
  async (visitor) => {
    const { page } = visitor;
    await openReference(page, 'getCaller');
    await useKey(page);
    const { request, status, text } = await sendRequest(page);
    assert.equal(status, 200);
    assert.equal(request.url(), `${URL}/admin/v1/whoami`);
    const headers = await request.allHeaders();
    assert.equal(headers.authorization, `Bearer ${KEY}`);
    assert.equal(headers['x-api-key'], undefined);
    assert.ok(text.includes('"success": true'), text);

    // While it is used, it is only in the storage of the tab.
    const used = await traces(page);
    assert.ok(used.stores[0].includes(KEY));
    assert.ok(
      ![used.href, used.html, used.values, ...used.stores.slice(1)].some((trace) => trace.includes(KEY)),
    );
    await page.reload();
    await waitForPage(page, '#getCaller');
    assert.equal((await sendRequest(page)).status, 200, 'the tab keeps the key');

    await removeKey(page);
    await page.getByRole('button', { name: 'Use an API key' }).waitFor();
    const removed = await traces(page);
    assert.ok(!JSON.stringify(removed).includes(KEY));
    assert.equal(await tryIt(page).locator('pre').count(), 0, 'what the key could read is gone, too');
    // Without a key, the page asks for one instead of sending the request.
    await tryIt(page).getByRole('button', { name: 'Send request' }).click();
    await page.getByRole('dialog').getByLabel('API key').fill('no key');
    await page.getByRole('dialog').getByRole('button', { name: 'Use this key' }).click();
    await page.getByRole('dialog').getByRole('alert').waitFor();
  },
);

await test('the console and the reference use the same key of the tab', {}, async ({ page }) => {
  await signIn(page);
  await openReference(page, 'getCaller');
  assert.equal((await sendRequest(page)).status, 200);
  await removeKey(page);
  await page.goto(`${URL}/console/`);
  await page.getByRole('heading', { name: 'Sign in' }).waitFor();
});

await test('each page has an address, a title, and a heading that gets the focus', {}, async ({ page }) => {
  await openReference(page);
  assert.equal(await page.title(), 'API reference · Tollhouse API');
  await page.getByRole('main').getByRole('link', { name: 'Create an organization' }).click();
  await waitForPage(page, '#createOrganization');
  const navigation = page.getByRole('navigation', { name: 'Operations' });
  await navigation.getByRole('link', { name: 'List users' }).click();
  await waitForPage(page, '#listUsers');
  assert.equal(await page.title(), 'List users · Tollhouse API');
  assert.equal(await page.evaluate(() => document.activeElement.textContent), 'List users');
  await page.goBack();
  await waitForPage(page, '#createOrganization');
  assert.equal(await heading(page), 'Create an organization');
  await page.goForward();
  await waitForPage(page, '#listUsers');
  await page.getByRole('main').getByRole('link', { name: 'Users', exact: true }).click();
  await waitForPage(page, '#tag/Users');
  assert.equal(await heading(page), 'Users');
  for (const address of ['noSuchOperation', '%zz', 'tag/%zz', '__proto__', 'constructor']) {
    await openReference(page, address);
    assert.equal(await heading(page), 'Operation not found', address);
  }
  // A new tab opens at the address, too.
  const other = await page.context().newPage();
  await openReference(other, 'rotateApiKey');
  assert.equal(await heading(other), 'Rotate an API key');
});

await test('the filter finds operations by name, path, word and error code', {}, async ({ page }) => {
  await openReference(page);
  const navigation = page.getByRole('navigation', { name: 'Operations' });
  const field = navigation.getByRole('searchbox');
  const links = navigation.locator('ul ul a');
  const { operations } = await page.evaluate(async () => {
    const document = await (await fetch('../openapi.json')).json();
    return { operations: Object.values(document.paths).flatMap((item) => Object.keys(item)).length };
  });
  assert.equal(await links.count(), operations);
  for (const [query, expected] of [
    ['rotateApiKey', ['rotateApiKey']],
    ['POST /admin/v1/batch', ['runBatch']],
    ['precondition_required', ['updateConfiguration']],
    ['RFC 7662 client_id', ['introspectToken']],
    ['<img src=x onerror=alert(1)>', []],
  ]) {
    await field.fill(query);
    await page.waitForFunction(
      (count) => document.querySelectorAll('.nav-list ul a').length === count,
      expected.length,
    );
    const found = await links.evaluateAll((all) => all.map(({ hash }) => hash.slice(1)));
    assert.deepEqual(found, expected, query);
    const count = expected.length === 1 ? '1 operation' : 'No operation matches.';
    assert.equal(await navigation.getByRole('status').textContent(), count);
  }
  await field.fill('introspect');
  await field.press('Enter');
  await waitForPage(page, '#introspectToken');
});

await test(
  'what is typed is sent, and dangerous requests ask first',
  {},
  async ({ page, expectedStatuses }) => {
    const id = 'org_tried';
    await openReference(page, 'createOrganization');
    await useKey(page);
    await fill(page, { body: JSON.stringify({ id, name: 'Tried', email: 'tried@example.com' }) });
    const created = await sendRequest(page);
    assert.equal(created.status, 201);
    assert.equal(JSON.parse(created.text).data.id, id);
    assert.equal((await read(`/organizations/${id}`)).name, 'Tried');

    await openReference(page, 'deleteOrganization');
    const form = tryIt(page);
    const send = form.getByRole('button', { name: 'Send request' });
    for (const [value, message] of [
      ['', 'Enter a value.'],
      ['..', 'A dot is not a value'],
    ]) {
      await fill(page, { 'path.id': value });
      await send.click();
      await form.getByText(message).waitFor();
      assert.equal(await page.evaluate(() => document.activeElement.name), 'path.id');
    }
    await fill(page, { 'path.id': id, 'header.If-Match': '"outdated"' });
    const code = page.getByRole('group', { name: 'curl code' });
    const shown = await code.textContent();
    assert.ok(shown.includes(`/admin/v1/organizations/${id}'`), shown);
    assert.ok(shown.includes(`'If-Match: "outdated"'`), shown);

    const sent = [];
    page.on('request', (request) => sent.push(request.method()));
    await send.click();
    await page.getByRole('dialog').getByRole('button', { name: 'Cancel' }).click();
    await page.getByRole('dialog').waitFor({ state: 'detached' });
    assert.deepEqual(sent, []);
    expectedStatuses.add('412');
    assert.equal((await sendRequest(page)).status, 412);
    await form.getByRole('button', { name: 'Use the current ETag' }).click();
    const etag = form.locator('[name="header.If-Match"]');
    await page.waitForFunction((input) => !input.value.includes('outdated'), await etag.elementHandle());
    const { status, headers } = await sendRequest(page);
    assert.equal(status, 200);
    assert.ok(headers['x-request-id'].startsWith('req_'));
  },
);

await test('printed pages have all text and no controls', {}, async ({ page }) => {
  await openReference(page, 'createApiKey');
  await page.emulateMedia({ media: 'print' });
  for (const role of ['navigation', 'button', 'textbox', 'combobox', 'banner']) {
    assert.equal(await page.getByRole(role).count(), 0, role);
  }
  // Also the fields and examples that are folded on the screen.
  const folded = page.locator('details:not([open]) :is(li, pre)');
  assert.ok((await folded.count()) > 20);
  const missing = await folded.evaluateAll((elements) => {
    const isShown = (element) => element.checkVisibility() && element.getBoundingClientRect().height > 0;
    return elements.filter((element) => !isShown(element)).map(({ textContent }) => textContent);
  });
  assert.deepEqual(missing, []);
  const code = page.getByRole('group', { name: 'curl code' });
  const hiddenHeight = await code.evaluate((element) => element.scrollHeight - element.clientHeight);
  assert.equal(hiddenHeight, 0);
  await page.setViewportSize({ width: 680, height: 900 });
  assert.equal(await pageWidth(page), 680);
});

await done();
