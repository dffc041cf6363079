"""The settings: read from the environment, judged all at once, never shown where they are secret."""

from collections.abc import Callable, Mapping
from typing import Any, get_args, get_type_hints

import pytest

from gateway.settings import SECRETS, VENDOR_URL, Settings, SettingsError, describe, load

KEY = "sk-very-secret"


def problems(environ: Mapping[str, str], **overrides: str) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load(environ, overrides)
    first, *rest = str(caught.value).splitlines()
    assert first == "The settings cannot be used:"
    return [line.strip() for line in rest]


def test_needs_no_setting_at_all() -> None:
    settings = load({"PATH": "/bin", "GATEWAYPORT": "no setting of ours"})

    assert settings == Settings()
    assert (settings.upstream_url, settings.host, settings.port, settings.workers) == (VENDOR_URL, "127.0.0.1", 8000, 1)


def test_reads_every_kind_of_value_whatever_its_case_and_the_space_around_it() -> None:
    settings = load(
        {
            "GATEWAY_PORT": " 9000 ",
            "GATEWAY_DEADLINE": "2.5",
            "GATEWAY_GRAPHIQL": "False",
            "GATEWAY_LOG_LEVEL": "DEBUG",
            "GATEWAY_UPSTREAM_API_KEY": " Ab+/=9 ",
        }
    )

    assert (settings.port, settings.deadline, settings.graphiql) == (9000, 2.5, False)
    assert (settings.log_level, settings.log_threshold, settings.upstream_api_key) == ("debug", 10, "Ab+/=9")


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("TRUE", True), ("1", True), ("false", False), ("0", False)]
)
def test_reads_a_boolean(text: str, value: bool) -> None:  # noqa: FBT001
    assert load({"GATEWAY_INTROSPECTION": text}).introspection is value


@pytest.mark.parametrize("empty", ["", " ", "\t\n"])
def test_takes_an_empty_value_for_the_default(empty: str) -> None:
    settings = load({"GATEWAY_PORT": empty, "GATEWAY_HOST": "::1"}, {"host": empty})

    assert (settings.port, settings.host) == (8000, "127.0.0.1")


def test_lets_a_command_line_override_the_environment() -> None:
    settings = load({"GATEWAY_PORT": "nonsense", "GATEWAY_WORKERS": "2"}, {"port": "9000"})

    assert (settings.port, settings.workers) == (9000, 2)


def test_tells_all_problems_at_once() -> None:
    found = problems(
        {"GATEWAY_PROT": "80", "GATEWAY_WORKERS": "many", "GATEWAY_UPSTREAM_URL": "localhost", "GATEWAY_PORT": "1"},
        port="-1",
    )

    assert found == [
        "GATEWAY_PROT: no such setting; did you mean GATEWAY_PORT?",
        "GATEWAY_WORKERS: must be a whole number from 1 to 64, not 'many'.",
        "GATEWAY_PORT: must be a whole number from 0 to 65535, not '-1'.",
        f"GATEWAY_UPSTREAM_URL: must be an http:// or https:// address, such as {VENDOR_URL}.",
    ]


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("GATEWAY_UPSTREAM_KEY", "GATEWAY_UPSTREAM_API_KEY"),
        ("GATEWAY_DEADLIN", "GATEWAY_DEADLINE"),
        ("GATEWAY_MAX_DEBTH", "GATEWAY_MAX_DEPTH"),
        ("GATEWAY_port", "GATEWAY_PORT"),
    ],
)
def test_names_the_setting_that_was_meant(name: str, nearest: str) -> None:
    assert problems({name: KEY}) == [f"{name}: no such setting; did you mean {nearest}?"]


def test_knows_the_variables_that_kubernetes_makes_of_a_service_named_gateway() -> None:
    found = problems({"GATEWAY_PORT": "tcp://10.0.0.1:80", "GATEWAY_PORT_80_TCP": "x", "GATEWAY_SERVICE_HOST": "x"})

    assert len(found) == 3
    assert all(problem.endswith("set enableServiceLinks: false in the pod.") for problem in found)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("port", "65536", "a whole number from 0 to 65535"),
        ("port", "80.5", "a whole number from 0 to 65535"),
        ("port", "null", "a whole number from 0 to 65535"),
        ("workers", "0", "a whole number from 1 to 64"),
        ("max_depth", "0", "a whole number from 1 to 1000000"),
        ("max_rest_calls", "-5", "a whole number from 1 to 1000000"),
        ("max_body_bytes", "1 MiB", "a whole number from 1024 to 1073741824"),
        ("cache_ttl", "-1", "a number from 0 to 2592000"),
        ("deadline", "0", "a number from 0.001 to 3600"),
        ("deadline", "nan", "a number from 0.001 to 3600"),
        ("deadline", "inf", "a number from 0.001 to 3600"),
        ("upstream_timeout", "1e400", "a number from 0.001 to 3600"),
        ("graphiql", "yes", "true or false"),
        ("log_level", "loud", "one of debug, info, warning, error"),
    ],
)
def test_says_what_a_value_must_be(name: str, text: str, expected: str) -> None:
    assert problems({}, **{name: text}) == [f"GATEWAY_{name.upper()}: must be {expected}, not {text!r}."]


@pytest.mark.parametrize("remembering", [{"cache_ttl": "30"}, {"stale_if_error": "30"}])
def test_several_workers_need_redis_to_remember_answers(remembering: dict[str, str]) -> None:
    (problem,) = problems({"GATEWAY_WORKERS": "2"}, **remembering)

    assert problem.startswith("GATEWAY_WORKERS: must be 1 without GATEWAY_REDIS_URL while GATEWAY_CACHE_TTL or")
    load({}, {"workers": "2", "redis_url": "redis://host", **remembering})
    load({}, {"workers": "2"})
    load({}, remembering)


def test_shows_a_huge_value_only_in_part() -> None:
    (problem,) = problems({}, port="9" * 5000)

    assert problem.endswith(f"not '{'9' * 60}…'.")


@pytest.mark.parametrize(
    "url",
    [
        "api.omnia-voice.com",
        "ftp://host/api",
        "https://",
        "https://:443/api",
        "http://[::1/api",
        "http://host:99999",
        "http://host:port",
        "http://host:0",
        "http://ho st/",
        "http://h\u00f6st/",
        "http://host\\@other/",
    ],
)
def test_refuses_an_upstream_that_is_no_http_address(url: str) -> None:
    assert problems({}, upstream_url=url) == [
        f"GATEWAY_UPSTREAM_URL: must be an http:// or https:// address, such as {VENDOR_URL}."
    ]


@pytest.mark.parametrize(
    "url", [f"https://{KEY}@host", f"https://u:{KEY}@host", f"https://h/?{KEY}", f"https://h#{KEY}"]
)
def test_refuses_an_upstream_address_that_holds_a_secret_and_does_not_show_it(url: str) -> None:
    (problem,) = problems({}, upstream_url=url)

    assert "the key goes into X-API-Key" in problem
    assert KEY not in problem


@pytest.mark.parametrize(
    "url", ["http://host", "HTTPS://host:8443/base/path/", "http://[::1]:80/api", "http://10.0.0.1"]
)
def test_takes_an_upstream_anywhere(url: str) -> None:
    assert load({}, {"upstream_url": url}).upstream_url == url


@pytest.mark.parametrize(
    "url",
    ["http://proxy.example:3128", "HTTPS://u:p%40ss@10.0.0.1/", "http://user@[::1]:80", "http://u:a!$&'()*+,;=@h"],
)
def test_takes_the_address_of_a_proxy(url: str) -> None:
    assert load({}, {"upstream_proxy": url}).upstream_proxy == url


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("upstream_api_key", f"{KEY} two"),
        ("upstream_api_key", f"{KEY}\u00e4"),
        ("upstream_api_key", f"{KEY}\x01"),
        ("upstream_api_key", KEY * 100),
        ("upstream_proxy", f"socks5://:{KEY}@host"),
        ("upstream_proxy", f"http://u:{KEY}@host/path"),
        ("upstream_proxy", f"http://u:{KEY}@host?{KEY}"),
        ("upstream_proxy", f"http://u:{KEY}/@host"),
        ("upstream_proxy", f"http://u:{KEY}@host:0"),
        ("upstream_proxy", f"http://u:{KEY}@host:99999"),
        ("upstream_proxy", f"http://u:{KEY}@[::1"),
        ("redis_url", f"http://:{KEY}@host"),
        ("redis_url", f"redis://:{KEY}@host:port"),
        ("redis_url", f"redis://:{KEY}@host:0"),
    ],
)
def test_refuses_an_unusable_secret_without_showing_it(name: str, text: str) -> None:
    (problem,) = problems({}, **{name: text})

    assert problem.startswith(f"GATEWAY_{name.upper()}: must be ")
    assert KEY not in problem


@pytest.mark.parametrize("origins", ["*", "https://a.example, http://localhost:3000", " , ", "http://[::1]:3000"])
def test_takes_origins_as_browsers_write_them(origins: str) -> None:
    assert load({}, {"cors_origins": origins}).origins == tuple(o.strip() for o in origins.split(",") if o.strip())


@pytest.mark.parametrize(
    "origin", ["a.example", "https://a.example/", "https://A.example", "null", "https://*.example"]
)
def test_refuses_an_origin_that_no_browser_sends(origin: str) -> None:
    (problem,) = problems({}, cors_origins=f"https://ok.example, {origin}")

    assert problem.startswith(f"GATEWAY_CORS_ORIGINS: {origin!r} must be an origin")


def test_refuses_every_origin_where_callers_may_use_the_gateways_own_key() -> None:
    (problem,) = problems({}, cors_origins="*", upstream_api_key=KEY)

    assert problem.startswith("GATEWAY_CORS_ORIGINS: may not be * while GATEWAY_UPSTREAM_API_KEY lends its key")
    assert KEY not in problem


def test_refuses_to_run_trusted_documents_only_where_there_are_none() -> None:
    (problem,) = problems({}, trusted_only="true")

    assert problem.startswith("GATEWAY_TRUSTED_ONLY: needs GATEWAY_TRUSTED_DOCUMENTS")


@pytest.mark.parametrize("host", ["two words", "a/b", "http://host", "h\u00f6st", "host\udcff", "h" * 256])
def test_refuses_a_host_that_is_none(host: str) -> None:
    (problem,) = problems({}, host=host)

    assert problem.startswith("GATEWAY_HOST: must be an address or a name to listen on")


@pytest.mark.parametrize("show", [repr, str, "{}".format, "{!r:.2000}".format, "%r".__mod__, Settings.__rich_repr__])
def test_never_shows_a_secret(show: Callable[[Any], object]) -> None:
    secrets = {"redis_url": f"redis://:{KEY}@host", "upstream_proxy": f"http://u:{KEY}@host"}
    settings = load({}, {"upstream_api_key": KEY, **secrets})

    shown = f"{show(settings)} {[{'nested': (settings,)}]}"

    assert KEY not in shown
    assert shown.count("***") == 6
    assert shown.count("8000") == 2


def test_shows_that_a_secret_is_not_set() -> None:
    assert "upstream_api_key=''" in repr(Settings())


def test_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        Settings().port = 1  # type: ignore[misc]


def test_describes_every_setting_and_bounds_every_number() -> None:
    described = {setting.name: setting for setting in describe()}
    hints = get_type_hints(Settings, include_extras=True)

    assert list(described) == list(Settings.__struct_fields__)
    assert described["graphiql"].default == "true"
    assert described["deadline"].default == "30"
    assert described["upstream_api_key"][1:3] == ("GATEWAY_UPSTREAM_API_KEY", "none")
    for name, setting in described.items():
        plain, *metas = get_args(hints[name])
        assert setting.description, name
        assert plain not in {int, float} or any(meta.le is not None and meta.ge is not None for meta in metas), name


def test_says_of_every_secret_that_it_is_one() -> None:
    assert {setting.name for setting in describe() if setting.description.startswith("secret:")} == SECRETS
