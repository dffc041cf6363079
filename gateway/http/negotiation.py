"""Chooses media type and content coding by the client's Accept and Accept-Encoding.

Facts: RFC 9110 sections 12.4.2, 12.5.1 and 12.5.3; the GraphQL-over-HTTP draft, section 6.
"""

import functools
import re
from collections.abc import Iterator
from typing import Final, NamedTuple

GRAPHQL: Final = "application/graphql-response+json"
JSON: Final = "application/json"
HTML: Final = "text/html"

_CODINGS: Final = ("gzip", "zstd")
_QUALITY: Final = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")


class _Preference(NamedTuple):
    """One element of a header: a name in lower case, its q-value and its other parameters."""

    name: str
    q: float
    parameters: dict[str, str]


def _preferences(header: bytes) -> Iterator[_Preference]:
    """Yield the elements of a header; an invalid q-value is 0."""
    for element in header.decode("latin-1").lower().split(","):
        name, *pairs = (piece.strip() for piece in element.split(";"))
        parameters = {key: value for key, _, value in (pair.partition("=") for pair in pairs)}
        q = parameters.pop("q", "1")
        if name:
            yield _Preference(name, float(q) if _QUALITY.fullmatch(q) else 0.0, parameters)


@functools.lru_cache(maxsize=64)
def negotiate(accept: bytes, offers: tuple[str, ...]) -> str | None:
    """Return the media type of the response, or None if the client accepts none of the offers.

    The first offer is the default; between equal q-values `GRAPHQL` wins if the client names it. A media range with
    another charset than UTF-8 matches nothing.
    """
    ranges = list(_preferences(accept or b"*/*"))
    best: tuple[float, int, int] = (0.0, 9, 9)  # above everything with q=0, which excludes a media type
    chosen = None
    for offer in offers:
        kind = offer.split("/")[0]
        matches = {offer: 3, f"{kind}/*": 2, "*/*": 1}
        found = [(matches[name], _q(q, parameters)) for name, q, parameters in ranges if name in matches]
        if found:
            specific, q = max(found, key=lambda match: match[0])
            rank = (q, specific, 1 if offer == GRAPHQL and specific == 3 else 0)
            if rank > best:
                best, chosen = rank, offer
    return chosen


def _q(q: float, parameters: dict[str, str]) -> float:
    return q if parameters.get("charset", "utf-8").strip('"') in {"utf-8", "utf8"} else 0.0


@functools.lru_cache(maxsize=64)
def choose_coding(accept_encoding: bytes) -> str | None:
    """Return the content coding of the response, None for no coding.

    Between equal q-values the coding that the client names first, else gzip: clients on Node.js 20 name zstd, last, and
    cannot decode it.
    """
    weights = {name.removeprefix("x-"): q for name, q, _ in _preferences(accept_encoding)}
    anything = weights.get("*", 0.0)
    named = [coding for coding in weights if coding in _CODINGS]
    coding = max([*named, *_CODINGS], key=lambda coding: weights.get(coding, anything))
    weight = weights.get(coding, anything)
    return coding if weight > 0 and weight >= weights.get("identity", 0.0) else None
