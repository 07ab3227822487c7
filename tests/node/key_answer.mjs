// The page of a key as an answer: whether it works, why not, what is left of its limits, and its denials.
import assert from 'node:assert/strict';
import { callApi, create, goTo, signIn, waitUntilLoaded } from './browser.mjs';
import { done, test } from './testing.mjs';

const perHour = (limit) => [{ meter: 'requests', limit, window_seconds: 3600 }];

await test('a key says whether it works, and why not', {}, async ({ page }) => {
  await create('/organizations', { id: 'org_answer', name: 'Answer', email: 'answer@example.com' });
  const body = { organization_id: 'org_answer', name: 'Asked', scopes: ['workflows:read'] };
  const key = await create('/api-keys', { ...body, limits: perHour(5), allowed_ips: ['203.0.113.0/24'] });
  const verify = async (fields) => {
    return (await callApi('POST', '/v1/keys/verify', { key: key.key, ip: '203.0.113.7', ...fields })).data
      .code;
  };
  const setStatus = (status) => callApi('PATCH', '/admin/v1/organizations/org_answer', { status });
  const answer = page.locator('main .card').filter({ has: page.getByRole('heading', { name: 'Now' }) });
  await signIn(page);
  await goTo(page, `api-keys/${key.id}`);
  await answer.getByText('Works.').waitFor();

  // The gauge follows without a reload.
  const gauge = answer.locator('.gauge', { hasText: '5 requests per hour' });
  await gauge.getByText(/^5 left$/).waitFor();
  assert.equal(await verify({ cost: 3 }), 'VALID');
  await gauge.getByText(/^2 left · full again /).waitFor();
  assert.equal(await gauge.getByRole('meter').getAttribute('aria-valuenow'), '2');

  // A check of a request, which spends nothing.
  await answer.getByText('Check a request').click();
  const check = async (label, text, expected) => {
    await answer.getByLabel(label).fill(text);
    await answer.getByRole('button', { name: 'Check' }).click();
    await answer.locator('details').getByText(expected).waitFor();
  };
  await check('Required scopes', 'workflows:write', 'it does not have a required scope');
  await check('Required scopes', 'workflows:read', 'Works.');
  await check('Client IP address', '192.0.2.1', 'this IP address is not allowed');
  await check('Client IP address', '203.0.113.9', 'Works.');
  await check('Cost in requests', '4', 'a rate limit is reached');
  assert.equal(await verify({ dry_run: true }), 'VALID');

  // A denial is in the list, which follows too.
  const denials = page.getByRole('region', { name: 'Latest denials' });
  assert.equal(await denials.count(), 0);
  assert.equal(await verify({ ip: '198.51.100.4' }), 'IP_NOT_ALLOWED');
  await denials.getByRole('row', { name: 'IP not allowed 198.51.100.4' }).waitFor();

  // A suspended organization, with the way to it.
  assert.equal((await setStatus('suspended')).status, 200);
  await page.reload();
  await waitUntilLoaded(page);
  await answer.getByText('its organization is suspended').waitFor();
  await answer.getByRole('link', { name: 'View organization' }).click();
  await page.getByRole('heading', { name: 'Answer', level: 1 }).waitFor();
});

await done();
