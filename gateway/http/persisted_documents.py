"""Which document a request means: sent whole, persisted by its hash, or trusted by its id.

`endpoint` calls `prepare` for each operation. Automatic persisted queries follow Apollo's wire format
(`extensions.persistedQuery`, a SHA-256 of the text): a client sends the hash alone, and the text once where it
is not known yet. Trusted documents come from a manifest as graphql-codegen, Relay or Apollo write it and are asked
for by `documentId` or by hash; with `only`, nothing else is run. Any document that `execution` keeps is known by the
hash of its text; other replicas are told of those that were sent with it.
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
    """Where replicas keep persisted documents for each other."""

    async def document(self, hash_: str) -> str | None:
        """Return the text of a hash, or None."""

    async def keep_document(self, hash_: str, text: str, holder: str) -> None:
        """Keep a text under its hash, as far as its holder may: a tenant by its name, or `anybody`."""


class _PersistedQuery(msgspec.Struct, rename="camel"):
    """Apollo's `extensions.persistedQuery`."""

    version: int
    sha256_hash: str


class _Operation(msgspec.Struct):
    """A document in Apollo's manifest."""

    id: str
    body: str


class _Manifest(msgspec.Struct):
    """What Apollo's generate-persisted-query-manifest writes; its documents have a name and a type, too."""

    version: Literal[1]
    operations: list[_Operation]


class Documents:
    """The documents that may be run.

    Args:
        engine: prepares texts.
        trusted: texts by id, as `read_manifest` returns them.
        only: whether nothing but trusted documents is run, introspection included.
        shared: what other replicas have been sent.
    """

    def __init__(
        self, engine: Engine, *, trusted: Mapping[str, str], only: bool, shared: SharedDocuments | None = None
    ) -> None:
        self._engine = engine
        by_id = {id_: _trusted(engine, id_, text) for id_, text in trusted.items()}
        self._trusted = {document.digest: document for document in by_id.values()} | by_id
        """Documents by hash and by id; they are never dropped."""
        self._only = only
        self._shared = shared

    async def prepare(self, request: GraphQLRequest, tenant: Tenant) -> Document:
        """Find, check and prepare the document that a tenant's request means.

        Raises:
            RequestError: there is none, it is not known, not trusted, or not valid.
        """
        hash_ = _persisted_hash(request)
        if request.document_id is not None:
            if request.query or hash_:
                raise _bad("Send either documentId, or query, or a persisted query's hash; not two of them.")
            return await self._known(_normal(request.document_id), tenant)
        if not request.query:
            if hash_ is None:
                raise _bad("There is no query: send a GraphQL document as `query`.")
            return await self._known(hash_, tenant)
        digest = digest_of(request.query) if hash_ or self._trusted else ""
        if hash_ and hash_ != digest and not (hash_ in self._trusted and self._trusted[hash_].digest == digest):
            raise _bad("provided sha does not match query: hash the text exactly as it is sent, with SHA-256.")
        if digest in self._trusted:
            return self._trusted[digest]
        if self._only:
            raise RequestError(
                ErrorCode.PERSISTED_QUERY_NOT_SUPPORTED,
                "Only documents that the operator trusts are run here.",
                status=403,
            )
        document = self._engine.prepare(request.query, _holder(tenant))
        if hash_:
            document.operation(request.operation_name)  # that there is one
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
        """Tell the other replicas of a document, once."""
        if self._shared and not document.shared:
            document.shared = True
            await self._shared.keep_document(document.digest, text, tenant.name if tenant.answered else "anybody")


def _trusted(engine: Engine, id_: str, text: str) -> Document:
    try:
        return engine.checked(text)
    except RequestError as error:
        reason = error.errors[0]["message"]
        raise SettingsError(f"GATEWAY_TRUSTED_DOCUMENTS: document {id_!r} cannot be run: {reason}") from error


def read_manifest(path: str) -> dict[str, str]:
    """Read a manifest of trusted documents and return their texts by id, as `_normal` writes ids.

    It is a JSON object of texts by id, as graphql-codegen and Relay write it, or Apollo's list of operations.

    Raises:
        SettingsError: the file is not there, is no such object, or has two documents of one id.
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
    """Return an id as it is looked up: a hash without `sha256:` before it and in lower case, any other as it is."""
    bare = id_[7:] if id_[:7].lower() == "sha256:" else id_
    return bare.lower() if _HEXADECIMAL.fullmatch(bare) else bare


def _holder(tenant: Tenant) -> bytes:
    return tenant.digest if tenant.answered else ANYBODY


def _persisted_hash(request: GraphQLRequest) -> str | None:
    """Return the hash of Apollo's extension, or None where it is not there."""
    given = (request.extensions or {}).get("persistedQuery")
    if given is None:
        return None
    try:
        persisted = msgspec.convert(given, _PersistedQuery)
    except msgspec.ValidationError as error:
        raise _bad("extensions.persistedQuery must hold version and sha256Hash.") from error
    if persisted.version != 1:
        raise _bad("Unsupported persisted query version: only version 1 is known.")
    return _normal(persisted.sha256_hash)


def _bad(problem: str) -> RequestError:
    return RequestError(ErrorCode.BAD_REQUEST, problem, status=400)
