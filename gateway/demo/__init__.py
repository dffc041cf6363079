"""An Omnia-compatible REST API in memory, for `gateway demo` and for tests.

Never imports anything else of the gateway, so that it can be held against the vendor's documents alone.
"""
