// The first page of a new organization: steps that are ticked as they are done, and code that runs.
import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { create, goTo, signIn, waitUntilLoaded } from './browser.mjs';
import { done, test } from './testing.mjs';

await test('the first steps are ticked as they are done', {}, async ({ page }) => {
  await create('/organizations', { id: 'org_new', name: 'New', email: 'new@example.com' });
  const organization = { organization_id: 'org_new' };
  const owner = await create('/api-keys', { ...organization, name: 'Owner', scopes: ['*'] });
  await signIn(page, owner.key);
  await waitUntilLoaded(page);
  const card = page.locator('main .card').filter({ has: page.getByRole('heading', { name: 'First steps' }) });
  const step = (title) => card.locator('.step', { hasText: title });
  const expectStates = async (expected) => {
    for (const [title, state] of Object.entries(expected)) {
      await step(title).getByRole('img', { name: state, exact: true }).waitFor();
    }
  };
  const [client, service, first] = [
    'Create a key for a client',
    'Create a service key',
    'Verify the first key',
  ];
  await expectStates({ [client]: 'to do', [service]: 'to do', [first]: 'to do' });
  assert.equal(await step('Create an organization').count(), 0, 'a key of an organization has one');

  // Each is ticked without a reload.
  const clientKey = await create('/api-keys', {
    ...organization,
    name: 'Client',
    scopes: ['workflows:read'],
  });
  await expectStates({ [client]: 'done', [service]: 'to do', [first]: 'to do' });
  await step(service).getByRole('link', { name: 'New API key' }).click();
  const dialog = page.getByRole('dialog', { name: 'New API key' });
  await dialog.getByRole('button', { name: 'Verify keys' }).click();
  await dialog.getByLabel('Name', { exact: true }).fill('Gateway');
  await dialog.getByRole('button', { name: 'Create' }).click();
  const serviceKey = await page.locator('.secret code').innerText();
  await page.getByRole('button', { name: 'I have stored it' }).click();
  await goTo(page, '');
  await expectStates({ [client]: 'done', [service]: 'done', [first]: 'to do' });

  // The code on the page verifies the key, after which the page shows usage in place of the steps.
  const env = { ...process.env, TOLLHOUSE_KEY: serviceKey, CLIENT_KEY: clientKey.key };
  const curl = await card.locator('pre').innerText();
  assert.equal(JSON.parse(execFileSync('bash', ['-c', curl], { env })).data.code, 'VALID');
  await card.waitFor({ state: 'detached' });
  await page.getByRole('heading', { name: 'Requests', exact: true }).waitFor();

  // So does the code in other languages.
  await goTo(page, `api-keys/${clientKey.id}`);
  await page.getByText('Verify in code').click();
  const programs = { Node: ['node', '--input-type=module', '-e'], Python: ['python3', '-c'] };
  for (const [language, [program, ...args]] of Object.entries(programs)) {
    await page.getByRole('button', { name: language, exact: true }).click();
    const code = await page.locator('.snippet pre').innerText();
    assert.match(execFileSync(program, [...args, code], { env }).toString(), /^true VALID/i, language);
  }
});

await done();
