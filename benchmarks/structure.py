"""Counts what a newcomer has to hold in mind: packages, imports, and the modules that one query passes through.

    python -m benchmarks.structure

The query asks for agents with nested numbers, warm, in process, and costs two REST calls. A module is entered when one
of its functions is called; a change is a call or return that continues in another module of the gateway.
"""

import ast
import asyncio
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import httpx

import gateway
from gateway.app import create_app
from gateway.settings import load

PACKAGE = Path(gateway.__file__).parent
FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if "frontend" not in path.parts]
QUERY = "{ agents(first: 50) { nodes { name numbers { phoneNumber agent { name } } } } }"
KINDS = re.compile(
    r"(?<!-)\b(agents?|numbers|agent_numbers|phone_numbers?|Agents?|PhoneNumbers?|AgentRow|PhoneNumberRow)\b"
)


def package_of(module: str) -> str:
    """The package of a module; `upstream.transport` is one of its own."""
    inner = module.removeprefix("gateway").removeprefix(".")
    return "upstream.transport" if inner.startswith("upstream.transport") else inner.split(".")[0]


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("gateway"):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("gateway"))


def structure() -> None:
    """Print counts that are read off the sources."""
    trees = {name_of(path): ast.parse(path.read_text("utf-8")) for path in FILES}
    arrows = {
        (package_of(module), package_of(name))
        for module, tree in trees.items()
        for name in imports(tree)
        if package_of(module) != package_of(name)
    }
    types = Counter(node.name for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.ClassDef))
    twice = sorted(name for name, count in types.items() if count > 1 and not name.startswith("_"))
    lines = {path: len(path.read_text("utf-8").splitlines()) for path in FILES}
    levels = Counter(len(path.relative_to(PACKAGE).parts) - 1 for path in FILES)
    print(f"files by level: {dict(sorted(levels.items()))}; lines {sum(lines.values())}, largest {max(lines.values())}")
    inner = {arrow for arrow in arrows if not {"app", "cli", "__main__"} & set(arrow)}
    print(f"imports between packages: {len(inner)}; with those of app and cli: {len(arrows)}")
    print(f"type names defined twice: {len(twice)} {twice}")
    below = [m for m in trees if package_of(m) in {"dataloaders", "upstream", "upstream.transport"}]
    kinds = {m: words for m in below if (words := _kinds(trees[m]))}
    print(f"modules below schema that name a kind of resource: {len(kinds)} of {len(below)}")
    for module, words in kinds.items():
        print(f"  {module}: {', '.join(sorted(words))}")


def _kinds(tree: ast.Module) -> set[str]:
    """Names, attributes and strings of the code (not of its docstrings) that are a kind of resource."""
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    words: set[str] = set()
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if id(node) not in docs and " " not in text:
                words |= set(KINDS.findall(text))
            case ast.Name(id=text) | ast.Attribute(attr=text) | ast.ClassDef(name=text) | ast.FunctionDef(name=text):
                words |= {text} if KINDS.fullmatch(text) else set()
            case ast.arg(arg=text):
                words |= {text} if KINDS.fullmatch(text) else set()
    return words


class Walk:
    """Modules of the gateway that are entered, and how often the next one is another."""

    def __init__(self) -> None:
        self.entered: Counter[str] = Counter()
        self.changes = 0
        self._last = ""
        self._names = {str(path): name_of(path) for path in FILES}

    def __call__(self, frame: FrameType, event: str, _: Any) -> None:
        module = self._names.get(frame.f_code.co_filename)
        if module is None or event not in {"call", "return"}:
            return
        if event == "call":
            self.entered[module] += 1
            self.changes += module != self._last
            self._last = module


async def walk() -> None:
    """Print the modules that one warm nested query passes through."""
    create_demo: Any = __import__("gateway.demo.rest_api", fromlist=["create_demo"]).create_demo
    demo = httpx.ASGITransport(app=create_demo())

    class Demo(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            sys.setprofile(None)
            target = request.url.raw_path.decode().removeprefix("/api/v1")
            copy = httpx.Request(request.method, f"http://upstream{target}", headers=request.headers)
            response = await demo.handle_async_request(copy)
            await response.aread()
            sys.setprofile(current)
            return httpx.Response(response.status_code, headers=response.headers, content=response.content)

    app = create_app(load({}, {"upstream_url": "http://upstream/api/v1"}), transport=Demo())
    current: Any = None
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://localhost") as http,
    ):
        for profile in (None, None, Walk()):
            current = profile
            sys.setprofile(profile)
            answer = await http.post("/graphql", json={"query": QUERY}, headers={"X-API-Key": "demo"})
            sys.setprofile(None)
            assert answer.json()["extensions"]["quota"]["spent"] == 2, answer.text
    assert isinstance(current, Walk)
    entered = {name for name in current.entered if not name.startswith("gateway.demo")}
    print(f"modules entered: {len(entered)} of {len(FILES)}; changes of module: {current.changes}")
    for name, count in current.entered.most_common():
        print(f"  {name}: {count}")


if __name__ == "__main__":
    structure()
    asyncio.run(walk())
