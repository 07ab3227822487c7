// What the console keeps and what it does not: secrets that are not stored yet, and where a key gets to.
import assert from 'node:assert/strict';
import { KEY, URL, callApi, create, goTo, signIn, waitUntilLoaded } from './browser.mjs';
import { done, test } from './testing.mjs';

const storedByButton = 'I have stored it';

await test('a new secret is shown until it is stored', {}, async ({ page, expectedDialogs }) => {
  await signIn(page);
  await goTo(page, 'organizations/org_123');
  await goTo(page, 'api-keys');
  const dialog = page.getByRole('dialog');
  const secret = dialog.locator('.secret code');
  await page.getByRole('button', { name: 'New API key' }).click();
  await dialog.getByLabel('Organization', { exact: true }).fill('org_123');
  await dialog.getByLabel('Name', { exact: true }).fill('Kept');
  await dialog.getByRole('button', { name: 'Create' }).click();
  await dialog.getByRole('heading', { name: 'API key created' }).waitFor();
  const text = await secret.innerText();

  // Back, forward, a page that is left, and a reload, before which the browser asks.
  const isShown = async (place) => {
    await dialog.getByRole('button', { name: storedByButton }).waitFor();
    assert.equal(await secret.innerText(), text, place);
    assert.ok(!page.url().includes(text), place);
  };
  await page.goBack();
  await page.getByRole('heading', { level: 1, name: 'Acme', includeHidden: true }).waitFor();
  await isShown('back');
  await page.goForward();
  await isShown('forward');
  const asking = page.waitForEvent('dialog');
  expectedDialogs.add('beforeunload');
  const reloading = page.reload();
  assert.equal((await asking).type(), 'beforeunload');
  await reloading;
  await isShown('reload');
  await page.goto(`${URL}/docs/`);
  await page.goto(`${URL}/console/`);
  await isShown('another page');
  expectedDialogs.clear();

  // Once it is stored, nothing of it is left, and the browser does not ask.
  await dialog.getByRole('button', { name: storedByButton }).click();
  await dialog.waitFor({ state: 'detached' });
  await page.reload();
  await waitUntilLoaded(page);
  assert.equal(await dialog.count(), 0);
  const kept = await page.evaluate(() => JSON.stringify([sessionStorage, history.state]));
  assert.ok(!kept.includes(text));
});

await test('a key that replaces itself shows its new secret', {}, async ({ page, expectedStatuses }) => {
  const scopes = ['admin:keys'];
  const own = await create('/api-keys', { organization_id: 'org_123', name: 'Self', scopes });
  await signIn(page, own.key);
  await goTo(page, `api-keys/${own.id}`);
  const dialog = page.getByRole('dialog');
  await page.getByRole('button', { name: 'Rotate' }).click();
  await dialog.getByLabel('Current secret expires').selectOption('0');
  expectedStatuses.add('401');
  await dialog.getByRole('button', { name: 'Rotate' }).click();
  await dialog.getByRole('heading', { name: 'API key rotated' }).waitFor();
  const secret = await dialog.locator('.secret code').innerText();
  // The page behind it is the sign-in.
  await page.getByRole('heading', { name: 'Sign in', includeHidden: true }).waitFor();
  await dialog.getByRole('button', { name: storedByButton }).click();
  await signIn(page, secret);
  assert.equal((await callApi('GET', '/admin/v1/whoami', undefined, secret)).status, 200);
});

/** Creates keys of an organization, more than a list shows at first. */
async function createKeys(organization, count) {
  await create('/organizations', {
    id: organization,
    name: organization,
    email: `${organization}@example.com`,
  });
  for (let start = 0; start < count; start += 100) {
    const operations = Array.from({ length: Math.min(100, count - start) }, (_, index) => ({
      method: 'POST',
      path: '/api-keys',
      body: { organization_id: organization, name: `Key ${start + index}`, scopes: [] },
    }));
    const { status } = await callApi('POST', '/admin/v1/batch', { operations });
    assert.equal(status, 200);
  }
}

const parametersOf = (page) => new URLSearchParams(page.url().split('?')[1]);

await test('filters, length and position of a list are kept', {}, async ({ page }) => {
  await createKeys('org_many', 130);
  await signIn(page);
  await goTo(page, 'api-keys');
  const status = page.getByLabel('Status');
  const rows = page.getByRole('region', { name: 'API keys' }).locator('tbody tr');
  const filtering = page.waitForResponse(/api-keys\?.*organization_id=org_many/);
  await page.getByLabel('Organization', { exact: true }).fill('org_many');
  await status.selectOption('active');
  await filtering;
  await waitUntilLoaded(page);
  // More rows are loaded when the end comes near.
  for (const count of [100, 130]) {
    await rows.last().scrollIntoViewIfNeeded();
    await rows.nth(count - 1).waitFor();
  }
  const link = page.getByRole('link', { name: 'Key 20', exact: true });
  await link.scrollIntoViewIfNeeded();
  const top = async () => Math.round((await link.boundingBox()).y);
  const before = await top();
  await link.click();
  await page.getByRole('heading', { level: 1, name: 'Key 20' }).waitFor();
  assert.equal(await page.evaluate(() => scrollY), 0);

  const isAsLeft = async (place) => {
    await link.waitFor();
    await page.waitForFunction((expected) => {
      const links = [...document.querySelectorAll('td a')];
      const element = links.find(({ textContent }) => textContent === 'Key 20');
      return Math.abs(element.getBoundingClientRect().y - expected) <= 2;
    }, before);
    assert.equal(await rows.count(), 130, place);
    assert.equal(await status.inputValue(), 'active', place);
  };
  await page.goBack();
  await isAsLeft('back');
  await page.reload();
  await isAsLeft('reload');
  const address = page.url();
  await page.goto('about:blank');
  await page.goBack();
  await isAsLeft('back from another site');
  assert.equal(page.url(), address);

  // Other filters begin at the top. Those of every list are in its address.
  await status.selectOption('disabled');
  await page.getByText('No matches.').waitFor();
  // The position is noted when the page has settled.
  await page.waitForFunction(() => !location.hash.includes('scroll='));
  assert.deepEqual(Object.fromEntries(parametersOf(page)), {
    organization_id: 'org_many',
    status: 'disabled',
  });
  const choices = [
    ['organizations', 'Plan', 'enterprise', 'plan'],
    ['users', 'Status', 'suspended', 'status'],
    ['usage', 'Break down by', 'code', 'group_by'],
    ['denials', 'Reason', 'RATE_LIMITED', 'code'],
    ['audit', 'Type', '', 'access'],
  ];
  for (const [path, label, value, name] of choices) {
    await goTo(page, path);
    await page.getByLabel(label, { exact: true }).selectOption(value);
    await waitUntilLoaded(page);
    assert.deepEqual([...parametersOf(page)], [[name, value]], path);
    await page.reload();
    await waitUntilLoaded(page);
    assert.equal(await page.getByLabel(label, { exact: true }).inputValue(), value, path);
  }
});

await test('a pasted key gets into no address and no request', {}, async ({ page, context }) => {
  const key = await create('/api-keys', { organization_id: 'org_123', name: 'Pasted', scopes: [] });
  await signIn(page);
  const urls = [];
  context.on('request', (request) => urls.push(request.url()));
  await goTo(page, 'api-keys');
  const search = page.getByLabel('Search by name, start or ID');
  await search.fill(key.key);
  await search.press('Enter');
  await page.getByRole('link', { name: 'Pasted' }).waitFor();
  await waitUntilLoaded(page);
  assert.equal(await search.inputValue(), key.start);
  assert.equal(parametersOf(page).get('q'), key.start);
  const rows = page.getByRole('region', { name: 'API keys' }).locator('tbody tr');
  assert.equal(await rows.count(), 1);

  // Other fields, the key of the session, and an address that someone typed.
  await goTo(page, 'audit');
  await page.getByLabel('Target').fill(key.key);
  await page.getByLabel('Target').press('Enter');
  await page.waitForFunction(() => location.hash.includes('target_id='));
  await waitUntilLoaded(page);
  assert.equal(parametersOf(page).get('target_id'), key.id);
  await goTo(page, 'users');
  await page.getByLabel('Search by name, email or ID').fill(`find ${KEY}`);
  await page.getByLabel('Search by name, email or ID').press('Enter');
  await page.getByText('No matches.').waitFor();
  await page.goto(`${URL}/console/#/api-keys?q=${key.key}`);
  await page.getByRole('link', { name: 'Pasted' }).waitFor();
  await waitUntilLoaded(page);
  assert.equal(parametersOf(page).get('q'), key.start);
  for (const secret of [key.key, KEY]) {
    assert.ok(!urls.some((url) => url.includes(secret)), urls.join('\n'));
  }
});

await test('a new tab is signed in if the user confirms it', {}, async ({ page, context, faults }) => {
  await signIn(page);
  await waitUntilLoaded(page);
  const tab = await context.newPage();
  tab.on('pageerror', (error) => faults.push(error.stack));
  await tab.goto(`${URL}/console/#/api-keys`);
  const askButton = tab.getByRole('button', { name: 'Use the key of another tab' });
  const dialog = page.getByRole('dialog');
  const codeOf = async (place) => /\b\d{4}\b/.exec(await place.innerText())[0];

  // It is refused, withdrawn, and given.
  await askButton.click();
  assert.equal(await codeOf(dialog), await codeOf(tab.locator('.other-tab')));
  await dialog.getByRole('button', { name: 'Don’t sign in' }).click();
  await tab.getByText('It was not confirmed.').waitFor();
  await askButton.click();
  await dialog.waitFor();
  await tab.getByRole('button', { name: 'Cancel' }).click();
  await dialog.waitFor({ state: 'detached' });
  await askButton.click();
  await dialog.getByRole('button', { name: 'Sign in', exact: true }).click();
  await tab.getByRole('heading', { name: 'API keys' }).waitFor();
  const stored = await tab.evaluate(() => [Object.values(sessionStorage), document.cookie]);
  assert.deepEqual(stored, [[KEY], '']);

  // Without a tab that is signed in, there is nothing to ask.
  await page.getByRole('button', { name: 'Sign out' }).click();
  await tab.getByRole('button', { name: 'Sign out' }).click();
  for (const signedOut of [page, tab]) {
    await signedOut.getByRole('heading', { name: 'Sign in' }).waitFor();
    await signedOut.locator('.other-tab').waitFor({ state: 'detached' });
  }
});

await test('below a path, no key is handed over', {}, async ({ page, context }) => {
  // Pages of others can have the same origin there.
  await context.route('**/below/**', async (route) => {
    const response = await route.fetch({ url: route.request().url().replace('/below/', '/') });
    await route.fulfill({ response });
  });
  await page.goto(`${URL}/below/console/`);
  await page.getByLabel('API key').fill(KEY);
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByRole('heading', { name: 'Overview' }).waitFor();
  const tab = await context.newPage();
  await tab.goto(`${URL}/below/console/`);
  await tab.getByRole('heading', { name: 'Sign in' }).waitFor();
  // Nobody answers to what a page of the same origin asks.
  await tab.evaluate(() => {
    globalThis.answers = [];
    const channel = new BroadcastChannel('tollhouse.sign-in');
    channel.onmessage = ({ data }) => globalThis.answers.push(data);
    channel.postMessage({ type: 'look' });
    channel.postMessage({ type: 'ask', request: { id: 'x', code: '1000' } });
  });
  await page.getByRole('link', { name: 'Users', exact: true }).click();
  await waitUntilLoaded(page);
  assert.equal(await page.getByRole('dialog').count(), 0);
  assert.deepEqual(await tab.evaluate(() => globalThis.answers), []);
  assert.equal(await tab.locator('.other-tab').count(), 0);
});

await done();
