// Reads the OpenAPI document: its operations by tag, their parameters, bodies, responses and errors.
import { readSchema, sampleOf } from './schema.js';

const METHODS = ['get', 'post', 'put', 'patch', 'delete', 'head', 'options'];

/** The longest chain of references. A longer one refers to itself. */
const MAX_REFERENCES = 32;

const JSON_TYPE = /^application\/([\w.+-]+\+)?json\b/;

export const isJson = (mediaType = '') => JSON_TYPE.test(mediaType);

export const isSuccess = ({ status }) => status.startsWith('2');

/** Codes of errors in a text: `NOT_FOUND`, and those of OAuth before their explanation. */
const CODE = /`([A-Z][A-Z0-9_]+)`|`([a-z_]+)`(?=:)/g;

/** An example that has only a value. */
const NO_TEXT = { name: '', summary: '', description: '' };

const unique = (values) => [...new Set(values)];

const codeOfBody = (body) => (typeof body?.error === 'string' ? body.error : body?.error?.code);

export class ApiDocument {
  /** `url` is where the document was loaded; the address of the API is relative to it. */
  constructor(json, url) {
    this.json = json;
    this.info = json.info;
    const server = new URL(json.servers?.[0]?.url ?? '/', url);
    this.baseUrl = server.href.replace(/\/$/, '');
    this.securitySchemes = Object.entries(json.components?.securitySchemes ?? {});
    this.operations = Object.entries(json.paths).flatMap(([path, item]) => {
      const methods = METHODS.filter((method) => item[method]);
      return methods.map((method) => this.#readOperation(path, method, item));
    });
    this.tags = this.#readTags();
  }

  operation(id) {
    return this.operations.find((operation) => operation.id === id);
  }

  tag(name) {
    return this.tags.find((tag) => tag.name === name);
  }

  /** Follows references. Keywords next to a reference override those of its target. */
  resolve(value = {}) {
    let resolved = value;
    for (let step = 0; resolved.$ref !== undefined; step += 1) {
      const { $ref, ...own } = resolved;
      const parts = $ref.replace(/^#\//, '').split('/');
      const names = parts.map((part) => part.replaceAll('~1', '/').replaceAll('~0', '~'));
      const target = names.reduce((node, name) => node?.[name], this.json);
      if (target === undefined || step === MAX_REFERENCES) return own;
      resolved = { ...target, ...own };
    }
    return resolved;
  }

  /** The operations in which each of the words occurs, in the order of the document. */
  search(query) {
    const words = query.toLowerCase().split(/\s+/).filter(Boolean);
    return this.operations.filter(({ searchText }) => words.every((word) => searchText.includes(word)));
  }

  /** The GET that returns the ETag of what an operation changes: at the same path or at the one above it. */
  readerOf(operation) {
    const paths = [operation.path, operation.path.replace(/\/[^/]+$/, '')];
    const headersOf = ({ responses }) => responses.flatMap(({ headers }) => headers);
    const hasEtag = (other) => headersOf(other).some(({ name }) => name === 'ETag');
    const readers = this.operations.filter((other) => other.method === 'GET' && hasEtag(other));
    return paths.map((path) => readers.find((reader) => reader.path === path)).find(Boolean);
  }

  #readTags() {
    const described = this.json.tags ?? [];
    const names = unique([...described.map(({ name }) => name), ...this.operations.map(({ tag }) => tag)]);
    const tags = names.map((name) => ({
      name,
      description: described.find((tag) => tag.name === name)?.description ?? '',
      operations: this.operations.filter(({ tag }) => tag === name),
    }));
    const used = tags.filter(({ operations }) => operations.length > 0);
    // The operations are shown in the order of their tags.
    this.operations = used.flatMap(({ operations }) => operations);
    return used;
  }

  #readOperation(path, method, item) {
    const source = item[method];
    const parameters = [...(item.parameters ?? []), ...(source.parameters ?? [])];
    const security = source.security ?? this.json.security ?? [];
    const operation = {
      id: source.operationId ?? `${method}${path}`,
      tag: source.tags?.[0] ?? 'API',
      method: method.toUpperCase(),
      path,
      summary: source.summary ?? path,
      description: source.description ?? '',
      security: security.flatMap((alternative) => Object.keys(alternative)),
      parameters: parameters.map((parameter) => this.#readParameter(parameter)),
      body: source.requestBody && this.#readBody(source.requestBody),
      responses: Object.entries(source.responses).map(([status, response]) => {
        return this.#readResponse(status, response);
      }),
    };
    operation.errors = operation.responses.filter((response) => !isSuccess(response)).flatMap(errorsOf);
    operation.searchText = searchTextOf(operation);
    return operation;
  }

  #readParameter(source) {
    const { name, in: location, required = false, description, example, ...rest } = this.resolve(source);
    const schema = readSchema(this, rest.schema);
    return {
      name,
      location,
      isRequired: required,
      description: description ?? schema.description ?? '',
      schema,
      example: example ?? schema.example,
    };
  }

  #readBody(source) {
    const { required = false, description = '', content = {} } = this.resolve(source);
    const contents = this.#readContents(content, false);
    const preferred = contents.find(({ mediaType }) => isJson(mediaType)) ?? contents[0];
    return preferred && { isRequired: required, description, ...preferred };
  }

  #readResponse(status, source) {
    const { description = '', headers = {}, content = {} } = this.resolve(source);
    const readHeader = ([name, header]) => {
      const { description: text = '', schema, example } = this.resolve(header);
      return { name, description: text, schema: readSchema(this, schema), example };
    };
    return {
      status,
      description,
      headers: Object.entries(headers).map(readHeader),
      contents: this.#readContents(content, true),
    };
  }

  #readContents(content, isComplete) {
    return Object.entries(content).map(([mediaType, source]) => {
      const schema = readSchema(this, source.schema);
      const named = Object.entries(source.examples ?? {}).map(([name, example]) => {
        return { ...NO_TEXT, ...this.resolve(example), name };
      });
      const single = 'example' in source ? [{ ...NO_TEXT, value: source.example }] : [];
      const written = [...named, ...single];
      const canSample = isJson(mediaType) || schema.types.includes('object');
      const sampled = { ...NO_TEXT, value: canSample ? sampleOf(schema, isComplete) : '' };
      return { mediaType, schema, examples: written.length > 0 ? written : [sampled] };
    });
  }
}

/** What a description of errors says besides the codes that it begins with. */
function explanationOf(description) {
  const [, text] = /^(?:`\w+`(?:, | or )?)+:\s+(.*)$/s.exec(description) ?? [];
  // Of several codes with an explanation each, all of it is needed.
  if (text && !/`\w+`:/.test(text)) return text[0].toUpperCase() + text.slice(1);
  // A description that only lists codes explains nothing.
  return description.replace(/`[^`]*`|\bor\b|[,\s]/g, '') === '' ? '' : description;
}

/** The errors of a response, one for each code: when it happens, and an example. */
function errorsOf({ status, description, contents }) {
  const examples = contents.flatMap((content) => content.examples);
  const named = examples.map(({ value }) => codeOfBody(value)).filter(Boolean);
  const mentioned = [...description.matchAll(CODE)].map(([, code, oauthCode]) => code ?? oauthCode);
  const codes = unique([...mentioned, ...named]);
  const explanation = explanationOf(description);
  if (codes.length === 0) return [{ status, code: '', explanation: description, example: examples[0] }];
  return codes.map((code) => {
    const example = examples.find(({ value }) => codeOfBody(value) === code);
    return { status, code, explanation: example?.summary || example?.description || explanation, example };
  });
}

function searchTextOf({ id, tag, method, path, summary, description, parameters, errors }) {
  const names = parameters.map(({ name }) => name);
  const codes = errors.map(({ status, code }) => `${status} ${code}`);
  return [id, tag, method, path, summary, description, ...names, ...codes].join('\n').toLowerCase();
}
