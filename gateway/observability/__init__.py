"""Logging and metrics.

Never contains an API key, a document or a variable.
"""
