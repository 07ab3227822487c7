// better-auth with its api-key plugin on better-sqlite3 in WAL mode, behind Node's http server, for
// `scripts/bench verify`. `node server.mjs DIR KEYS` creates KEYS keys and writes them to DIR/keys.
// Logging is off. The rate limit is enabled, as by default, but too high to be reached.
import { apiKey } from "@better-auth/api-key";
import { betterAuth } from "better-auth";
import { getMigrations } from "better-auth/db/migration";
import Database from "better-sqlite3";
import { writeFileSync } from "node:fs";
import { createServer } from "node:http";

const [dir, count] = process.argv.slice(2);
const database = new Database(`${dir}/auth.db`);
database.pragma("journal_mode = WAL");
const auth = betterAuth({
  database,
  baseURL: "http://127.0.0.1",
  secret: "the-secret-of-a-benchmark-0123456789",
  logger: { disabled: true },
  telemetry: { enabled: false },
  emailAndPassword: { enabled: true },
  plugins: [apiKey({ rateLimit: { maxRequests: 1e9 } })],
});
await (await getMigrations(auth.options)).runMigrations();
const owner = { email: "bench@example.com", password: "the-password-of-a-benchmark", name: "Bench" };
const { user } = await auth.api.signUpEmail({ body: owner });
const keys = [];
for (let i = 0; i < Number(count); i++) {
  keys.push((await auth.api.createApiKey({ body: { userId: user.id, name: `Key ${i}` } })).key);
}
writeFileSync(`${dir}/keys`, keys.join("\n") + "\n");

const server = createServer((request, response) => {
  const chunks = [];
  request.on("data", (chunk) => chunks.push(chunk));
  request.on("end", async () => {
    const { key } = JSON.parse(Buffer.concat(chunks));
    const answer = await auth.api.verifyApiKey({ body: { key } });
    response.writeHead(answer.valid ? 200 : 401, { "Content-Type": "application/json" });
    response.end(JSON.stringify(answer));
  });
});
server.listen(0, "127.0.0.1", () => console.error(`listening on http://127.0.0.1:${server.address().port}`));
process.on("SIGTERM", () => process.exit(0));
