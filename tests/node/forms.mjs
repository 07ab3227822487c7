// Dialogs and forms: what they offer, what they send, and how they show errors. And the status of keys.
import assert from 'node:assert/strict';
import { KEY, URL, callApi, create, goTo, read, signIn, waitUntilLoaded } from './browser.mjs';
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

/** Changes the configuration. */
async function configure(patch) {
  const authorization = `Bearer ${KEY}`;
  const { headers } = await fetch(`${URL}/admin/v1/config`, { headers: { authorization } });
  const response = await fetch(`${URL}/admin/v1/config`, {
    method: 'PATCH',
    headers: { authorization, 'content-type': 'application/json', 'if-match': headers.get('etag') },
    body: JSON.stringify(patch),
  });
  assert.equal(response.status, 200);
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
    const selfRotationBox = dialog.getByRole('checkbox', { name: 'Can rotate itself', exact: false });
    await selfRotationBox.check();
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

    // A message about the box is next to it. The form never sends a wrong value, so the request is changed.
    await idInput.fill('key_chosen');
    await page.route('**/admin/v1/api-keys', (route) => {
      const body = route.request().postData().replace('"self_rotation":true', '"self_rotation":"yes"');
      return route.continue({ postData: body });
    });
    expectedStatuses.add('400');
    await createButton.click();
    const selfRotationField = dialog.locator('.field', {
      has: page.getByRole('checkbox', { name: 'Can rotate' }),
    });
    await selfRotationField.locator('.fault').waitFor();
    assert.equal(await selfRotationBox.getAttribute('aria-invalid'), 'true');
    await page.unroute('**/admin/v1/api-keys');
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
    await dialog.getByRole('button', { name: 'I have stored it' }).click();
    const created = await read('/api-keys/key_chosen');
    assert.equal(created.organization_id, 'org_123');
    assert.deepEqual(created.scopes, ['workflows:*']);
    assert.deepEqual(created.metadata, { team: 'payments', rule: 'a = b' });
    assert.equal(created.self_rotation, true);
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
    assert.match(facts, /Can rotate itself\s+Yes/);
    await page.getByRole('button', { name: 'Edit' }).click();
    await scopeBox('workflows:read').waitFor();
    const checkedBoxes = dialog.locator('input:checked');
    assert.deepEqual(await checkedBoxes.evaluateAll((boxes) => boxes.map(({ value }) => value)), [
      'workflows:*',
      'true',
    ]);
    await selfRotationBox.uncheck();
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
    assert.equal(edited.self_rotation, false);
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
  await dialog.getByRole('button', { name: 'I have stored it' }).click();
  await page.getByRole('link', { name: 'Granted' }).click();
  await waitUntilLoaded(page);
  const id = decodeURIComponent(page.url().split('/').at(-1));
  const granted = await read(`/api-keys/${id}`);
  assert.equal(granted.organization_id, 'org_123');
  assert.deepEqual(granted.scopes.sort(), ['keys:*', 'transactions:*']);
});

/** A window and a period that the first units of time in a row can't show. */
const LIMITS = [
  { meter: 'requests', limit: 7, window_seconds: 90 },
  { meter: 'requests', limit: 70, period: 'day' },
];

await test('an organization’s key edits a key and keeps its limits', {}, async ({ page }) => {
  const body = { organization_id: 'org_123', name: 'Limited', scopes: [], limits: LIMITS };
  const limited = await create('/api-keys', body);
  const manager = await create('/api-keys', { ...body, name: 'Manager', scopes: ['admin:keys'] });
  await signIn(page, manager.key);
  await goTo(page, `api-keys/${limited.id}`);
  await page.getByRole('button', { name: 'Edit' }).click();
  const dialog = page.getByRole('dialog');
  assert.equal(await dialog.getByLabel('Limits').count(), 0);
  await dialog.getByLabel('Name').fill('Renamed');
  await dialog.getByRole('button', { name: 'Save' }).click();
  await page.getByRole('heading', { level: 1, name: 'Renamed' }).waitFor();
  assert.deepEqual((await read(`/api-keys/${limited.id}`)).limits, LIMITS);
});

/** Resources to edit, with values that a form can't show as they are, or in another order. */
const RESOURCES = [
  [
    'organizations',
    'org_edited',
    { name: 'Before', email: 'edited@example.com', plan: 'enterprise', limits: LIMITS },
  ],
  ['users', 'user_edited', { name: 'Before', email: 'edited@example.com', external_id: 'id-1' }],
  [
    'api-keys',
    'key_edited',
    {
      name: 'Before',
      organization_id: 'org_123',
      scopes: ['workflows:write', 'workflows:read', 'admin:users'],
      allowed_ips: ['203.0.113.0/24', '192.0.2.1'],
      limits: LIMITS,
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

await test('limits are edited as a list', {}, async ({ page, expectedStatuses }) => {
  await configure({ meters: ['requests', 'tokens'] });
  await create('/organizations', { id: 'org_limits', name: 'Limits', email: 'limits@example.com' });
  const body = { organization_id: 'org_limits', name: 'Limited', scopes: [] };
  const { key: secret } = await create('/api-keys', { id: 'key_limits', ...body });
  const patches = [];
  page.on('request', (request) => {
    if (request.method() === 'PATCH') patches.push(request.postDataJSON());
  });
  const dialog = page.getByRole('dialog');
  const saveButton = dialog.getByRole('button', { name: 'Save' });
  const choice = dialog.getByLabel('Limits', { exact: true });
  const addButton = dialog.getByRole('button', { name: 'Limits: add limit' });
  const rows = dialog.locator('.limit-row');
  const control = (name, position) => dialog.getByLabel(`Limits: ${name} ${position}`, { exact: true });
  const remove = (position) => control('remove', position).click();
  const limitsTerm = page.locator('dt').getByText('Limits', { exact: true });
  const shownLimits = page.locator('.facts > div').filter({ has: limitsTerm }).locator('dd');
  const open = async (path) => {
    await goTo(page, path);
    await page.getByRole('button', { name: 'Edit', exact: true }).click();
    await choice.waitFor();
  };
  /** Saves, and checks the patch, the stored limits, and how the page shows them. */
  const save = async (path, limits, text) => {
    await saveButton.click();
    await dialog.waitFor({ state: 'detached' });
    assert.deepEqual(patches.splice(0), [{ limits }]);
    assert.deepEqual((await read(`/${path}`)).limits, limits);
    await shownLimits.getByText(text, { exact: true }).waitFor();
  };

  await signIn(page);
  for (const path of ['api-keys/key_limits', 'organizations/org_limits']) {
    await goTo(page, path);
    assert.equal(await shownLimits.innerText(), 'Plan’s limits');
    await open(path);
    assert.equal(await choice.inputValue(), 'inherit');
    assert.equal(await rows.count(), 0);

    // The first row is there at once, others are added. Each has its own unit of time.
    await choice.selectOption('Custom limits');
    assert.equal(await control('meter', 1).inputValue(), 'requests');
    assert.equal(await control('unit of time', 1).inputValue(), 'minutes');
    await control('amount', 1).fill('5');
    await addButton.click();
    assert.equal(await focusedLabel(page), 'Limits: amount 2', 'the new row has the focus');
    await control('amount', 2).fill('1000000');
    await control('meter', 2).selectOption('tokens');
    await control('unit of time', 2).selectOption('calendar month');
    assert.equal(await control('time', 2).count(), 0);
    await addButton.click();
    await control('amount', 3).fill('9000');
    await control('unit of time', 3).selectOption('in total');
    const perMinute = { meter: 'requests', limit: 5, window_seconds: 60 };
    const tokens = { meter: 'tokens', limit: 1_000_000, period: 'month' };
    const total = { meter: 'requests', limit: 9000, period: 'total' };
    const text = '5 requests per minute · 1,000,000 tokens per month · 9,000 requests in total';
    await save(path, [perMinute, tokens, total], text);

    // The rows show what is stored. A row is edited and another one removed.
    await open(path);
    assert.equal(await choice.inputValue(), 'custom');
    assert.equal(await control('amount', 2).inputValue(), '1000000');
    assert.equal(await control('unit of time', 3).inputValue(), 'total');
    await control('time', 1).fill('15');
    await remove(2);
    assert.equal(await rows.count(), 2);
    assert.equal(await focusedLabel(page), 'Limits: add limit');
    const slower = { ...perMinute, window_seconds: 900 };
    await save(path, [slower, total], '5 requests per 15 minutes · 9,000 requests in total');

    // Saving without an edit sends nothing.
    await open(path);
    await saveButton.click();
    await dialog.waitFor({ state: 'detached' });
    assert.deepEqual(patches, []);

    // Errors are in the row that they are about, and gone with it.
    await open(path);
    await control('amount', 1).fill('');
    await control('time', 1).fill('1441');
    await addButton.click();
    await control('amount', 3).fill('1');
    await control('unit of time', 3).selectOption('in total');
    expectedStatuses.add('400');
    await saveButton.click();
    await rows.nth(0).locator('.fault').waitFor();
    expectedStatuses.delete('400');
    assert.deepEqual(Object.keys(patches.pop()), ['limits']);
    assert.equal(await focusedLabel(page), 'Limits: amount 1');
    const invalid = dialog.locator('[aria-invalid="true"]');
    const invalidNames = await invalid.evaluateAll((elements) => elements.map(({ ariaLabel }) => ariaLabel));
    assert.deepEqual(invalidNames, ['Limits: amount 1', 'Limits: time 1', 'Limits: amount 3']);
    assert.equal(await rows.nth(1).locator('.fault').count(), 0);
    assert.match(await rows.nth(2).locator('.fault').innerText(), /\w/);
    await remove(1);
    assert.equal(await invalid.count(), 0);

    // Without its last row, the list is empty: no limits apply. Then those of the plan do again.
    await remove(2);
    await remove(1);
    assert.equal(await choice.inputValue(), 'none');
    await save(path, [], 'No limits');
    await open(path);
    assert.equal(await choice.inputValue(), 'none');
    await choice.selectOption('Plan’s limits');
    await save(path, null, 'Plan’s limits');

    // There is room for eight limits.
    await open(path);
    await choice.selectOption('Custom limits');
    for (let count = 1; count < 8; count += 1) await addButton.click();
    assert.equal(await rows.count(), 8);
    assert.equal(await addButton.count(), 0);
    await page.keyboard.press('Escape');
    await dialog.waitFor({ state: 'detached' });
  }

  // A conflicting change of the limits is shown, unless they were edited.
  const conflict = async (limits) => {
    const { status } = await callApi('PATCH', '/admin/v1/api-keys/key_limits', { limits });
    assert.equal(status, 200);
    expectedStatuses.add('412');
    await saveButton.click();
    await dialog.getByText('Someone else changed this').waitFor();
    expectedStatuses.delete('412');
    await dialog.getByRole('button', { name: 'Reload' }).click();
    await dialog.getByText('the latest version with your edits').waitFor();
  };
  await open('api-keys/key_limits');
  await dialog.getByLabel('Name', { exact: true }).fill('Slower');
  await conflict(LIMITS);
  assert.equal(await control('amount', 1).inputValue(), '7');
  assert.equal(await control('time', 1).inputValue(), '90');
  await control('amount', 1).fill('8');
  await conflict([]);
  assert.equal(await control('amount', 1).inputValue(), '8');
  patches.length = 0;
  await saveButton.click();
  await dialog.waitFor({ state: 'detached' });
  const [first, second] = LIMITS;
  assert.deepEqual(patches, [{ name: 'Slower', limits: [{ ...first, limit: 8 }, second] }]);

  // The list of keys shows them, and a verification what is left of them.
  await goTo(page, 'api-keys');
  const keyRow = page.getByRole('row').filter({ has: page.getByRole('link', { name: 'Slower' }) });
  await keyRow.getByText('8 requests per 90 seconds · 70 requests per calendar day').waitFor();
  await page.getByRole('button', { name: 'Verify a key' }).click();
  await dialog.getByLabel('Secret').fill(secret);
  await dialog.getByRole('button', { name: 'Verify' }).click();
  const result = dialog.locator('.result');
  await result.getByText('8 of 8 requests per 90 seconds left').waitFor();
  await result.getByText('70 of 70 requests per calendar day left').waitFor();
  await result.getByText('1,000 of 1,000 requests per minute left').waitFor();
  await configure({ meters: ['requests'] });
});

await test('new keys and organizations can have limits', {}, async ({ page }) => {
  const dialog = page.getByRole('dialog');
  const submitNew = async (path, button, id, choose) => {
    await goTo(page, path);
    await page.getByRole('button', { name: button }).click();
    await dialog.getByLabel('Name', { exact: true }).fill('New');
    await dialog.getByLabel('ID (optional)').fill(id);
    await choose(dialog.getByLabel('Limits', { exact: true }));
    await dialog.getByRole('button', { name: 'Create' }).click();
  };
  const chooseNone = (choice) => choice.selectOption('No limits');
  await signIn(page);
  const choosePlatform = () => dialog.getByLabel('No organization (platform key)').check();
  await submitNew('api-keys', 'New API key', 'key_unlimited', async (choice) => {
    await choosePlatform();
    await chooseNone(choice);
  });
  await dialog.getByRole('heading', { name: 'API key created' }).waitFor();
  await dialog.getByRole('button', { name: 'I have stored it' }).click();
  assert.deepEqual((await read('/api-keys/key_unlimited')).limits, []);
  await submitNew('api-keys', 'New API key', 'key_inherits', choosePlatform);
  await dialog.getByRole('heading', { name: 'API key created' }).waitFor();
  await dialog.getByRole('button', { name: 'I have stored it' }).click();
  assert.equal((await read('/api-keys/key_inherits')).limits, null);
  await goTo(page, 'api-keys/key_inherits');
  await page.locator('.facts').getByText('No limits').waitFor();

  await submitNew('organizations', 'New organization', 'org_limited', async (choice) => {
    await dialog.getByLabel('Email').fill('limited@example.com');
    await choice.selectOption('Custom limits');
    await dialog.getByLabel('Limits: amount 1').fill('50');
    await dialog.getByLabel('Limits: unit of time 1').selectOption('calendar hour');
  });
  await page.locator('.facts').getByText('50 requests per calendar hour').waitFor();
  const { limits } = await read('/organizations/org_limited');
  assert.deepEqual(limits, [{ meter: 'requests', limit: 50, period: 'hour' }]);
});

await test('a key that may not read the meters types them', {}, async ({ page, expectedStatuses }) => {
  const manager = await create('/api-keys', { name: 'Manager', scopes: ['admin:keys'] });
  await create('/api-keys', { id: 'key_typed', organization_id: 'org_123', name: 'Typed', scopes: [] });
  await signIn(page, manager.key);
  await goTo(page, 'api-keys/key_typed');
  await page.getByRole('button', { name: 'Edit', exact: true }).click();
  const dialog = page.getByRole('dialog');
  const saveButton = dialog.getByRole('button', { name: 'Save' });
  await dialog.getByLabel('Limits', { exact: true }).selectOption('Custom limits');
  await dialog.getByLabel('Limits: amount 1').fill('5');
  const meter = dialog.getByLabel('Limits: meter 1');
  assert.equal(await meter.inputValue(), 'requests');
  await meter.fill('tokens');
  expectedStatuses.add('400');
  await saveButton.click();
  await dialog.locator('.limit-row .fault').getByText('requests').waitFor();
  expectedStatuses.delete('400');
  assert.equal(await focusedLabel(page), 'Limits: meter 1');
  await meter.fill('requests');
  await saveButton.click();
  await dialog.waitFor({ state: 'detached' });
  const { limits } = await read('/api-keys/key_typed');
  assert.deepEqual(limits, [{ meter: 'requests', limit: 5, window_seconds: 60 }]);
});

await test('a prefix is offered if there are several', {}, async ({ page, expectedStatuses }) => {
  await signIn(page);
  await goTo(page, 'api-keys');
  const dialog = page.getByRole('dialog');
  const prefix = dialog.getByLabel('Prefix');
  const createButton = dialog.getByRole('button', { name: 'Create' });
  const open = async () => {
    const loaded = page.waitForResponse((response) => response.url().endsWith('/config'));
    await page.getByRole('button', { name: 'New API key' }).click();
    await loaded;
    await dialog.getByLabel('No organization (platform key)').check();
    await dialog.getByLabel('Name', { exact: true }).fill('New');
  };
  const expectSecret = async (start) => {
    await createButton.click();
    await dialog.getByRole('heading', { name: 'API key created' }).waitFor();
    const secret = await dialog.locator('.secret code').innerText();
    assert.ok(secret.startsWith(start) && secret.length === start.length + 38, start);
    await dialog.getByRole('button', { name: 'I have stored it' }).click();
  };
  await open();
  assert.equal(await prefix.count(), 0);
  await expectSecret('toll_');

  await configure({ keys: { prefixes: ['acme_live', 'acme_test'] } });
  await open();
  await prefix.waitFor();
  const options = await prefix.locator('option').allInnerTexts();
  assert.deepEqual(options, ['acme_live_…', 'acme_test_…']);
  await expectSecret('acme_live_');
  await open();
  await prefix.selectOption('acme_test');
  await expectSecret('acme_test_');

  // A prefix that was removed in the meantime is refused next to its field.
  await open();
  await prefix.selectOption('acme_test');
  await configure({ keys: { prefixes: ['acme_live', 'toll'] } });
  expectedStatuses.add('400');
  await createButton.click();
  const message = dialog.locator('.field', { has: page.getByLabel('Prefix') }).locator('.fault');
  await message.getByText('Must be one of the prefixes: acme_live, toll.').waitFor();
  expectedStatuses.delete('400');
  await page.keyboard.press('Escape');
  await dialog.waitFor({ state: 'detached' });

  // An existing key keeps its prefix, so its form offers none.
  await goTo(page, 'api-keys/key_123');
  await page.getByRole('button', { name: 'Edit', exact: true }).click();
  await dialog.getByLabel('Limits', { exact: true }).waitFor();
  assert.equal(await prefix.count(), 0);
  await configure({ keys: { prefixes: ['toll'] } });
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
  const note = page.locator('main').getByText('Refused: its');

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
