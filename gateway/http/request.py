"""Parses GraphQL requests over HTTP: headers, API key, body or query string.

Raises a `RequestError` with the HTTP status for requests that cannot be parsed. Facts: the GraphQL-over-HTTP draft,
sections 4 to 6; the Fetch standard for requests that a browser sends without a preflight.
"""

import asyncio
import codecs
import functools
import re
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qsl

import msgspec
from starlette.types import Receive, Scope

from gateway.execution.errors import RequestError
from gateway.http.disconnect import Disconnected
from gateway.http.negotiation import JSON
from gateway.upstream.errors import ErrorCode

METHODS = "GET, HEAD, POST, OPTIONS"
MAX_KEY = 256
"""Bytes of an API key."""
MAX_QUERY_STRING = 16 * 1024
"""Bytes of a GET's query string, the common limit of proxies."""
MAX_FIELDS = 100
"""Fields of a query string."""
MAX_CONTENT_TYPE = 256
"""Bytes of a Content-Type."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9a-z\-]+/[!#$%&'*+.^_`|~0-9a-z\-]+")
_SIMPLE = frozenset({"application/x-www-form-urlencoded", "multipart/form-data", "text/plain"})
_PREFLIGHT = (b"x-api-key", b"apollo-require-preflight", b"graphql-require-preflight", b"x-requested-with")

Headers = dict[bytes, bytes]
"""A request's headers by their lower-case names, repeated ones joined by `, `."""


class GraphQLRequest(msgspec.Struct, rename="camel"):
    """The parameters of a GraphQL request; empty strings count as absent."""

    query: str | None = None
    operation_name: str | None = None
    variables: dict[str, Any] | None = None
    extensions: dict[str, Any] | None = None
    document_id: str | None = None
    doc_id: str | None = msgspec.field(default=None, name="doc_id")
    """Relay's name for `documentId`, which wins."""

    def __post_init__(self) -> None:
        """Treat empty strings as absent."""
        self.operation_name = self.operation_name or None
        self.document_id = self.document_id or self.doc_id or None


Batch = list[GraphQLRequest | RequestError]
"""The elements of a JSON array; an element that is not a request is the error."""


_REQUEST = msgspec.json.Decoder(GraphQLRequest)
_REQUESTS = msgspec.json.Decoder(GraphQLRequest | list[msgspec.Raw])
_OBJECT = msgspec.json.Decoder(dict[str, Any] | None)


def header_fields(headers: Sequence[tuple[bytes, bytes]]) -> Headers:
    """Return the headers of a request by name."""
    fields = dict(headers)
    if len(fields) < len(headers):
        fields = {name: b", ".join(value for other, value in headers if other == name) for name in fields}
    return fields


def needs_preflight(headers: Headers) -> bool:
    """Tell whether a browser sends this request for a page of another origin only after a CORS preflight.

    A custom header, or a content type that HTML forms cannot send, needs the preflight. The exception: a request with
    `Sec-Fetch-Mode: cors`, which pages cannot forge, and without `Origin` does not come from a page of another origin.
    """
    if any(headers.get(name) for name in _PREFLIGHT):
        return True
    media_type = headers.get(b"content-type", b"").decode("latin-1").partition(";")[0].strip().lower()
    if media_type not in _SIMPLE and _TOKEN.fullmatch(media_type):
        return True
    same_origin = headers.get(b"sec-fetch-site", b"same-origin") == b"same-origin"
    return headers.get(b"sec-fetch-mode") == b"cors" and b"origin" not in headers and same_origin


def api_key(headers: Headers, fallback: str) -> str:
    """Return the client's API key, or `fallback` if it sends none.

    Raises:
        RequestError: the header is repeated, too long or not visible ASCII.
    """
    joined = headers.get(b"x-api-key", b"").decode("latin-1")
    key = joined.strip(" \t")
    repeated = ", " in joined  # as `header_fields` joins them, even if one is empty
    if not key:
        return fallback
    if repeated or len(key) > MAX_KEY or not (key.isascii() and key.isprintable() and " " not in key):
        raise _bad(f"X-API-Key must come once, as at most {MAX_KEY} visible ASCII characters.")
    return key


class RequestParser:
    """Parses requests within limits.

    Args:
        max_bytes: of a body.
        max_batch: operations of a JSON array; 0 to refuse arrays.
        timeout: seconds in which a body must arrive.
    """

    def __init__(self, *, max_bytes: int, max_batch: int, timeout: float) -> None:
        self._max_bytes = max_bytes
        self._max_batch = max_batch
        self._timeout = timeout
        self._decoder: msgspec.json.Decoder[Any] = _REQUESTS if max_batch else _REQUEST

    async def parse(self, scope: Scope, headers: Headers, receive: Receive) -> GraphQLRequest | Batch:
        """Return the GraphQL request of a GET's query string or a POST's body.

        Raises:
            RequestError: it cannot be parsed; with 400, 405, 408, 413, 414 or 415.
            Disconnected: the client disconnected.
        """
        method = scope["method"]
        if method == "POST":
            _check_content(headers)
            return self._decode(await self._body(headers, receive))
        if method in {"GET", "HEAD"}:
            return _from_query(scope["query_string"])
        raise _bad(f"{method[:20]} is not supported: use POST or GET.", 405, allow=METHODS)

    def _decode(self, body: bytes) -> GraphQLRequest | Batch:
        text = body.removeprefix(codecs.BOM_UTF8)
        request: GraphQLRequest | list[msgspec.Raw] = _decode(self._decoder, text, "The body")
        if not isinstance(request, list):
            return request
        if not 1 <= len(request) <= self._max_batch:
            raise _bad(f"A batch must hold 1 to {self._max_batch} operations, not {len(request)}.")
        return [_element(raw) for raw in request]

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        length = headers.get(b"content-length", b"")
        if length.isdigit() and int(length[:20]) > self._max_bytes:
            raise self._too_large()
        chunks: list[bytes] = []
        size = 0
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(None) as timeout:
                # a timer only if the request waits: most bodies have arrived with the head
                timer = loop.call_soon(timeout.reschedule, loop.time() + self._timeout)
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise Disconnected
                    chunk = message.get("body", b"")
                    size += len(chunk)
                    if size > self._max_bytes:
                        raise self._too_large()
                    chunks.append(chunk)
                    if not message.get("more_body"):
                        return b"".join(chunks)
        except TimeoutError as error:
            raise _bad(f"The body did not arrive within {self._timeout:g} s.", 408) from error
        finally:
            timer.cancel()

    def _too_large(self) -> RequestError:
        return _bad(f"The body is larger than {self._max_bytes} bytes.", 413)


def _bad(problem: str, status: int = 400, *, allow: str | None = None) -> RequestError:
    return RequestError(ErrorCode.BAD_REQUEST, problem, status=status, allow=allow)


def _element(raw: msgspec.Raw) -> GraphQLRequest | RequestError:
    try:
        request: GraphQLRequest = _decode(_REQUEST, raw, "This element")
    except RequestError as error:
        return error
    return request


def _check_content(headers: Headers) -> None:
    content_type = headers.get(b"content-type", b"")
    if len(content_type) > MAX_CONTENT_TYPE or not _is_json(content_type):
        raise _bad("Send the body as Content-Type: application/json, in UTF-8.", 415)
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        raise _bad("Send the body without Content-Encoding.", 415)


@functools.lru_cache(maxsize=64)
def _is_json(content_type: bytes) -> bool:
    media_type, *parameters = (piece.strip().lower() for piece in content_type.decode("latin-1").split(";"))
    charsets = [piece[8:].strip('"') for piece in parameters if piece.startswith("charset=")]
    return media_type == JSON and all(charset in {"utf-8", "utf8"} for charset in charsets)


def _from_query(query_string: bytes) -> GraphQLRequest:
    if len(query_string) > MAX_QUERY_STRING:
        raise _bad(f"The query string is longer than {MAX_QUERY_STRING} bytes: use POST.", 414)
    try:
        pairs = parse_qsl(
            query_string.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MAX_FIELDS
        )
    except ValueError as error:
        raise _bad(f"The query string is not UTF-8, or has more than {MAX_FIELDS} fields.") from error
    given = dict(pairs)
    if len(given) < len(pairs):
        raise _bad("The query string has a field twice: send each field once.")
    return GraphQLRequest(
        query=given.get("query"),
        operation_name=given.get("operationName"),
        variables=_decode(_OBJECT, given.get("variables") or "null", "variables"),
        extensions=_decode(_OBJECT, given.get("extensions") or "null", "extensions"),
        document_id=given.get("documentId"),
        doc_id=given.get("doc_id"),
    )


def _decode(decoder: msgspec.json.Decoder[Any], text: bytes | str | msgspec.Raw, what: str) -> Any:
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        problem = f"{what} does not fit: {str(error).replace('`', '')}."
    except (msgspec.DecodeError, UnicodeError):
        problem = f"{what} is not JSON in UTF-8."
    except RecursionError:
        problem = f"{what} is nested too deeply."
    raise _bad(problem)
