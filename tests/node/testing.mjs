// How the pages are tested: each test has a visitor of its own in one browser, and says `ok` when all was well.
import assert from 'node:assert/strict';
import { open, visit } from './browser.mjs';

const browser = await open();

/** A test: its visitor must have seen nothing wrong. */
export async function test(name, options, work) {
  const visitor = await visit(browser, options);
  try {
    await work(visitor);
    assert.deepEqual(visitor.faults, []);
    console.log(`ok: ${name}`);
  } catch (error) {
    const text = await visitor.page
      .locator('body')
      .innerText()
      .catch(() => '');
    console.error(
      `FAILED: ${name}\n${error.stack}\n${visitor.page.url()}\n${visitor.faults.join('\n')}\n${text.slice(0, 3000)}`,
    );
    process.exitCode = 1;
  }
  await visitor.context.close();
}

/** After the last test. */
export const done = () => browser.close();

/** The figure that a chart tells. */
export async function charted(page) {
  const said = await page.getByRole('img', { name: /^Requests: / }).getAttribute('aria-label');
  return Number(/: ([\d,]+) requests/.exec(said)[1].replaceAll(',', ''));
}
