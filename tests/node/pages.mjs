// The pages of the console: a name for tests and screenshots, and the address.
export const PAGES = [
  ['overview', ''],
  ['organizations', 'organizations'],
  ['organization', 'organizations/org_123'],
  ['users', 'users'],
  ['user', 'users/user_123'],
  ['keys', 'api-keys'],
  ['key', 'api-keys/key_123'],
  ['usage', 'usage'],
  ['denials', 'denials'],
  ['audit', 'audit'],
  ['scopes', 'scopes'],
  ['settings', 'settings'],
];
