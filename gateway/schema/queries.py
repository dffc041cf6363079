"""The root fields of Query, each of which makes one call to the loaders.

All are nullable, so that a failure leaves the other fields intact.
"""

from typing import Annotated, Any

import strawberry
from strawberry import UNSET

from gateway.dataloaders.loaders import Ahead
from gateway.schema.context import Info, reaches_numbers
from gateway.schema.pagination import Window, connect
from gateway.schema.types import Agent, AgentConnection, PhoneNumber, PhoneNumberConnection, RateLimit, known
from gateway.upstream import errors, models
from gateway.upstream.quota import QuotaState
from gateway.upstream.resources import AGENTS, NUMBERS, PageRequest, Resource, check_id

OWNED: dict[str, Resource[Any]] = {"numbers": NUMBERS}
"""Fields of an agent that load its rows. If only they and `id` are selected, they also show whether it exists."""
MAX_SEARCH = 200
"""Characters of a search. The upstream documents no limit, but URLs have one."""

AgentId = Annotated[strawberry.ID, strawberry.argument(description="The agent's id, as the upstream writes it.")]
NumberId = Annotated[strawberry.ID, strawberry.argument(description="The number's id, as the upstream writes it.")]
First = Annotated[int, strawberry.argument(description="Number of rows, 1 to 100.")]
After = Annotated[str | None, strawberry.argument(description="The `endCursor` of the previous page.")]


@strawberry.type(description="Reads. `extensions.quota` of each response says how many REST calls it spent.")
class Query:
    """The root fields of queries."""

    @strawberry.field(
        graphql_type=Agent | None,
        description="One agent; null if your key cannot see it. One REST call; if only `id` and `numbers` are"
        " selected, it also returns the numbers.",
    )
    async def agent(self, info: Info, id: AgentId) -> models.AgentRow | models.RowRef | None:  # noqa: A002
        """Load one agent."""
        loaders = info.context.loaders
        check_id(id)
        below = set(info.context.selected(info)) - {"id", "__typename"}
        owned = OWNED.get(below.pop()) if len(below) == 1 else None
        if owned is None:
            return await loaders.objects(AGENTS).load(id)
        try:
            return None if await loaders.owned(owned).load(id) is None else models.RowRef(id)
        except errors.UpstreamError:
            return models.RowRef(id)  # the error is told once more where it belongs, at `numbers`

    @strawberry.field(
        graphql_type=AgentConnection | None,
        description="The agents of your workspace. One REST call for a page, at most two.",
    )
    async def agents(
        self,
        info: Info,
        first: First = 50,
        after: After = UNSET,
        status: Annotated[
            models.AgentStatus | None, strawberry.argument(description="Only agents in this state.")
        ] = UNSET,
        search: Annotated[
            str | None,
            strawberry.argument(description="Only agents whose name or description contains this text, ignoring case."),
        ] = UNSET,
    ) -> Window[models.AgentRow]:
        """Load a page of agents."""
        known(status)
        if search and len(search) > MAX_SEARCH:
            raise errors.InvalidInput(f"search may have {MAX_SEARCH} characters, not {len(search)}.")
        loaders, status, search = info.context.loaders, status or None, search or None
        filters = {"status": status and status.value, "search": search}
        size = None if any(filters.values()) else loaders.size(AGENTS)
        reaches = reaches_numbers(info)

        async def fetch(pages: list[PageRequest], rows: int | None) -> list[models.Listing[models.AgentRow]]:
            ahead = Ahead(NUMBERS, first if rows is None else rows, sure=rows is not None) if reaches else None
            return await loaders.pages(AGENTS, pages, filters, ahead)

        return await connect(
            fetch,
            first,
            after or None,
            filters=("agents", status and status.value, search),
            total=size and size.total,
        )

    @strawberry.field(
        graphql_type=PhoneNumber | None,
        description="One phone number; null if your key cannot see it. One REST call.",
    )
    async def phone_number(self, info: Info, id: NumberId) -> models.PhoneNumberRow | None:  # noqa: A002
        """Load one number."""
        return await info.context.loaders.objects(NUMBERS).load(check_id(id))

    @strawberry.field(
        graphql_type=PhoneNumberConnection | None,
        description="The phone numbers of your workspace. One REST call for a page, at most two.",
    )
    async def phone_numbers(
        self,
        info: Info,
        first: First = 50,
        after: After = UNSET,
        status: Annotated[
            models.PhoneNumberStatus | None, strawberry.argument(description="Only numbers in this state.")
        ] = UNSET,
    ) -> Window[models.PhoneNumberRow]:
        """Load a page of numbers."""
        known(status)
        loaders, status = info.context.loaders, status or None
        filters = {"status": status and status.value}
        size = None if any(filters.values()) else loaders.size(NUMBERS)
        return await connect(
            lambda pages, _: loaders.pages(NUMBERS, pages, filters),
            first,
            after or None,
            filters=("numbers", status and status.value),
            total=size and size.total,
        )

    @strawberry.field(
        graphql_type=RateLimit | None,
        description="Quota of your API key; null before its first REST call. Costs no REST call.",
    )
    def rate_limit(self, info: Info) -> QuotaState | None:
        """Return the quota of the last responses."""
        return info.context.session.quota
