// Try it of the API reference: every operation of the document is sent from the page, as it is filled in.
import assert from 'node:assert/strict';
import { URL, callApi, create, read } from './browser.mjs';
import {
  fill,
  openReference,
  removeKey,
  sendRequest,
  tryIt,
  useCurrentEtag,
  useKey,
} from './reference_page.mjs';
import { done, test } from './testing.mjs';

const document = await (await fetch(`${URL}/openapi.json`)).json();
const OPERATIONS = Object.entries(document.paths).flatMap(([path, item]) =>
  Object.entries(item).map(([method, { operationId: id }]) => ({ id, path, method: method.toUpperCase() })),
);

/** Operations of a key about itself. They are sent with a key of their own, which they end. */
const isAboutCaller = ({ path }) => path.startsWith('/v1/keys/self');

const takesAway = ({ method, path }) => method === 'DELETE' || /\/(revoke|expire-previous)$/.test(path);

/** Reads come first, then changes, then what takes something away: what belongs to others before them. */
function inOrder(operations) {
  const ranks = [
    ({ method }) => method === 'GET',
    ({ method }) => method === 'PATCH',
    (one) => !takesAway(one),
  ];
  const rank = (operation) => {
    const index = ranks.findIndex((isFirst) => isFirst(operation));
    if (index !== -1) return index;
    return operation.method === 'POST' ? 3 : 4;
  };
  const deletes = operations.filter((operation) => rank(operation) === 4).reverse();
  const others = operations.filter((operation) => rank(operation) < 4);
  return [...others.sort((one, other) => rank(one) - rank(other)), ...deletes];
}

const person = async (name) => (await create('/users', { name, email: `${name}@example.com` })).id;

/** What doesn't exist under the example's name, or can't be done to it, and must be chosen by the reader. */
const FILLED_IN = {
  reportUsage: () => ({ body: '{"key_id": "key_123", "costs": {"requests": 1}}' }),
  createMember: async () => ({ body: JSON.stringify({ user_id: await person('newcomer'), role: 'member' }) }),
  updateMember: async () => ({ 'path.user_id': await member('promoted'), body: '{"role": "admin"}' }),
  deleteMember: async () => ({ 'path.user_id': await member('leaving') }),
  deleteUser: async () => ({ 'path.id': await person('departing') }),
  getAuditEvent: async () => ({ 'path.id': (await read('/audit-logs?limit=1'))[0].id }),
};

async function member(name) {
  const id = await person(name);
  await create('/organizations/org_123/members', { user_id: id, role: 'member' });
  return id;
}

/**
 * The second status of a POST that can't succeed twice: what it creates must be unique, or the first request
 * ended the secret with which the second one was sent.
 */
const SECOND_STATUSES = {
  createMember: 409,
  createScope: 409,
  createUser: 409,
  rotateOwnKey: 403,
  revokeOwnKey: 401,
};

await test(
  'every operation succeeds, and each POST is a new request',
  {},
  async ({ page, expectedStatuses }) => {
    await openReference(page);
    await useKey(page);
    const failed = [];
    const send = async ({ id, method }, expected, name) => {
      const isExpected = (status) => (expected ? status === expected : status >= 200 && status < 300);
      if (expected) expectedStatuses.add(String(expected));
      const { request, status, headers, text } = await sendRequest(page);
      if (!isExpected(status)) failed.push(`${name}: ${status} ${text}`);
      assert.equal(request.method(), method, id);
      assert.equal(headers['idempotent-replayed'], undefined, name);
      expectedStatuses.delete(String(expected));
    };
    const operations = inOrder(OPERATIONS.filter((operation) => !isAboutCaller(operation)));
    const ownOperations = inOrder(OPERATIONS.filter(isAboutCaller));
    for (const operation of [...operations, ...ownOperations]) {
      if (operation === ownOperations[0]) {
        const key = await create('/api-keys', { name: 'Own', scopes: [], self_rotation: true });
        await removeKey(page);
        await useKey(page, key.key);
      }
      await openReference(page, operation.id);
      const values = await FILLED_IN[operation.id]?.();
      if (values) await fill(page, values);
      const etag = tryIt(page).locator('[name="header.If-Match"]');
      const isOptional = (input) => input.closest('details') !== null;
      if ((await etag.count()) > 0 && !(await etag.evaluate(isOptional))) {
        await useCurrentEtag(page);
      }
      await send(operation, undefined, operation.id);
      if (operation.method !== 'POST') continue;
      await send(operation, SECOND_STATUSES[operation.id], `${operation.id}, a second time`);
    }
    assert.deepEqual(failed, []);
    assert.equal(operations.length + ownOperations.length, OPERATIONS.length);
  },
);

const MARKUP = '<img src=x onerror="document.body.remove()"><script>document.body.remove()</script>';
const REVERSED = 'user\u202egnp.exe';

await test('markup and reversed text in a response are shown as text', {}, async ({ page }) => {
  const metadata = { markup: MARKUP, reversed: REVERSED };
  const { id } = await create('/organizations', {
    name: MARKUP.slice(0, 200),
    email: 'm@example.com',
    metadata,
  });
  await openReference(page, 'getOrganization');
  await useKey(page);
  await fill(page, { 'path.id': id });
  const { status, text } = await sendRequest(page);
  assert.equal(status, 200);
  const { data } = JSON.parse(text);
  assert.deepEqual(data.metadata, metadata, 'what is shown is the same JSON');
  assert.ok(text.includes('user\\u202egnp.exe') && !text.includes('\u202e'), text);
  assert.equal(await tryIt(page).locator('img, script').count(), 0);
});

await test('a long response is shown up to a bound, and the page still works', {}, async ({ page }) => {
  const metadata = Object.fromEntries(
    Array.from({ length: 50 }, (_, index) => [`field_${index}`, 'long '.repeat(100).trim()]),
  );
  const creation = { method: 'POST', path: '/organizations' };
  const operations = Array.from({ length: 8 }, (_, index) => ({
    ...creation,
    body: { name: `Long ${index}`, email: `long${index}@example.com`, metadata },
  }));
  for (let batch = 0; batch < 6; batch += 1) {
    const { status, error } = await callApi('POST', '/admin/v1/batch', { operations });
    assert.equal(status, 200, JSON.stringify(error));
  }
  await openReference(page, 'listOrganizations');
  await useKey(page);
  await fill(page, { 'query.limit': '100' });
  const { status, headers, text } = await sendRequest(page);
  assert.equal(status, 200);
  assert.ok(Number(headers['content-length']) > 1_000_000, headers['content-length']);
  assert.equal(new TextEncoder().encode(text).length, 256 * 1024);
  await tryIt(page).getByText('Only the first 256 KiB of the response are shown.').waitFor();
  await fill(page, { 'query.limit': '1' });
  const next = await sendRequest(page);
  assert.equal(JSON.parse(next.text).data.length, 1);
});

await test('responses that are not JSON are shown as they are', {}, async ({ page, expectedStatuses }) => {
  await openReference(page, 'exportAuditLog');
  await useKey(page);
  const lines = (await sendRequest(page)).text.trim().split('\n');
  assert.ok(lines.length > 40 && lines.slice(0, 5).every((line) => JSON.parse(line).id.startsWith('evt_')));
  await fill(page, { 'query.format': 'csv' });
  const csv = await sendRequest(page);
  assert.match(csv.headers['content-type'], /^text\/csv/);
  assert.match(csv.text, /^seq,id,occurred_at,/);
  await openReference(page, 'createUser');
  await fill(page, { body: '{"name": ' });
  await tryIt(page).getByText('This is not valid JSON').waitFor();
  expectedStatuses.add('400');
  const { status, text } = await sendRequest(page);
  assert.deepEqual([status, JSON.parse(text).error.code], [400, 'INVALID_JSON']);
});

await done();
