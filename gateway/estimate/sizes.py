"""The workspace that an estimate is made for."""

from collections.abc import Mapping

Sizes = Mapping[str, int]
"""Rows of each list, by the name of its resource."""
