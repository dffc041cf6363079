"""The Host header: which requests are meant for this gateway, so that no page can rebind its name to it."""

from collections.abc import Iterator

import httpx
import pytest

from gateway.http.hosts import host_check
from gateway.settings import SettingsError, load
from tests.harness import errors_of, open_gateway
from tests.process import Process, started
from tests.server import talk
from tests.test_cli import run, wait_for

KEY = "sk-lent-key"
WRITE = 'mutation { deletePhoneNumber(id: "x") { deletedPhoneNumberId } }'
LENDS = ("--upstream-api-key", KEY)


def asked(process: Process, host: str, path: str = "/graphql") -> int:
    """The status of a request with this Host header."""
    body = '{"query": "{ __typename }"}'
    method = "POST" if path == "/graphql" else "GET"
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nConnection: close\r\n"
    answer = talk(httpx.URL(process.address).port or 0, f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    return int(answer.split(b" ", 2)[1])


@pytest.fixture(scope="module", params=["1", "2"])
def lending(request: pytest.FixtureRequest) -> Iterator[Process]:
    """A gateway on loopback, of so many workers, that lends a key."""
    with started("serve", *LENDS, "--workers", request.param, "--upstream-url", "http://127.0.0.1:9") as process:
        wait_for(process.address)  # the workers start after the address is printed
        yield process
        process.stop()


OWN = [
    *("localhost", "localhost:", "LocalHost:8000", "localhost.", "localhost.:8000"),
    *("127.0.0.1", "127.0.0.1:", "127.0.0.1:1", "[::1]:", "[::1]:8000"),
]
FOREIGN = [
    "evil.example",
    "evil.example:8000",
    "localhost.evil.example",
    "evil-localhost",
    "127.0.0.1.evil.example",
    "localhost:80@evil.example",
    "evil.example, localhost",
    "localhost\r\nHost: evil.example",
    "10.0.0.1",
    "[::2]",
    "[::1",
    "[]",
    "*",
    ".",
    "",
    "localhost:http",
    "localhost::",
    "::1:",
    ":",
    "evil.example:",
    "x" * 5000,
]


@pytest.mark.parametrize("host", OWN)
def test_serves_loopback_names_if_it_listens_on_loopback(lending: Process, host: str) -> None:
    assert asked(lending, host) == 200


@pytest.mark.parametrize("host", FOREIGN)
def test_refuses_other_hosts_if_it_listens_on_loopback(lending: Process, host: str) -> None:
    assert asked(lending, host) == 400


def test_serves_probes_under_any_host_and_metrics_under_addresses(lending: Process) -> None:
    hosts = ("localhost", "10.0.0.1:8000", "[fd00::1]", "evil.example")

    assert [asked(lending, host, "/healthz") for host in hosts] == [200] * 4
    assert [asked(lending, host, "/metrics") for host in hosts] == [200, 200, 200, 400]
    assert [asked(lending, host, "/graphiql/main.js") for host in hosts] == [200, 400, 400, 400]


@pytest.mark.parametrize("command", [("serve",), ("demo",)])
def test_checks_the_host_on_loopback_without_a_fallback_key(command: tuple[str, ...]) -> None:
    with started(*command) as process:
        statuses = [asked(process, host) for host in ("localhost", "evil.example")]

    assert statuses == [200, 400]


def test_a_demo_refuses_hosts_that_are_not_allowed() -> None:
    with started("demo", "--allowed-hosts", "demo.example.com") as process:
        assert [asked(process, host) for host in ("demo.example.com", "localhost")] == [200, 400]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "gateway.example.com", "localhost.example.com"])
@pytest.mark.parametrize("command", [("serve",), ("serve", "--workers", "2")])
def test_does_not_start_if_dns_rebinding_could_use_the_key(command: tuple[str, ...], host: str) -> None:
    result = run(*command, "--host", host, *LENDS)

    assert result.exit_code == 1
    assert "GATEWAY_ALLOWED_HOSTS: must be set while GATEWAY_UPSTREAM_API_KEY lends its key" in result.output
    assert "api.example.com" in result.output
    assert KEY not in result.output


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost", "LOCALHOST"])
def test_the_fallback_key_needs_no_allowed_hosts_on_loopback(host: str) -> None:
    assert load({}, {"host": host, "upstream_api_key": KEY}).hosts == ("localhost", "127.0.0.1", "[::1]")


async def test_an_embedded_gateway_with_a_key_needs_allowed_hosts() -> None:
    async with open_gateway(settings={"upstream_api_key": "demo"}) as gateway:
        refused = await gateway.http.post("/graphql", json={"query": WRITE})
        own = await gateway.http.post("/graphql", json={"query": WRITE}, headers={"Host": "localhost"})
        calls = gateway.calls
    async with open_gateway(settings={"upstream_api_key": "demo", "allowed_hosts": "a.example, gateway"}) as gateway:
        named = await gateway.http.post("/graphql", json={"query": WRITE})

    assert (refused.status_code, errors_of(refused.json())) == (400, [("BAD_REQUEST", None)])
    assert "GATEWAY_ALLOWED_HOSTS" in refused.text
    assert "x-request-id" in refused.headers
    assert errors_of(own.json()) == errors_of(named.json()) == [("NOT_FOUND", ["deletePhoneNumber"])]
    assert calls == ["DELETE /numbers/x"]


async def test_serves_metrics_under_ip_addresses_besides_allowed_hosts() -> None:
    hosts = ["api.example.com", "10.0.0.1:8000", "[fd00::1]:8000", "10.0.0", "evil.example", "a b", "x" * 5000]
    async with open_gateway(settings={"allowed_hosts": "api.example.com"}) as gateway:
        answers = [await gateway.http.get("/metrics", headers={"Host": host}) for host in hosts]
        twice = await gateway.http.get("/metrics", headers=[("Host", "api.example.com"), ("Host", "10.0.0.1")])

    assert [answer.status_code for answer in answers] == [200, 200, 200, 400, 400, 400, 400]
    assert twice.status_code == 400


@pytest.mark.parametrize(
    ("pattern", "named", "not_named"),
    [
        ("api.example.com", ["api.example.com", "API.example.com:443"], ["example.com", "a.api.example.com"]),
        ("API.Example.com.", ["api.example.com", "api.example.com."], ["api.example.co"]),
        (
            "*.example.com",
            ["a.example.com", "a.b.example.com:1"],
            ["example.com", "aexample.com", "a.example.com.x"],
        ),
        ("www.example.com", ["www.example.com"], ["example.com"]),
        ("10.0.0.1", ["10.0.0.1", "10.0.0.1:80"], ["10.0.0.10", "010.0.0.1"]),
        ("fd00::1", ["[fd00::1]", "[FD00:0:0::1]:80"], ["fd00::1", "[fd00::2]"]),
        ("[fd00:0::1]", ["[fd00::1]"], ["[fd00::1"]),
        ("my_gateway", ["my_gateway:8000"], ["my-gateway"]),
    ],
)
def test_matches_hosts_as_trusted_host_middleware_does(pattern: str, named: list[str], not_named: list[str]) -> None:
    check = host_check([pattern])

    assert [host for host in named + not_named if check(host.encode())] == named


@pytest.mark.parametrize(
    "host",
    [
        "http://a.example",
        "a.example:80",
        "a.example/x",
        "*.",
        "a.*",
        "**",
        "*a.example",
        "a b",
        "1.2.3.4:80",
        "h\u00f6st",
    ],
)
def test_refuses_a_setting_that_is_no_host(host: str) -> None:
    with pytest.raises(SettingsError, match=r"GATEWAY_ALLOWED_HOSTS: .* must be a host without scheme and port"):
        load({}, {"allowed_hosts": f"ok.example,{host}"})


@pytest.mark.parametrize("hosts", ["*", "a.example, *.b.example,127.0.0.1 , [::1],::1,my_host,a.example."])
def test_takes_hosts_of_every_kind(hosts: str) -> None:
    assert load({}, {"allowed_hosts": hosts, "host": "0.0.0.0", "upstream_api_key": KEY}).hosts[0] in {"*", "a.example"}
