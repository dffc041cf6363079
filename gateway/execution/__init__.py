"""Parses, limits, validates and runs documents.

Takes a document and variables, returns data and errors. Knows neither HTTP nor REST.
"""
