"""The operations that GraphiQL opens with, also printed by `gateway demo`.

Each is one document with one operation and no variables; its name is the title of its tab. The ids are those
of the demo's sample workspace, so that every one of them answers there.
"""

from typing import Final, NamedTuple

_AGENT: Final = "clrenzv40yuraqpx8gd7iywzk"
_NUMBER: Final = "clrg5kvk0pw1ogtnn1h1904uq"
_SPARE_NUMBER: Final = "clrm6ny5cuh57aytzrjm7l9ez"


class Sample(NamedTuple):
    """One sample: what it shows, and its GraphQL document."""

    title: str
    query: str


SAMPLE_QUERIES: Final = (
    Sample(
        "Agents with their numbers",
        """\
# Every agent with all its numbers: two REST
# calls, see extensions.quota at the end.
query AgentsWithNumbers {
  agents(first: 50) {
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
    ),
    Sample(
        "One agent",
        f"""\
# null where your key sees no such agent.
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
    ),
    Sample(
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
    ),
    Sample(
        "What is left of the quota",
        """\
# Costs no REST call; null until one told.
query QuotaLeft {
  rateLimit {
    limit
    remaining
    resetAt
  }
}""",
    ),
    Sample(
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
    ),
)
