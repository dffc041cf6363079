"""Compresses answers by the client's Accept-Encoding.

Measured on answers of this schema: gzip at level 1 costs 12 µs at 2 KB, 30 µs at 12 KB, 0.13 ms at 60 KB and leaves
22 to 27%; zstd at level 1 6, 16 and 62 µs and leaves 13 to 22%. Higher levels cost twice as much for 2% less. Between
equals gzip comes first all the same, see `choose_coding`.
Facts: RFC 9110 section 8.4, RFC 8878 (zstd).
"""

import asyncio
import sys
import zlib
from typing import Final

from gateway.http.negotiation import choose_coding

if sys.version_info >= (3, 14):  # pragma: no cover - the standard library's, which backports.zstd is a copy of
    from compression import zstd
else:
    from backports import zstd

MIN_SIZE: Final = 2048
"""Bytes from which an answer is compressed: below it saves no packet of a network, and costs as much as the rest."""
MAX_INLINE: Final = 256 * 1024
"""Bytes above which it is compressed in a thread, since it would hold everybody up for a millisecond and more."""

_GZIP: Final = 31  # zlib's window bits for a gzip container
_ZSTD: Final = zstd.ZstdCompressor(level=1)  # one per process: building one costs more than a small answer


async def compress(content: bytes, accept_encoding: bytes) -> tuple[bytes, str | None]:
    """Return a body as the caller likes it, and its content coding; as it is where that is best."""
    coding = choose_coding(accept_encoding) if len(content) >= MIN_SIZE else None
    if coding is None:
        return content, None
    if len(content) > MAX_INLINE:
        return await asyncio.to_thread(_zstd_alone if coding == "zstd" else _gzip, content), coding
    return _ZSTD.compress(content, mode=_ZSTD.FLUSH_FRAME) if coding == "zstd" else _gzip(content), coding


def _gzip(content: bytes) -> bytes:
    return zlib.compress(content, 1, _GZIP)


def _zstd_alone(content: bytes) -> bytes:
    return zstd.compress(content, 1)
