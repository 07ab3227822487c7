// Measures how long the API reference takes to open an operation: from the new address until the page is painted.
// Prints the times of ten operations, in milliseconds, as JSON: `node open_operations.mjs PACKAGE_JSON URL`, where
// the first argument names the package whose dependencies have Playwright.
import { createRequire } from 'node:module';

const COUNT = 10;

const [packageJson, url] = process.argv.slice(2);
const { chromium } = createRequire(packageJson)('playwright-core');
const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium';
const browser = await chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-gpu'] });
const page = await browser.newPage({ viewport: { width: 1400, height: 900 } });
await page.goto(`${url}/docs/`);
await page.locator('h1').waitFor();

const times = await page.evaluate(async (count) => {
  const { paths } = await (await fetch('../openapi.json')).json();
  const ids = Object.values(paths).flatMap((item) => Object.values(item).map(({ operationId }) => operationId));
  const painted = () => new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
  const measured = [];
  for (let index = 0; index < count; index += 1) {
    const hash = `#${ids[Math.floor((index * ids.length) / count)]}`;
    const start = performance.now();
    location.hash = hash;
    do await painted();
    while (document.querySelector('main').dataset.hash !== hash);
    measured.push(performance.now() - start);
  }
  return measured;
}, COUNT);
console.log(JSON.stringify(times));
await browser.close();
