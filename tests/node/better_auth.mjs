// Makes a database with better-auth and its plugins, as an application would: `node better_auth.mjs FILE`.
// Prints a line of JSON: each key with what better-auth itself says of it.
import { apiKey } from '@better-auth/api-key';
import { betterAuth } from 'better-auth';
import { getMigrations } from 'better-auth/db/migration';
import { admin, organization } from 'better-auth/plugins';
import { SqliteDialect } from 'kysely';
import wasm from 'node-sqlite3-wasm';

// SQLite compiled to WebAssembly, in the form that Kysely knows from better-sqlite3: nothing to compile.
const file = new wasm.Database(process.argv[2]);
const database = {
  close: () => file.close(),
  prepare: (sql) => {
    const statement = file.prepare(sql);
    const plain = (values) => values.map((value) => (typeof value === 'boolean' ? Number(value) : value));
    return {
      reader: /^\s*(select|with|pragma)|returning/i.test(sql),
      all: (values) => statement.all(plain(values)),
      run: (values) => statement.run(plain(values)),
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
const [ada, grace, alone] = [await signUp('Ada'), await signUp('Grace'), await signUp('Alone')];
const acme = await auth.api.createOrganization({ body: { name: 'Acme', slug: 'acme', userId: ada } });
await auth.api.addMember({ body: { organizationId: acme.id, userId: grace, role: 'admin' } });

const made = [];
const make = async (what, body) => {
  const key = await auth.api.createApiKey({ body: { name: what, ...body } });
  made.push({ what, id: key.id, key: key.key });
  return key;
};
await make('ofOrganization', { configId: 'organization', organizationId: acme.id, userId: ada });
await make('enabled', {
  userId: ada,
  permissions: { files: ['read', 'write'] },
  metadata: { team: 'core', number: 7 },
  rateLimitEnabled: true,
  rateLimitMax: 3,
  rateLimitTimeWindow: 60_000,
});
await make('unlimited', { userId: grace, rateLimitEnabled: false, prefix: 'acme_' });
const disabled = await make('disabled', { userId: ada });
await auth.api.updateApiKey({ body: { keyId: disabled.id, userId: ada, enabled: false } });
await make('expired', { userId: ada, expiresIn: 86_400 });
await make('homeless', { userId: alone });
await make('refused', { userId: ada, permissions: { admin: ['keys'] } });
// Nobody waits for a day.
file.run(`UPDATE apikey SET "expiresAt" = '2020-01-01T00:00:00.000Z' WHERE name = 'expired'`);

// Verified there before it is read here; an expired one is deleted by that, so a copy of its row is put back.
const row = file.get(`SELECT * FROM apikey WHERE name = 'expired'`);
for (const one of made) {
  const configId = one.what === 'ofOrganization' ? 'organization' : 'default';
  const answer = await auth.api.verifyApiKey({ body: { key: one.key, configId } });
  Object.assign(one, { valid: answer.valid, code: answer.error?.code ?? null });
}
if (!file.get(`SELECT 1 FROM apikey WHERE name = 'expired'`)) {
  const columns = Object.keys(row);
  const names = columns.map((column) => `"${column}"`).join(', ');
  file.run(`INSERT INTO apikey (${names}) VALUES (${columns.map(() => '?').join(', ')})`, Object.values(row));
}
file.close();
console.log(JSON.stringify({ acme: acme.id, ada, grace, alone, made }));
