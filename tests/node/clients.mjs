// Asks a gateway with the clients frontends use, each set up as its documentation says, and prints what they got.
// usage: node clients.mjs URL; tests/http/test_clients.py starts it.
import { createHash } from 'node:crypto'
import { ApolloClient, HttpLink, InMemoryCache, gql } from '@apollo/client/core'
import { PersistedQueryLink } from '@apollo/client/link/persisted-queries'
import { Client, fetchExchange } from '@urql/core'
import { GraphQLClient } from 'graphql-request'

const url = process.argv[2]
const headers = { 'X-API-Key': 'demo' }
const text = 'query Overview { agents(first: 3) { nodes { name numbers { phoneNumber agent { id } } } } }'
const document = gql(text)
const unknown = gql(text.replace('Overview', 'Persisted')) // which no other client sends
const requests = []

const recording = async (input, init) => {
  const response = await fetch(input, init)
  requests.push([init?.method ?? 'GET', response.status])
  return response
}

const urql = (method) =>
  new Client({ url, fetch: recording, fetchOptions: { headers }, preferGetMethod: method === 'GET', exchanges: [fetchExchange] })
    .query(text, {})
    .toPromise()

const apollo = (link, query = document) => new ApolloClient({ link, cache: new InMemoryCache() }).query({ query })
const http = (useGETForQueries) => new HttpLink({ uri: url, headers, fetch: recording, useGETForQueries })
const persisted = (useGETForHashedQueries) =>
  new PersistedQueryLink({
    sha256: (query) => createHash('sha256').update(query).digest('hex'),
    useGETForHashedQueries,
  }).concat(http(false))

const plain = async (method, query = '') => {
  const body = method === 'POST' ? JSON.stringify({ query: text }) : undefined
  const response = await recording(url + query, { method, body, headers: { 'Content-Type': 'application/json', ...headers } })
  return method === 'HEAD' ? { data: Number(response.headers.get('content-length')) > 100 } : await response.json()
}
const search = '?query=' + encodeURIComponent(text)

const clients = {
  'fetch POST': () => plain('POST'),
  'fetch GET': () => plain('GET', search),
  'fetch HEAD': () => plain('HEAD', search),
  'urql POST': () => urql('POST'),
  'urql GET': () => urql('GET'),
  'graphql-request POST': async () => ({ data: await new GraphQLClient(url, { headers, fetch: recording }).request(text) }),
  'graphql-request GET': async () => ({
    data: await new GraphQLClient(url, { headers, fetch: recording, method: 'GET', jsonSerializer: JSON }).request(text),
  }),
  'apollo POST': () => apollo(http(false)),
  'apollo GET': () => apollo(http(true)),
  'apollo persisted': () => apollo(persisted(false), unknown),
  'apollo persisted GET': () => apollo(persisted(true), unknown),
}

const results = {}
for (const [name, ask] of Object.entries(clients)) {
  requests.length = 0
  try {
    const { data, error } = await ask()
    results[name] = { data, error: error?.message, requests: [...requests] }
  } catch (error) {
    results[name] = { error: String(error), requests: [...requests] }
  }
}
// Apollo asks for __typename as well
console.log(JSON.stringify(results, (name, value) => (name === '__typename' ? undefined : value)))
