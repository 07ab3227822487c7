// Creates a database with better-auth and its plugins, as an application does: `node better_auth.mjs FILE`.
// Prints a line of JSON: each key with the result of its verification by better-auth.
import { apiKey } from '@better-auth/api-key';
import { betterAuth } from 'better-auth';
import { getMigrations } from 'better-auth/db/migration';
import { admin, organization } from 'better-auth/plugins';
import { SqliteDialect } from 'kysely';
import wasm from 'node-sqlite3-wasm';

// SQLite as WebAssembly, with the interface of better-sqlite3, which Kysely expects. Nothing has to be
// compiled.
const file = new wasm.Database(process.argv[2]);
const database = {
  close: () => file.close(),
  prepare: (sql) => {
    const statement = file.prepare(sql);
    const withoutBooleans = (values) =>
      values.map((value) => (typeof value === 'boolean' ? Number(value) : value));
    return {
      reader: /^\s*(select|with|pragma)|returning/i.test(sql),
      all: (values) => statement.all(withoutBooleans(values)),
      run: (values) => statement.run(withoutBooleans(values)),
    };
  },
};

const auth = betterAuth({
  database: { dialect: new SqliteDialect({ database }), type: 'sqlite' },
  baseURL: 'http://127.0.0.1',
  secret: 'the-secret-of-a-test-0123456789abcdef',
  logger: { disabled: true },
  telemetry: { enabled: false },
  emailAndPassword: { enabled: true },
  plugins: [
    admin(),
    organization(),
    apiKey([
      { configId: 'default', enableMetadata: true, keyExpiration: { minExpiresIn: 0 } },
      { configId: 'organization', references: 'organization' },
    ]),
  ],
});
await (await getMigrations(auth.options)).runMigrations();

const signUp = async (name) => {
  const body = { email: `${name.toLowerCase()}@example.com`, password: `the-password-of-${name}`, name };
  return (await auth.api.signUpEmail({ body })).user.id;
};
const ada = await signUp('Ada');
const grace = await signUp('Grace');
const alone = await signUp('Alone');
const acme = await auth.api.createOrganization({ body: { name: 'Acme', slug: 'acme', userId: ada } });
await auth.api.addMember({ body: { organizationId: acme.id, userId: grace, role: 'admin' } });

const made = [];
const createKey = async (what, body) => {
  const key = await auth.api.createApiKey({ body: { name: what, ...body } });
  made.push({ what, id: key.id, key: key.key });
  return key;
};
await createKey('ofOrganization', { configId: 'organization', organizationId: acme.id, userId: ada });
await createKey('enabled', {
  userId: ada,
  permissions: { files: ['read', 'write'] },
  metadata: { team: 'core', number: 7 },
  rateLimitEnabled: true,
  rateLimitMax: 3,
  rateLimitTimeWindow: 60_000,
});
await createKey('unlimited', { userId: grace, rateLimitEnabled: false, prefix: 'acme_' });
const disabled = await createKey('disabled', { userId: ada });
await auth.api.updateApiKey({ body: { keyId: disabled.id, userId: ada, enabled: false } });
await createKey('expired', { userId: ada, expiresIn: 86_400 });
await createKey('homeless', { userId: alone });
await createKey('refused', { userId: ada, permissions: { admin: ['keys'] } });
// Set directly, because the test can’t wait until the key expires.
file.run(`UPDATE apikey SET "expiresAt" = '2020-01-01T00:00:00.000Z' WHERE name = 'expired'`);

// better-auth deletes an expired key when it verifies it, so the row is restored afterwards.
const row = file.get(`SELECT * FROM apikey WHERE name = 'expired'`);
for (const key of made) {
  const configId = key.what === 'ofOrganization' ? 'organization' : 'default';
  const result = await auth.api.verifyApiKey({ body: { key: key.key, configId } });
  Object.assign(key, { valid: result.valid, code: result.error?.code ?? null });
}
if (!file.get(`SELECT 1 FROM apikey WHERE name = 'expired'`)) {
  const columns = Object.keys(row);
  const names = columns.map((column) => `"${column}"`).join(', ');
  file.run(`INSERT INTO apikey (${names}) VALUES (${columns.map(() => '?').join(', ')})`, Object.values(row));
}
file.close();
console.log(JSON.stringify({ acme: acme.id, ada, grace, alone, made }));
