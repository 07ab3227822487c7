// What axe-core and the layout say about a page.
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';

const AXE = await readFile(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8');

/** The width of the content, which is larger than the window if the page scrolls sideways. */
export const pageWidth = (page) => page.evaluate(() => document.documentElement.scrollWidth);

/** The serious and critical violations that axe-core finds. */
export async function findViolations(page) {
  const isInjected = await page.evaluate(() => 'axe' in globalThis);
  if (!isInjected) await page.evaluate(AXE);
  const { violations } = await page.evaluate(() => {
    return globalThis.axe.run(document, { resultTypes: ['violations'] });
  });
  const serious = violations.filter(({ impact }) => ['serious', 'critical'].includes(impact));
  return serious.map(({ id, help, nodes }) => {
    const examples = nodes.slice(0, 5).map(({ html, failureSummary }) => `  ${html}\n  ${failureSummary}`);
    return [`${id}: ${help}`, ...examples].join('\n');
  });
}
