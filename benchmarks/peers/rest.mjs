// What both Node peers share: their schema, and one operation's view of the REST API.
import { readFileSync } from 'node:fs'
import { Agent, request } from 'undici'

export const schema = readFileSync(new URL('schema.graphql', import.meta.url), 'utf8')
export const port = Number(process.env.PORT)

const dispatcher = new Agent({ connections: 64 })

/** Returns the reads of one operation, each with the caller's key; what is not there is null. */
export function reads(key = '') {
  const headers = { 'x-api-key': key, accept: 'application/json' }
  async function get(path) {
    const { statusCode, body } = await request(process.env.UPSTREAM_URL + path, { dispatcher, headers })
    const answer = await body.json()
    if (statusCode === 404) return null
    if (statusCode >= 400) throw new Error(`the REST API answered ${statusCode}`)
    return answer
  }
  const page = async (path, given) => {
    const chosen = Object.entries(given).filter(([, value]) => value != null)
    return (await get(`${path}?${new URLSearchParams(chosen)}`)).data
  }
  return {
    agent: (id) => get(`/agents/${id}`),
    agents: (given) => page('/agents', given),
    numbers: (given) => page('/numbers', given),
    numbersOf: async (id) => (await get(`/agents/${id}/numbers`))?.data ?? [],
  }
}
