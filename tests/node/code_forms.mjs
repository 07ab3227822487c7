// The code that the API reference shows for each operation: it is run with curl, Node and Python.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdtemp, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { KEY, URL, create, read } from './browser.mjs';
import { fill, openReference, useCurrentEtag, useKey } from './reference_page.mjs';
import { done, test } from './testing.mjs';

const run = promisify(execFile);
const directory = await mkdtemp(join(tmpdir(), 'code-forms-'));

/** How each form is run, and what it prints before the body. curl is told to print the status, too. */
const PROGRAMS = {
  curl: { file: 'request.sh', command: ['bash'] },
  JavaScript: { file: 'request.mjs', command: ['node'] },
  Python: { file: 'request.py', command: ['python3'] },
};
await writeFile(join(directory, '.curlrc'), 'silent\nshow-error\nfail\nwrite-out = "\\n%{http_code}"\n');

/** The status that a program printed. Python and Node print it first, curl last. */
function statusOf(form, output) {
  const lines = output.trim().split('\n');
  return Number(form === 'curl' ? lines.at(-1) : lines[0].split(' ')[0]);
}

/** Runs the code that the page shows in a form. Throws if the program fails, as for an error response. */
async function runShown(page, form) {
  await page.getByRole('group', { name: 'Language' }).getByRole('button', { name: form }).click();
  const code = await page.getByRole('group', { name: `${form} code` }).textContent();
  assert.ok(!code.includes(KEY), 'the key is not in the code');
  const { file, command } = PROGRAMS[form];
  const path = join(directory, file);
  await writeFile(path, code);
  const [program, ...args] = command;
  const env = { ...process.env, TOLLHOUSE_KEY: KEY, CURL_HOME: directory };
  const { stdout } = await run(program, [...args, path], { env, maxBuffer: 16 << 20 }).catch((error) => {
    throw new Error(`${form}: ${error.message}\n${error.stdout}\n${code}`);
  });
  return { status: statusOf(form, stdout), stdout };
}

/** Opens an operation with new values: the same idempotency key for another body would be refused. */
async function openAfresh(page, id) {
  await openReference(page);
  await openReference(page, id);
}

/** Operations, what is filled in, and the status. */
const CASES = [
  ['verifyKey', { body: '{"key": "it\'s not a key", "scopes": ["workflows:read"]}' }, 200],
  ['introspectToken', {}, 200],
  ['forwardAuth', { 'query.scope': 'workflows:read, transactions:write' }, 200],
  ['forwardAuthPath', {}, 200],
  ['listOrganizations', { 'query.q': 'Acme & Northwind', 'query.limit': '5' }, 200],
  ['createOrganization', {}, 201],
  ['updateOrganization', { body: '{"metadata": {"note": "$HOME `id` 100%", "old": null}}' }, 200],
  ['getUsage', { 'query.org_id': 'org_123', 'query.period': '30d' }, 200],
  ['exportAuditLog', { 'query.format': 'csv', 'query.action': 'organization.update' }, 200],
  ['getHealth', {}, 200],
  ['getOpenapi', {}, 200],
];

await test('the code of each form runs as it is shown', {}, async ({ page }) => {
  const name = `Zoë "Z" O'Neil 🚀`;
  for (const form of Object.keys(PROGRAMS)) {
    const email = `zoe-${form}@example.com`.toLowerCase();
    const creation = ['createUser', { body: JSON.stringify({ name, email }, null, 2) }, 201];
    for (const [id, values, expected] of [...CASES, creation]) {
      await openAfresh(page, id);
      await fill(page, values);
      const { status, stdout } = await runShown(page, form);
      assert.equal(status, expected, `${id}, ${form}: ${stdout}`);
    }
    const users = await read(`/users?email=${encodeURIComponent(email)}`);
    assert.equal(users[0].name, name, form);
  }
  const { metadata } = await read('/organizations/org_123');
  assert.equal(metadata.note, '$HOME `id` 100%');
});

await test('code with an ETag changes only the version that was read', {}, async ({ page }) => {
  for (const form of Object.keys(PROGRAMS)) {
    const { id } = await create('/organizations', { name: form, email: 'form@example.com' });
    await openAfresh(page, 'deleteOrganization');
    if (form === 'curl') await useKey(page);
    await fill(page, { 'path.id': id });
    await useCurrentEtag(page);
    assert.equal((await runShown(page, form)).status, 200);
    // A program reports the error by its exit status or by what it prints.
    const statusOfFailure = ({ message }) => ({ status: Number(/error:? (\d+)/i.exec(message)[1]) });
    const again = await runShown(page, form).catch(statusOfFailure);
    assert.equal(again.status, 404, form);
  }
});

await test('the chosen form stays when another operation is opened', {}, async ({ page }) => {
  await openReference(page, 'getCaller');
  await page.getByRole('button', { name: 'Python' }).click();
  await openReference(page, 'listUsers');
  const code = await page.getByRole('group', { name: 'Python code' }).textContent();
  assert.ok(code.includes(`"${URL}/admin/v1/users"`), code);
  // Copying gives exactly what is shown.
  await page.context().grantPermissions(['clipboard-read', 'clipboard-write']);
  await page.getByRole('button', { name: 'Copy Python code' }).click();
  await page.getByRole('button', { name: 'Copied Python code' }).waitFor();
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), code);
});

await done();
