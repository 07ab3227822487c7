// A small test runner. All tests of a script share a browser; each opens a page in a profile of its own.
import assert from 'node:assert/strict';
import { launchBrowser, openPage } from './browser.mjs';

const browser = await launchBrowser();

/** Runs a test and prints `ok` if it passes. It also fails if the page reported faults. */
export async function test(name, options, run) {
  const visitor = await openPage(browser, options);
  try {
    await run(visitor);
    assert.deepEqual(visitor.faults, []);
    console.log(`ok: ${name}`);
  } catch (error) {
    const body = visitor.page.locator('body');
    const text = await body.innerText().catch(() => '');
    const report = [
      `FAILED: ${name}`,
      error.stack,
      visitor.page.url(),
      ...visitor.faults,
      text.slice(0, 3000),
    ];
    console.error(report.join('\n'));
    process.exitCode = 1;
  }
  await visitor.context.close();
}

/** Closes the browser after the last test. */
export const done = () => browser.close();

/** `1,234` as a number. */
export const parseCount = (text) => Number(text.replaceAll(',', ''));

/** The number of requests that the label of the chart names. */
export async function chartedRequests(page) {
  const chart = page.getByRole('img', { name: /^Requests: / });
  const label = await chart.getAttribute('aria-label');
  return parseCount(/: ([\d,]+) requests/.exec(label)[1]);
}
