"""Finds the document of a request: sent as text, persisted by its hash, or trusted by its id.

Automatic persisted queries (APQ) follow Apollo's format (`extensions.persistedQuery`, a SHA-256 of the text): a client
sends the hash alone, and once the text if the hash is unknown. Trusted documents come from a manifest of
graphql-codegen, Relay or Apollo; clients send their id as `documentId`, or their hash. Each document that `execution`
keeps is known by its hash; documents that were sent with their hash are shared with the other replicas.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

import msgspec

from gateway.execution.documents import ANYBODY, Document
from gateway.execution.engine import Engine, digest_of
from gateway.execution.errors import RequestError
from gateway.http.request import GraphQLRequest
from gateway.settings import SettingsError
from gateway.upstream.errors import ErrorCode
from gateway.upstream.tenants import Tenant

_HASH = re.compile(r"[0-9a-f]{64}")
_HEXADECIMAL = re.compile(r"[0-9a-fA-F]{32,}")  # MD5 and longer
_APOLLO: Literal["apollo-persisted-query-manifest"] = "apollo-persisted-query-manifest"


class SharedDocuments(Protocol):
    """A store of persisted documents that replicas share."""

    async def document(self, hash_: str) -> str | None:
        """Return the text of a hash, or None if it is unknown."""

    async def keep_document(self, hash_: str, text: str, holder: str) -> None:
        """Keep a text under its hash; it counts against the bound of its holder, a tenant's name or `anybody`."""


class _PersistedQuery(msgspec.Struct, rename="camel"):
    """Apollo's `extensions.persistedQuery`."""

    version: int
    sha256_hash: str


class _Operation(msgspec.Struct):
    """A document in Apollo's manifest."""

    id: str
    body: str


class _Manifest(msgspec.Struct):
    """A manifest of Apollo's generate-persisted-query-manifest."""

    version: Literal[1]
    operations: list[_Operation]


class Documents:
    """The documents that clients may execute.

    Args:
        engine: parses, limits and validates texts.
        trusted: texts by id, as `read_manifest` returns them.
        only: whether only trusted documents are executed; this refuses introspection, too.
        shared: documents of all replicas.
    """

    def __init__(
        self, engine: Engine, *, trusted: Mapping[str, str], only: bool, shared: SharedDocuments | None = None
    ) -> None:
        self._engine = engine
        by_id = {id_: _trusted(engine, id_, text) for id_, text in trusted.items()}
        self._trusted = {document.digest: document for document in by_id.values()} | by_id
        """Documents by hash and by id, kept for ever."""
        self._only = only
        self._shared = shared

    async def prepare(self, request: GraphQLRequest, tenant: Tenant) -> Document:
        """Return the checked document of a tenant's request.

        Raises:
            RequestError: the document is missing, unknown, not trusted, or not valid.
        """
        hash_ = _persisted_hash(request)
        if request.document_id is not None:
            if request.query or hash_:
                raise _bad("Send only one of documentId, query, and the hash of a persisted query.")
            return await self._known(_normal(request.document_id), tenant)
        if not request.query:
            if hash_ is None:
                raise _bad("The request has no query: send a GraphQL document as `query`.")
            return await self._known(hash_, tenant)
        digest = digest_of(request.query) if hash_ or self._trusted else ""
        if hash_ and hash_ != digest and not (hash_ in self._trusted and self._trusted[hash_].digest == digest):
            raise _bad("provided sha does not match query: hash the text exactly as it is sent, with SHA-256.")
        if digest in self._trusted:
            return self._trusted[digest]
        if self._only:
            raise RequestError(
                ErrorCode.PERSISTED_QUERY_NOT_SUPPORTED,
                "This gateway executes only documents that its operator trusts.",
                status=403,
            )
        document = self._engine.prepare(request.query, _holder(tenant))
        if hash_:
            document.operation(request.operation_name)  # raises if there is none
            await self._share(document, request.query, tenant)
        return document

    async def _known(self, id_: str, tenant: Tenant) -> Document:
        """Return the document of an id or hash."""
        document = self._trusted.get(id_)
        if document is None and not self._only and _HASH.fullmatch(id_):
            document = self._engine.documents.find(id_, _holder(tenant))
            if document is None and self._shared:
                text = await self._shared.document(id_)
                if text is not None and digest_of(text) == id_:
                    document = self._engine.prepare(text, _holder(tenant))
                    document.shared = True
        if document is None:
            # Apollo Client looks for exactly this message, in a 200, before it sends the text
            raise RequestError(ErrorCode.PERSISTED_QUERY_NOT_FOUND, "PersistedQueryNotFound", status=200)
        return document

    async def _share(self, document: Document, text: str, tenant: Tenant) -> None:
        """Share a document with the other replicas, once."""
        if self._shared and not document.shared:
            document.shared = True
            await self._shared.keep_document(document.digest, text, tenant.name if tenant.answered else "anybody")


def _trusted(engine: Engine, id_: str, text: str) -> Document:
    try:
        return engine.checked(text)
    except RequestError as error:
        reason = error.errors[0]["message"]
        raise SettingsError(f"GATEWAY_TRUSTED_DOCUMENTS: document {id_!r} cannot be executed: {reason}") from error


def read_manifest(path: str) -> dict[str, str]:
    """Read a manifest of trusted documents; return their texts by id, as `_normal` writes ids.

    The manifest is a JSON object of texts by id (graphql-codegen, Relay) or Apollo's list of operations.

    Raises:
        SettingsError: the file cannot be read, is not a manifest, or has two documents with one id.
    """
    try:
        manifest: dict[str, object] = msgspec.json.decode(Path(path).read_bytes(), type=dict[str, object])
        if manifest.get("format") == _APOLLO:
            operations = msgspec.convert(manifest, _Manifest).operations
            documents = [(operation.id, operation.body) for operation in operations]
        else:
            documents = list(msgspec.convert(manifest, dict[str, str]).items())
    except OSError as error:
        raise SettingsError(f"GATEWAY_TRUSTED_DOCUMENTS: {path} cannot be read: {error.strerror}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"GATEWAY_TRUSTED_DOCUMENTS: {path} must be a JSON object of document texts by id, as graphql-codegen and"
            " Relay write it, or the manifest of Apollo's generate-persisted-query-manifest."
        ) from error
    texts: dict[str, str] = {}
    for id_, text in documents:
        if texts.setdefault(_normal(id_), text) != text:
            raise SettingsError(f"GATEWAY_TRUSTED_DOCUMENTS: {path} has two documents with the id {id_!r}.")
    return texts


def _normal(id_: str) -> str:
    """Return the key of an id: a hash in lower case and without the prefix `sha256:`, any other id unchanged."""
    bare = id_[7:] if id_[:7].lower() == "sha256:" else id_
    return bare.lower() if _HEXADECIMAL.fullmatch(bare) else bare


def _holder(tenant: Tenant) -> bytes:
    return tenant.digest if tenant.answered else ANYBODY


def _persisted_hash(request: GraphQLRequest) -> str | None:
    """Return the hash in Apollo's extension, or None if there is none."""
    given = (request.extensions or {}).get("persistedQuery")
    if given is None:
        return None
    try:
        persisted = msgspec.convert(given, _PersistedQuery)
    except msgspec.ValidationError as error:
        raise _bad("extensions.persistedQuery must hold version and sha256Hash.") from error
    if persisted.version != 1:
        raise _bad("Unsupported persisted query version: use version 1.")
    return _normal(persisted.sha256_hash)


def _bad(problem: str) -> RequestError:
    return RequestError(ErrorCode.BAD_REQUEST, problem, status=400)
