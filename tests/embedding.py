"""An application with the gateway mounted below /omnia, to be served by `uvicorn tests.embedding:app`."""

import os

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount

from gateway.app import create_app
from gateway.graphiql import DEMO
from gateway.settings import load


class Passing(BaseHTTPMiddleware):
    """Does nothing, but puts a `receive` of its own in front of the server's."""

    async def dispatch(self, request: Request, call_next: RequestResponseEndpoint) -> Response:
        return await call_next(request)


gateway = create_app(load(os.environ), graphiql_preset=DEMO)
app = Starlette(routes=[Mount("/omnia", gateway)], middleware=[Middleware(Passing)])
