// Chromium for the browser tests and the screenshots. Each visitor has a profile of its own.
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

// Nothing waits this long unless it fails: the machine may have much else to do.
const TIMEOUT_MILLISECONDS = 90_000;

export const URL = process.env.TOLLHOUSE_URL;
export const KEY = process.env.TOLLHOUSE_KEY;

export async function launchBrowser() {
  const executablePath = process.env.CHROMIUM ?? '/usr/bin/chromium';
  return chromium.launch({ executablePath, headless: true, args: FLAGS, timeout: 120_000 });
}

/**
 * Opens a page in a new profile. `faults` collects what must not happen: requests to other origins, errors in
 * the browser's console, which include violations of the security policy, and scripts that fail. The browser
 * also logs each error response; a test lists the statuses that it provokes in `expectedStatuses`, and the
 * types of the browser's own dialogs that it accepts in `expectedDialogs`.
 */
export async function openPage(browser, options = {}) {
  const context = await browser.newContext({
    viewport: { width: 1280, height: 900 },
    locale: 'en',
    timezoneId: 'UTC',
    ...options,
  });
  context.setDefaultTimeout(TIMEOUT_MILLISECONDS);
  const page = await context.newPage();
  const faults = [];
  const expectedStatuses = new Set();
  const expectedDialogs = new Set();
  page.on('request', (request) => {
    const url = request.url();
    const isLocal = url.startsWith(`${URL}/`) || /^(data|blob):/.test(url);
    if (!isLocal) faults.push(`request to ${url}`);
  });
  page.on('console', (message) => {
    const isProblem = ['error', 'warning'].includes(message.type());
    const status = /status of (\d+)/.exec(message.text())?.[1];
    if (isProblem && !expectedStatuses.has(status)) {
      faults.push(`${message.type()}: ${message.text()} (${message.location().url})`);
    }
  });
  page.on('pageerror', (error) => faults.push(`script failed: ${error.stack}`));
  page.on('dialog', (dialog) => {
    if (expectedDialogs.has(dialog.type())) return dialog.accept();
    faults.push(`browser dialog: ${dialog.message()}`);
    return dialog.dismiss();
  });
  return { context, page, faults, expectedStatuses, expectedDialogs };
}

export async function signIn(page, key = KEY) {
  await page.goto(`${URL}/console/`);
  await page.getByLabel('API key').fill(key);
  await page.getByRole('button', { name: 'Sign in' }).click();
  await page.getByRole('navigation', { name: 'Pages' }).waitFor();
}

/** Goes to a page of the console and waits until its data is loaded. */
export async function goTo(page, path) {
  await page.goto(`${URL}/console/#/${path}`);
  await waitUntilLoaded(page);
}

export async function waitUntilLoaded(page) {
  await page.waitForFunction(() => {
    // The console renders a new address after the browser has gone there, and notes which one it shows.
    const isCurrent = document.querySelector('main')?.dataset.hash === location.hash;
    const isLoading = document.querySelector('.loading, [aria-busy="true"]') !== null;
    return isCurrent && document.querySelector('h1') && !isLoading;
  });
}

/** Calls the API outside of the browser. Returns the status and the envelope. */
export async function callApi(method, path, body, key = KEY) {
  const response = await fetch(URL + path, {
    method,
    headers: { authorization: `Bearer ${key}`, 'content-type': 'application/json' },
    body: body && JSON.stringify(body),
  });
  return { status: response.status, ...(await response.json()) };
}

/** Creates a resource through the Admin API and returns it. */
export async function create(path, body) {
  const { status, data, error } = await callApi('POST', `/admin/v1${path}`, body);
  if (status !== 201) throw new Error(`POST ${path}: ${status} ${JSON.stringify(error)}`);
  return data;
}

/** Reads a resource through the Admin API. */
export async function read(path) {
  return (await callApi('GET', `/admin/v1${path}`)).data;
}
