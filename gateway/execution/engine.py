"""Runs documents against the schema: parsed, limited and validated once, executed by graphql-core or for it.

`endpoint` calls `prepare` with a document's text and `execute` with what came back. Documents that
passed are kept, the least recently used dropped first. Strawberry's own `Schema.execute` is not used: it
parses and validates at each call. Facts: GraphQL specification, sections 5 and 6.
"""

from collections import OrderedDict
from inspect import isawaitable
from typing import Any

import msgspec
from graphql import (
    DocumentNode,
    ExecutionResult,
    GraphQLError,
    GraphQLSchema,
    OperationDefinitionNode,
    OperationType,
    execute,
    parse,
)
from strawberry.execution import optimized_is_awaitable

from gateway.execution.errors import RequestError, is_callers
from gateway.execution.executor import BoundedExecutor, CompiledExecutor, Counts, Plans, answer
from gateway.execution.limits import LimitExceeded, Limits, check_document, check_text
from gateway.execution.response import Bounds, Pace, ResponseSize, ResponseTooLarge
from gateway.execution.validation import MAX_ERRORS, Validator
from gateway.schema import SCHEMA
from gateway.schema.context import Context

MAX_DOCUMENTS = 1000
"""Documents kept; frontends have some hundred. Their text is bounded too, since one may be large."""
MAX_TEXT = 8 * 1024 * 1024
"""Characters of text kept in all; a parsed document takes about 50 times its text."""
MAX_SUGGESTED = 4096
"""Bytes of variables up to which their errors suggest names: the search takes time with each character."""

Variables = dict[str, Any]
_ENCODE = msgspec.json.Encoder().encode


class Document:
    """A document that has passed every check."""

    __slots__ = ("_plans", "node", "operations")

    def __init__(self, node: DocumentNode) -> None:
        self.node = node
        self._plans: dict[str | None, Plans] = {}
        self.operations = {
            definition.name.value if definition.name else None: definition
            for definition in node.definitions
            if isinstance(definition, OperationDefinitionNode)
        }

    def operation(self, name: str | None) -> OperationDefinitionNode:
        """Return the operation to run.

        Raises:
            RequestError: there is none of this name, or a name is needed to tell several apart.
        """
        if name is None:
            if len(self.operations) == 1:
                return next(iter(self.operations.values()))
            raise RequestError(
                "BAD_REQUEST", "The document has several operations: say which in operationName.", status=400
            )
        if name not in self.operations:
            raise RequestError("BAD_REQUEST", f"The document has no operation named {name[:100]!r}.", status=400)
        return self.operations[name]

    def plans(self, schema: GraphQLSchema, name: str | None) -> Plans:
        """Return what is compiled of an operation; raises as `operation`."""
        if name not in self._plans:
            self._plans[name] = Plans(schema, self.node, self.operation(name))
        return self._plans[name]


class Engine:
    """The schema with its document cache.

    Args:
        limits: static caps on one document.
        introspection: whether introspection is answered and error messages suggest names.
        compiled: whether selections are compiled; without, graphql-core does everything.
    """

    def __init__(self, limits: Limits, *, introspection: bool, compiled: bool = True) -> None:
        self._pace = Pace()
        self.counts = Counts()
        """Selections compiled, and left to graphql-core."""
        self._compiled = compiled
        self._schema = SCHEMA._schema  # noqa: SLF001 - Strawberry keeps graphql-core's schema there, and offers no other way
        self._limits = limits
        self._validator = Validator(self._schema, introspection=introspection)
        self._documents: OrderedDict[str, Document] = OrderedDict()
        self._text = 0

    def prepare(self, text: str) -> Document:
        """Parse, limit and validate a document, or find it among those that passed.

        Raises:
            RequestError: it does not parse, is too large or is not valid.
        """
        document = self._documents.get(text)
        if document is not None:
            self._documents.move_to_end(text)
            return document
        document = self._documents[text] = Document(self._checked(text))
        self._text += len(text)
        while len(self._documents) > MAX_DOCUMENTS or self._text > MAX_TEXT:
            self._text -= len(self._documents.popitem(last=False)[0])
        return document

    def _checked(self, text: str) -> DocumentNode:
        try:
            check_text(text, self._limits)
            node = parse(text, max_tokens=self._limits.max_tokens)
            check_document(node, self._limits)
        except LimitExceeded as error:
            raise RequestError("OPERATION_TOO_LARGE", str(error)) from error
        except GraphQLError as error:
            if f"more than {self._limits.max_tokens} tokens" in error.message:
                raise RequestError("OPERATION_TOO_LARGE", error) from error
            raise RequestError("GRAPHQL_PARSE_FAILED", error) from error
        if problems := self._validator.problems(node):
            raise RequestError("GRAPHQL_VALIDATION_FAILED", *problems)
        return node

    async def execute(
        self,
        document: Document,
        operation_name: str | None,
        variables: Variables | None,
        context: Context,
        size: ResponseSize,
    ) -> ExecutionResult:
        """Execute one operation; errors are in the result, and its data is what msgspec encodes as JSON.

        Raises:
            ResponseTooLarge: with this operation the response would be.
        """
        bounds = Bounds(context.session, size, self._pace)
        try:
            return await self._execute(document, operation_name, variables, context, bounds)
        except ResponseTooLarge:
            bounds.take_back()  # the other operations of a batch may still fit
            raise

    async def _execute(
        self,
        document: Document,
        operation_name: str | None,
        variables: Variables | None,
        context: Context,
        bounds: Bounds,
    ) -> ExecutionResult:
        executor: type[BoundedExecutor] = BoundedExecutor
        options: dict[str, Any] = {"bounds": bounds}
        if self._compiled:
            plans = document.plans(self._schema, operation_name)
            data = await answer(plans, self.counts, context, variables or {}, bounds) if plans.query else None
            if data is not None:
                return ExecutionResult(data, None)
            executor, options = CompiledExecutor, options | {"plans": plans, "counts": self.counts}
        result = execute(
            self._schema,
            document.node,
            context_value=context,
            variable_values=variables,
            operation_name=operation_name,
            executor_class=executor,
            is_awaitable=optimized_is_awaitable,  # type: ignore[arg-type]  # bool, where graphql-core wants a guard
            max_coercion_errors=MAX_ERRORS,
            hide_suggestions=self._validator.hides or len(_ENCODE(variables)) > MAX_SUGGESTED,
            **options,
        )
        if isawaitable(result):
            result = await result
        for error in filter(is_callers, result.errors or ()):
            self._validator.masked(error, document.node)
        return result


def is_mutation(operation: OperationDefinitionNode) -> bool:
    """Tell whether an operation writes."""
    return operation.operation is OperationType.MUTATION
