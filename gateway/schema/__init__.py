"""The GraphQL schema, and its text.

`GRAPHQL_SCHEMA` is graphql-core's schema, `SCHEMA` the Strawberry schema that it was made from, `sdl` its text.
"""

from typing import Final

import strawberry
from graphql import GraphQLSchema, is_input_object_type
from strawberry.schema.config import StrawberryConfig

from gateway.schema.mutations import Mutation
from gateway.schema.queries import Query
from gateway.schema.types import SCALARS

SCHEMA = strawberry.Schema(Query, Mutation, config=StrawberryConfig(scalar_map=SCALARS))


def graphql_schema(schema: strawberry.Schema) -> GraphQLSchema:
    """Return graphql-core's schema of a Strawberry schema."""
    core: GraphQLSchema = schema._schema  # noqa: SLF001 - Strawberry offers no other way
    # Strawberry's resolver, which each of its schemas sets for all, fails on list and non-null types (specification,
    # section 4.5: null for all but input objects)
    core.type_map["__Type"].fields["isOneOf"].resolve = lambda type_, _: (  # type: ignore[attr-defined]
        type_.is_one_of if is_input_object_type(type_) else None
    )
    return core


GRAPHQL_SCHEMA: Final = graphql_schema(SCHEMA)


def sdl() -> str:
    """Return the schema as SDL, the same at every call, with a newline at its end."""
    return SCHEMA.as_str() + "\n"
