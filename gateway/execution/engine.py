"""Checks documents once and executes their operations.

Documents that passed all checks are kept. Strawberry's `Schema.execute` is not used because it parses and validates at
each call. Facts: GraphQL specification, sections 5 and 6.
"""

import hashlib
from inspect import isawaitable
from typing import Any

import msgspec
from graphql import (
    ExecutionResult,
    GraphQLError,
    OperationDefinitionNode,
    OperationType,
    execute,
    parse,
)
from strawberry.execution import optimized_is_awaitable

from gateway.execution.documents import ANYBODY, MAX_BYTES, Document, DocumentCache
from gateway.execution.errors import RequestError, TooManyErrors, is_callers
from gateway.execution.executor import BoundedExecutor, CompiledExecutor, Counts, answer
from gateway.execution.limits import LimitExceeded, Limits, check_document, check_text
from gateway.execution.response import Bounds, Pace, ResponseSize, ResponseTooLarge
from gateway.execution.validation import MAX_ERRORS, Validator
from gateway.schema import GRAPHQL_SCHEMA
from gateway.schema.context import Context
from gateway.upstream.errors import ErrorCode

MAX_SUGGESTED = 4096
"""Bytes of variables up to which their errors suggest names; the search is slow for long ones."""

Variables = dict[str, Any]
_ENCODE = msgspec.json.Encoder().encode


class Engine:
    """The schema with its document cache.

    Args:
        limits: static caps on one document.
        introspection: whether introspection is answered and error messages suggest names.
        compiled: whether selections are compiled; if not, graphql-core executes everything.
        max_bytes: memory for the documents that are kept.
    """

    def __init__(
        self, limits: Limits, *, introspection: bool, compiled: bool = True, max_bytes: int = MAX_BYTES
    ) -> None:
        self._pace = Pace()
        self.counts = Counts()
        """Selections executed compiled, and by graphql-core."""
        self._compiled = compiled
        self._limits = limits
        self._validator = Validator(GRAPHQL_SCHEMA, introspection=introspection)
        self.documents = DocumentCache(max_bytes)

    def prepare(self, text: str, holder: bytes = ANYBODY) -> Document:
        """Return a document that is kept; if it is not, check and keep it for this holder.

        Raises:
            RequestError: as `checked`.
        """
        document = self.documents.find(digest_of(text), holder)
        if document is None:
            document = self.checked(text)
            self.documents.keep(document, holder)
        return document

    def checked(self, text: str) -> Document:
        """Parse, limit and validate a document.

        Raises:
            RequestError: it cannot be parsed, is too large or is not valid.
        """
        try:
            check_text(text, self._limits)
            node = parse(text, max_tokens=self._limits.max_tokens)
            check_document(node, self._limits)
        except LimitExceeded as error:
            raise RequestError(ErrorCode.OPERATION_TOO_LARGE, str(error)) from error
        except GraphQLError as error:
            if f"more than {self._limits.max_tokens} tokens" in error.message:
                raise RequestError(ErrorCode.OPERATION_TOO_LARGE, error) from error
            raise RequestError(ErrorCode.GRAPHQL_PARSE_FAILED, error) from error
        if problems := self._validator.problems(node):
            raise RequestError(ErrorCode.GRAPHQL_VALIDATION_FAILED, *problems)
        token = node.loc and node.loc.start_token
        while token:  # linked in both directions: only the garbage collector could free them
            token.prev, token = None, token.next
        return Document(node, digest_of(text))

    async def execute(
        self,
        document: Document,
        operation_name: str | None,
        variables: Variables | None,
        context: Context,
        size: ResponseSize,
    ) -> ExecutionResult:
        """Execute one operation; errors are in the result, and msgspec encodes its data.

        Raises:
            ResponseTooLarge: the response would be, with this operation.
        """
        bounds = Bounds(context.session, size, self._pace)
        try:
            if self._compiled:
                plans = document.plans(GRAPHQL_SCHEMA, operation_name)
                kept = plans.selections
                if plans.query and (result := await answer(plans, self.counts, context, variables or {}, bounds)):
                    if plans.selections != kept:
                        self.documents.charge(document)
                    return result
            return await self._fall_back(document, operation_name, variables, context, bounds)
        except ResponseTooLarge:
            bounds.take_back()  # the other operations of a batch may still fit
            raise

    async def _fall_back(
        self,
        document: Document,
        operation_name: str | None,
        variables: Variables | None,
        context: Context,
        bounds: Bounds,
    ) -> ExecutionResult:
        """Execute one operation with graphql-core."""
        executor: type[BoundedExecutor] = BoundedExecutor
        options: dict[str, Any] = {"bounds": bounds}
        if self._compiled:
            plans = document.plans(GRAPHQL_SCHEMA, operation_name)
            executor, options = CompiledExecutor, options | {"plans": plans, "counts": self.counts}
        result = execute(
            GRAPHQL_SCHEMA,
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
            try:
                result = await result
            except TooManyErrors as ended:
                bounds.take_back()
                result = ExecutionResult(None, [*bounds.failures.made, ended.summary])
        for error in filter(is_callers, result.errors or ()):
            self._validator.masked(error, document.node)
        self.documents.charge(document)
        result.errors = [*(result.errors or ()), *bounds.failures.left_out()] or None
        return result


def digest_of(text: str) -> str:
    """Return the SHA-256 of a document's text in hexadecimal digits."""
    return hashlib.sha256(text.encode()).hexdigest()


def is_mutation(operation: OperationDefinitionNode) -> bool:
    """Return whether an operation is a mutation."""
    return operation.operation is OperationType.MUTATION
