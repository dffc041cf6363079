"""The workspace that an estimate is made for."""

from typing import NamedTuple


class Sizes(NamedTuple):
    """The rows of a workspace's two lists."""

    agents: int
    numbers: int
