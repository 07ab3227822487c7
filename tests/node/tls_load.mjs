// Verifies a key without pause until standard input ends, over new and over kept connections, with HTTP/1.1
// and HTTP/2. Prints "seen" each time a new connection gets another certificate and every loop has completed
// a request after that. At the end, prints as JSON the number of requests, the failures, and the certificates
// of new and of kept connections.
import { readFileSync } from 'node:fs';
import https from 'node:https';
import http2 from 'node:http2';

const url = new URL('/v1/keys/verify', process.env.TOLLHOUSE_URL);
const ca = readFileSync(process.env.TOLLHOUSE_CA);
const body = JSON.stringify({ key: process.env.TOLLHOUSE_KEY });
const headers = { authorization: `Bearer ${process.env.TOLLHOUSE_KEY}`, 'content-type': 'application/json' };

let isRunning = true;
process.stdin.on('end', () => (isRunning = false)).resume();

const results = { requests: 0, failures: [], fresh: [], kept: [] };
// The number of completed requests of each loop, now and when a new certificate was seen.
const completed = [];
let completedAtChange = null;

/** Records the certificate of a `fresh` or a `kept` connection. */
function recordCertificate(kind, socket) {
  const { fingerprint256 } = socket.getPeerCertificate();
  if (results[kind].includes(fingerprint256)) return;
  results[kind].push(fingerprint256);
  if (kind === 'fresh') completedAtChange = [...completed];
}

function verifyOverHttp1(kind, agent) {
  return new Promise((resolve, reject) => {
    const request = https.request(url, { ca, method: 'POST', headers, agent }, (response) => {
      recordCertificate(kind, response.socket);
      response.on('end', () => resolve(response.statusCode));
      response.on('error', reject);
      response.resume();
    });
    request.on('error', reject).end(body);
  });
}

function connectHttp2() {
  const session = http2.connect(url.origin, { ca });
  return session.on('error', (error) => results.failures.push(String(error)));
}

function verifyOverHttp2(kind, session) {
  return new Promise((resolve, reject) => {
    const stream = session.request({ ':method': 'POST', ':path': url.pathname, ...headers });
    let status;
    stream.on('response', (responseHeaders) => {
      status = responseHeaders[':status'];
      recordCertificate(kind, session.socket);
    });
    stream.on('end', () => resolve(status));
    stream.on('error', reject);
    stream.resume();
    stream.end(body);
  });
}

async function verifyOverNewHttp2() {
  const session = connectHttp2();
  try {
    return await verifyOverHttp2('fresh', session);
  } finally {
    session.close();
  }
}

/** Sends requests until the end, or until anything fails. */
async function repeat(verify) {
  const index = completed.push(0) - 1;
  while (isRunning) {
    try {
      const status = await verify();
      results.requests += 1;
      completed[index] += 1;
      if (status !== 200) results.failures.push(status);
      const isChangeCompleted =
        completedAtChange && completed.every((count, loop) => count > (completedAtChange[loop] ?? 0));
      if (isChangeCompleted) {
        completedAtChange = null;
        console.log('seen');
      }
    } catch (error) {
      results.failures.push(String(error));
    }
    if (results.failures.length > 0) isRunning = false;
  }
}

const keptAgent = new https.Agent({ keepAlive: true, maxSockets: 1 });
const keptSession = connectHttp2();
await Promise.all([verifyOverHttp1('kept', keptAgent), verifyOverHttp2('kept', keptSession)]);
console.log('going');
await Promise.all([
  repeat(() => verifyOverHttp1('fresh', false)),
  repeat(() => verifyOverHttp1('fresh', false)),
  repeat(() => verifyOverHttp1('kept', keptAgent)),
  repeat(() => verifyOverHttp2('kept', keptSession)),
  repeat(() => verifyOverHttp2('kept', keptSession)),
  repeat(verifyOverNewHttp2),
  repeat(verifyOverNewHttp2),
]);
keptAgent.destroy();
keptSession.close();
console.log(JSON.stringify(results));
