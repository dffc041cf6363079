// Apollo Server on its own HTTP server, with DataLoaders made for each operation.
import { ApolloServer } from '@apollo/server'
import { startStandaloneServer } from '@apollo/server/standalone'
import DataLoader from 'dataloader'
import { port, reads, schema } from './rest.mjs'

const singly = (read) => new DataLoader((ids) => Promise.all(ids.map((id) => read(id).catch((error) => error))))

const resolvers = {
  Query: {
    agent: (_, { id }, { agents }) => agents.load(id),
    async agents(_, given, { rest, agents }) {
      const listed = await rest.agents(given)
      for (const each of listed) agents.prime(each.id, each)
      return listed
    },
    phoneNumbers: (_, given, { rest }) => rest.numbers(given),
  },
  Agent: { numbers: ({ id }, _, { numbersOf }) => numbersOf.load(id) },
  PhoneNumber: { agent: ({ agentId }, _, { agents }) => agentId && agents.load(agentId) },
}

await startStandaloneServer(new ApolloServer({ typeDefs: schema, resolvers }), {
  listen: { port, host: '127.0.0.1' },
  async context({ req }) {
    const rest = reads(req.headers['x-api-key'])
    return { rest, agents: singly(rest.agent), numbersOf: singly(rest.numbersOf) }
  },
})
