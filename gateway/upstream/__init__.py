"""The Omnia REST API: its resources, calls, errors, cache, quota and tenants.

A call is shared, bounded and verified here. Nothing of one API key reaches another, and a write is never repeated.
"""
