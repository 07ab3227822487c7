// The same by the guide's introspection.
import { introspect } from './introspect.mjs';

for (const key of process.argv.slice(2)) {
  console.log(JSON.stringify(await introspect(key)));
}
