// Verifies keys through TLS: once over HTTP/1.1, and many times over one HTTP/2 connection, which carries the
// requests of two organizations at once. Prints the results as JSON.
import { readFileSync } from 'node:fs';
import https from 'node:https';
import http2 from 'node:http2';

const REPETITIONS = 100;
const PATH = '/v1/keys/verify';

const url = new URL(process.env.TOLLHOUSE_URL);
const ca = readFileSync(process.env.TOLLHOUSE_CA);
// For each organization, the key of its verifier and a key to verify.
const keys = JSON.parse(process.env.TOLLHOUSE_KEYS);

const headersFor = (verifier) => ({
  authorization: `Bearer ${verifier}`,
  'content-type': 'application/json',
});

function verifyOverHttp1(verifier, key) {
  return new Promise((resolve, reject) => {
    const options = { ca, method: 'POST', headers: headersFor(verifier) };
    const request = https.request(new URL(PATH, url), options, async (response) => {
      let text = '';
      for await (const chunk of response) text += chunk;
      resolve([response.httpVersion, response.statusCode, JSON.parse(text).data.code]);
    });
    request.on('error', reject).end(JSON.stringify({ key }));
  });
}

function verifyOverHttp2(session, verifier, key) {
  return new Promise((resolve, reject) => {
    const stream = session.request({ ':method': 'POST', ':path': PATH, ...headersFor(verifier) });
    let text = '';
    stream.setEncoding('utf8').on('data', (chunk) => (text += chunk));
    stream.on('end', () => resolve(JSON.parse(text).data.code)).on('error', reject);
    stream.end(JSON.stringify({ key }));
  });
}

const results = { http1: await verifyOverHttp1(...keys[0]), answers: 0, wrong: 0 };
const session = http2.connect(url, { ca });

/** A verifier finds the keys of its own organization, and no others. */
async function verifyAndCheck(verifierIndex, keyIndex) {
  const [verifier] = keys[verifierIndex];
  const [, key] = keys[keyIndex];
  const code = await verifyOverHttp2(session, verifier, key);
  const expectedCode = verifierIndex === keyIndex ? 'VALID' : 'NOT_FOUND';
  results.answers += 1;
  if (code !== expectedCode) results.wrong += 1;
}

const verifications = [];
for (let repetition = 0; repetition < REPETITIONS; repetition += 1) {
  for (const verifierIndex of keys.keys()) {
    for (const keyIndex of keys.keys()) verifications.push(verifyAndCheck(verifierIndex, keyIndex));
  }
}
await Promise.all(verifications);
session.close();
console.log(JSON.stringify(results));
