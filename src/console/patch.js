// JSON merge patches (RFC 7396): only what a form changed, so that saving one field leaves the others as they are.

const isEqual = (one, other) => JSON.stringify(one) === JSON.stringify(other);

/** The fields of `after` that differ from `before`. */
export function changedFields(before, after) {
  return Object.fromEntries(Object.entries(after).filter(([name, value]) => !isEqual(value, before[name])));
}

/** The pairs that were added or changed; `null` stands for a removed pair. `undefined` if nothing changed. */
export function metadataPatch(before, after) {
  const removed = Object.keys(before).filter((name) => !Object.hasOwn(after, name));
  const changed = Object.keys(after).filter(
    (name) => !Object.hasOwn(before, name) || after[name] !== before[name],
  );
  if (removed.length + changed.length === 0) return undefined;
  return Object.fromEntries([
    ...removed.map((name) => [name, null]),
    ...changed.map((name) => [name, after[name]]),
  ]);
}

/**
 * The text of a field, without surrounding space. Text that was not edited is returned as it is stored, including what
 * an input can't show: an input drops line breaks.
 */
export function editedText(form, name, before = '') {
  const typed = form.get(name);
  const isUnchanged = typed === before.replace(/[\r\n]/g, '');
  return isUnchanged ? before : typed.trim();
}
