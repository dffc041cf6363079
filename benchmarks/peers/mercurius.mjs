// Mercurius as its documentation says to be fast: its JIT from the first request on, and its loaders.
// An agent is read once in an operation: a map of promises keeps what was listed or asked for.
import Fastify from 'fastify'
import mercurius from 'mercurius'
import { port, reads, schema } from './rest.mjs'

function agent(context, id) {
  let known = context.agents.get(id)
  if (!known) context.agents.set(id, (known = context.rest.agent(id)))
  return known
}

const app = Fastify()
app.register(mercurius, {
  schema,
  jit: 1,
  context: (request) => ({ rest: reads(request.headers['x-api-key']), agents: new Map() }),
  resolvers: {
    Query: {
      agent: (_, { id }, context) => agent(context, id),
      async agents(_, given, context) {
        const listed = await context.rest.agents(given)
        for (const each of listed) context.agents.set(each.id, each)
        return listed
      },
      phoneNumbers: (_, given, context) => context.rest.numbers(given),
    },
  },
  loaders: {
    Agent: {
      numbers: (batch, context) => Promise.all(batch.map(({ obj }) => context.rest.numbersOf(obj.id))),
    },
    PhoneNumber: {
      agent: (batch, context) => Promise.all(batch.map(({ obj }) => obj.agentId && agent(context, obj.agentId))),
    },
  },
})
await app.listen({ port, host: '127.0.0.1' })
