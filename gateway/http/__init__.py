"""GraphQL over HTTP.

Parses requests, finds their documents, has `execution` run them, and sends the response with its status, media type and
headers. Never plans or sends a REST call.
"""
