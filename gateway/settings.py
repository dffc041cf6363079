"""Every setting of the gateway, read once from `GATEWAY_*` variables and frozen.

`cli` and tests call `load`; every other room receives values, never the environment. All problems are
reported in one `SettingsError`, and a `GATEWAY_` name that nobody knows is refused with the nearest
known one, so that a typo never falls back to a default in silence. Secrets are redacted in `repr`.
Defaults, units and bounds stand here and nowhere else: help texts and README's table are drawn from `describe`.
"""

import difflib
import ipaddress
import logging
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

PREFIX = "GATEWAY_"
VENDOR_URL = "https://api.omnia-voice.com/api/v1"

Count = Annotated[int, Meta(ge=1, le=1_000_000)]
Bytes = Annotated[int, Meta(ge=1024, le=1024**3)]
Seconds = Annotated[float, Meta(ge=0.001, le=3600)]
Age = Annotated[float, Meta(ge=0, le=30 * 86400)]

_HOST = re.compile(r"[A-Za-z0-9._:%\-]{1,255}")
_PROXY = re.compile(r"(?i:https?)://([\w.~%!$&'()*+,;=:\-]+@)?(\[[0-9A-Fa-f:.]+\]|[\w.\-]+)(:[0-9]{1,5})?/?", re.ASCII)
_NAME = re.compile(r"(\*\.)?[A-Za-z0-9_]([A-Za-z0-9._\-]*[A-Za-z0-9_.])?")
_ORIGIN = re.compile(r"https?://(\[[0-9a-f:]+\]|[a-z0-9.\-]+)(:[0-9]{1,5})?")
_KUBERNETES = re.compile(r"GATEWAY_(SERVICE_|PORT_[0-9])")
_LINKED = "Where Kubernetes put it there, for a Service named gateway, set enableServiceLinks: false in the pod."


class SettingsError(Exception):
    """The environment cannot be used; the message lists every problem, one a line."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one gateway process; times are seconds, sizes bytes, the rest counts."""

    upstream_url: Annotated[str, Meta(description="base URL of the REST API")] = VENDOR_URL
    upstream_api_key: Annotated[
        str, Meta(description="secret: key for callers that send none; only behind authentication of your own")
    ] = ""
    upstream_proxy: Annotated[
        str, Meta(description="secret: http:// or https:// address of a proxy for all calls to the REST API")
    ] = ""
    host: Annotated[str, Meta(description="address to listen on")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="port to listen on; 0 takes a free one")] = 8000
    workers: Annotated[
        int,
        Meta(ge=1, le=64, description="processes that share the port"),
    ] = 1
    upstream_timeout: Annotated[Seconds, Meta(description="s; limit of one attempt at the REST API")] = 10.0
    deadline: Annotated[Seconds, Meta(description="s; end of one operation: what has not arrived is an error")] = 30.0
    upstream_connections: Annotated[Count, Meta(description="connections to the REST API at the most")] = 64
    max_rest_calls: Annotated[Count, Meta(description="calls; budget of one operation")] = 100
    quota_reserve: Annotated[
        int, Meta(ge=0, le=999, description="calls; below this many left only single reads and writes go upstream")
    ] = 50
    cache_ttl: Annotated[Age, Meta(description="s; how old an answer may be; 0 is off")] = 0.0
    stale_if_error: Annotated[
        Age, Meta(description="s; how old it may be where the REST API fails or the quota is spent; 0 is off")
    ] = 0.0
    cache_bytes: Annotated[Bytes, Meta(description="bytes; memory of all remembered answers")] = 64 * 1024 * 1024
    redis_url: Annotated[
        str, Meta(description="secret: Redis or Valkey, for what all replicas share; in memory without it")
    ] = ""
    redis_timeout: Annotated[
        Seconds, Meta(description="s; within which Redis must answer, or it is done without for five seconds")
    ] = 0.1
    max_body_bytes: Annotated[Bytes, Meta(description="bytes; a larger request is refused")] = 1024 * 1024
    body_timeout: Annotated[Seconds, Meta(description="s; within which the body of a request must have arrived")] = 10.0
    keep_alive: Annotated[
        int, Meta(ge=1, le=3600, description="s; an idle connection is kept; longer than proxies in front keep theirs")
    ] = 75
    max_batch: Annotated[
        int, Meta(ge=0, le=100, description="operations in one request, as a JSON array; 0 refuses arrays")
    ] = 0
    max_upstream_bytes: Annotated[Bytes, Meta(description="bytes; a larger answer of the REST API is refused")] = (
        16 * 1024 * 1024
    )
    max_response_bytes: Annotated[
        Bytes, Meta(description="bytes; a response whose JSON would be larger is refused before it is built")
    ] = 16 * 1024 * 1024
    max_tokens: Annotated[Count, Meta(description="tokens in one document")] = 2000
    max_depth: Annotated[Count, Meta(description="levels of fields in one document")] = 10
    max_aliases: Annotated[Count, Meta(description="aliased fields in one document")] = 30
    max_root_fields: Annotated[Count, Meta(description="fields at the root of one operation")] = 20
    max_directives: Annotated[Count, Meta(description="directives in one document")] = 50
    trusted_documents: Annotated[
        str, Meta(description="file: a manifest of documents by id, as graphql-codegen, Relay or Apollo write it")
    ] = ""
    trusted_only: Annotated[bool, Meta(description="run the documents of that manifest and no other")] = False
    graphiql: Annotated[bool, Meta(description="serve GraphiQL to browsers at /graphql")] = True
    introspection: Annotated[bool, Meta(description="answer introspection, and suggest names in errors")] = True
    compiled: Annotated[bool, Meta(description="compile selections; off leaves them to graphql-core, slower")] = True
    allowed_hosts: Annotated[
        str,
        Meta(
            description="comma-separated hosts that requests may name, such as api.example.com or *.example.com, * for"
            " any; without it loopback names if GATEWAY_HOST is loopback, else any"
        ),
    ] = ""
    cors_origins: Annotated[
        str,
        Meta(description="comma-separated origins whose pages may call the gateway, such as https://app.example.com"),
    ] = ""
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="least severe level to log")
    ] = "info"
    log_format: Annotated[
        Literal["auto", "console", "json"], Meta(description="auto: console on a terminal, else json")
    ] = "auto"

    def __repr__(self) -> str:
        """Show every value but the secrets."""
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Show the same to `rich`, which would else print the Struct's own fields in a traceback."""
        shown = {name: "***" for name in SECRETS if getattr(self, name)}
        return list((msgspec.structs.asdict(self) | shown).items())

    @property
    def origins(self) -> tuple[str, ...]:
        """The origins of `cors_origins`, one by one."""
        return tuple(_listed(self.cors_origins))

    @property
    def hosts(self) -> tuple[str, ...]:
        """The hosts that requests may name, `*` for any; loopback names if a key is lent and no hosts are set."""
        return tuple(_listed(self.allowed_hosts)) or (LOOPBACK if self.upstream_api_key else ("*",))

    @property
    def log_threshold(self) -> int:
        """The level as the standard library numbers it."""
        return logging.getLevelNamesMapping()[self.log_level.upper()]


LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
"""Hosts that reach this machine alone, whatever a name server says."""
SECRETS = frozenset({"upstream_api_key", "upstream_proxy", "redis_url"})
_TYPES = get_type_hints(Settings, include_extras=True)


class Setting(NamedTuple):
    """One setting as help texts show it."""

    name: str
    variable: str
    default: str
    description: str


def describe() -> Iterator[Setting]:
    """Yield every setting with its variable, its default and what it means."""
    for field in msgspec.structs.fields(Settings):
        default = field.default if field.default != "" else "none"
        shown = (
            str(default).lower() if isinstance(default, bool) else f"{default:g}" if type(default) is float else default
        )
        yield Setting(field.name, PREFIX + field.name.upper(), str(shown), _description(_TYPES[field.name]))


def is_loopback(host: str) -> bool:
    """Tell whether who listens on this address or name is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().removesuffix(".") == "localhost"


def load(environ: Mapping[str, str], overrides: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from `environ`; `overrides` (by field name, as from a command line) win.

    An empty value is the default.

    Raises:
        SettingsError: a value does not fit, or a `GATEWAY_` name is unknown; all problems at once.
    """
    variables = {setting.variable: setting.name for setting in describe()}
    given = {variables[name]: value for name, value in environ.items() if name in variables} | dict(overrides or {})
    problems = [
        _unknown(name, variables) for name in sorted(environ) if name.startswith(PREFIX) and name not in variables
    ]
    values: dict[str, Any] = {}
    for name, text in given.items():
        if not text.strip():
            continue
        try:
            values[name] = _converted(text.strip(), _TYPES[name])
        except msgspec.ValidationError:
            shown = text if len(text) <= 60 else f"{text[:60]}…"
            hint = f" {_LINKED}" if text.startswith("tcp://") else ""
            problems.append(f"{PREFIX}{name.upper()}: {_expected(_TYPES[name])}, not {shown!r}.{hint}")
    problems += [f"{PREFIX}{name.upper()}: {problem}" for name, problem in _judge(values)]
    if problems:
        raise SettingsError("The settings cannot be used:\n" + "\n".join(f"  {problem}" for problem in problems))
    return Settings(**values)


def _converted(text: str, type_: Any) -> Any:
    """Read a text as a setting's type; what has no case of its own is read in any."""
    return text if get_args(type_)[0] is str else msgspec.convert(text.lower(), type_, strict=False)


def _expected(type_: Any) -> str:
    """Say what a setting's value must be."""
    plain, *metas = get_args(type_)
    if get_origin(plain) is Literal:
        return f"must be one of {', '.join(get_args(plain))}"
    if plain is bool:
        return "must be true or false"
    low, high = next((meta.ge, meta.le) for meta in metas if meta.le is not None)
    return f"must be {'a whole number' if plain is int else 'a number'} from {low} to {high}"


def _judge(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Problems that a type cannot tell; the values are not shown, since an address may hold a password."""
    try:
        yield from (("upstream_url", problem) for problem in _judge_url(values.get("upstream_url", VENDOR_URL)))
    except ValueError:
        yield "upstream_url", f"must be an http:// or https:// address, such as {VENDOR_URL}."
    if not _is_proxy(values.get("upstream_proxy", "")):
        problem = "must be the address of a proxy without a path, such as http://user:password@proxy.example:3128;"
        yield "upstream_proxy", f"{problem} percent-encode other characters of user and password."
    if not _HOST.fullmatch(values.get("host", "localhost")):
        yield "host", "must be an address or a name to listen on, such as 127.0.0.1, ::1 or 0.0.0.0."
    if not _is_redis(values.get("redis_url", "")):
        yield "redis_url", "must be a redis://, rediss:// or unix:// address."
    if values.get("trusted_only") and not values.get("trusted_documents"):
        yield "trusted_only", "needs GATEWAY_TRUSTED_DOCUMENTS: without a manifest nothing could be run."
    if values.get("workers", 1) > 1 and not values.get("redis_url") and _remembers(values):
        problem = "must be 1 without GATEWAY_REDIS_URL while GATEWAY_CACHE_TTL or GATEWAY_STALE_IF_ERROR is set:"
        yield "workers", f"{problem} a worker would go on with what it remembers from before another's write."
    key = values.get("upstream_api_key", "")
    if not (key.isascii() and key.isprintable() and " " not in key and len(key) <= 256):
        yield "upstream_api_key", "must be at most 256 visible ASCII characters."
    yield from (("cors_origins", problem) for problem in _judge_origins(values.get("cors_origins", ""), key))
    hosts, lends = values.get("allowed_hosts", ""), bool(key) and not is_loopback(values.get("host", "localhost"))
    yield from (("allowed_hosts", problem) for problem in _judge_hosts(hosts, lends=lends))


def _remembers(values: Mapping[str, Any]) -> bool:
    return bool(values.get("cache_ttl") or values.get("stale_if_error"))


def _judge_url(text: str) -> Iterator[str]:
    url = urlsplit(text)
    if not re.fullmatch(r"https?://[!-~]+", text, re.IGNORECASE) or not url.hostname or url.port == 0 or "\\" in text:
        raise ValueError
    if "@" in url.netloc or "?" in text or "#" in text:
        yield "must hold no user, password, query or fragment; the key goes into X-API-Key."


def _is_proxy(text: str) -> bool:
    try:
        return not text or bool(_PROXY.fullmatch(text) and urlsplit(text).port != 0)
    except ValueError:
        return False


def _is_redis(text: str) -> bool:
    try:
        return not text or bool(re.fullmatch(r"(rediss?|unix)://[!-~]+", text) and urlsplit(text).port != 0)
    except ValueError:
        return False


def _judge_origins(text: str, key: str) -> Iterator[str]:
    for origin in _listed(text):
        # with a key of our own every page of the web would act in its name: the wildcard with credentials
        if origin == "*" and key:
            yield "may not be * while GATEWAY_UPSTREAM_API_KEY lends its key to callers; name the origins."
        elif origin != "*" and not _ORIGIN.fullmatch(origin):
            yield f"{origin[:100]!r} must be an origin as browsers write it, such as https://app.example.com, or *."


def _judge_hosts(text: str, *, lends: bool) -> Iterator[str]:
    hosts = list(_listed(text))
    if lends and not hosts:
        yield (
            "must be set while GATEWAY_UPSTREAM_API_KEY lends its key and GATEWAY_HOST is no loopback address: a page"
            " whose name resolves to the gateway could use that key (DNS rebinding). List the hosts that clients call,"
            " such as api.example.com."
        )
    for host in hosts:
        if not _is_host(host):
            yield f"{host[:100]!r} must be a host without scheme and port, such as api.example.com, *.example.com or *."


def _is_host(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        return text == "*" or bool(_NAME.fullmatch(text))
    return True


def _listed(text: str) -> Iterator[str]:
    """Yield the values of a comma-separated setting."""
    return (value.strip() for value in text.split(",") if value.strip())


def _unknown(name: str, variables: Mapping[str, str]) -> str:
    if _KUBERNETES.match(name):
        return f"{name}: no such setting. {_LINKED}"
    near = difflib.get_close_matches(name, variables, n=1, cutoff=0.0)[0]
    return f"{name}: no such setting; did you mean {near}?"


def _description(type_: Any) -> str:
    return next(str(meta.description) for meta in reversed(type_.__metadata__) if meta.description)
