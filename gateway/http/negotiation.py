"""Chooses media type and content coding by the client's Accept and Accept-Encoding.

Facts: RFC 9110 sections 12.5.1 and 12.5.3; the GraphQL-over-HTTP draft, section 6.
"""

import functools
import re
from typing import Final

GRAPHQL = "application/graphql-response+json"
JSON = "application/json"
HTML = "text/html"

_REMEMBERED: Final = 256  # bytes: longer headers are nobody's, and would fill the memory of answers
_QUALITY: Final = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")
_CODINGS: Final = ("gzip", "zstd")


def negotiate(accept: bytes, *, html: bool) -> str | None:
    """Return the media type to answer with, or None where none fits; HTML only where it is on offer.

    JSON is for who does not say; between equals the newer type wins where it is named.
    """
    return _negotiate(accept, html) if len(accept) <= _REMEMBERED else _negotiate.__wrapped__(accept, html)


@functools.lru_cache(maxsize=256)
def _negotiate(accept: bytes, html: bool) -> str | None:  # noqa: FBT001 - lru_cache is quicker without keywords
    ranges = [_media_range(part) for part in (accept.decode("latin-1") or "*/*").split(",") if part.strip()]
    best: tuple[float, int, int] = (0.0, 9, 9)  # above all that has q=0, which means: not this
    chosen = None
    for offer in (JSON, GRAPHQL, HTML)[: 3 if html else 2]:
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
            q = float(value) if _QUALITY.fullmatch(value) else 0.0
        elif key == "charset" and value.strip('"') not in {"utf-8", "utf8"}:
            return name, 0.0
    return name, q


def choose_coding(accept_encoding: bytes) -> str | None:
    """Return the content coding of the response, None for no coding.

    Between equal q-values the one that the client names first, else gzip: clients on Node.js 20 name zstd, last, and
    cannot decode it.
    """
    return _choose(accept_encoding) if len(accept_encoding) <= _REMEMBERED else None


@functools.lru_cache(maxsize=256)
def _choose(accept_encoding: bytes) -> str | None:
    weights: dict[str, float] = {}
    for part in accept_encoding.decode("latin-1").lower().split(","):
        coding, _, parameter = (piece.strip() for piece in part.partition(";"))
        weighted = _QUALITY.fullmatch(parameter.removeprefix("q="))
        weights[coding.removeprefix("x-")] = float(weighted[0]) if weighted else 0.0 if parameter else 1.0
    anything = weights.get("*", 0.0)
    named = [coding for coding in weights if coding in _CODINGS]
    coding = max([*named, *_CODINGS], key=lambda coding: weights.get(coding, anything))
    weight = weights.get(coding, anything)
    return coding if weight > 0 and weight >= weights.get("identity", 0.0) else None
