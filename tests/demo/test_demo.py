"""The demo API against the vendor's page: calls, shapes, errors, tenancy and quota."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Unpack

import httpx
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from gateway.demo.rest_api import DemoOptions, Workspace, create_demo, sample_workspace

NOW = 1_800_000_000.25


def client(app: Callable[..., Any], key: str | None = "demo") -> httpx.AsyncClient:
    headers = {"X-API-Key": key} if key is not None else {}
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://demo", headers=headers)


def demo(workspace: Workspace | None = None, **options: Unpack[DemoOptions]) -> httpx.AsyncClient:
    return client(create_demo({"demo": workspace or sample_workspace()}, clock=lambda: NOW, **options))


def error(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


def ids(answer: httpx.Response) -> list[str]:
    return [item["id"] for item in answer.json()["data"]]


def test_sample_data_is_the_same_at_every_call_and_disjoint_under_another_prefix() -> None:
    one, same, other = sample_workspace(), sample_workspace(), sample_workspace(prefix="other")

    assert one == same
    assert not {one.id, *one.agents, *one.numbers} & {other.id, *other.agents, *other.numbers}
    assert all(re.fullmatch("c[0-9a-z]{24}", object_id) for object_id in (*one.agents, *one.numbers))


@pytest.mark.parametrize(("agents", "numbers"), [(12, 60), (1000, 3000), (5, 0), (0, 5)])
def test_sample_data_of_any_size_is_consistent(agents: int, numbers: int) -> None:
    workspace = sample_workspace(agents=agents, numbers=numbers)

    assert (len(workspace.agents), len(workspace.numbers)) == (agents, numbers)
    assert len({str(number["phoneNumber"]) for number in workspace.numbers.values()}) == numbers
    for number in workspace.numbers.values():
        assert re.fullmatch(r"\+[1-9][0-9]{1,14}", str(number["phoneNumber"]))
        assert number["agentId"] is None or number["agentId"] in workspace.agents
        assert number["status"] in ("INACTIVE", "assigned" if number["agentId"] else "unassigned")


def test_the_sample_holds_every_variant_that_the_vendor_documents() -> None:
    workspace = sample_workspace()
    agents, numbers = list(workspace.agents.values()), list(workspace.numbers.values())

    assert {agent["status"] for agent in agents} == {"ACTIVE", "INACTIVE", "SUSPENDED"}
    assert {agent["type"] for agent in agents} == {"standard", "custom"}
    assert {number["status"] for number in numbers} == {"INACTIVE", "assigned", "unassigned"}
    assert sum(number["agentId"] is None for number in numbers) == 6
    assert any("description" not in agent for agent in agents)
    assert any(agent.get("description", "") is None for agent in agents)
    assert any("friendlyName" not in number for number in numbers)
    assert all(400 < len(json.dumps(agent["standardConfig"])) < 600 for agent in agents)


async def test_lists_agents_in_order_of_creation_page_by_page() -> None:
    workspace = sample_workspace()

    async with demo(workspace) as http:
        first, last, beyond = [await http.get("/agents", params={"page": p, "limit": 5}) for p in (1, 3, 4)]

    assert ids(first) + ids(last) == [*list(workspace.agents)[:5], *list(workspace.agents)[10:]]
    assert first.json()["data"][0] == workspace.agents[ids(first)[0]]
    assert first.json()["pagination"] == {"page": 1, "limit": 5, "total": 12, "totalPages": 3}
    assert beyond.json() == {"data": [], "pagination": {"page": 4, "limit": 5, "total": 12, "totalPages": 3}}


async def test_a_page_holds_fifty_unless_told() -> None:
    async with demo() as http:
        answer = await http.get("/numbers")

    assert len(ids(answer)) == 50
    assert answer.json()["pagination"] == {"page": 1, "limit": 50, "total": 60, "totalPages": 2}


async def test_search_ignores_case_and_looks_at_name_and_description() -> None:
    workspace = sample_workspace(agents=3)
    for agent, name, description in zip(workspace.agents.values(), "abc", ("MÜNCHEN desk", None, None), strict=True):
        agent |= {"name": f"Agent {name}", "description": description}

    async with demo(workspace) as http:
        found = [ids(await http.get("/agents", params={"search": text})) for text in ("münchen", "AGENT B", "none", "")]

    first, second, third = workspace.agents
    assert found == [[first], [second], [], [first, second, third]]


@pytest.mark.parametrize(
    ("path", "status", "total"),
    [
        ("/agents", "suspended", 1),
        ("/agents", "ACTIVE", 10),
        ("/numbers", "UNASSIGNED", 6),
        ("/numbers", "Assigned", 52),
        ("/numbers", "inactive", 2),
        ("/numbers", "ACTIVE", 0),
    ],
)
async def test_a_status_of_either_set_filters_in_any_case(path: str, status: str, total: int) -> None:
    async with demo() as http:
        answer = await http.get(path, params={"status": status})

    assert answer.json()["pagination"]["total"] == total


@pytest.mark.parametrize(
    "query", ["page=0", "page=-1", "page=x", "limit=0", "limit=1.5", "limit=101", "page=%EF%BC%91"]
)
@pytest.mark.parametrize("path", ["/agents", "/numbers"])
async def test_refuses_a_page_or_limit_out_of_range(path: str, query: str) -> None:
    async with demo() as http:
        answer = await http.get(f"{path}?{query}")

    assert error(answer) == (400, "BAD_REQUEST")


@pytest.mark.parametrize("query", ["/agents?status=assigned", "/numbers?status=suspended", "/numbers?status="])
async def test_refuses_an_unknown_status(query: str) -> None:
    async with demo() as http:
        answer = await http.get(query)

    assert error(answer) == (400, "BAD_REQUEST")


async def test_reads_one_agent_one_number_and_all_numbers_of_an_agent() -> None:
    workspace = sample_workspace(agents=2, numbers=300)
    agent, number = next(iter(workspace.agents.values())), next(iter(workspace.numbers.values()))

    async with demo(workspace) as http:
        answers = [await http.get(path) for path in (f"/agents/{agent['id']}", f"/numbers/{number['id']}")]
        numbers = await http.get(f"/agents/{agent['id']}/numbers")

    assert [answer.json() for answer in answers] == [agent, number]
    assert list(numbers.json()) == ["data"]
    assert ids(numbers) == [k for k, n in workspace.numbers.items() if n["agentId"] == agent["id"]]
    assert len(ids(numbers)) == 150


async def test_objects_of_another_workspace_are_not_found() -> None:
    other = sample_workspace(agents=5, numbers=11, prefix="demo-2")
    agent, number = next(iter(other.agents)), next(iter(other.numbers))
    calls = [("GET", f"/agents/{agent}"), ("GET", f"/agents/{agent}/numbers"), ("GET", f"/numbers/{number}")]
    calls += [("PUT", f"/numbers/{number}"), ("DELETE", f"/numbers/{number}")]

    async with client(create_demo(), "demo") as ours, client(create_demo(), "demo-2") as theirs:
        refused = [error(await ours.request(method, path, json={})) for method, path in calls]
        seen = [(await theirs.request(method, path, json={})).status_code for method, path in calls]

    assert refused == [(404, "NOT_FOUND")] * 5
    assert seen == [200] * 5


async def test_creates_a_number() -> None:
    workspace = sample_workspace()
    agent = next(iter(workspace.agents))
    body = {"phoneNumber": "+493023125999", "agentId": agent, "friendlyName": "Fair"}

    async with demo(workspace) as http:
        answer = await http.post("/numbers", json=body)
        read = await http.get(f"/numbers/{answer.json()['id']}")

    created = {"status": "assigned", "createdAt": "2027-01-15T08:00:00.250Z"}
    assert answer.status_code == 201
    assert answer.json() == {"id": answer.json()["id"], **body, **created}
    assert read.json() == answer.json()
    assert list(workspace.numbers)[-1] == answer.json()["id"]


async def test_a_number_created_again_after_its_deletion_has_a_new_id() -> None:
    workspace = sample_workspace()
    body = {"phoneNumber": "+493023125999", "agentId": next(iter(workspace.agents))}

    async with demo(workspace) as http:
        first = (await http.post("/numbers", json=body)).json()["id"]
        await http.delete(f"/numbers/{first}")
        second = (await http.post("/numbers", json=body)).json()["id"]

    assert first != second


async def test_refuses_a_number_that_exists_and_an_agent_that_does_not() -> None:
    workspace = sample_workspace()
    agent, number = next(iter(workspace.agents)), next(iter(workspace.numbers.values()))

    async with demo(workspace) as http:
        taken = await http.post("/numbers", json={"phoneNumber": number["phoneNumber"], "agentId": agent})
        absent = await http.post("/numbers", json={"phoneNumber": "+493023125999", "agentId": "nobody"})
        foreign = await http.put(f"/numbers/{number['id']}", json={"agentId": "nobody", "friendlyName": "x"})

    assert [error(answer) for answer in (taken, absent, foreign)] == [(409, "CONFLICT")] + [(404, "NOT_FOUND")] * 2
    assert workspace.numbers == sample_workspace().numbers


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"phoneNumber": ["Required"], "agentId": ["Required"]}),
        ({"phoneNumber": "030 23125", "agentId": "a"}, {"phoneNumber": ["Must be E.164, as in +493023125000"]}),
        ({"phoneNumber": 493023125000, "agentId": None}, {"phoneNumber": ["Must be E.164, as in +493023125000"]}),
        ({"phoneNumber": "+493023125999", "agentId": 1}, {"agentId": ["Must be a string or null"]}),
    ],
)
async def test_a_body_that_fails_validation_is_told_by_field(body: object, fields: Mapping[str, list[str]]) -> None:
    async with demo() as http:
        answer = await http.post("/numbers", json=body)

    assert answer.status_code == 400
    assert answer.json()["error"] == "Invalid body"
    assert answer.json()["details"]["formErrors"] == []
    assert answer.json()["details"]["fieldErrors"].items() >= fields.items()


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, b"9" * 5_000])
async def test_a_body_that_is_no_json_object_is_invalid(body: bytes) -> None:
    async with demo() as http:
        answer = await http.post("/numbers", content=body)

    assert error(answer) == (400, "INVALID_BODY")


async def test_an_update_changes_only_what_is_given_and_keeps_status_and_assignment_in_step() -> None:
    workspace = sample_workspace()
    number, agent = next(iter(workspace.numbers.values())), list(workspace.agents)[3]
    before, path = dict(number), f"/numbers/{number['id']}"

    async with demo(workspace) as http:
        steps: list[dict[str, str | None]] = [{"friendlyName": None}, {"agentId": None}, {"agentId": agent}]
        answers = [await http.put(path, json=step) for step in (*steps, {"status": "InActive"}, {"agentId": None}, {})]

    seen = [tuple(answer.json()[key] for key in ("friendlyName", "agentId", "status")) for answer in answers]
    assert seen[0] == (None, before["agentId"], "assigned")
    assert seen[1:3] == [(None, None, "unassigned"), (None, agent, "assigned")]
    assert seen[3:] == [(None, agent, "INACTIVE"), (None, None, "INACTIVE"), (None, None, "INACTIVE")]


@pytest.mark.parametrize(("field", "value"), [("status", "SUSPENDED"), ("status", None), ("friendlyName", 5)])
async def test_an_update_refuses_a_wrong_value(field: str, value: object) -> None:
    workspace = sample_workspace()

    async with demo(workspace) as http:
        answer = await http.put(f"/numbers/{next(iter(workspace.numbers))}", json={field: value})

    assert answer.status_code == 400
    assert list(answer.json()["details"]["fieldErrors"]) == [field]


async def test_a_delete_answers_200_without_content_and_then_404() -> None:
    workspace = sample_workspace()
    path = f"/numbers/{next(iter(workspace.numbers))}"

    async with demo(workspace) as http:
        gone, again = await http.delete(path), await http.delete(path)

    assert (gone.status_code, gone.content) == (200, b"")
    assert error(again) == (404, "NOT_FOUND")


@pytest.mark.parametrize("path", ["/", "/agents/", "/agents/x/", "/numbers/x/y", "/numbers/..%2Fagents", "/a%0Ab"])
async def test_an_unknown_path_is_a_404_with_the_headers_of_every_answer(path: str) -> None:
    async with demo() as http:
        answer = await http.get(path)

    assert error(answer) == (404, "NOT_FOUND")
    assert answer.headers["X-RateLimit-Remaining"] == "999"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("POST", "/agents", "GET"),
        ("PATCH", "/numbers/x", "GET, DELETE, PUT"),
        ("HEAD", "/numbers", "GET, POST"),
        ("BREW", "/agents/x/numbers", "GET"),
    ],
)
async def test_another_method_is_a_405_that_names_the_allowed_ones(method: str, path: str, allowed: str) -> None:
    async with demo() as http:
        answer = await http.request(method, path)

    assert (answer.status_code, answer.headers["Allow"]) == (405, allowed)


@pytest.mark.parametrize(("key", "code"), [(None, "MISSING_API_KEY"), ("", "MISSING_API_KEY"), ("x", "UNAUTHORIZED")])
async def test_a_key_is_needed_and_must_be_known(key: str | None, code: str) -> None:
    async with client(create_demo(), key) as http:
        answer = await http.get("/agents")

    assert error(answer) == (401, code)
    names = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset", "X-Request-Id")
    assert all(name in answer.headers for name in names)


async def test_counts_the_quota_down_refuses_above_it_and_starts_anew_after_an_hour() -> None:
    now = [NOW]
    app = create_demo(clock=lambda: now[0], quota=2)

    async with client(app) as http, client(app, "demo-2") as other:
        spent = [await http.get("/agents/x"), await http.get("/agents"), await http.get("/agents")]
        beside = await other.get("/agents")
        now[0] = float(spent[0].headers["X-RateLimit-Reset"])
        anew = await http.get("/agents")

    assert [answer.status_code for answer in (*spent, beside, anew)] == [404, 200, 429, 200, 200]
    assert [answer.headers["X-RateLimit-Remaining"] for answer in (*spent, anew)] == ["1", "0", "0", "1"]
    assert error(spent[2]) == (429, "RATE_LIMIT_EXCEEDED")
    assert spent[0].headers["X-RateLimit-Limit"] == "2"
    assert [int(answer.headers["X-RateLimit-Reset"]) for answer in (spent[2], anew)] == [1800003600, 1800007200]


async def test_every_answer_has_its_own_request_id() -> None:
    async with demo() as http:
        answers = [await http.get(path) for path in ("/agents", "/nowhere", "/numbers?page=0")]

    assert [a.headers["X-Request-Id"] for a in answers] == ["req_00000001", "req_00000002", "req_00000003"]


async def test_sleeps_the_latency_before_each_answer() -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async with client(create_demo(sleep=sleep, latency=0.08)) as http:
        await http.get("/agents")
        await http.get("/nowhere")

    assert slept == [0.08, 0.08]


async def test_tells_of_each_call_also_under_a_mount() -> None:
    calls: list[str] = []
    app = Starlette(routes=[Mount("/demo/api/v1", create_demo(on_call=calls.append))])

    async with client(app) as http:
        await http.get("/demo/api/v1/agents", params={"page": 1, "limit": 50})
        await http.delete("/demo/api/v1/numbers/a b")

    assert calls == ["GET /agents?page=1&limit=50 200", "DELETE /numbers/a%20b 404"]


async def test_embeds_the_agent_wholly_in_part_or_not_at_all() -> None:
    workspace = sample_workspace()
    agent = next(iter(workspace.agents.values()))
    number = next(iter(workspace.numbers))
    spare = next(k for k, n in workspace.numbers.items() if n["agentId"] is None)

    async with demo(workspace, embed_agent="whole") as whole, demo(workspace, embed_agent="partial") as partial:
        answers = [await http.get(f"/numbers/{number}") for http in (whole, partial)]
        listed = [await whole.get(path, params={"limit": 1}) for path in ("/numbers", f"/agents/{agent['id']}/numbers")]
        unassigned = await whole.get(f"/numbers/{spare}")

    assert [answer.json()["agent"] for answer in answers] == [agent, {"id": agent["id"], "name": agent["name"]}]
    assert [answer.json()["data"][0]["agent"] for answer in listed] == [agent, agent]
    assert "agent" not in unassigned.json()
    assert "agent" not in workspace.numbers[number]


async def test_pagination_can_say_has_more() -> None:
    async with demo(has_more=True) as http:
        answers = [await http.get("/numbers", params={"limit": 30, "page": page}) for page in (1, 2)]

    assert [a.json()["pagination"]["hasMore"] for a in answers] == [True, False]
    assert "totalPages" not in answers[0].json()["pagination"]


async def test_a_smaller_maximum_refuses_or_clamps() -> None:
    async with demo(max_limit=10) as strict, demo(max_limit=10, clamp=True) as clamping:
        plain, refused = await strict.get("/numbers"), await strict.get("/numbers?limit=11")
        clamped = await clamping.get("/numbers?limit=100&page=6")

    assert plain.json()["pagination"]["limit"] == 10
    assert error(refused) == (400, "BAD_REQUEST")
    assert clamped.json()["pagination"] == {"page": 6, "limit": 10, "total": 60, "totalPages": 6}
    assert len(ids(clamped)) == 10


async def test_a_number_is_updated_by_the_chosen_method_only() -> None:
    path = f"/numbers/{next(iter(sample_workspace().numbers))}"

    async with demo(update_method="PATCH") as patch, demo(update_method="both") as both:
        statuses = [
            (await http.request(method, path, json={})).status_code
            for http in (patch, both)
            for method in ("PUT", "PATCH")
        ]

    assert statuses == [405, 200, 200, 200]
