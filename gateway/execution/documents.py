"""Documents that have passed every check, kept within a bound of bytes.

A document is charged to the tenant that first asked for it, or to `ANYBODY` while no tenant has whom the REST API
answered: keys that are made up, or none. When the bytes are spent, whoever is charged most loses the least recently
used document: nobody is driven below an equal share by what others send. What compiled selections take is charged, too.
"""

import sys
from collections import OrderedDict

from graphql import DocumentNode, GraphQLSchema, OperationDefinitionNode

from gateway.execution.errors import RequestError
from gateway.execution.executor import Plans
from gateway.upstream.errors import ErrorCode

MAX_BYTES = 64 * 1024 * 1024
"""Bytes of all documents kept: some 1,500 of 80 tokens."""
LARGEST = 8
"""A document that takes more than this part of all bytes is not kept."""
ANYBODY = b""

# Measured with tracemalloc. A token takes 260 bytes in lists of empty objects, 360 in everyday documents, 610 where
# each is a field; a text is held once, its long names and literals once more.
_DOCUMENT = 2_000
_TOKEN = 400
_TEXT = 1.5
_PLANS = 1_500
_SELECTION = 5_500


class Document:
    """A document that has passed every check.

    Args:
        node: parsed.
        digest: SHA-256 of its text, in hexadecimal digits; where it is kept.
    """

    __slots__ = ("_own", "_plans", "charged", "digest", "holder", "node", "operations", "shared")

    def __init__(self, node: DocumentNode, digest: str = "") -> None:
        self.node = node
        self.digest = digest
        self.holder = ANYBODY
        """Whom it is charged to: a tenant's digest, or `ANYBODY`."""
        self.charged = 0
        """Bytes."""
        self.shared = False
        """Whether replicas have been told of it."""
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
        """Memory that it takes, right within a factor of 1.5."""
        plans = self._plans.values()
        return self._own + sum([_PLANS * plan.combinations + _SELECTION * plan.selections for plan in plans])

    def operation(self, name: str | None) -> OperationDefinitionNode:
        """Return the operation to run.

        Raises:
            RequestError: there is none of this name, or a name is needed to tell several apart.
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
        """Return what is compiled of an operation; raises as `operation`."""
        if name not in self._plans:
            self._plans[name] = Plans(schema, self.node, self.operation(name))
        return self._plans[name]


class DocumentCache:
    """The documents kept.

    Args:
        max_bytes: that all of them may take.
    """

    def __init__(self, max_bytes: int) -> None:
        self.bytes = 0
        """Bytes that are charged now."""
        self._max = max_bytes
        self._documents: dict[str, Document] = {}
        self._held: dict[bytes, OrderedDict[str, Document]] = {}
        self._charged: dict[bytes, int] = {}

    def find(self, digest: str, holder: bytes) -> Document | None:
        """Return a document that is kept; from `ANYBODY` it passes to the tenant that asks for it."""
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
        """Keep a document, and drop others until all fit."""
        if document.bytes * LARGEST <= self._max:
            self._hold(document, holder)
            self._fit()

    def charge(self, document: Document) -> None:
        """Charge what a document has come to take since it was kept."""
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
