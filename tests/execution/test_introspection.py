"""The introspection queries of clients: GraphiQL, codegen and the like."""

import pytest
from graphql import build_client_schema, get_introspection_query, print_schema

from tests.harness import open_gateway


@pytest.mark.parametrize("compiled", ["true", "false"])
@pytest.mark.parametrize("detailed", [False, True])
async def test_the_standard_introspection_query_brings_the_whole_schema(compiled: str, *, detailed: bool) -> None:
    query = get_introspection_query(schema_description=detailed, input_value_deprecation=detailed)

    async with open_gateway(settings={"compiled": compiled}) as gateway:
        introspected = await gateway.data(query)

    assert "type Agent" in print_schema(build_client_schema(introspected))


@pytest.mark.parametrize("compiled", ["true", "false"])
async def test_every_field_of_the_introspection_schema_answers(compiled: str) -> None:
    wrapped = "kind isOneOf specifiedByURL ofType { kind isOneOf ofType { name isOneOf } }"
    query = f"""{{ __schema {{
        types {{ {wrapped} fields(includeDeprecated: true) {{ type {{ {wrapped} }} args {{ type {{ {wrapped} }} }} }}
                 inputFields {{ type {{ {wrapped} }} }} interfaces {{ name }} possibleTypes {{ name }} }}
        directives {{ name isRepeatable locations args {{ name }} }} }} }}"""

    async with open_gateway(settings={"compiled": compiled}) as gateway:
        types = (await gateway.data(query))["__schema"]["types"]

    assert {of["isOneOf"] for of in types} == {None, False}
