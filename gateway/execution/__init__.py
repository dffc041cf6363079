"""Parses, limits, validates and runs documents.

Knows neither HTTP nor REST: a document and variables in, data and errors out.
"""
