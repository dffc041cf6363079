"""GraphQL over HTTP: bytes in, bytes out.

Reads requests, finds the document that is meant, writes the response with its status, media type and headers. Never
plans or sends a REST call: `execution` runs the operation.
"""
