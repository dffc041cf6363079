"""Which attempt may be made again. Pure.

`calls` asks after each failed attempt. A read whose connection failed is tried once more, because
the connection may have been a stale one of the pool. A write is never tried again, since it may have
been carried out; nor is anything the upstream has answered, because every call costs quota.
"""

ATTEMPTS = 2
"""Attempts of one REST call at the most."""


def may_retry(method: str, attempts: int, *, connection_failed: bool) -> bool:
    """Return whether a call with so many attempts behind it may be sent again."""
    return method == "GET" and connection_failed and attempts < ATTEMPTS
