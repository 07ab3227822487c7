// Verifies each key of the command line with the function of the guide. Prints each result as a line of JSON.
import { verify } from './verify.mjs';

for (const key of process.argv.slice(2)) {
  console.log(JSON.stringify(await verify(key, ['workflows:read'], '203.0.113.7')));
}
