"""Queries, and the REST calls that they cost, as exact lists."""


from tests.harness import Gateway, spent

NESTED = "{ agents(first: 50) { nodes { name numbers { phoneNumber agent { name } } } } }"


async def test_agents_with_nested_numbers_cost_two_calls(gateway: Gateway) -> None:
    answer = await gateway.ask(NESTED)

    assert gateway.calls == ["GET /agents?page=1&limit=50", "GET /numbers?page=1&limit=100"]
    assert spent(answer) == 2
    numbers = [number for node in answer["data"]["agents"]["nodes"] for number in node["numbers"]]
    assert len(numbers) == 54
    assert all(
        number["agent"]["name"] == node["name"]
        for node in answer["data"]["agents"]["nodes"]
        for number in node["numbers"]
    )
