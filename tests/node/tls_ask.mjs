// Asks over HTTP/1.1 once, and over one connection of HTTP/2 for two organizations at once.
import { readFileSync } from 'node:fs';
import https from 'node:https';
import http2 from 'node:http2';

const url = new URL(process.env.TOLLHOUSE_URL);
const ca = readFileSync(process.env.TOLLHOUSE_CA);
const keys = JSON.parse(process.env.TOLLHOUSE_KEYS);

const headers = (asker) => ({ authorization: `Bearer ${asker}`, 'content-type': 'application/json' });

function overHttp1(asker, key) {
  return new Promise((resolve, reject) => {
    const options = { ca, method: 'POST', headers: headers(asker) };
    const request = https.request(new URL('/v1/keys/verify', url), options, async (response) => {
      let text = '';
      for await (const piece of response) text += piece;
      resolve([response.httpVersion, response.statusCode, JSON.parse(text).data.code]);
    });
    request.on('error', reject).end(JSON.stringify({ key }));
  });
}

function overHttp2(session, asker, key) {
  return new Promise((resolve, reject) => {
    const stream = session.request({ ':method': 'POST', ':path': '/v1/keys/verify', ...headers(asker) });
    let text = '';
    stream.setEncoding('utf8').on('data', (piece) => (text += piece));
    stream.on('end', () => resolve(JSON.parse(text).data.code)).on('error', reject);
    stream.end(JSON.stringify({ key }));
  });
}

const told = { http1: await overHttp1(...keys[0]), answers: 0, wrong: 0 };
const session = http2.connect(url, { ca });
await Promise.all(
  Array.from({ length: 100 }).flatMap(() =>
    keys.flatMap(([asker], own) =>
      keys.map(async ([, key], whose) => {
        const code = await overHttp2(session, asker, key);
        told.answers += 1;
        if (code !== (own === whose ? 'VALID' : 'NOT_FOUND')) told.wrong += 1;
      }),
    ),
  ),
);
session.close();
console.log(JSON.stringify(told));
