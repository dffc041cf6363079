"""Reads one GraphQL request off HTTP: media types, API key, body or query string.

`endpoint` calls it; nothing here executes anything. Whatever cannot be read is a `RequestError` with
the HTTP status that says so. Facts: the GraphQL-over-HTTP draft, sections 4 to 6; RFC 9110 section 12.5.1
for Accept and its q-values.
"""

import asyncio
import functools
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from starlette.datastructures import Headers
from starlette.types import Receive, Scope

from gateway.errors import RequestError

GRAPHQL = "application/graphql-response+json"
JSON = "application/json"
HTML = "text/html"

METHODS = "GET, HEAD, POST, OPTIONS"
MAX_KEY = 256
"""Bytes of an API key."""
BODY_TIMEOUT = 10.0
"""Seconds within which a body must have arrived."""


class GraphQLRequest(msgspec.Struct, rename="camel"):
    """What a GraphQL request says; `variables` and `extensions` are JSON objects."""

    query: str | None = None
    operation_name: str | None = None
    variables: dict[str, Any] | None = None
    extensions: dict[str, Any] | None = None


class Disconnected(Exception):
    """The caller left before its request was complete."""


_REQUEST = msgspec.json.Decoder(GraphQLRequest)
_OBJECT = msgspec.json.Decoder(dict[str, Any] | None)


@functools.lru_cache(maxsize=256)
def negotiate(accept: str) -> str | None:
    """Return the media type to answer with, HTML where it is liked best, or None where none fits.

    JSON is for who does not say; between equals the newer type wins where it is named.
    """
    ranges = [_media_range(part) for part in (accept or "*/*").split(",") if part.strip()]
    best: tuple[float, int, int] = (0.0, 0, 0)
    chosen = None
    for offer in (JSON, GRAPHQL, HTML):
        kind = offer.split("/")[0]
        fits = [(3, q) for name, q in ranges if name == offer]
        fits += [(2, q) for name, q in ranges if name == f"{kind}/*"] + [(1, q) for name, q in ranges if name == "*/*"]
        if fits:
            specific, q = max(fits, key=lambda fit: fit[0])
            rank = (q, specific, 1 if offer == GRAPHQL and specific == 3 else 0)
            if rank > best:
                best, chosen = rank, offer
    return chosen


def _media_range(part: str) -> tuple[str, float]:
    """Return the range and its q; one with another charset than UTF-8 fits nothing."""
    name, *parameters = (piece.strip().lower() for piece in part.split(";"))
    q = 1.0
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        if key == "q":
            try:
                q = min(max(float(value), 0.0), 1.0)
            except ValueError:
                q = 0.0
        elif key == "charset" and value.strip('"') not in {"utf-8", "utf8"}:
            q = 0.0
    return name, q


def api_key(headers: Headers, fallback: str) -> str:
    """Return the caller's API key, or `fallback` where it sends none.

    Raises:
        RequestError: the header is there twice, too long or not visible ASCII.
    """
    keys = headers.getlist("x-api-key")
    if not keys:
        return fallback
    key = keys[0].strip()
    if len(keys) > 1 or len(key) > MAX_KEY or not all("!" <= letter <= "~" for letter in key):
        raise RequestError(
            "BAD_REQUEST", f"X-API-Key must come once, as at most {MAX_KEY} visible ASCII characters.", status=400
        )
    return key or fallback


async def read(scope: Scope, headers: Headers, receive: Receive, max_bytes: int) -> GraphQLRequest:
    """Read the GraphQL request of a GET's query string or a POST's body.

    Raises:
        RequestError: it cannot be read; with 400, 405, 408, 413 or 415.
        Disconnected: the caller left.
    """
    method = scope["method"]
    if method in {"GET", "HEAD"}:
        request = _from_query(scope["query_string"])
    elif method == "POST":
        _check_content(headers)
        request = _decode(_REQUEST, await _body(headers, receive, max_bytes), "The body")
    else:
        raise RequestError("BAD_REQUEST", f"{method} is not served here: use POST or GET.", status=405, allow=METHODS)
    if not request.query:
        raise RequestError("BAD_REQUEST", "There is no query: send a GraphQL document as `query`.", status=400)
    return request


def _check_content(headers: Headers) -> None:
    media_type, *parameters = (piece.strip().lower() for piece in headers.get("content-type", "").split(";"))
    charsets = [piece[8:].strip('"') for piece in parameters if piece.startswith("charset=")]
    if media_type != JSON or any(charset not in {"utf-8", "utf8"} for charset in charsets):
        raise RequestError("BAD_REQUEST", "Send the body as Content-Type: application/json, in UTF-8.", status=415)
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise RequestError("BAD_REQUEST", "Send the body without Content-Encoding.", status=415)


async def _body(headers: Headers, receive: Receive, max_bytes: int) -> bytes:
    too_large = RequestError("BAD_REQUEST", f"The body is larger than {max_bytes} bytes.", status=413)
    length = headers.get("content-length", "")
    if length.isascii() and length.isdigit() and int(length[:20]) > max_bytes:
        raise too_large
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Disconnected
                chunk = message.get("body", b"")
                size += len(chunk)
                if size > max_bytes:
                    raise too_large
                chunks.append(chunk)
                if not message.get("more_body"):
                    return b"".join(chunks)
    except TimeoutError as error:
        problem = f"The body did not arrive within {BODY_TIMEOUT:g} s."
        raise RequestError("BAD_REQUEST", problem, status=408) from error


def _from_query(query_string: bytes) -> GraphQLRequest:
    try:
        given = dict(
            parse_qsl(query_string.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=100)
        )
    except ValueError as error:
        raise RequestError(
            "BAD_REQUEST", "The query string is not UTF-8, or has too many fields.", status=400
        ) from error
    return GraphQLRequest(
        query=given.get("query"),
        operation_name=given.get("operationName") or None,
        variables=_decode(_OBJECT, given.get("variables") or "null", "variables"),
        extensions=_decode(_OBJECT, given.get("extensions") or "null", "extensions"),
    )


def _decode(decoder: msgspec.json.Decoder[Any], text: bytes | str, what: str) -> Any:
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        problem = f"{what} does not fit: {str(error).replace('`', '')}."
    except (msgspec.DecodeError, UnicodeError):
        problem = f"{what} is not JSON in UTF-8."
    except RecursionError:
        problem = f"{what} is nested too deeply."
    raise RequestError("BAD_REQUEST", problem, status=400)
