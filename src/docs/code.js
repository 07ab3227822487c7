// A request as code that can be copied: curl, JavaScript with fetch, and Python without packages. The key is
// read from an environment variable, so that it never stands in the code.

const KEY_VARIABLE = 'TOLLHOUSE_KEY';

/** Lists of plain values up to this length stay on one line. */
const MAX_INLINE_LENGTH = 60;

const isPlain = (value) => value === null || typeof value !== 'object';

/** A string in single quotes, as JavaScript writes it. */
function jsString(text) {
  const quoted = JSON.stringify(text).slice(1, -1);
  const swapped = quoted.replace(/\\.|'/g, (match) =>
    match === '\\"' ? '"' : match === "'" ? "\\'" : match,
  );
  return `'${swapped}'`;
}

const jsName = (name) => {
  if (name === '__proto__') return "['__proto__']"; // Otherwise the prototype would be set.
  return /^[A-Za-z_$][\w$]*$/.test(name) ? name : jsString(name);
};

const JAVASCRIPT = {
  indent: '  ',
  scalar: (v) => (typeof v === 'string' ? jsString(v) : String(v)),
  name: jsName,
};

// The escapes of JSON mean the same in Python.
const PYTHON_CONSTANTS = new Map([
  [null, 'None'],
  [true, 'True'],
  [false, 'False'],
]);
const PYTHON = {
  indent: '    ',
  scalar: (value) => PYTHON_CONSTANTS.get(value) ?? JSON.stringify(value),
  name: (name) => JSON.stringify(name),
};

/** A value of JSON as a literal of a language. */
function literal(value, style, margin) {
  if (isPlain(value)) return style.scalar(value);
  const isList = Array.isArray(value);
  const [open, close] = isList ? '[]' : '{}';
  const inner = margin + style.indent;
  const entries = isList
    ? value.map((item) => literal(item, style, inner))
    : Object.entries(value).map(([name, item]) => `${style.name(name)}: ${literal(item, style, inner)}`);
  if (entries.length === 0) return open + close;
  const line = `${open}${entries.join(', ')}${close}`;
  if (isList && value.every(isPlain) && line.length <= MAX_INLINE_LENGTH) return line;
  return `${open}\n${entries.map((entry) => `${inner}${entry},\n`).join('')}${margin}${close}`;
}

/** The value of a JSON body; `undefined` for other bodies, and if it can't be parsed. */
function jsonOf({ body, isJsonBody }) {
  if (!isJsonBody) return undefined;
  try {
    return { value: JSON.parse(body) };
  } catch {
    return undefined;
  }
}

const shellString = (text) => `'${text.replaceAll("'", `'\\''`)}'`;

function curl({ method, url, headers, body, authentication }) {
  const parts = [`curl ${shellString(url)}`];
  if (method !== 'GET') parts.push(`--request ${method}`);
  if (authentication) {
    parts.push(`--header "${authentication.header}: ${authentication.prefix}$${KEY_VARIABLE}"`);
  }
  parts.push(...headers.map(([name, value]) => `--header ${shellString(`${name}: ${value}`)}`));
  if (body !== undefined) parts.push(`--data-raw ${shellString(body)}`);
  return parts.join(' \\\n  ');
}

function javascript(request) {
  const { method, url, headers, body, authentication, isJsonAnswer } = request;
  const lines = [];
  if (method !== 'GET') lines.push(`  method: '${method}',`);
  const headerLines = headers.map(([name, value]) => `    ${jsName(name)}: ${jsString(value)},`);
  if (authentication) {
    const value = `${authentication.prefix}\${process.env.${KEY_VARIABLE}}`;
    headerLines.unshift(`    ${jsName(authentication.header)}: \`${value}\`,`);
  }
  if (headerLines.length > 0) lines.push('  headers: {', ...headerLines, '  },');
  const json = jsonOf(request);
  if (json) lines.push(`  body: JSON.stringify(${literal(json.value, JAVASCRIPT, '  ')}),`);
  else if (body !== undefined) lines.push(`  body: ${jsString(body)},`);
  const options = lines.length > 0 ? `, {\n${lines.join('\n')}\n}` : '';
  return [
    `const response = await fetch(${jsString(url)}${options});`,
    `console.log(response.status, await response.${isJsonAnswer ? 'json' : 'text'}());`,
  ].join('\n');
}

function python(request) {
  const { method, url, headers, body, authentication, isJsonAnswer } = request;
  const json = jsonOf(request);
  const lines = [`    ${JSON.stringify(url)},`];
  if (method !== 'GET') lines.push(`    method="${method}",`);
  const headerLines = headers.map(([name, value]) => `${JSON.stringify(name)}: ${JSON.stringify(value)}`);
  if (authentication) {
    const value = `f"${authentication.prefix}{os.environ['${KEY_VARIABLE}']}"`;
    headerLines.unshift(`${JSON.stringify(authentication.header)}: ${value}`);
  }
  if (headerLines.length > 0) {
    lines.push('    headers={', ...headerLines.map((line) => `        ${line},`), '    },');
  }
  if (json) lines.push(`    data=json.dumps(${literal(json.value, PYTHON, '    ')}).encode(),`);
  else if (body !== undefined) lines.push(`    data=${JSON.stringify(body)}.encode(),`);
  const modules = ['urllib.request'];
  if (authentication) modules.unshift('os');
  if (json || isJsonAnswer) modules.unshift('json');
  return [
    ...modules.map((name) => `import ${name}`),
    '',
    'request = urllib.request.Request(',
    ...lines,
    ')',
    'with urllib.request.urlopen(request) as response:',
    `    print(response.status, ${isJsonAnswer ? 'json.load(response)' : 'response.read().decode()'})`,
  ].join('\n');
}

/** The forms of a request, in the order in which they are offered. */
export const FORMS = [
  ['curl', curl],
  ['JavaScript', javascript],
  ['Python', python],
];
