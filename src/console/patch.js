// JSON merge patches (RFC 7396) of what a form changed. Fields that were not edited are not sent.

/** True if both have the same JSON. */
export const isEqual = (one, other) => JSON.stringify(one) === JSON.stringify(other);

/** The fields of `after` that differ from `before`. */
export function changedFields(before, after) {
  const changes = Object.entries(after).filter(([name, value]) => !isEqual(value, before[name]));
  return Object.fromEntries(changes);
}

/** The pairs that were added or changed, and `null` for each removed one. `undefined` if nothing changed. */
export function metadataPatch(before, after) {
  const isNew = (name) => !Object.hasOwn(before, name) || after[name] !== before[name];
  const isRemoved = (name) => !Object.hasOwn(after, name);
  const removed = Object.keys(before).filter(isRemoved);
  const changed = Object.keys(after).filter(isNew);
  if (removed.length + changed.length === 0) return undefined;
  const removals = removed.map((name) => [name, null]);
  const changes = changed.map((name) => [name, after[name]]);
  return Object.fromEntries([...removals, ...changes]);
}

/**
 * The text of an input, without surrounding spaces. Text that was not edited is returned as it is stored,
 * including line breaks, which an input doesn't show.
 */
export function editedText(form, name, stored = '') {
  const typed = form.get(name);
  const isUnchanged = typed === stored.replace(/[\r\n]/g, '');
  return isUnchanged ? stored : typed.trim();
}
