"""The GraphQL schema, and its text.

`execution` runs operations against `SCHEMA`; `schema.graphql` at the top level is what `sdl` returns.
"""

import strawberry
from strawberry.schema.config import StrawberryConfig

from gateway.schema.mutations import Mutation
from gateway.schema.queries import Query
from gateway.schema.types import SCALARS

SCHEMA = strawberry.Schema(Query, Mutation, config=StrawberryConfig(scalar_map=SCALARS))


def sdl() -> str:
    """Return the schema as SDL, the same at every call, with a newline at its end."""
    return SCHEMA.as_str() + "\n"
