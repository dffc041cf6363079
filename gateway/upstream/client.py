"""The REST API of Omnia, one method per call.

`loaders` calls a `Session`, which belongs to one operation and one API key; all sessions share one
`Client` with its connections and its tenants. A call is admitted (key, budget, quota), shared with
whoever of the same tenant asks for the same meanwhile, sent, tried again where `retry` allows it, and
decoded into `models`. Facts: the vendor's "Phone Numbers" page and its OpenAPI 1.0.0.
"""

import asyncio
import re
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar
from urllib.parse import quote, urlencode

import httpx
import msgspec

from gateway.planner import PageRequest
from gateway.settings import Settings
from gateway.upstream import errors, models
from gateway.upstream.quota import QuotaState
from gateway.upstream.retry import may_retry
from gateway.upstream.tenants import Bill, Tenant, Tenants
from gateway.upstream.wire import Wire, rejection

T = TypeVar("T")
R = TypeVar("R")

_SEGMENT = re.compile(r"[A-Za-z0-9_\-.:~@]{1,128}")
_ENCODE = msgspec.json.Encoder().encode
_AGENT = msgspec.json.Decoder(models.Agent)
_AGENTS = msgspec.json.Decoder(models.Page[models.Agent])
_NUMBER = msgspec.json.Decoder(models.PhoneNumber)
_NUMBERS = msgspec.json.Decoder(models.Page[models.PhoneNumber])
_AGENT_NUMBERS = msgspec.json.Decoder(models.AgentNumbers)


class Client:
    """The one REST API of a gateway process: its wire and what is kept for each tenant.

    Args:
        settings: the upstream's address, timeouts and caps.
        transport: stands in for the network, in tests.
        clock: unix seconds.
    """

    def __init__(
        self,
        settings: Settings,
        transport: httpx.AsyncBaseTransport | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.tenants = Tenants()
        self.update_method = "PUT"
        self.places = asyncio.Semaphore(settings.upstream_connections)  # httpcore stalls on long queues of its own
        self.wire = Wire(
            settings.upstream_url,
            timeout=settings.upstream_timeout,
            connections=settings.upstream_connections,
            max_bytes=settings.max_upstream_bytes,
            transport=transport,
        )

    async def aclose(self) -> None:
        """Close every connection."""
        await self.wire.aclose()

    def session(self, api_key: str, request_id: str) -> "Session":
        """Open the session of one operation; without a key its first call raises `errors.NoKey`."""
        return Session(self, self.tenants[api_key], api_key, request_id)


class Session:
    """The REST calls of one operation, all with one API key, and their bill.

    Every method raises `errors.UpstreamError`. Ids are checked before they enter a path.
    """

    def __init__(self, client: Client, tenant: Tenant, api_key: str, request_id: str) -> None:
        self.tenant = tenant
        self.bill = Bill()
        self._client = client
        self._headers = {
            "X-API-Key": api_key,
            "X-Request-Id": request_id,
            "Accept": "application/json",
            "Accept-Encoding": "gzip",
        }
        self._deadline = asyncio.get_running_loop().time() + client.settings.deadline

    @property
    def quota(self) -> QuotaState | None:
        """What is known of the key's quota."""
        return self.tenant.quota.state(self._client.clock())

    @property
    def affordable(self) -> int:
        """REST calls that the budget and the known quota still allow."""
        left = self._client.settings.max_rest_calls - self.bill.spent
        return left if self.quota is None else min(left, self.quota.remaining)

    @property
    def now(self) -> float:
        """Unix seconds by the gateway's clock."""
        return self._client.clock()

    async def agent(self, id_: str) -> models.Agent:
        """GET /agents/{id}."""
        return await self._read(f"/agents/{_segment(id_)}", _AGENT, _as_it_is)

    async def agents(
        self, page: PageRequest, status: models.AgentStatus | None = None, search: str | None = None
    ) -> models.Listing[models.Agent]:
        """GET /agents, one page."""
        target = _listing("/agents", page, status=status and status.value, search=search)
        return await self._read(target, _AGENTS, _agents)

    async def agent_numbers(self, id_: str) -> models.Listing[models.PhoneNumber]:
        """GET /agents/{id}/numbers: all of them."""

        def settle(answer: models.AgentNumbers) -> models.Listing[models.PhoneNumber]:
            return models.Listing(answer.data, None, models.unfold(answer.data, id_))

        return await self._read(f"/agents/{_segment(id_)}/numbers", _AGENT_NUMBERS, settle)

    async def number(self, id_: str) -> models.Listing[models.PhoneNumber]:
        """GET /numbers/{id}, as a list of one."""
        return await self._read(f"/numbers/{_segment(id_)}", _NUMBER, _number)

    async def numbers(
        self, page: PageRequest, status: models.PhoneNumberStatus | None = None
    ) -> models.Listing[models.PhoneNumber]:
        """GET /numbers, one page."""
        return await self._read(_listing("/numbers", page, status=status and status.value), _NUMBERS, _numbers)

    async def create_number(self, body: models.Body) -> models.Listing[models.PhoneNumber]:
        """POST /numbers."""
        return _written(await self._write("POST", "/numbers", body), body)

    async def update_number(self, id_: str, body: models.Body) -> models.Listing[models.PhoneNumber]:
        """PUT /numbers/{id}, or PATCH once the upstream has said that there is no PUT."""
        client, target = self._client, f"/numbers/{_segment(id_)}"
        try:
            return _written(await self._write(client.update_method, target, body), body)
        except errors.Rejected as error:
            # the vendor's page says PUT, its newer documents PATCH: the upstream's own word settles it
            if client.update_method == "PATCH" or error.answer is None or error.answer.status != 405:
                raise
        client.update_method = "PATCH"
        return _written(await self._write("PATCH", target, body), body)

    async def delete_number(self, id_: str) -> None:
        """DELETE /numbers/{id}; the answer has no content."""
        await self._write("DELETE", f"/numbers/{_segment(id_)}", None)

    async def _read(self, target: str, decoder: msgspec.json.Decoder[T], settle: Callable[[T], R]) -> R:
        """GET a target, sharing the call with whoever of this tenant asks for the same meanwhile."""
        flights = self.tenant.flights
        if target in flights:
            self.bill.saved.coalesced += 1
        else:
            call = self._admit("GET", target, None)

            async def fly() -> R:
                return settle(_decode(decoder, await call.send()))

            flights.launch(target, call.launch(fly()))
        result: R = await self._in_time(flights.join(target))
        return result

    async def _write(self, method: str, target: str, body: models.Body | None) -> bytes:
        """Send a write, once, to its end even if the caller leaves; reads asked for from now on see its outcome."""
        flights = self.tenant.flights
        call = self._admit(method, target, None if body is None else _ENCODE(body))
        task = call.launch(call.send())
        task.add_done_callback(lambda _: flights.forget())
        flights.forget()
        try:
            answer: bytes = await self._in_time(asyncio.shield(task))
        except errors.Failed as error:
            raise _doubtful(error) from error
        return answer

    def _admit(self, method: str, target: str, body: bytes | None) -> "_Call":
        """Put a call on the bill, or refuse it where it has no key, no budget or no quota."""
        client, quota = self._client, self.tenant.quota
        if not self._headers["X-API-Key"]:
            raise errors.NoKey("Send your Omnia API key in the X-API-Key header.")
        if self.bill.spent >= client.settings.max_rest_calls:
            raise errors.BudgetExceeded(
                f"This operation may spend {client.settings.max_rest_calls} REST calls; ask for less at once."
            )
        wait = quota.refuse_for(client.clock())
        if wait is not None:
            refusal = errors.QuotaSpent(f"Your key's quota of REST calls is spent; try again in {wait} s.")
            refusal.retry_after = wait
            raise refusal
        return _Call(self, client, (method, target, self._headers, body))

    async def _in_time(self, result: Any) -> Any:
        try:
            async with asyncio.timeout_at(self._deadline):
                return await result
        except TimeoutError as error:
            seconds = self._client.settings.deadline
            raise errors.TimedOut(f"The operation took longer than {seconds:g} s; ask for less at once.") from error


class _Call:
    """One admitted REST call; on its session's bill from the start, taken off again where it was never sent."""

    def __init__(
        self, session: Session, client: Client, request: tuple[str, str, dict[str, str], bytes | None]
    ) -> None:
        self._bill = session.bill
        self._quota = session.tenant.quota
        self._client = client
        self._request = request
        self._sent = 0
        self._charged = 1
        self._bill.spent += 1
        self._quota.begin()

    def launch(self, send: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Run the call in a task of its own, and settle the bill when it ends."""
        task = asyncio.ensure_future(send)
        task.add_done_callback(self._settle)
        return task

    async def send(self) -> bytes:
        """Send attempt after attempt as `retry` allows, and return the body of a success."""
        client = self._client
        async with client.places:
            attempts = 0
            while True:
                attempts += 1
                self._sent += 1
                try:
                    reply = await client.wire.attempt(*self._request)
                    break
                except errors.Failed as failure:
                    self._sent -= not failure.reached
                    failed = isinstance(failure, errors.Unavailable)
                    if not may_retry(self._request[0], attempts, connection_failed=failed) or not self._afford():
                        raise
        self._quota.learn(reply.headers, status=reply.status, now=client.clock())
        if 200 <= reply.status < 300:
            return reply.body
        error = rejection(reply)
        if isinstance(error, errors.RateLimited):
            error.retry_after = self._quota.refuse_for(client.clock())
        raise error

    def _afford(self) -> bool:
        """Charge another attempt where the last one counts; tell whether the budget has it."""
        if self._sent < self._charged:
            return True
        if self._bill.spent >= self._client.settings.max_rest_calls:
            return False
        self._charged += 1
        self._bill.spent += 1
        return True

    def _settle(self, task: "asyncio.Task[Any]") -> None:
        self._bill.spent += self._sent - self._charged
        self._quota.end()
        if not task.cancelled():
            task.exception()  # whoever waited has it; nobody may be left to wait


def check_id(id_: str) -> str:
    """Return an id that may enter a path.

    Raises:
        errors.InvalidInput: it could name another path, or is nothing the upstream would write.
    """
    if id_ in {".", ".."} or not _SEGMENT.fullmatch(id_):
        raise errors.InvalidInput(
            f"{id_[:128]!r} is no id: an id is 1 to 128 letters, digits and any of _ - . : ~ @; pass it as you got it."
        )
    return id_


def _segment(id_: str) -> str:
    return quote(check_id(id_), safe="")


def _listing(path: str, page: PageRequest, **filters: str | None) -> str:
    given = {name: value for name, value in filters.items() if value is not None}
    return f"{path}?{urlencode({'page': page.page, 'limit': page.limit, **given})}"


def _decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise errors.BadAnswer("The upstream's answer is not of the documented shape; try again later.") from error


def _written(answer: bytes, body: models.Body) -> models.Listing[models.PhoneNumber]:
    """Decode a write's answer; where it does not say whose the number is, what was sent does."""
    try:
        number = _decode(_NUMBER, answer)
        return models.Listing([number], None, models.unfold([number], body.get("agentId", msgspec.UNSET)))
    except errors.BadAnswer as error:
        raise _doubtful(error) from error


def _doubtful(error: errors.Failed) -> errors.Failed:
    """Return a failed write's error with what its caller must know: it may have been carried out."""
    if not error.reached:
        return error
    told = type(error)(f"{error} The change may have been made: read it before you try again.")
    told.answer = error.answer
    return told


def _as_it_is(agent: models.Agent) -> models.Agent:
    return agent


def _agents(page: models.Page[models.Agent]) -> models.Listing[models.Agent]:
    return models.Listing(page.data, page.pagination)


def _number(number: models.PhoneNumber) -> models.Listing[models.PhoneNumber]:
    return models.Listing([number], None, models.unfold([number]))


def _numbers(page: models.Page[models.PhoneNumber]) -> models.Listing[models.PhoneNumber]:
    return models.Listing(page.data, page.pagination, models.unfold(page.data))
