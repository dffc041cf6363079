"""`gateway check`: what the operations of a frontend cost in REST calls, before they ship.

Never serves a request.
"""
