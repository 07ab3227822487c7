// Dialogs and forms: what they offer, what they send, and how they show errors. And the status of keys.
import assert from 'node:assert/strict';
import { callApi, create, goTo, read, signIn, waitUntilLoaded } from './browser.mjs';
import { done, test } from './testing.mjs';

/** Fills in a row of metadata. Positions start at 1. */
async function fillPair(dialog, position, name, value) {
  await dialog.getByLabel(`Metadata name ${position}`).fill(name);
  await dialog.getByLabel(`Metadata value ${position}`).fill(value);
}

/** The message of the API about an ID that is taken. */
async function takenIdMessage() {
  const body = { id: 'key_123', name: 'Taken', scopes: [] };
  const { status, error } = await callApi('POST', '/admin/v1/api-keys', body);
  assert.equal(status, 409);
  return error.message;
}

const focusedLabel = (page) => {
  return page.evaluate(
    () => document.activeElement.ariaLabel ?? document.activeElement.labels?.[0].textContent,
  );
};

await test(
  'a key is created with a wildcard, metadata, and its own ID',
  {},
  async ({ page, expectedStatuses }) => {
    await signIn(page);
    await goTo(page, 'api-keys');
    await page.getByRole('button', { name: 'New API key' }).click();
    const dialog = page.getByRole('dialog');
    const scopeBox = (scope) => dialog.getByRole('checkbox', { name: `${scope} `, exact: false });
    const createButton = dialog.getByRole('button', { name: 'Create' });
    await dialog.getByLabel('Organization', { exact: true }).fill('org_123');
    await dialog.getByLabel('Name', { exact: true }).fill('All workflows');
    await scopeBox('workflows:*').check();
    const addButton = dialog.getByRole('button', { name: 'Add metadata' });
    await addButton.click();
    await fillPair(dialog, 1, ' team ', 'payments');
    await addButton.click();
    assert.equal(await focusedLabel(page), 'Metadata name 2', 'the new row has the focus');
    await addButton.click();
    await fillPair(dialog, 3, 'rule', 'a = b');
    const idField = dialog.locator('.field', { has: page.getByLabel('ID (optional)') });
    const idInput = dialog.getByLabel('ID (optional)');
    await idInput.fill('chosen');
    expectedStatuses.add('400');
    await createButton.click();
    await idField.locator('.fault').getByText('key_').waitFor();
    expectedStatuses.delete('400');

    // An ID that is taken is refused with the message of the API, and what was typed stays.
    await idInput.fill('key_123');
    expectedStatuses.add('409');
    await createButton.click();
    await dialog
      .getByRole('alert')
      .getByText(await takenIdMessage())
      .waitFor();
    expectedStatuses.delete('409');
    await idInput.fill('key_chosen');
    await createButton.click();
    await dialog.getByRole('heading', { name: 'API key created' }).waitFor();
    const secret = await dialog.locator('.secret code').innerText();
    await dialog.getByRole('button', { name: 'Close' }).click();
    const created = await read('/api-keys/key_chosen');
    assert.equal(created.organization_id, 'org_123');
    assert.deepEqual(created.scopes, ['workflows:*']);
    assert.deepEqual(created.metadata, { team: 'payments', rule: 'a = b' });
    const verify = async (scope) => {
      return (await callApi('POST', '/v1/keys/verify', { key: secret, scopes: [scope] })).data.code;
    };
    assert.equal(await verify('workflows:write'), 'VALID');
    assert.equal(await verify('transactions:read'), 'INSUFFICIENT_SCOPE');

    // The page of the key and its form show all of it.
    await goTo(page, 'api-keys/key_chosen');
    const facts = await page.locator('.facts').innerText();
    for (const text of ['key_chosen', 'workflows:*', 'team payments', 'rule a = b']) {
      assert.ok(facts.includes(text), `${text}: ${facts}`);
    }
    await page.getByRole('button', { name: 'Edit' }).click();
    await scopeBox('workflows:read').waitFor();
    const checkedBoxes = dialog.locator('input:checked');
    assert.deepEqual(await checkedBoxes.evaluateAll((boxes) => boxes.map(({ value }) => value)), [
      'workflows:*',
    ]);
    assert.equal(await dialog.getByLabel('Metadata name 1').inputValue(), 'rule');
    assert.equal(await dialog.getByLabel('Metadata value 2').inputValue(), 'payments');
    await scopeBox('workflows:*').uncheck();
    await scopeBox('workflows:read').check();
    await dialog.getByRole('button', { name: 'Remove metadata 1' }).click();
    await dialog.getByLabel('Metadata value 1').fill('checkout');
    await dialog.getByRole('button', { name: 'Save' }).click();
    await dialog.waitFor({ state: 'detached' });
    const edited = await read('/api-keys/key_chosen');
    assert.deepEqual(edited.scopes, ['workflows:read']);
    assert.deepEqual(edited.metadata, { team: 'checkout' });
    assert.equal(await verify('workflows:write'), 'INSUFFICIENT_SCOPE');
  },
);

await test('a key offers only the scopes that it may grant', {}, async ({ page }) => {
  const scopes = ['admin:keys', 'keys:*'];
  const manager = await create('/api-keys', { organization_id: 'org_123', name: 'Manager', scopes });
  await signIn(page, manager.key);
  await goTo(page, 'api-keys');
  await page.getByRole('button', { name: 'New API key' }).click();
  const dialog = page.getByRole('dialog');
  await dialog.getByText('Administrative scopes').click();
  const boxes = dialog.getByRole('checkbox');
  const offered = await boxes.evaluateAll((elements) => elements.map(({ value }) => value));
  const administrative = offered.filter((scope) => /^(admin|keys|\*)/.test(scope));
  assert.deepEqual(administrative.sort(), ['admin:keys', 'keys:*', 'keys:verify']);
  for (const scope of ['workflows:*', 'transactions:*', 'invoices:*']) {
    assert.ok(offered.includes(scope), `${scope}: ${offered}`);
  }
  assert.equal(await dialog.getByLabel('ID (optional)').count(), 0);
  assert.equal(await dialog.getByLabel('Organization', { exact: true }).count(), 0);
  await dialog.getByLabel('Name', { exact: true }).fill('Granted');
  for (const scope of ['transactions:*', 'keys:*']) {
    await dialog.locator(`input[value="${scope}"]`).check();
  }
  await dialog.getByRole('button', { name: 'Create' }).click();
  await dialog.getByRole('heading', { name: 'API key created' }).waitFor();
  await dialog.getByRole('button', { name: 'Close' }).click();
  await page.getByRole('link', { name: 'Granted' }).click();
  await waitUntilLoaded(page);
  const id = decodeURIComponent(page.url().split('/').at(-1));
  const granted = await read(`/api-keys/${id}`);
  assert.equal(granted.organization_id, 'org_123');
  assert.deepEqual(granted.scopes.sort(), ['keys:*', 'transactions:*']);
});

await test('an organization’s key edits a key and keeps its limits', {}, async ({ page }) => {
  const limits = { rate_limit: { limit: 7, window_seconds: 60 }, quota: { limit: 70, period: 'day' } };
  const body = { organization_id: 'org_123', name: 'Limited', scopes: [], ...limits };
  const limited = await create('/api-keys', body);
  const manager = await create('/api-keys', { ...body, name: 'Manager', scopes: ['admin:keys'] });
  await signIn(page, manager.key);
  await goTo(page, `api-keys/${limited.id}`);
  await page.getByRole('button', { name: 'Edit' }).click();
  const dialog = page.getByRole('dialog');
  assert.equal(await dialog.getByLabel('Rate limit').count(), 0);
  await dialog.getByLabel('Name').fill('Renamed');
  await dialog.getByRole('button', { name: 'Save' }).click();
  await page.getByRole('heading', { level: 1, name: 'Renamed' }).waitFor();
  const { rate_limit, quota } = await read(`/api-keys/${limited.id}`);
  assert.deepEqual({ rate_limit, quota }, limits);
});

/** Resources to edit, with values that a form can't show as they are, or in another order. */
const RESOURCES = [
  ['organizations', 'org_edited', { name: 'Before', email: 'edited@example.com', plan: 'enterprise' }],
  ['users', 'user_edited', { name: 'Before', email: 'edited@example.com', external_id: 'id-1' }],
  [
    'api-keys',
    'key_edited',
    {
      name: 'Before',
      organization_id: 'org_123',
      scopes: ['workflows:write', 'workflows:read', 'admin:users'],
      allowed_ips: ['203.0.113.0/24', '192.0.2.1'],
      rate_limit: { limit: 7, window_seconds: 90 },
      quota: { limit: 70, period: 'day' },
    },
  ],
];
const METADATA = {
  'a=b': 'one',
  multi: 'line 1\nline 2',
  crlf: ' 1\r\n2 ',
  'a/~b': '',
  constructor: 'c',
};

await test('saving sends only what was edited', {}, async ({ page, expectedStatuses }) => {
  const patches = [];
  page.on('request', (request) => {
    if (request.method() === 'PATCH') patches.push(request.postDataJSON());
  });
  const takePatches = () => patches.splice(0);
  const dialog = page.getByRole('dialog');
  const nameInput = dialog.getByLabel('Name', { exact: true });
  const saveButton = dialog.getByRole('button', { name: 'Save' });
  const save = async () => {
    await saveButton.click();
    await dialog.waitFor({ state: 'detached' });
  };
  const openForm = async () => {
    await page.getByRole('button', { name: 'Edit', exact: true }).click();
    await nameInput.waitFor();
    await waitUntilLoaded(page);
  };
  /** The position of a pair by its name. */
  const positionOf = async (name) => {
    const names = dialog.getByLabel(/^Metadata name/);
    const values = await names.evaluateAll((inputs) => inputs.map(({ value }) => value));
    return values.indexOf(name) + 1;
  };

  await signIn(page);
  for (const [path, id, body] of RESOURCES) {
    await create(`/${path}`, { id, ...body, metadata: METADATA });
    await goTo(page, `${path}/${id}`);
    await openForm();
    await save();
    assert.deepEqual(takePatches(), [], 'nothing was edited');

    await openForm();
    await nameInput.fill('After');
    await save();
    assert.deepEqual(takePatches(), [{ name: 'After' }]);
    assert.deepEqual((await read(`/${path}/${id}`)).metadata, METADATA);

    // Pairs that are changed, removed, renamed, and added.
    await openForm();
    const multi = dialog.getByLabel(`Metadata value ${await positionOf('multi')}`);
    assert.equal(await multi.inputValue(), METADATA.multi);
    await multi.fill('line 1\nline 2\nline 3');
    await dialog.getByRole('button', { name: `Remove metadata ${await positionOf('a=b')}` }).click();
    await dialog.getByLabel(`Metadata name ${await positionOf('constructor')}`).fill('toString');
    await dialog.getByRole('button', { name: 'Add metadata' }).click();
    await fillPair(dialog, 5, '__proto__', ' x = y ');
    await save();
    const [patch] = takePatches();
    assert.deepEqual(Object.keys(patch), ['metadata']);
    const pairs = [
      ['a=b', null],
      ['constructor', null],
      ['multi', 'line 1\nline 2\nline 3'],
      ['toString', 'c'],
      ['__proto__', ' x = y '],
    ];
    assert.deepEqual(Object.entries(patch.metadata).sort(), pairs.sort());
    const unchanged = [
      ['crlf', METADATA.crlf],
      ['a/~b', METADATA['a/~b']],
    ];
    const expected = [...unchanged, ...pairs.filter(([, value]) => value !== null)];
    const stored = Object.entries((await read(`/${path}/${id}`)).metadata);
    assert.deepEqual(stored.sort(), expected.sort());
  }

  // The form refuses a name that occurs twice, the API one that is too long. The message is in the row.
  const longRow = dialog.locator('.metadata-row', { has: page.getByLabel('Metadata name 6') });
  await openForm();
  await dialog.getByRole('button', { name: 'Add metadata' }).click();
  await fillPair(dialog, 6, 'multi', 'again');
  await saveButton.click();
  await longRow.getByText('only once').waitFor();
  assert.deepEqual(takePatches(), []);
  await dialog.getByLabel('Metadata name 6').fill('n'.repeat(41));
  expectedStatuses.add('400');
  await saveButton.click();
  await longRow.getByText('40 characters').waitFor();
  expectedStatuses.delete('400');
  assert.equal(await dialog.locator('.metadata-row .fault').count(), 1);
  assert.equal(await focusedLabel(page), 'Metadata name 6');
});

/** True if nothing hides the middle of the element and it is within the window. */
const isInSight = (locator) => {
  return locator.evaluate((element) => {
    const { left, top, width, height } = element.getBoundingClientRect();
    const hit = document.elementFromPoint(left + width / 2, top + height / 2);
    const isInWindow = top >= 0 && top + height <= innerHeight;
    return isInWindow && (element.contains(hit) || hit?.contains(element));
  });
};

const LOW = { width: 1280, height: 480 };

await test('errors of a dialog are in sight', { viewport: LOW }, async ({ page, expectedStatuses }) => {
  await signIn(page);
  await goTo(page, 'organizations/org_123');
  await page.getByRole('button', { name: 'New API key' }).click();
  const dialog = page.getByRole('dialog');
  const alert = dialog.getByRole('alert');
  const createButton = dialog.getByRole('button', { name: 'Create' });
  const idInput = dialog.getByLabel('ID (optional)');
  const nameInput = dialog.getByLabel('Name', { exact: true });
  await dialog.getByLabel('workflows:read').waitFor();
  const body = dialog.locator('.dialog-body');
  assert.ok(
    await body.evaluate((element) => element.scrollHeight > 2 * element.clientHeight),
    'the form scrolls',
  );

  // The first of two fields at fault has the focus, wherever the form was scrolled to.
  expectedStatuses.add('400');
  await idInput.fill('chosen');
  assert.equal(await isInSight(nameInput), false);
  await createButton.click();
  await alert.getByText('Some fields are not valid').waitFor();
  assert.equal(await isInSight(alert), true);
  assert.equal(await focusedLabel(page), 'Name');
  assert.equal(await isInSight(nameInput), true);

  // Then only the last field is at fault.
  await nameInput.fill('Named');
  await nameInput.press('Enter');
  await dialog.locator('[aria-invalid="true"]').nth(1).waitFor({ state: 'detached' });
  await page.waitForFunction(() => document.activeElement.name === 'id');
  assert.equal(await isInSight(idInput), true);
  assert.equal(await isInSight(alert), true);
  expectedStatuses.delete('400');

  // An error that is about no field leaves the focus and the form where they are.
  expectedStatuses.add('409');
  await idInput.fill('key_123');
  await nameInput.focus();
  await nameInput.press('Enter');
  await alert.getByText(await takenIdMessage()).waitFor();
  assert.equal(await isInSight(alert), true);
  assert.equal(await focusedLabel(page), 'Name');
  expectedStatuses.delete('409');

  // A scope that was deleted after the form was opened: its box has the focus.
  await create('/scopes', { scope: 'invoices:delete' });
  await page.keyboard.press('Escape');
  await goTo(page, 'organizations/org_123');
  await page.getByRole('button', { name: 'New API key' }).click();
  await nameInput.fill('Deletes invoices');
  await dialog.getByLabel('workflows:read').check();
  await dialog.getByLabel('invoices:delete').check();
  await callApi('DELETE', '/admin/v1/scopes/invoices:delete');
  expectedStatuses.add('400');
  await createButton.click();
  await dialog.locator('.fault').getByText('invoices:delete').waitFor();
  assert.equal(await page.evaluate(() => document.activeElement.value), 'invoices:delete');
  assert.equal(await dialog.locator('[aria-invalid="true"]').count(), 1);
});

await test('an active key that does not work shows why', {}, async ({ page }) => {
  await create('/organizations', { id: 'org_status', name: 'Status', email: 'status@example.com' });
  await create('/users', { id: 'user_status', name: 'Owner', email: 'owner@example.com' });
  await create('/organizations/org_status/members', { user_id: 'user_status', role: 'owner' });
  const organization = { organization_id: 'org_status', scopes: [] };
  await create('/api-keys', { id: 'key_owned', name: 'Owned', user_id: 'user_status', ...organization });
  await create('/api-keys', { id: 'key_plain', name: 'Plain', ...organization });
  const setStatus = async (path, status) => {
    const { status: httpStatus } = await callApi('PATCH', `/admin/v1${path}`, { status });
    assert.equal(httpStatus, 200);
  };
  /** The status of a key in the list and on its own page, and whether each is shown as good. */
  const expectStatus = async (name, label, isGood) => {
    await goTo(page, 'api-keys');
    const row = page.getByRole('row').filter({ has: page.getByRole('link', { name, exact: true }) });
    await row
      .locator(isGood ? '.badge.good' : '.badge.warn')
      .getByText(label, { exact: true })
      .waitFor();
    assert.equal(await row.locator('.badge').count(), 1);
    await row.getByRole('link', { name, exact: true }).click();
    await waitUntilLoaded(page);
    const lead = page.locator('.lead');
    await lead
      .locator(isGood ? '.badge.good' : '.badge.warn')
      .getByText(label, { exact: true })
      .waitFor();
    assert.equal(await lead.locator('.badge').count(), 1);
  };
  const note = page.locator('main').getByText('This key does not work because');

  await signIn(page);
  await expectStatus('Owned', 'active', true);
  assert.equal(await note.count(), 0);

  await setStatus('/users/user_status', 'suspended');
  await expectStatus('Plain', 'active', true);
  await expectStatus('Owned', 'owner suspended', false);
  await note.getByRole('link', { name: 'View owner' }).click();
  await page.getByRole('heading', { level: 1, name: 'Owner', exact: true }).waitFor();
  const keyRow = page.getByRole('row').filter({ hasText: 'Owned' });
  await keyRow.getByText('owner suspended').waitFor();
  // The table follows when the user is activated on the same page.
  await page.getByRole('button', { name: 'Edit' }).click();
  await page.getByRole('dialog').getByLabel('Status').selectOption('active');
  await page.getByRole('button', { name: 'Save' }).click();
  await keyRow.locator('.badge.good').getByText('active').waitFor();

  await setStatus('/organizations/org_status', 'suspended');
  await expectStatus('Plain', 'organization suspended', false);
  await note.getByRole('link', { name: 'View organization' }).click();
  await page.getByRole('heading', { level: 1, name: 'Status', exact: true }).waitFor();
  await page.getByRole('row').filter({ hasText: 'Plain' }).getByText('organization suspended').waitFor();

  // A key of another status has its own reason.
  await setStatus('/api-keys/key_plain', 'disabled');
  await expectStatus('Plain', 'disabled', false);
  assert.equal(await note.count(), 0);

  // A session that may not read the organization does not claim that the key works.
  const scopes = ['admin:keys'];
  const limited = await create('/api-keys', { name: 'Keys only', scopes });
  await page.getByRole('button', { name: 'Sign out' }).click();
  await signIn(page, limited.key);
  await goTo(page, 'api-keys/key_owned');
  await page.locator('.lead .badge.plain').getByText('active', { exact: true }).waitFor();
});

await done();
