"""The GraphQL schema, and its text.

`execution` runs operations against `SCHEMA`; `schema.graphql` at the top level is what `sdl` returns.
"""

import strawberry
from graphql import introspection_types, is_input_object_type
from strawberry.schema.config import StrawberryConfig

from gateway.schema.mutations import Mutation
from gateway.schema.queries import Query
from gateway.schema.types import SCALARS

SCHEMA = strawberry.Schema(Query, Mutation, config=StrawberryConfig(scalar_map=SCALARS))

# Strawberry's resolver fails on list and non-null types (specification, section 4.5: null for all but input objects).
introspection_types["__Type"].fields["isOneOf"].resolve = lambda type_, _: (  # type: ignore[attr-defined]
    type_.is_one_of if is_input_object_type(type_) else None
)


def sdl() -> str:
    """Return the schema as SDL, the same at every call, with a newline at its end."""
    return SCHEMA.as_str() + "\n"
