"""Logging and metrics: how they are set up and what each operation leaves.

Never holds a key, a document or a variable.
"""
