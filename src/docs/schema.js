// What a schema of the OpenAPI document says: types, bounds, and the fields of objects.

/** The deepest nesting of `allOf`. */
const MAX_MERGES = 8;

/** Keywords that bound a value, with the unit of which they count the values. */
const COUNTED = [
  ['minLength', 'maxLength', 'character', 'characters'],
  ['minItems', 'maxItems', 'item', 'items'],
  ['minProperties', 'maxProperties', 'entry', 'entries'],
];

const asArray = (value) => (Array.isArray(value) ? value : [value]);
const isNull = (schema) => schema.type === 'null';
const count = (number) => number.toLocaleString('en');

/** Merges the schemas of an `allOf` into one. */
function mergeAll(resolve, { allOf = [], ...rest }, depth = 0) {
  if (depth === MAX_MERGES) return rest;
  const parts = [...allOf.map((part) => mergeAll(resolve, resolve(part), depth + 1)), rest];
  const merged = Object.assign({}, ...parts);
  merged.properties = Object.assign({}, ...parts.map(({ properties }) => properties));
  merged.required = parts.flatMap(({ required = [] }) => required);
  return merged;
}

/**
 * A schema with its references resolved: `types`, `isNullable`, and either `variants`, of which a value is
 * one, or the fields of an object and the items of an array. `seen` has the names of the schemas around it.
 */
export function readSchema(api, source = {}, seen = []) {
  const resolve = (schema) => api.resolve(schema);
  const name = source.$ref;
  const isRecursive = seen.includes(name);
  let schema = resolve(source);
  if (schema.allOf) schema = mergeAll(resolve, schema);
  const path = name ? [...seen, name] : seen;
  const given = asArray(schema.type ?? []);
  const types = given.filter((type) => type !== 'null');
  const leaf = {
    ...schema,
    types,
    isNullable: types.length < given.length,
    isRecursive,
    variants: [],
    fields: [],
    items: undefined,
  };
  if (isRecursive) return leaf;

  const alternatives = schema.oneOf ?? schema.anyOf;
  if (alternatives) {
    const values = alternatives.filter((alternative) => !isNull(resolve(alternative)));
    const isNullable = values.length < alternatives.length;
    const { oneOf, anyOf, ...own } = schema;
    if (values.length === 1) {
      // The text next to a reference is about this use of the schema.
      const inner = readSchema(api, { ...values[0], ...own }, path);
      return { ...inner, isNullable: inner.isNullable || isNullable };
    }
    const variants = values.map((value) => readSchema(api, value, path));
    const variantTypes = [...new Set(variants.flatMap((variant) => variant.types))];
    const node = { ...leaf, ...own, types: variantTypes, isNullable };
    // Several lists of values are one list.
    const isList = variants.every((variant) => variant.enum);
    return isList ? { ...node, enum: variants.flatMap((variant) => variant.enum) } : { ...node, variants };
  }

  const node = leaf;
  const required = schema.required ?? [];
  node.fields = Object.entries(schema.properties ?? {}).map(([field, value]) => {
    return { name: field, isRequired: required.includes(field), schema: readSchema(api, value, path) };
  });
  if (schema.items) node.items = readSchema(api, schema.items, path);
  if (typeof schema.additionalProperties === 'object') {
    node.values = readSchema(api, schema.additionalProperties, path);
    node.names = schema.propertyNames && readSchema(api, schema.propertyNames, path);
  }
  return node;
}

/** True if the schema has parts of its own to show. */
export const hasParts = ({ fields, variants, items, values }) =>
  fields.length > 0 ||
  variants.some(hasParts) ||
  (items !== undefined && hasParts(items)) ||
  values !== undefined;

const plural = (type) => (type === 'any value' ? 'any values' : type.replace(/^\S+/, (word) => `${word}s`));

/** The type in words: `string`, `array of strings or null`. */
export function typeText(schema) {
  let type = schema.types.join(' or ') || 'any value';
  if (type === 'array' && schema.items) type = `array of ${plural(typeText(schema.items))}`;
  if (schema.format && !/^(int|float|double)/.test(schema.format)) type += ` (${schema.format})`;
  return schema.isNullable ? `${type} or null` : type;
}

function between(least, greatest, one = '', many = '') {
  const unit = (number) => (number === 1 ? one : many);
  const text = (number) => `${count(number)} ${unit(number)}`.trim();
  if (least === greatest && least !== undefined) return `exactly ${text(least)}`;
  if (least > 0 && greatest !== undefined) return `${count(least)} to ${text(greatest)}`;
  const isFromZero = least === 0 && !one;
  if (greatest !== undefined) return `${isFromZero ? '0 to' : 'at most'} ${text(greatest)}`;
  return least === undefined || (least === 0 && one) ? '' : `at least ${text(least)}`;
}

/** What a value must be like: pairs of a label and the codes that belong to it. */
export function constraintsOf(schema) {
  const facts = [];
  const codeOf = (value) => (typeof value === 'string' ? value : JSON.stringify(value));
  const add = (label, ...values) => facts.push({ label, codes: values.map(codeOf) });
  if (schema.const !== undefined) add('Always', schema.const);
  if (schema.enum?.length === 1) add('Always', schema.enum[0]);
  else if (schema.enum) add('One of', ...schema.enum);
  for (const [least, greatest, one, many] of COUNTED) {
    const text = between(schema[least], schema[greatest], one, many);
    if (text) add(text);
  }
  const range = between(schema.minimum, schema.maximum);
  if (range) add(range);
  if (schema.uniqueItems) add('no duplicates');
  if (schema.pattern) add('Pattern', schema.pattern);
  if (schema.default !== undefined) add('Default', schema.default);
  return facts;
}

/** A value that the schema permits: its example, or one made of its parts. */
export function sampleOf(schema, isComplete = true) {
  if ('example' in schema) return schema.example;
  if (schema.examples?.length > 0) return schema.examples[0];
  if (schema.const !== undefined) return schema.const;
  if (schema.default !== undefined) return schema.default;
  if (schema.enum) return schema.enum[0];
  if (schema.variants.length > 0) return sampleOf(schema.variants[0], isComplete);
  switch (schema.types[0]) {
    case 'object':
      return Object.fromEntries(
        sampledFields(schema, isComplete).map((field) => [field.name, sampleOf(field.schema, isComplete)]),
      );
    case 'array':
      return schema.items && !schema.isRecursive ? [sampleOf(schema.items, isComplete)] : [];
    case 'integer':
    case 'number':
      return schema.minimum ?? 1;
    case 'boolean':
      return true;
    case 'string':
      return schema.format === 'date-time' ? '2030-01-01T00:00:00.000Z' : 'string';
    default:
      return null;
  }
}

/** A request needs only its required fields; one that requires none, the first field that has an example. */
function sampledFields({ fields }, isComplete) {
  if (isComplete) return fields;
  const required = fields.filter(({ isRequired }) => isRequired);
  if (required.length > 0) return required;
  const first = fields.find(({ schema }) => 'example' in schema) ?? fields[0];
  return first ? [first] : [];
}
