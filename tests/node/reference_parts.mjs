// What the API reference makes of a document: text, types, examples, addresses and code. These tests need
// neither a server nor a browser.
import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { test } from 'node:test';
import { FORMS } from '../../src/docs/code.js';
import { tokens } from '../../src/docs/code-block.js';
import { ApiDocument } from '../../src/docs/document.js';
import { parseBlocks } from '../../src/docs/markdown.js';
import { buildRequest, findFaults, initialValues, isDangerous, renewed } from '../../src/docs/request.js';
import { constraintsOf, hasParts, readSchema, sampleOf, typeText } from '../../src/docs/schema.js';
import { showControls } from '../../src/docs/send.js';

/** A document with these schemas and these operations by path and method. */
function documentOf({ schemas = {}, paths = {} }) {
  const json = { info: {}, servers: [{ url: '.' }], paths, components: { schemas } };
  return new ApiDocument(json, 'https://example.com/below/openapi.json');
}

const ref = (name) => ({ $ref: `#/components/schemas/${name}` });

test('descriptions are paragraphs, lists, and code', () => {
  assert.deepEqual(parseBlocks('One\nparagraph.\n\nAnother:\n- first\n  item\n- second'), [
    { text: 'One paragraph.' },
    { text: 'Another:' },
    { items: ['first item', 'second'] },
  ]);
  assert.deepEqual(parseBlocks(''), []);
});

test('types and bounds are words', () => {
  const api = documentOf({});
  for (const [schema, type, bounds] of [
    [{ type: 'string', minLength: 1, maxLength: 200 }, 'string', ['1 to 200 characters']],
    [{ type: ['string', 'null'], format: 'date-time' }, 'string (date-time) or null', []],
    [{ type: 'integer', format: 'int32', minimum: 0, maximum: 36500 }, 'integer', ['0 to 36,500']],
    [{ type: 'integer', minimum: 0 }, 'integer', ['at least 0']],
    [{ type: 'array', items: { type: 'string' }, maxItems: 1 }, 'array of strings', ['at most 1 item']],
    [{ oneOf: [{ type: 'object' }, { type: 'null' }] }, 'object or null', []],
    [{ type: 'string', enum: ['a', 'b'], default: 'a' }, 'string', ['One of a b', 'Default a']],
    [
      {
        anyOf: [
          { type: 'string', enum: ['a'] },
          { type: 'string', enum: ['b'] },
        ],
      },
      'string',
      ['One of a b'],
    ],
    [{ type: 'boolean', const: true }, 'boolean', ['Always true']],
    [{}, 'any value', []],
  ]) {
    const read = readSchema(api, schema);
    assert.equal(typeText(read), type);
    const texts = constraintsOf(read).map(({ label, codes }) => [label, ...codes].join(' '));
    assert.deepEqual(texts, bounds);
  }
});

test('schemas that contain themselves, or nothing, end', () => {
  const api = documentOf({
    schemas: {
      Tree: {
        type: 'object',
        properties: { children: { type: 'array', items: ref('Tree') }, next: ref('Tree') },
      },
      Loop: ref('Loop'),
      Merged: { allOf: [ref('Merged'), { type: 'object', properties: { id: { type: 'string' } } }] },
      Choice: { oneOf: [ref('Choice'), { type: 'string' }] },
      Optional: { oneOf: [ref('Optional'), { type: 'null' }] },
    },
  });
  const tree = readSchema(api, ref('Tree'));
  assert.equal(tree.fields[0].schema.items.isRecursive, true);
  assert.deepEqual(sampleOf(tree), { children: [{}], next: {} });
  for (const name of ['Loop', 'Merged', 'Choice', 'Optional', 'Missing']) {
    const schema = readSchema(api, ref(name));
    typeText(schema);
    sampleOf(schema);
    hasParts(schema);
  }
  assert.deepEqual(sampleOf(readSchema(api, ref('Merged'))), { id: 'string' });
});

test('text next to a reference, or around it, is about this use', () => {
  const api = documentOf({ schemas: { Limit: { type: 'integer', description: 'A limit.', minimum: 1 } } });
  const nullable = { oneOf: [{ ...ref('Limit'), description: 'Of the key.' }, { type: 'null' }] };
  for (const schema of [{ ...ref('Limit'), description: 'Of the key.' }, nullable]) {
    assert.equal(readSchema(api, schema).description, 'Of the key.');
  }
  assert.equal(typeText(readSchema(api, nullable)), 'integer or null');
});

/** An operation with parameters in the path, the query and the headers. */
const PATHS = {
  '/items/{id}': {
    parameters: [{ name: 'id', in: 'path', required: true, example: 'a:b/c d', schema: { type: 'string' } }],
    post: {
      operationId: 'changeItem',
      parameters: [
        { name: 'tag', in: 'query', example: ['x'], schema: { type: 'array', items: { type: 'string' } } },
        { name: 'Idempotency-Key', in: 'header', schema: { type: 'string' } },
      ],
      requestBody: {
        content: {
          'application/json': {
            schema: {
              type: 'object',
              required: ['name'],
              properties: { name: { type: 'string', example: 'A' }, note: { type: 'string', example: 'B' } },
            },
          },
        },
      },
      responses: {
        201: { description: 'Created.' },
        400: { description: '`INVALID_JSON` or `INVALID_REQUEST`: see `details`.' },
        401: { description: '`invalid_client`: no credentials. `invalid_token`: the token is invalid.' },
        404: {
          description: '`NOT_FOUND`',
          content: {
            'application/json': {
              examples: {
                one: { summary: 'The item doesn’t exist.', value: { error: { code: 'NOT_FOUND' } } },
              },
            },
          },
        },
        503: {
          description: '`temporarily_unavailable`',
          content: { 'application/json': { example: { error: 'temporarily_unavailable' } } },
        },
      },
    },
  },
};

test('a request has what is filled in, and a new idempotency key each time', () => {
  const api = documentOf({ paths: PATHS });
  const operation = api.operation('changeItem');
  const values = initialValues(operation);
  assert.equal(values['query.tag'], '', 'optional parameters are left out');
  assert.deepEqual(JSON.parse(values.body), { name: 'A' });
  const first = values['header.Idempotency-Key'];
  assert.match(first, /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/);
  assert.notEqual(renewed(operation, values)['header.Idempotency-Key'], first);
  const request = buildRequest(api, operation, { ...values, 'query.tag': 'x & y, , z' });
  assert.equal(request.url, 'https://example.com/below/items/a:b%2Fc%20d?tag=x+%26+y&tag=z');
  assert.deepEqual(request.headers[0], ['Content-Type', 'application/json']);
  const faults = findFaults(operation, { ...values, 'path.id': '..', 'header.Idempotency-Key': 'a\nb' });
  assert.deepEqual(Object.keys(faults), ['path.id', 'header.Idempotency-Key']);
  assert.equal(isDangerous(operation), false);
});

test('each error code has its explanation and its example', () => {
  const { errors } = documentOf({ paths: PATHS }).operation('changeItem');
  const found = errors.map(({ status, code, explanation, example }) => [
    status,
    code,
    explanation,
    !!example,
  ]);
  const several = '`invalid_client`: no credentials. `invalid_token`: the token is invalid.';
  assert.deepEqual(found, [
    ['400', 'INVALID_JSON', 'See `details`.', false],
    ['400', 'INVALID_REQUEST', 'See `details`.', false],
    ['401', 'invalid_client', several, false],
    ['401', 'invalid_token', several, false],
    ['404', 'NOT_FOUND', 'The item doesn’t exist.', true],
    ['503', 'temporarily_unavailable', '', true],
  ]);
});

/** Texts that mean something to a shell, to JavaScript, to Python, or to JSON. */
const HOSTILE = [
  `it's "quoted" \\ and \`ticked\``,
  '$HOME $(date) ${process.exit(3)} {os.abort()} %s \\u0041 \\n',
  'line\nbreak\ttab\u2028separator',
  '日本語 🚀 é',
  "'; exit 3; '",
];
const BODY = {
  __proto__: null,
  text: HOSTILE,
  'a-b': [true, false, null, 1.5, -2e21],
  nested: { 'x y': {} },
};

/** Programs that run a form of the code, with a stub in place of the network that prints the body. */
const RUNS = {
  JavaScript: (code) => {
    const stub = 'globalThis.fetch = async (_, { body }) => { process.stdout.write(body); process.exit(); };';
    return ['node', ['--input-type=module', '--eval', `${stub}\n${code}`]];
  },
  Python: (code) => {
    const stub = [
      'import sys, urllib.request',
      'urllib.request.urlopen = lambda request: sys.exit(print(end=request.data.decode()))',
    ].join('\n');
    return ['python3', ['-c', `${stub}\n${code}`]];
  },
  curl: (code) => ['bash', ['-c', `curl() { printf %s "\${@: -1}"; }\n${code}`]],
};

test('code keeps every character of the body', () => {
  const request = { method: 'POST', url: 'https://example.com/?q=%27', headers: [['X-Text', `it's "here"`]] };
  const authentication = { header: 'Authorization', prefix: 'Bearer ' };
  for (const [name, write] of FORMS) {
    for (const [body, isJsonBody] of [
      [JSON.stringify(BODY, null, 2), true],
      [HOSTILE.join('&'), false],
      ['{"not": json', true],
    ]) {
      const code = write({ ...request, body, isJsonBody, isJsonAnswer: true, authentication });
      const [program, args] = RUNS[name](code);
      const env = { ...process.env, TOLLHOUSE_KEY: 'k', PYTHONIOENCODING: 'utf-8' };
      const { status, stdout, stderr } = spawnSync(program, args, { encoding: 'utf8', env });
      assert.equal(status, 0, `${stderr}\n${code}`);
      const isJson = isJsonBody && body.endsWith('}');
      if (isJson) assert.deepEqual(JSON.parse(stdout), JSON.parse(body), code);
      else assert.equal(stdout, body, code);
    }
  }
});

test('colors and escapes keep the text', () => {
  for (const text of ['{"a": "b", "c": [1, true]}', `it's 'open`, '"', '', '`${x}` 12ab -3 "k" :']) {
    const joined = tokens(text).map(([, part]) => part);
    assert.equal(joined.join(''), text);
  }
  const kinds = tokens('{"a": "b", "c": -1}').filter(([kind]) => kind);
  assert.deepEqual(kinds, [
    ['token-name', '"a"'],
    ['token-string', '"b"'],
    ['token-name', '"c"'],
    ['token-word', '-1'],
  ]);
  assert.equal(showControls('a\u202eb\u2066c'), 'a\\u202eb\\u2066c');
});
