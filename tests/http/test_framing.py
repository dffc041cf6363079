"""What is a request, and where it ends: upgrades, trailers, pipelines, and all that RFC 9112 refuses."""

import json
import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.types import Receive, Scope, Send

from gateway.http.server import Protocol
from tests.server import serve, serve_app, talk

BODY = b'{"query": "{ __typename }"}'
DATA = {"data": {"__typename": "Query"}}
JSON = b"POST /graphql HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"%x\r\n%b\r\n0\r\n" % (len(BODY), BODY)
LAST = b"GET /healthz HTTP/1.1\r\nHost: gateway\r\nConnection: close\r\n\r\n"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: gateway\r\n\r\n"
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
UPGRADES = {"h2c": H2C, "websocket": b"Connection: keep-alive, upgrade\r\nUpgrade: websocket\r\n"}


def statuses(answer: bytes) -> list[int]:
    """The status of each response."""
    return [int(code) for code in re.findall(rb"HTTP/1\.1 (\d{3}) ", answer)]


def bodies(answer: bytes) -> list[bytes]:
    """The body of each response, by its Content-Length."""
    found = []
    while answer:
        head, _, rest = answer.partition(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", head)[1])  # type: ignore[index]  # all have one
        found.append(rest[:length])
        answer = rest[length:]
    return found


class Echo:
    """Answers with what it has read, and keeps every request."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, str]]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return
        body = b""
        more = True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        query = f"?{scope['query_string'].decode()}" if scope["query_string"] else ""
        fields = {name.decode(): value.decode("latin-1") for name, value in scope["headers"]}
        self.seen.append((f"{scope['method']} {scope['path']}{query}", fields))
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
        await send({"type": "http.response.body", "body": body})

    @property
    def calls(self) -> list[str]:
        """Method and target of each request."""
        return [call for call, _ in self.seen]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with serve() as port:
        yield port


@pytest.mark.parametrize("upgrade", UPGRADES)
@pytest.mark.parametrize("framing", [LENGTH + b"\r\n" + BODY, CHUNKED + b"\r\n" + CHUNKS + b"\r\n"])
@pytest.mark.parametrize("apart", [False, True], ids=["at once", "head first"])
def test_ignores_an_upgrade_and_reads_the_body(port: int, upgrade: str, framing: bytes, *, apart: bool) -> None:
    head, body = (JSON + UPGRADES[upgrade] + framing).split(b"\r\n\r\n", 1)
    pieces = [head + b"\r\n\r\n", body + LAST] if apart else [head + b"\r\n\r\n" + body + LAST]
    answer = talk(port, *pieces)

    assert statuses(answer) == [200, 200]
    assert (json.loads(bodies(answer)[0]), bodies(answer)[1]) == (DATA, b"ok")


@pytest.mark.parametrize("upgrade", UPGRADES)
def test_never_takes_the_body_of_an_upgrade_for_a_request(upgrade: str) -> None:
    echo = Echo()
    head = b"POST /a HTTP/1.1\r\nHost: b\r\n" + UPGRADES[upgrade] + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED)
    with serve_app(echo, http=Protocol) as port:
        answer = talk(port, head, SMUGGLED, LAST)

    assert echo.calls == ["POST /a", "GET /healthz"]
    assert bodies(answer) == [SMUGGLED, b""]


def test_reads_on_after_upgrades_without_a_body() -> None:
    echo = Echo()
    upgrade = b"GET /a HTTP/1.1\r\nHost: b\r\n" + H2C + b"\r\n"
    with serve_app(echo, http=Protocol) as port:
        answer = talk(port, upgrade + upgrade + LAST)

    assert (statuses(answer), echo.calls) == ([200, 200, 200], ["GET /a", "GET /a", "GET /healthz"])


def test_reads_nothing_after_an_upgrade_that_says_close() -> None:
    echo = Echo()
    with serve_app(echo, http=Protocol) as port:
        answer = talk(
            port, b"GET /a HTTP/1.1\r\nHost: b\r\nConnection: close, Upgrade\r\nUpgrade: h2c\r\n\r\n" + SMUGGLED
        )

    assert (statuses(answer), echo.calls) == ([200], ["GET /a"])


def test_refuses_connect_and_reads_nothing_after_it() -> None:
    echo = Echo()
    with serve_app(echo, http=Protocol) as port:
        answer = talk(port, b"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nContent-Length: 5\r\n\r\n" + SMUGGLED)

    assert (statuses(answer), echo.calls) == ([400], [])


def test_answers_curl_that_asks_for_http2(port: int) -> None:
    curl = shutil.which("curl")
    if not curl:
        pytest.skip("curl is not installed here")
    command = [curl, "--silent", "--http2", "--json", BODY.decode(), f"http://127.0.0.1:{port}/graphql"]
    answer = subprocess.run(command, check=True, capture_output=True, timeout=20).stdout

    assert json.loads(answer) == DATA


def test_answers_the_http_client_of_java() -> None:
    java = shutil.which("java")
    if not java:
        pytest.skip("Java is not installed here")
    program = Path(__file__).parents[1] / "java" / "Client.java"
    with serve(max_body_bytes="1024") as port:
        command = [java, "-Xshare:auto", str(program), f"http://127.0.0.1:{port}/graphql"]
        lines = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.splitlines()

    answer = json.dumps(DATA, separators=(",", ":"))
    assert lines[:4] == [f"POST 200 {answer}", f"POST 200 {answer}", f"GET 200 {answer}", f"HTTP_1_1 200 {answer}"]
    assert [line[:9] for line in lines[4:]] == ["large 413"]


@pytest.mark.parametrize(
    "trailer", ["X-API-Key: demo", "Content-Type: application/json", "Host: evil", "Expect: 100-continue"]
)
def test_discards_trailers(trailer: str) -> None:
    echo = Echo()
    with serve_app(echo, http=Protocol) as port:
        answer = talk(
            port,
            b"POST /a HTTP/1.1\r\nHost: b\r\n" + CHUNKED + b"\r\n" + CHUNKS + trailer.encode() + b"\r\n\r\n" + LAST,
        )

    assert (statuses(answer), bodies(answer)) == ([200, 200], [BODY, b""])
    assert echo.seen[0] == ("POST /a", {"host": "b", "transfer-encoding": "chunked"})


@pytest.mark.parametrize("upgrade", [b"", H2C], ids=["plain", "upgrade"])
@pytest.mark.parametrize(
    ("trailer", "answers"),
    [
        (b"Connection: keep-alive\r\nKeep-Alive: timeout=5", [200, 200]),
        (b"Connection: upgrade\r\nUpgrade: h2c", [200, 200]),
        (b"Upgrade: websocket", [200, 200]),
        (b"Connection: close", [200]),
        (b"Proxy-Connection: close", [200]),
        (b"Content-Length: 5", [400]),
        (b"Transfer-Encoding: chunked", [400]),
    ],
)
def test_a_trailer_never_leaves_a_request_unanswered(trailer: bytes, answers: list[int], upgrade: bytes) -> None:
    echo = Echo()
    head = b"POST /a HTTP/1.1\r\nHost: b\r\n" + upgrade + CHUNKED + b"\r\n"
    with serve_app(echo, http=Protocol) as port:
        answer = talk(port, head + CHUNKS + trailer + b"\r\n\r\n", LAST)

    assert (statuses(answer), answer.count(b"connection: close")) == (answers, 1)


@pytest.mark.parametrize(
    "trailers",
    [[b"X: y\r\n" * 1000] * 200, [b"X: "] + [b"y" * 5000] * 200, [b"X" * 5000] * 200],
    ids=["many", "value", "name"],
)
def test_bounds_trailers(port: int, trailers: list[bytes]) -> None:
    answer = talk(port, JSON + CHUNKED + b"\r\n" + CHUNKS, *trailers)

    assert statuses(answer) == [431]


@pytest.mark.parametrize("size", [b"1;" + b"x" * 5000, b"0" * 5000 + b"1"], ids=["extension", "size"])
def test_bounds_the_framing_of_chunks(size: bytes) -> None:
    with serve(body_timeout="30") as port:
        answer = talk(port, JSON + CHUNKED + b"\r\n", *[size + b"\r\n{\r\n"] * 200)

    assert statuses(answer) == [431]


def test_reads_a_body_in_chunks_of_one_byte(port: int) -> None:
    body = BODY[:-1] + b" " * 50_000 + b"}"
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body)
    answer = talk(port, JSON + b"Connection: close\r\n" + CHUNKED + b"\r\n" + chunks + b"0\r\n\r\n")

    assert (statuses(answer), json.loads(bodies(answer)[0])) == ([200], DATA)


GET = b"GET /healthz HTTP/1.1\r\n"
HOST = b"Host: gateway\r\n"
REFUSED = {
    "no Host": (400, GET),
    "two Hosts": (400, GET + HOST + b"Host: gateway\r\n"),
    "two other Hosts": (400, GET + HOST + b"host: evil\r\n"),
    "two Hosts in HTTP/1.0": (400, b"GET /healthz HTTP/1.0\r\n" + HOST + HOST),
    "empty Host": (400, GET + b"Host:\r\n"),
    "Host with user": (400, GET + b"Host: user@gateway\r\n"),
    "Host with path": (400, GET + b"Host: gateway/path\r\n"),
    "Hosts in one": (400, GET + b"Host: gateway, evil\r\n"),
    "Host with letters for a port": (400, GET + b"Host: gateway:port\r\n"),
    "Host that is no ASCII": (400, GET + "Host: gäteway\r\n".encode()),
    "HTTP/0.9": (400, b"GET /healthz HTTP/0.9\r\n"),
    "HTTP/0.9, simple": (400, b"GET /healthz\r\n"),
    "HTTP/2.0": (505, b"GET /healthz HTTP/2.0\r\n"),
    "HTTP/1.2": (400, b"GET /healthz HTTP/1.2\r\n" + HOST),
    "coding gzip": (501, JSON + b"Transfer-Encoding: gzip, chunked\r\n"),
    "coding gzip alone": (501, JSON + b"Transfer-Encoding: gzip\r\n"),
    "coding unknown": (501, JSON + b"Transfer-Encoding: xchunked\r\n"),
    "coding identity": (501, JSON + b"Transfer-Encoding: identity\r\n"),
    "coding empty first": (501, JSON + b"Transfer-Encoding: , chunked\r\n"),
    "coding with a parameter": (501, JSON + b"Transfer-Encoding: chunked;a=b\r\n"),
    "chunked not last": (400, JSON + b"Transfer-Encoding: chunked, gzip\r\n"),
    "chunked twice": (400, JSON + CHUNKED + CHUNKED),
    "chunked in HTTP/1.0": (400, JSON.replace(b"1.1", b"1.0") + CHUNKED),
    "coding and length": (400, JSON + CHUNKED + LENGTH),
    "length and coding": (400, JSON + LENGTH + CHUNKED),
    "two lengths": (400, JSON + LENGTH + b"Content-Length: 5\r\n"),
    "lengths in one": (400, JSON + b"Content-Length: 5, 5\r\n"),
    "length with sign": (400, JSON + b"Content-Length: +5\r\n"),
    "length in hex": (400, JSON + b"Content-Length: 0x5\r\n"),
    "length too long": (400, JSON + b"Content-Length: 99999999999999999999999\r\n"),
    "no length": (400, JSON + b"Content-Length:\r\n"),
    "folded header": (400, GET + HOST + b"X: a\r\n b\r\n"),
    "space before colon": (400, GET + b"Host : gateway\r\n"),
    "space before the first header": (400, GET + b" " + HOST),
    "header without colon": (400, GET + HOST + b"X\r\n"),
    "header without name": (400, GET + HOST + b": x\r\n"),
    "bare LF": (400, GET + HOST + b"X: a\nY: b\r\n"),
    "bare CR": (400, GET + HOST + b"X: a\rY: b\r\n"),
    "NUL": (400, GET + HOST + b"X: a\0b\r\n"),
    "target with a host, but no Host": (400, b"GET http://gateway/healthz HTTP/1.1\r\n"),
    "target without slash": (400, b"GET healthz HTTP/1.1\r\n" + HOST),
    "target *": (400, b"GET * HTTP/1.1\r\n" + HOST),
    "target with fragment": (400, b"GET /healthz#top HTTP/1.1\r\n" + HOST),
    "target of another scheme": (400, b"GET ftp://gateway/healthz HTTP/1.1\r\n" + HOST),
    "target with user": (400, b"GET http://user@gateway/healthz HTTP/1.1\r\n" + HOST),
    "target with space": (400, b"GET /health z HTTP/1.1\r\n" + HOST),
    "target that is no ASCII": (400, "GET /hälth HTTP/1.1\r\n".encode() + HOST),
}


@pytest.fixture(scope="module")
def echoing() -> Iterator[tuple[int, Echo]]:
    echo = Echo()
    with serve_app(echo, http=Protocol) as port:
        yield port, echo


@pytest.mark.parametrize("fault", REFUSED)
def test_refuses_a_head_and_never_reads_on(fault: str, echoing: tuple[int, Echo]) -> None:
    (port, echo), (status, head) = echoing, REFUSED[fault]

    answer = talk(port, head + b"\r\n" + SMUGGLED, SMUGGLED)

    assert (statuses(answer), echo.calls) == ([status], [])
    assert json.loads(bodies(answer)[0])["errors"][0]["extensions"] == {"code": "BAD_REQUEST"}
    assert b"connection: close" in answer


def test_a_refusal_is_logged_and_has_the_security_headers(port: int, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", "gateway"):
        answer = talk(port, GET + b"X-API-Key: secret\r\n\r\n")

    id_ = re.search(r"x-request-id: (\S+)", answer.decode())[1]  # type: ignore[index]
    assert b"cache-control: private, no-store" in answer
    assert b"x-content-type-options: nosniff" in answer
    assert ["request_refused" in line and id_ in line and "secret" not in line for line in caplog.messages] == [True]


@pytest.mark.parametrize(
    "chunks",
    [
        b"0x3\r\nabc\r\n",
        b"-1\r\n",
        b"3 \r\nabc\r\n",
        b"3\nabc\n",
        b"3\r\nabcd",
        b"g\r\n",
        b"fffffffffffffffff\r\n",
        b"\r\n",
    ],
    ids=repr,
)
def test_refuses_a_body_and_never_reads_on(port: int, chunks: bytes) -> None:
    answer = talk(port, JSON + CHUNKED + b"\r\n" + chunks + b"0\r\n\r\n" + LAST)

    assert statuses(answer) == [400]


@pytest.mark.parametrize("fault", ["no Host", "coding gzip", "bare LF", "HTTP/0.9"])
def test_responds_to_requests_before_a_refused_head(port: int, fault: str) -> None:
    status, head = REFUSED[fault]
    answer = talk(port, JSON + LENGTH + b"\r\n" + BODY + LAST.replace(b"close", b"keep-alive") + head + b"\r\n" + LAST)

    assert statuses(answer) == [200, 200, status]
    assert json.loads(bodies(answer)[0]) == DATA


def test_responds_to_requests_before_a_refused_body(port: int) -> None:
    answer = talk(port, JSON + LENGTH + b"\r\n" + BODY + JSON + CHUNKED + b"\r\nx\r\n" + LAST)

    assert statuses(answer) == [200, 400]


def test_refuses_http_0_9_without_waiting_for_headers(port: int) -> None:
    answer = talk(port, b"GET /healthz\r\n")

    assert statuses(answer) == [400]


@pytest.mark.parametrize("size", [1, 2, 5, 31])
def test_reads_the_same_in_pieces_of_any_size(size: int) -> None:
    echo = Echo()
    posts = [b"POST /a HTTP/1.1\r\nHost: b\r\n" + field for field in (H2C + LENGTH, H2C + CHUNKED, CHUNKED, LENGTH)]
    rests = [BODY, CHUNKS + b"X-API-Key: a\r\n\r\n", CHUNKS + b"\r\n", BODY]
    stream = b"".join(head + b"\r\n" + rest for head, rest in zip(posts, rests, strict=True)) + LAST
    with serve_app(echo, http=Protocol) as port:
        answer = talk(port, *(stream[start : start + size] for start in range(0, len(stream), size)))

    assert bodies(answer) == [BODY] * 4 + [b""]
    assert echo.calls == ["POST /a"] * 4 + ["GET /healthz"]
    assert all("x-api-key" not in fields for _, fields in echo.seen)


def test_refuses_a_head_request_without_a_body(port: int) -> None:
    answer = talk(port, b"HEAD /healthz HTTP/1.1\r\n\r\n")

    assert statuses(answer) == [400]
    assert answer.endswith(b"\r\n\r\n")


def test_refuses_too_many_requests_that_wait(port: int) -> None:
    answer = talk(port, LAST.replace(b"close", b"keep-alive") * 200)

    assert statuses(answer) == [200] * 101 + [400]


@pytest.mark.parametrize(
    ("head", "call", "host"),
    [
        (b"GET http://gateway:80/a?b=c HTTP/1.1\r\nHost: evil\r\n", "GET /a?b=c", "gateway:80"),
        (b"GET HTTP://gateway HTTP/1.1\r\nHost: evil\r\n", "GET /", "gateway"),
        (b"GET https://[::1]?b HTTP/1.0\r\n", "GET /?b", "[::1]"),
        (b"GET //evil/a HTTP/1.1\r\nHost: gateway_1\r\n", "GET //evil/a", "gateway_1"),
        (b"GET /a%20b HTTP/1.1\r\nHost:  gateway \t\r\n", "GET /a b", "gateway"),
        (b"OPTIONS * HTTP/1.1\r\nHost: gateway:\r\n", "OPTIONS *", "gateway:"),
    ],
)
def test_takes_the_host_of_the_target(head: bytes, call: str, host: str) -> None:
    echo = Echo()
    with serve_app(echo, http=Protocol) as port:
        talk(port, head + b"Connection: close\r\n\r\n")

    assert [(seen, fields["host"]) for seen, fields in echo.seen] == [(call, host)]


def test_reads_http_1_0_without_a_host_and_closes(port: int) -> None:
    answer = talk(port, b"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n" + SMUGGLED)

    assert (statuses(answer), bodies(answer)) == ([200], [b"ok"])
    assert b"connection: close" in answer


@pytest.mark.parametrize(
    ("version", "answers"), [(b"1.1", [100, 200]), (b"1.0", [200])], ids=["1.1", "1.0, which has no 100"]
)
def test_asks_for_the_body_of_expect_100_continue(version: bytes, answers: list[int]) -> None:
    head = JSON.replace(b"1.1", version) + LENGTH + b"Expect: 100-Continue \r\nConnection: close\r\n\r\n"
    with serve() as port, socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(head)
        answer = connection.recv(65536) if 100 in answers else b""
        connection.sendall(BODY)
        while piece := connection.recv(65536):
            answer += piece

    assert statuses(answer) == answers


class Small(Protocol):
    """A protocol that takes small heads."""

    max_head = 1024


@pytest.mark.parametrize("field", [b"X: " + b"y" * 2000 + b"\r\n", b"X: y\r\n" * 500], ids=["one", "many"])
def test_refuses_a_complete_head_too_large(field: bytes) -> None:
    with serve(Small) as port:
        answer = talk(port, GET + HOST + field + b"\r\n")

    assert statuses(answer) == [431]
