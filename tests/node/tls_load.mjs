// Asks without a pause until its standard input ends: over new connections and over kept ones, in both versions.
// It says "seen" when a new connection was shown another certificate and all kinds of connections were answered
// after that; in the end how often it asked, what failed, and which certificates it was shown.
import { readFileSync } from 'node:fs';
import https from 'node:https';
import http2 from 'node:http2';

const url = new URL('/v1/keys/verify', process.env.TOLLHOUSE_URL);
const ca = readFileSync(process.env.TOLLHOUSE_CA);
const body = JSON.stringify({ key: process.env.TOLLHOUSE_KEY });
const headers = { authorization: `Bearer ${process.env.TOLLHOUSE_KEY}`, 'content-type': 'application/json' };

let going = true;
process.stdin.on('end', () => (going = false)).resume();

const told = { requests: 0, failures: [], fresh: [], kept: [] };
// How often each loop was answered, now and when a new certificate was seen.
const answered = [];
let since = null;
const note = (list, socket) => {
  const { fingerprint256 } = socket.getPeerCertificate();
  if (told[list].includes(fingerprint256)) return;
  told[list].push(fingerprint256);
  if (list === 'fresh') since = [...answered];
};

function http1(list, agent) {
  return new Promise((resolve, reject) => {
    const request = https.request(url, { ca, method: 'POST', headers, agent }, (response) => {
      note(list, response.socket);
      response
        .on('end', () => resolve(response.statusCode))
        .on('error', reject)
        .resume();
    });
    request.on('error', reject).end(body);
  });
}

const connect = () =>
  http2.connect(url.origin, { ca }).on('error', (error) => told.failures.push(String(error)));

function overHttp2(list, session) {
  return new Promise((resolve, reject) => {
    const stream = session.request({ ':method': 'POST', ':path': url.pathname, ...headers });
    let status;
    stream.on('response', (answered) => {
      status = answered[':status'];
      note(list, session.socket);
    });
    stream
      .on('end', () => resolve(status))
      .on('error', reject)
      .resume();
    stream.end(body);
  });
}

async function loop(ask) {
  const own = answered.push(0) - 1;
  while (going) {
    try {
      const status = await ask();
      told.requests += 1;
      answered[own] += 1;
      if (status !== 200) told.failures.push(status);
      if (since && answered.every((count, loop) => count > (since[loop] ?? 0))) {
        since = null;
        console.log('seen');
      }
    } catch (error) {
      told.failures.push(String(error));
    }
    if (told.failures.length > 0) going = false; // Nobody waits for more.
  }
}

const agent = new https.Agent({ keepAlive: true, maxSockets: 1 });
const session = connect();
const anew = async () => {
  const own = connect();
  try {
    return await overHttp2('fresh', own);
  } finally {
    own.close();
  }
};
await Promise.all([http1('kept', agent), overHttp2('kept', session)]);
console.log('going');
await Promise.all([
  loop(() => http1('fresh', false)),
  loop(() => http1('fresh', false)),
  loop(() => http1('kept', agent)),
  loop(() => overHttp2('kept', session)),
  loop(() => overHttp2('kept', session)),
  loop(anew),
  loop(anew),
]);
agent.destroy();
session.close();
console.log(JSON.stringify(told));
