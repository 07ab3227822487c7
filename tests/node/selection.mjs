// Several keys at once: selected in the list, disabled and revoked together.
import assert from 'node:assert/strict';
import { callApi, create, goTo, read, signIn, waitUntilLoaded } from './browser.mjs';
import { done, test } from './testing.mjs';

async function createKeys(organization, names) {
  const email = `${organization}@example.com`;
  await create('/organizations', { id: organization, name: organization, email });
  const keys = names.map((name) => create('/api-keys', { organization_id: organization, name, scopes: [] }));
  return Promise.all(keys);
}

const statusesOf = async (keys) => {
  const resources = await Promise.all(keys.map(({ id }) => read(`/api-keys/${id}`)));
  return resources.map(({ status }) => status);
};

await test('selected keys are disabled and revoked', {}, async ({ page, context }) => {
  const keys = await createKeys('org_select', ['One', 'Two', 'Three', 'Four']);
  await signIn(page);
  await goTo(page, 'api-keys?organization_id=org_select');
  const bar = page.getByRole('region', { name: 'Selected keys' });
  const box = (name) => page.getByRole('checkbox', { name: `Select ${name}`, exact: true });
  const batches = [];
  context.on('request', (request) => {
    if (request.url().endsWith('/batch')) batches.push(JSON.parse(request.postData()).operations);
  });
  assert.equal(await bar.count(), 0);
  await box('One').check();
  await box('Two').check();
  await bar.getByText('2 selected').waitFor();
  await bar.getByRole('button', { name: 'Disable' }).click();
  await bar.waitFor({ state: 'detached' });
  assert.deepEqual(await statusesOf(keys), ['disabled', 'disabled', 'active', 'active']);
  const changes = batches.filter(([operation]) => operation.method === 'PATCH');
  assert.deepEqual(
    changes.map(({ length }) => length),
    [2],
    'one batch',
  );

  // All of them. One was revoked in the meantime, which is no failure.
  await waitUntilLoaded(page);
  await page.getByRole('checkbox', { name: 'Select all' }).check();
  await bar.getByText('4 selected').waitFor();
  await callApi('POST', `/admin/v1/api-keys/${keys[3].id}/revoke`);
  await bar.getByRole('button', { name: 'Revoke' }).click();
  const dialog = page.getByRole('dialog', { name: 'Revoke 4 keys?' });
  await dialog.getByText('Three').waitFor();
  await dialog.getByLabel('Reason').fill('Test is over');
  await dialog.getByRole('button', { name: 'Revoke 4 keys' }).click();
  await dialog.waitFor({ state: 'detached' });
  assert.deepEqual(await statusesOf(keys), Array(4).fill('revoked'));
  await waitUntilLoaded(page);
  assert.equal(await page.getByRole('checkbox', { name: /^Select (?!all)/ }).count(), 0);
});

await test('what is refused is said, and the rest is done', {}, async ({ page }) => {
  const [ordinary] = await createKeys('org_partly', ['Ordinary']);
  // The first key of the platform is the last one that can manage keys, so it can't be revoked.
  await signIn(page);
  await goTo(page, 'api-keys');
  await page.getByRole('checkbox', { name: 'Select First admin key' }).check();
  await page.getByRole('checkbox', { name: 'Select Ordinary' }).check();
  await page.getByRole('region', { name: 'Selected keys' }).getByRole('button', { name: 'Revoke' }).click();
  const dialog = page.getByRole('dialog', { name: 'Revoke 2 keys?' });
  const confirmation = dialog.getByLabel('Type the number of keys to confirm');
  if (await confirmation.count()) await confirmation.fill('2');
  await dialog.getByRole('button', { name: 'Revoke 2 keys' }).click();
  await dialog.getByRole('alert').getByText('1 key of 2 could not be revoked. First admin key:').waitFor();
  assert.deepEqual(await statusesOf([ordinary]), ['revoked']);
});

await done();
