"""The operations that GraphiQL opens with.

Each is one document with one operation and no variables; the operation's name is the title of its tab. `SAMPLES`
only read and name no id, so that they run on any workspace. `DEMO_SAMPLES` also write: their ids are those of the
demo's sample workspace.
"""

from typing import Final, NamedTuple

_AGENT: Final = "clrenzv40yuraqpx8gd7iywzk"
_NUMBER: Final = "clrg5kvk0pw1ogtnn1h1904uq"
_SPARE_NUMBER: Final = "clrm6ny5cuh57aytzrjm7l9ez"


class Sample(NamedTuple):
    """One sample: what it shows, and its GraphQL document."""

    title: str
    query: str


_AGENTS: Final = Sample(
    "Agents with their numbers",
    """\
# 20 agents with all their numbers: see in
# extensions.quota what it cost and saved.
query AgentsWithNumbers {
  agents(first: 20) {
    totalCount
    nodes {
      name
      status
      numbers {
        phoneNumber
        friendlyName
        status
        agent {
          id
          name
        }
      }
    }
    pageInfo {
      hasNextPage
      endCursor
    }
  }
}""",
)

_ACTIVE_AGENTS: Final = Sample(
    "Active agents",
    """\
# Also: search: "part of a name".
query ActiveAgents {
  agents(first: 10, status: ACTIVE) {
    totalCount
    nodes {
      id
      name
      description
      type
      createdAt
    }
  }
}""",
)

_ONE_AGENT: Final = Sample(
    "One agent",
    f"""\
# null if your key sees no such agent.
query OneAgent {{
  agent(id: "{_AGENT}") {{
    id
    name
    description
    type
    status
    createdAt
    numbers {{
      id
      phoneNumber
    }}
  }}
}}""",
)

_NUMBERS: Final = Sample(
    "A page of phone numbers",
    """\
# The next page: after: "<the endCursor>".
query PhoneNumbersPage {
  phoneNumbers(first: 10) {
    totalCount
    nodes {
      id
      phoneNumber
      friendlyName
      status
      agent {
        name
      }
    }
    pageInfo {
      hasNextPage
      endCursor
    }
  }
}""",
)

_QUOTA: Final = Sample(
    "What is left of the quota",
    """\
# Costs no REST call; null before the first one.
query QuotaLeft {
  rateLimit {
    limit
    remaining
    resetAt
  }
}""",
)

_CHANGES: Final = Sample(
    "Change phone numbers",
    f"""\
# These write, one after the other.
mutation ChangeNumbers {{
  assignPhoneNumber(
    input: {{
      phoneNumber: "+493023125999"
      agentId: "{_AGENT}"
      friendlyName: "New line"
    }}
  ) {{
    phoneNumber {{
      id
      agent {{
        name
      }}
    }}
  }}
  # agentId: null unassigns.
  updatePhoneNumber(
    id: "{_NUMBER}"
    input: {{ friendlyName: "Night desk", agentId: null }}
  ) {{
    phoneNumber {{
      friendlyName
      status
      agent {{
        name
      }}
    }}
  }}
  deletePhoneNumber(id: "{_SPARE_NUMBER}") {{
    deletedPhoneNumberId
  }}
}}""",
)

SAMPLES: Final = (_AGENTS, _ACTIVE_AGENTS, _NUMBERS, _QUOTA)
DEMO_SAMPLES: Final = (_AGENTS, _ONE_AGENT, _NUMBERS, _QUOTA, _CHANGES)
