"""Every setting of the gateway, read once from `GATEWAY_*` variables and frozen.

`cli` and tests call `load`; every other room receives values, never the environment. All problems are
reported in one `SettingsError`, and a `GATEWAY_` name that nobody knows is refused with the nearest
known one, so that a typo never falls back to a default in silence. Secrets are redacted in `repr`.
Defaults, units and bounds are those of the README's table, which is drawn from `describe`.
"""

import difflib
import logging
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple, get_type_hints
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

PREFIX = "GATEWAY_"
VENDOR_URL = "https://api.omnia-voice.com/api/v1"

Count = Annotated[int, Meta(ge=1)]
Bytes = Annotated[int, Meta(ge=1024)]
Seconds = Annotated[float, Meta(gt=0)]


class SettingsError(Exception):
    """The environment cannot be used; the message lists every problem, one a line."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of one gateway process; times are seconds, sizes bytes, the rest counts."""

    upstream_url: Annotated[str, Meta(description="base URL of the REST API")] = VENDOR_URL
    upstream_api_key: Annotated[
        str, Meta(description="secret: key for callers that send none; only behind authentication of your own")
    ] = ""
    host: Annotated[str, Meta(description="address to listen on")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="port to listen on; 0 takes a free one")] = 8000
    workers: Annotated[int, Meta(ge=1, le=64, description="processes that share the port")] = 1
    upstream_timeout: Annotated[Seconds, Meta(description="s; limit of one attempt at the REST API")] = 10.0
    deadline: Annotated[Seconds, Meta(description="s; end of one operation: what has not arrived is an error")] = 30.0
    upstream_connections: Annotated[Count, Meta(description="connections to the REST API at the most")] = 64
    max_rest_calls: Annotated[Count, Meta(description="calls; budget of one operation")] = 100
    max_body_bytes: Annotated[Bytes, Meta(description="bytes; a larger request is refused")] = 1024 * 1024
    max_upstream_bytes: Annotated[Bytes, Meta(description="bytes; a larger answer of the REST API is refused")] = (
        16 * 1024 * 1024
    )
    max_tokens: Annotated[Count, Meta(description="tokens in one document")] = 2000
    max_depth: Annotated[Count, Meta(description="levels of fields in one document")] = 10
    max_aliases: Annotated[Count, Meta(description="aliased fields in one document")] = 30
    max_root_fields: Annotated[Count, Meta(description="fields at the root of one operation")] = 20
    max_directives: Annotated[Count, Meta(description="directives in one document")] = 50
    graphiql: Annotated[bool, Meta(description="serve GraphiQL to browsers at /graphql")] = True
    introspection: Annotated[bool, Meta(description="answer introspection, and suggest names in errors")] = True
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="least severe level to log")
    ] = "info"
    log_format: Annotated[
        Literal["auto", "console", "json"], Meta(description="auto: console on a terminal, else json")
    ] = "auto"

    def __repr__(self) -> str:
        """Show every value but the secrets."""
        shown = (f"{name}={'***' if name in SECRETS and value else repr(value)}" for name, value in _items(self))
        return f"Settings({', '.join(shown)})"

    @property
    def log_threshold(self) -> int:
        """The level as the standard library numbers it."""
        return logging.getLevelNamesMapping()[self.log_level.upper()]


SECRETS = frozenset({"upstream_api_key"})
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


def load(environ: Mapping[str, str], overrides: Mapping[str, str] | None = None) -> Settings:
    """Read the settings from `environ`; `overrides` (by field name, as from a command line) win.

    Raises:
        SettingsError: a value does not fit, or a `GATEWAY_` name is unknown; all problems at once.
    """
    variables = {setting.variable: setting.name for setting in describe()}
    given = {variables[name]: value for name, value in environ.items() if name in variables and value != ""}
    given.update(overrides or {})
    problems = [
        _unknown(name, variables) for name in sorted(environ) if name.startswith(PREFIX) and name not in variables
    ]
    values: dict[str, Any] = {}
    for name, text in given.items():
        try:
            values[name] = msgspec.convert(_plain(text, _TYPES[name]), _TYPES[name], strict=False)
        except msgspec.ValidationError as error:
            shown = "" if name in SECRETS else f" {text!r}"
            problems.append(f"{PREFIX}{name.upper()}{shown}: {_lower(str(error))}")
    problems += [f"{PREFIX}{name.upper()}: {problem}" for name, problem in _judge(values)]
    if problems:
        raise SettingsError("The settings cannot be used:\n" + "\n".join(f"  {problem}" for problem in problems))
    return Settings(**values)


def _judge(values: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Problems that a type cannot tell."""
    url = urlsplit(values.get("upstream_url", VENDOR_URL))
    if url.scheme not in {"http", "https"} or not url.hostname:
        yield "upstream_url", "must be an http:// or https:// address, such as " + VENDOR_URL
    elif url.username or url.password or url.query or url.fragment:
        yield "upstream_url", "must hold no user, password, query or fragment; the key goes into X-API-Key"
    key = values.get("upstream_api_key", "")
    if not (key.isascii() and (key.isprintable() and " " not in key) and len(key) <= 256):
        yield "upstream_api_key", "must be at most 256 visible ASCII characters"


def _unknown(name: str, variables: Mapping[str, str]) -> str:
    near = difflib.get_close_matches(name, variables, n=1, cutoff=0.0)[0]
    return f"{name}: no such setting; did you mean {near}?"


def _plain(text: str, type_: Any) -> str:
    """Lower-case what has no case of its own: true/false and the words of a choice."""
    return text.strip() if type_ is str or "str" in str(type_) else text.strip().lower()


def _items(settings: Settings) -> Iterator[tuple[str, Any]]:
    return ((field.name, getattr(settings, field.name)) for field in msgspec.structs.fields(Settings))


def _description(type_: Any) -> str:
    return next(str(meta.description) for meta in reversed(type_.__metadata__) if meta.description)


def _lower(text: str) -> str:
    return text[:1].lower() + text[1:].replace("`", "")
