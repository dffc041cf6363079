// Runs every audit of graphql-http against the URL given, as its own command line does: plain `fetch`, no header added.
// Prints one JSON array: id, name, status, and the reason where an audit is not ok.
import { serverAudits } from 'graphql-http';

const results = [];
for (const audit of serverAudits({ url: process.argv[2] })) {
  const { id, name, status, reason = null } = await audit.fn();
  results.push({ id, name, status, reason });
}
console.log(JSON.stringify(results));
