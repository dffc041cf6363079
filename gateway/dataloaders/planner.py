"""Decides how many REST calls a batch of keys or a window of a connection needs. Pure arithmetic.

K keys are fetched by point reads, one call each, or by a list scan. K keys that are in the list never cost more than
K + 1 calls, while its rows do not move.
"""

from gateway.upstream.resources import MAX_LIMIT, PageRequest, Size


def pages_to_read(keys: int, missing: int, size: Size | None, read: int) -> int:
    """Return how many more pages of the list to read together now; 0 means point reads for the rest.

    Args:
        keys: how many keys the batch started with.
        missing: how many of them would cost a call of their own now.
        size: the list's size as last seen, or None if no page was seen lately.
        read: pages this batch has read.
    """
    if size is None:
        return 1 if missing > 2 and not read else 0
    left = size.pages - read
    if not 0 < left < missing or read + left > keys:
        return 0
    return left if read or size.sure else 1  # the upstream's own limit may turn out to be smaller


def window(start: int, count: int, limit: int = MAX_LIMIT, least: int = 1) -> list[PageRequest]:
    """Return the page requests that cover rows [start, start + count), fewest first, then the smallest.

    One request wherever a limit of `least` to `limit` allows it, else two neighbours; more only where
    the upstream's own limit is smaller than half the window.
    """
    for size in range(max(least, min(count, limit)), limit + 1):
        if size >= count and start % size + count <= size:
            return [PageRequest(start // size + 1, size)]
    for size in range(max(least, min(-(-count // 2), limit)), limit + 1):
        if start % size + count <= 2 * size:
            return [PageRequest(start // size + 1, size), PageRequest(start // size + 2, size)]
    return [PageRequest(page + 1, limit) for page in range(start // limit, -(-(start + count) // limit))]
