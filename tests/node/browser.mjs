// A browser for the pages' tests and pictures: Debian's Chromium, one for all, each visitor in a profile of its own.
import { chromium } from 'playwright-core';

const FLAGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

export const URL = process.env.TOLLHOUSE_URL;
export const KEY = process.env.TOLLHOUSE_KEY;

export async function open() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    headless: true,
    args: FLAGS,
    timeout: 120_000,
  });
}

/**
 * A page whose visitor watches: `faults` are requests that leave for another origin, errors in the browser's
 * console (what the policy blocks is among them), and scripts that failed. Refusals of the API that a test
 * asks for are told there by the browser as well, so that they are named in `expected`.
 */
export async function visit(browser, options = {}) {
  const context = await browser.newContext({
    viewport: { width: 1280, height: 900 },
    locale: 'en',
    timezoneId: 'UTC',
    ...options,
  });
  // Long enough for a machine that has much else to do: nothing waits for it when all is well.
  context.setDefaultTimeout(90_000);
  const page = await context.newPage();
  const faults = [];
  const expected = new Set();
  page.on('request', (request) => {
    const url = request.url();
    if (!url.startsWith(`${URL}/`) && !/^(data|blob):/.test(url)) faults.push(`a request to ${url}`);
  });
  page.on('console', (message) => {
    const refusal = /status of (\d+)/.exec(message.text())?.[1];
    if (['error', 'warning'].includes(message.type()) && !expected.has(refusal)) {
      faults.push(`${message.type()}: ${message.text()} (${message.location().url})`);
    }
  });
  page.on('pageerror', (error) => faults.push(`failed: ${error.stack}`));
  page.on('dialog', (dialog) => {
    faults.push(`a dialog: ${dialog.message()}`);
    dialog.dismiss();
  });
  return { context, page, faults, expected };
}

/** Signs in, as a person would. */
export async function signIn(page, key = KEY) {
  await page.goto(`${URL}/console/`);
  await page.getByLabel('API key').fill(key);
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByRole('navigation', { name: 'Pages' }).waitFor();
}

/** A page of the console, when what it loads is there. */
export async function go(page, path) {
  await page.goto(`${URL}/console/#/${path}`);
  await settled(page);
}

export async function settled(page) {
  // The page says for which address it is drawn: an address alone may be followed only after it is there.
  await page.waitForFunction(
    () =>
      document.querySelector('main')?.dataset.at === location.hash &&
      document.querySelector('h1') &&
      !document.querySelector('.loading, [aria-busy="true"]'),
  );
}

/** A call of the API, beside the browser. */
export async function call(method, path, body, key = KEY) {
  const response = await fetch(URL + path, {
    method,
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    body: body && JSON.stringify(body),
  });
  return { status: response.status, ...(await response.json()) };
}
