// What people read: names in any script, times that move, pages on a phone; and members by themselves.
import assert from 'node:assert/strict';
import { create, goTo, read, signIn, waitUntilLoaded } from './browser.mjs';
import { PAGES } from './pages.mjs';
import { done, test } from './testing.mjs';

const HEBREW = 'חברת בדיקה 123';

await test('names are isolated from what is next to them', {}, async ({ page }) => {
  const organization = { id: 'org_hebrew', name: HEBREW, email: 'hebrew@example.com' };
  await create('/organizations', { ...organization, metadata: { note: HEBREW } });
  await create('/users', { id: 'user_hebrew', name: HEBREW, email: 'user-hebrew@example.com' });
  await create('/organizations/org_hebrew/members', { user_id: 'user_hebrew', role: 'owner' });
  const key = { id: 'key_hebrew', organization_id: 'org_hebrew', user_id: 'user_hebrew', name: HEBREW };
  await create('/api-keys', { ...key, scopes: [] });
  await signIn(page);

  /** The texts that contain the name outside of an isolated element. */
  const findNotIsolated = () => {
    return page.evaluate((name) => {
      const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
      const texts = [];
      while (walker.nextNode()) texts.push(walker.currentNode);
      const named = texts.filter(({ data }) => data.includes(name));
      const isIsolated = ({ parentElement }) => parentElement.closest('bdi, option, textarea') !== null;
      const outside = named
        .filter((text) => !isIsolated(text))
        .map(({ parentElement }) => parentElement.outerHTML);
      return { count: named.length, outside };
    }, HEBREW);
  };
  const dialogs = { 'api-keys/key_hebrew': ['Rotate', 'Revoke'], 'users/user_hebrew': ['Delete'] };
  const members = [`Change role of ${HEBREW}`, `Remove ${HEBREW}`];
  const addresses = [
    'organizations',
    'organizations/org_hebrew',
    'users',
    'users/user_hebrew',
    'api-keys',
    'api-keys/key_hebrew',
    'audit',
  ];
  for (const address of addresses) {
    await goTo(page, address);
    await page.locator('bdi', { hasText: HEBREW }).first().waitFor();
    const buttons =
      address === 'organizations/org_hebrew' ? ['Delete', ...members] : (dialogs[address] ?? []);
    for (const button of [undefined, ...buttons]) {
      if (button) await page.getByRole('button', { name: button, exact: true }).click();
      if (button) await page.getByRole('dialog').locator('h2 bdi').waitFor();
      const { count, outside } = await findNotIsolated();
      assert.ok(count > 0, address);
      assert.deepEqual(outside, [], `${address}: ${button}`);
      if (button) await page.keyboard.press('Escape');
    }
  }
});

await test('relative times move', {}, async ({ page }) => {
  await page.clock.install();
  await create('/users', { id: 'user_new', name: 'New', email: 'new@example.com' });
  await signIn(page);
  await goTo(page, 'users/user_new');
  const created = page.locator('.facts time').first();
  assert.match(await created.innerText(), /just now|^in a moment$|1 minute ago/);
  await page.clock.runFor('10:00');
  await page.locator('.facts time').first().getByText('10 minutes ago').waitFor();
  await page.clock.runFor('03:00:00');
  await page.locator('.facts time').first().getByText('3 hours ago').waitFor();
});

const PHONE = { width: 360, height: 740 };

/** Elements whose content is cut off, or can be seen only by scrolling sideways. Runs in the page. */
function findCutOff() {
  const isCut = (element) => {
    const { overflowX, display } = getComputedStyle(element);
    const isClipped = overflowX !== 'visible' && display !== 'inline';
    return isClipped && element.clientWidth > 1 && element.scrollWidth > element.clientWidth + 1;
  };
  const elements = [...document.querySelectorAll('main *, header *, dialog *')];
  const isControl = (element) => element.matches('input, select, textarea');
  return elements
    .filter((element) => !isControl(element) && isCut(element))
    .map(({ className, innerText }) => `${className}: ${innerText}`);
}

await test('nothing is cut off on a phone', { viewport: PHONE }, async ({ page }) => {
  const name = 'Payments and settlements of the northern region (production)';
  const key = await create('/api-keys', { name, scopes: ['*'] });
  await create('/organizations', {
    id: 'org_phone',
    name,
    email: 'a-rather-long-address@payments.example.com',
  });
  const changes = { name: `${name}, renamed`, email: 'another-rather-long-address@payments.example.com' };
  await signIn(page, key.key);
  await goTo(page, 'organizations/org_phone');
  await page.getByRole('button', { name: 'Edit' }).click();
  const dialog = page.getByRole('dialog');
  await dialog.getByLabel('Name', { exact: true }).fill(changes.name);
  await dialog.getByLabel('Email').fill(changes.email);
  await dialog.getByRole('button', { name: 'Save' }).click();
  await dialog.waitFor({ state: 'detached' });
  for (const [title, path] of PAGES) {
    await goTo(page, path);
    assert.deepEqual(await page.evaluate(findCutOff), [], title);
  }

  // The details of an audit event, with all values after the change in sight.
  await goTo(page, 'audit?target_id=org_phone&action=organization.update');
  await page.getByRole('button', { name: /^Details/ }).click();
  assert.deepEqual(await page.evaluate(findCutOff), []);
  for (const value of Object.values(changes)) {
    const after = page.locator('.changes ins', { hasText: value });
    const { x, width } = await after.boundingBox();
    assert.ok(x >= 0 && x + width <= PHONE.width, value);
  }
  assert.equal(await page.locator('.changes').getByRole('cell', { name: changes.name }).count(), 1);
});

await test('members are managed with admin:users alone', {}, async ({ page }) => {
  await create('/organizations', { id: 'org_club', name: 'Club', email: 'club@example.com' });
  const owner = await create('/users', { id: 'user_club', name: 'Chair', email: 'chair@example.com' });
  await create('/organizations/org_club/members', { user_id: owner.id, role: 'owner' });
  const scopes = ['admin:users'];
  const bound = await create('/api-keys', { organization_id: 'org_club', name: 'People', scopes });
  const platform = await create('/api-keys', { name: 'All people', scopes });
  const dialog = page.getByRole('dialog');
  const changeRole = async (role) => {
    await page.getByRole('button', { name: 'Change role of Second' }).click();
    await dialog.getByLabel('Role').selectOption(role);
    await dialog.getByRole('button', { name: 'Save' }).click();
    await dialog.waitFor({ state: 'detached' });
    assert.equal((await read('/organizations/org_club/members/user_second')).role, role);
  };

  // A platform key names the organization, adds a user, and finds the way from the user, too.
  await create('/users', { id: 'user_second', name: 'Second', email: 'second@example.com' });
  await signIn(page, platform.key);
  await goTo(page, 'members');
  await page.getByLabel('Organization ID').fill('org_club');
  await page.getByRole('button', { name: 'Show members' }).click();
  await page.getByRole('link', { name: 'Chair' }).waitFor();
  await page.getByRole('button', { name: 'Add member' }).click();
  await dialog.getByLabel('User').fill('user_second');
  await dialog.getByRole('button', { name: 'Add' }).click();
  await page.getByRole('link', { name: 'Second' }).click();
  await page.getByRole('region', { name: 'Memberships' }).getByRole('link').click();
  await page.getByRole('heading', { name: 'Members', level: 1 }).waitFor();
  await changeRole('admin');
  await page.getByRole('button', { name: 'Sign out' }).click();

  // A key of the organization is there at once.
  await signIn(page, bound.key);
  await goTo(page, 'members');
  await waitUntilLoaded(page);
  await changeRole('viewer');
  await page.getByRole('button', { name: 'Remove Second' }).click();
  // The key may not read whether the user's keys are in use.
  await dialog.getByLabel('Type the name to confirm').fill('Second');
  await dialog.getByRole('button', { name: 'Remove' }).click();
  await page.getByRole('link', { name: 'Second' }).waitFor({ state: 'detached' });
});

await done();
