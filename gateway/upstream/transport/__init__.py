"""One HTTP attempt at the REST API: a request out, a response in.

Never follows redirects, keeps cookies or sends a request again.
"""
