"""The wire shapes: every documented variant is read, and nothing undocumented fails a page."""

import json
from typing import Any

import msgspec
import pytest

from gateway.upstream.models import AgentRow, AgentStatus, AgentType, PageBody, PhoneNumberRow, PhoneNumberStatus
from gateway.upstream.resources import NUMBERS

AGENT = {
    "id": "a1",
    "name": "Ann",
    "status": "ACTIVE",
    "type": "standard",
    "createdAt": "2024-01-01T00:00:00Z",
    "updatedAt": "2024-01-02T00:00:00Z",
    "description": "Reception",
    "workspaceId": "w1",
}
NUMBER = {"id": "n1", "phoneNumber": "+4930", "status": "assigned", "createdAt": "2024-01-01T00:00:00Z"}


def number(**keys: Any) -> PhoneNumberRow:
    return msgspec.json.decode(json.dumps(NUMBER | keys), type=PhoneNumberRow)


@pytest.mark.parametrize("written", ["ACTIVE", "active", "Active", "aCTIVE"])
def test_an_enum_value_is_read_in_any_case(written: str) -> None:
    agent = msgspec.json.decode(json.dumps(AGENT | {"status": written, "type": "CUSTOM"}), type=AgentRow)

    assert (agent.status, agent.type) == (AgentStatus.ACTIVE, AgentType.CUSTOM)


@pytest.mark.parametrize("written", ["PORTING", "", "unknown", "ACTIVE ", "ACTİVE", "ſtandard"])
def test_an_enum_value_never_seen_is_unknown(written: str) -> None:
    agent = msgspec.json.decode(json.dumps(AGENT | {"status": written, "type": written + "?"}), type=AgentRow)

    assert (agent.status, agent.type) == (AgentStatus.UNKNOWN, AgentType.UNKNOWN)


@pytest.mark.parametrize("status", list(PhoneNumberStatus))
def test_a_numbers_status_is_read_from_either_set(status: PhoneNumberStatus) -> None:
    assert number(status=status.value.swapcase()).status is status


@pytest.mark.parametrize("value", [1, None, ["ACTIVE"], {}, True])
def test_a_status_that_is_no_string_does_not_fit(value: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        number(status=value)
    with pytest.raises(ValueError, match="not a valid"):
        PhoneNumberStatus(value)


@pytest.mark.parametrize(
    "pagination",
    [
        {"page": 1, "limit": 50, "total": 1, "totalPages": 1},
        {"page": 1, "limit": 50, "total": 1, "hasMore": False},
        {"page": 1, "limit": 50, "total": 1, "cursor": None},
    ],
)
def test_a_page_is_read_in_both_forms_of_pagination(pagination: dict[str, Any]) -> None:
    body = json.dumps({"data": [NUMBER | {"tags": [1]}], "pagination": pagination, "more": {}})

    page = msgspec.json.decode(body, type=PageBody[PhoneNumberRow])

    assert (page.pagination.total, page.data[0].id) == (1, "n1")


@pytest.mark.parametrize("missing", ["id", "name", "status", "type", "createdAt", "updatedAt"])
def test_an_agent_without_a_required_key_does_not_fit(missing: str) -> None:
    body = json.dumps({name: value for name, value in AGENT.items() if name != missing})

    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(body, type=AgentRow)


@pytest.mark.parametrize("optional", [{}, {"description": None, "workspaceId": None}])
def test_optional_keys_may_be_missing_or_null(optional: dict[str, None]) -> None:
    required = {name: value for name, value in AGENT.items() if name not in {"description", "workspaceId"}}

    agent = msgspec.json.decode(json.dumps(required | optional), type=AgentRow)

    assert (agent.description, agent.workspace_id) == (None, None)


@pytest.mark.parametrize(
    ("keys", "owner", "agent_id", "embedded"),
    [
        ({}, msgspec.UNSET, msgspec.UNSET, []),
        ({"agentId": None}, "a9", None, []),
        ({"agentId": "a1"}, "a9", "a1", []),
        ({}, "a9", "a9", []),
        ({"agent": None}, msgspec.UNSET, msgspec.UNSET, []),
        ({"agent": {"id": "a1", "name": "Ann"}}, msgspec.UNSET, "a1", []),
        ({"agent": AGENT}, msgspec.UNSET, "a1", ["a1"]),
        ({"agent": AGENT, "agentId": "a1"}, msgspec.UNSET, "a1", ["a1"]),
        ({"agent": AGENT | {"status": None}}, msgspec.UNSET, "a1", []),
        ({"agent": {"name": "Ann"}}, msgspec.UNSET, msgspec.UNSET, []),
        ({"agent": "a1"}, msgspec.UNSET, msgspec.UNSET, []),
        ({"agent": [], "agentId": "a1"}, msgspec.UNSET, "a1", []),
    ],
)
def test_a_numbers_agent_is_told_by_its_id_by_what_is_embedded_or_by_who_was_asked(
    keys: dict[str, Any], owner: Any, agent_id: Any, embedded: list[str]
) -> None:
    listed = number(**keys)

    agents = NUMBERS.settle([listed], owner)

    assert listed.owner_id == agent_id
    assert [agent.id for agent in agents] == embedded


def test_an_embedded_agent_in_broken_utf_8_tells_its_id_only() -> None:
    body = json.dumps(NUMBER | {"agent": AGENT | {"name": "?"}}).encode().replace(b'"?"', b'"\xff"')
    listed = msgspec.json.decode(body, type=PhoneNumberRow)

    agents = NUMBERS.settle([listed])

    assert (agents, listed.owner_id) == ([], "a1")
