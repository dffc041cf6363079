"""The GraphiQL page and its bundle, under a strict content security policy.

`app` serves `page` to browsers and mounts `assets` beside it. The bundle is built from npm packages when the
package is built or installed (`frontend/hatch_build.py`); where npm was missing the page says so, and offers
GraphiQL 4 from a CDN. The policy names no other host for the bundle, and single files for the CDN.
No script is written into a page but the constant one whose hash the policy carries; values travel as JSON.
"""

import base64
import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Scope

from gateway.graphiql.samples import DEMO_SAMPLES, SAMPLES, Sample

__all__ = ["DEMO", "DEMO_SAMPLES", "SAMPLES", "Page", "Preset", "Sample", "assets", "page", "static_dir"]

_HERE: Final = Path(__file__).parent
_BOOT: Final = (_HERE / "boot.js").read_text("utf-8")
_STYLE: Final = (_HERE / "page.css").read_text("utf-8")

CDN: Final = "https://cdn.jsdelivr.net/npm/"
"""Serves the files of npm packages unchanged, so that the hashes below follow from the packages alone."""

CDN_STYLE: Final = "graphiql@4.1.2/graphiql.min.css"
CDN_SCRIPTS: Final = (
    "react@18.3.1/umd/react.production.min.js",
    "react-dom@18.3.1/umd/react-dom.production.min.js",
    "graphiql@4.1.2/graphiql.min.js",
)
"""The newest versions that a page can load without a bundler: GraphiQL 5 and React 19 ship none such."""

CDN_INTEGRITY: Final = {
    CDN_STYLE: "sha384-1el1QShFBnnXTx9x/Cprg82hZWKt0ry29OAYIXt05swbi0KcZDFoj0CWguMpopJr",
    CDN_SCRIPTS[0]: "sha384-DGyLxAyjq0f9SPpVevD6IgztCFlnMF6oW/XQGmfe+IsZ8TqEiDrcHkMLKI6fiB/Z",
    CDN_SCRIPTS[1]: "sha384-gTGxhz21lVGYNMcdJOyq01Edg0jhn/c22nsx0kyqP0TxaV5WVdsSH1fSDUf5YJj1",
    CDN_SCRIPTS[2]: "sha384-9XdHu7ajgGJziD4J1zNBKQ842Q/+zZfDv+ib1eMhZWBH6hPAs806x+Jbcf0yNO6B",
}


@dataclass(frozen=True)
class Preset:
    """What GraphiQL starts with.

    Attributes:
        name: Presets of different names share no tabs, no history and no key, also where they are served in turn at one
            address.
        api_key: Filled in as the API key; readable by whoever may open the page.
        samples: The operations of the first tabs.
    """

    name: str = ""
    api_key: str = ""
    samples: Sequence[Sample] = SAMPLES


DEMO: Final = Preset("demo", "demo", DEMO_SAMPLES)


@dataclass(frozen=True)
class Page:
    """One HTML answer: its text and the headers that belong to it."""

    html: str
    headers: Mapping[str, str]


def static_dir() -> Path | None:
    """Return the directory of the built bundle, None where npm was missing."""
    directory = _HERE / "static"
    return directory if (directory / "main.js").is_file() else None


def page(
    preset: Preset = Preset(),
    *,
    endpoint: str = "graphql",
    assets: str = "graphiql",
    cdn: bool = False,
    bundled: bool | None = None,
) -> Page:
    """Make the page that a browser is shown.

    Args:
        preset: What GraphiQL starts with.
        endpoint: Path that operations are posted to; of the same origin, which the policy demands. Relative to the
            page, so that it holds wherever a proxy or another application has put the gateway.
        assets: Path where the bundle is mounted, likewise.
        cdn: Load GraphiQL from the CDN, as the visitor asked for with `?cdn=1`.
        bundled: Whether the bundle is there; `static_dir` is asked where left out.
    """
    if cdn:
        return _cdn_page(_mount(preset, endpoint))
    if bundled is None:
        bundled = static_dir() is not None
    return _bundled_page(_mount(preset, endpoint), assets) if bundled else _missing_page()


def assets(directory: Path) -> ASGIApp:
    """Make the app that serves the bundle in `directory`, compressed; to be mounted at the `assets` of `page`."""
    return GZipMiddleware(_Assets(directory=directory), compresslevel=5)


class _Assets(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        # Only the entries (main.js, the workers) have names without a hash of their content.
        hashed = path.startswith(("chunks/", "assets/"))
        response.headers["Cache-Control"] = "public, max-age=31536000, immutable" if hashed else "no-cache"
        # A worker has the policy that its own script came with, not its page's.
        response.headers.update(_headers("default-src 'none'; script-src 'self'"))
        return response


def _bundled_page(mount: str, assets: str) -> Page:
    at = html.escape(assets)
    policy = (
        "default-src 'none'; script-src 'self'; worker-src 'self'; connect-src 'self'; "
        "style-src 'self' 'unsafe-inline'; font-src 'self'; img-src 'self' data:"
    )
    head = f'<link rel="stylesheet" href="{at}/main.css">\n<script type="module" src="{at}/main.js"></script>'
    return _page(policy, head, mount)


def _cdn_page(mount: str) -> Page:
    def attributes(name: str, path: str) -> str:
        return f'{name}="{CDN}{path}" integrity="{CDN_INTEGRITY[path]}" crossorigin="anonymous"'

    start = f"{_BOOT}{_CDN_START}"
    policy = (
        f"default-src 'none'; script-src {' '.join(CDN + path for path in CDN_SCRIPTS)} {_hash(start)}; "
        f"connect-src 'self'; style-src {CDN}{CDN_STYLE} 'unsafe-inline'; font-src data:; img-src data:"
    )
    head = f'<link rel="stylesheet" {attributes("href", CDN_STYLE)}>\n<style>{_STYLE}</style>'
    scripts = "\n".join(f"<script {attributes('src', path)}></script>" for path in CDN_SCRIPTS)
    return _page(policy, head, f"{mount}\n{scripts}\n<script>{start}</script>")


def _missing_page() -> Page:
    policy = f"default-src 'none'; style-src {_hash(_NOTICE_STYLE)}; img-src data:"
    return _page(policy, f"<style>{_NOTICE_STYLE}</style>", _NOTICE)


def _page(policy: str, head: str, body: str) -> Page:
    text = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>GraphiQL · Omnia GraphQL gateway</title>
<link rel="icon" href="{_ICON}">
{head}
</head>
<body>
{body}
</body>
</html>
"""
    return Page(text, _headers(policy))


def _headers(policy: str) -> dict[str, str]:
    return {
        "Content-Security-Policy": f"{policy}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        "Referrer-Policy": "no-referrer",
        "X-Content-Type-Options": "nosniff",
    }


def _mount(preset: Preset, endpoint: str) -> str:
    config = {
        "endpoint": endpoint,
        "preset": preset.name,
        "apiKey": preset.api_key,
        "samples": [sample._asdict() for sample in preset.samples],
    }
    # Inside a script element only `<` can end it or open a comment.
    block = json.dumps(config).replace("<", "\\u003c")
    return f"""<div id="graphiql">Loading GraphiQL …</div>
<noscript>GraphiQL needs JavaScript. Operations can also be posted to this address as JSON.</noscript>
<script type="application/json" id="graphiql-config">{block}</script>"""


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


_CDN_START: Final = """
const { props, keyField } = globalThis.omniaGraphiQL;
ReactDOM.createRoot(document.getElementById("graphiql")).render(
  React.createElement(
    GraphiQL,
    props,
    React.createElement(GraphiQL.Logo, null, keyField(React.createElement), "Omnia GraphQL"),
  ),
);
"""

_ICON: Final = (
    "data:image/svg+xml,"
    "%3Csvg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 32 32'%3E"
    "%3Cpath d='M16 3 27 9.5v13L16 29 5 22.5v-13z' fill='none' stroke='%23d60590' stroke-width='3'/%3E"
    "%3Ccircle cx='16' cy='16' r='4' fill='%23d60590'/%3E%3C/svg%3E"
)

_NOTICE_STYLE: Final = """
body { font: 16px/1.6 system-ui, sans-serif; max-width: 44rem; margin: 4rem auto; padding: 0 1.5rem; }
pre { padding: 1rem; border: 1px solid #8886; border-radius: 6px; overflow-x: auto; }
"""

_NOTICE: Final = """<h1>GraphiQL was not built</h1>
<p>The gateway builds GraphiQL from npm packages while it is being installed, and npm was missing then (or could not
reach its registry). The GraphQL API at this address works all the same.</p>
<h2>Build it</h2>
<p>Install Node.js 18 or later with npm, then install the gateway again from where you had it from, a folder, an
archive or a git address:</p>
<pre>pip install --force-reinstall --no-deps --no-cache-dir SOURCE</pre>
<p>and restart it. With <code>-v</code> pip shows what the build says.</p>
<h2>Or load it from a CDN</h2>
<p><a href="?cdn=1">Open GraphiQL 4 from cdn.jsdelivr.net</a>: an older GraphiQL, its version pinned and each file
checked against a hash. Your browser then fetches it from that host; what you type and your API key go only to this
gateway.</p>"""
