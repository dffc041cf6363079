// Asks with one HTTP client for a response that is compressed, and prints its coding and the data.
// usage: node encodings.mjs URL QUERY CLIENT; tests/http/test_compression.py starts it.
import { fetch as whatwg } from '@whatwg-node/node-fetch'

const [url, query, client] = process.argv.slice(2)
const ask = { 'Node.js fetch': fetch, '@whatwg-node/node-fetch': whatwg }[client]
const headers = { 'X-API-Key': 'demo', 'Content-Type': 'application/json' }
const response = await ask(url, { method: 'POST', headers, body: JSON.stringify({ query }) })
console.log(JSON.stringify([response.headers.get('content-encoding'), (await response.json()).data]))
