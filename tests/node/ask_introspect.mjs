// Introspects each key of the command line with the function of the guide. Prints each result as a line of
// JSON.
import { introspect } from './introspect.mjs';

for (const key of process.argv.slice(2)) {
  console.log(JSON.stringify(await introspect(key)));
}
