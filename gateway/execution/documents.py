"""Keeps documents that have passed all checks, within a limit of bytes.

A document is charged to the tenant that first sent it, or to `ANYBODY` until a tenant whose key the REST API has
accepted sends it. If the bytes are spent, the holder that is charged most loses its least recently used document, so
nobody gets less than an equal share because of others. Compiled selections are charged, too.
"""

import sys
from collections import OrderedDict

from graphql import DocumentNode, GraphQLSchema, OperationDefinitionNode

from gateway.execution.errors import RequestError
from gateway.execution.executor import Plans
from gateway.upstream.errors import ErrorCode

MAX_BYTES = 64 * 1024 * 1024
"""Memory of all documents, in bytes: about 1,500 documents of 80 tokens."""
LARGEST = 8
"""A document that takes more than one of so many parts of all bytes is not kept."""
ANYBODY = b""

# Bytes, measured with tracemalloc. A token takes 260 in lists of empty objects, 360 in common documents, 610 if each
# is a field. The text is in memory once, its long names and literals twice.
_DOCUMENT = 2_000
_TOKEN = 400
_TEXT = 1.5
_PLANS = 1_500
_SELECTION = 5_500


class Document:
    """A document that has passed every check.

    Args:
        node: parsed.
        digest: SHA-256 of its text in hexadecimal digits.
    """

    __slots__ = ("_own", "_plans", "charged", "digest", "holder", "node", "operations", "shared")

    def __init__(self, node: DocumentNode, digest: str = "") -> None:
        self.node = node
        self.digest = digest
        self.holder = ANYBODY
        """The tenant that is charged, or `ANYBODY`."""
        self.charged = 0
        """Bytes."""
        self.shared = False
        """Whether it was sent to the other replicas."""
        self.operations = {
            definition.name.value if definition.name else None: definition
            for definition in node.definitions
            if isinstance(definition, OperationDefinitionNode)
        }
        text = sys.getsizeof(node.loc.source.body) if node.loc else 0
        self._own = int(_DOCUMENT + _TOKEN * node.token_count + _TEXT * text)
        self._plans: dict[str | None, Plans] = {}

    @property
    def bytes(self) -> int:
        """Memory that it takes, within a factor of 1.5."""
        plans = self._plans.values()
        return self._own + sum([_PLANS * plan.combinations + _SELECTION * plan.selections for plan in plans])

    def operation(self, name: str | None) -> OperationDefinitionNode:
        """Return the operation of a name.

        Raises:
            RequestError: there is none, or the name is missing and there are several.
        """
        if name is None:
            if len(self.operations) == 1:
                return next(iter(self.operations.values()))
            raise RequestError(
                ErrorCode.BAD_REQUEST, "The document has several operations: say which in operationName.", status=400
            )
        if name not in self.operations:
            raise RequestError(
                ErrorCode.BAD_REQUEST, f"The document has no operation named {name[:100]!r}.", status=400
            )
        return self.operations[name]

    def plans(self, schema: GraphQLSchema, name: str | None) -> Plans:
        """Return the compiled selections of an operation; raises as `operation`."""
        if name not in self._plans:
            self._plans[name] = Plans(schema, self.node, self.operation(name))
        return self._plans[name]


class DocumentCache:
    """Documents by digest.

    Args:
        max_bytes: memory of all documents.
    """

    def __init__(self, max_bytes: int) -> None:
        self.bytes = 0
        """Bytes charged."""
        self._max = max_bytes
        self._documents: dict[str, Document] = {}
        self._held: dict[bytes, OrderedDict[str, Document]] = {}
        self._charged: dict[bytes, int] = {}

    def find(self, digest: str, holder: bytes) -> Document | None:
        """Return a document that is kept; if `ANYBODY` held it, this holder is charged from now on."""
        document = self._documents.get(digest)
        if document is None:
            return None
        if document.holder != holder and document.holder == ANYBODY:
            self._drop(document)
            self._hold(document, holder)
        else:
            self._held[document.holder].move_to_end(digest)
        return document

    def keep(self, document: Document, holder: bytes) -> None:
        """Keep a document, and drop others until all fit into the limit."""
        if document.bytes * LARGEST <= self._max:
            self._hold(document, holder)
            self._fit()

    def charge(self, document: Document) -> None:
        """Charge the memory that a document has taken since it was kept."""
        if document.bytes != document.charged and self._documents.get(document.digest) is document:
            self._drop(document)
            self.keep(document, document.holder)

    def _fit(self) -> None:
        while self.bytes > self._max:
            held = self._held[max(self._charged, key=self._charged.__getitem__)]
            self._drop(next(iter(held.values())))

    def _hold(self, document: Document, holder: bytes) -> None:
        document.holder, document.charged = holder, document.bytes
        self._documents[document.digest] = document
        self._held.setdefault(holder, OrderedDict())[document.digest] = document
        self._charged[holder] = self._charged.get(holder, 0) + document.charged
        self.bytes += document.charged

    def _drop(self, document: Document) -> None:
        del self._documents[document.digest]
        held = self._held[document.holder]
        del held[document.digest]
        self._charged[document.holder] -= document.charged
        self.bytes -= document.charged
        if not held:
            del self._held[document.holder], self._charged[document.holder]
