"""Checks the operations of a frontend against the schema, the limits and a budget of REST calls.

Each operation is checked as a client sends it: alone, with the fragments it reaches, which may be in any of the files.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from graphql import GraphQLError, Source, parse, print_ast
from graphql.language import ast
from strawberry.schema.schema import validate_document

from gateway.estimate.sizes import Sizes
from gateway.estimate.typical import Typical
from gateway.estimate.worst_case import costliest, worst_case
from gateway.execution.limits import LimitExceeded, Limits, check_document, check_text
from gateway.execution.validation import rules
from gateway.schema import GRAPHQL_SCHEMA
from gateway.schema.selection import collect_fields
from gateway.settings import Settings

_HEAD = ("worst", "typical", "operation", "costs most", "where")


class Checked(msgspec.Struct, rename="camel"):
    """One valid operation and its REST calls."""

    file: str
    line: int
    type: str
    name: str | None
    worst: int
    typical: int
    costliest: str | None
    """Path of response keys to the field that costs most in the worst case."""
    within_budget: bool


class Problem(msgspec.Struct):
    """Why an operation, or a file, cannot be used."""

    file: str
    line: int
    column: int
    message: str


class Report(msgspec.Struct):
    """What a check has found."""

    sizes: Sizes
    budget: int
    operations: list[Checked]
    problems: list[Problem]

    @property
    def ok(self) -> bool:
        """Whether there is an operation, and each is valid and within the budget."""
        return bool(self.operations) and not self.problems and all(found.within_budget for found in self.operations)

    @property
    def json(self) -> str:
        """The report for machines."""
        found = {"budget": self.budget, "operations": self.operations, "problems": self.problems}
        return msgspec.json.format(msgspec.json.encode({**self.sizes, **found})).decode()

    @property
    def text(self) -> str:
        """The report for people: a table, then what is wrong."""
        rows = [_HEAD]
        for found in self.operations:
            where = f"{found.file}:{found.line}" + ("" if found.within_budget else "   over budget")
            name = found.name or f"({found.type})"
            rows.append((str(found.worst), str(found.typical), name, found.costliest or "-", where))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        sizes = " and ".join(f"{rows} {name}" for name, rows in self.sizes.items())
        lines = [f"REST calls with {sizes}; the budget is {self.budget}.", ""]
        if self.operations:
            lines += [
                f"  {worst:>{widths[0]}}  {typical:>{widths[1]}}  {name:<{widths[2]}}  {most:<{widths[3]}}  {where}"
                for worst, typical, name, most, where in rows
            ]
            lines.append("")
        lines += [f"{found.file}:{found.line}:{found.column}: {found.message}" for found in self.problems]
        over = sum(not found.within_budget for found in self.operations)
        if not (self.operations or self.problems):
            lines.append("There is no operation in these files.")
        problems = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        lines.append("All within the budget." if self.ok else f"{over} over budget, {problems}.")
        return "\n".join(lines)


async def check(files: Mapping[str, str], sizes: Sizes, settings: Settings) -> Report:
    """Check every operation of these files, given as texts by name, in a workspace of these sizes."""
    report = Report(sizes, settings.max_rest_calls, [], [])
    documents: dict[str, ast.DocumentNode] = {}
    for file, text in files.items():
        try:
            documents[file] = parse(Source(text, file))
        except GraphQLError as error:
            report.problems.append(_problem(error, file))
    everywhere = _fragments(documents.values())
    typical = Typical(sizes)
    places: dict[str, str] = {}
    for file, document in documents.items():
        fragments = everywhere | _fragments([document])
        for node in document.definitions:
            if isinstance(node, ast.OperationDefinitionNode):
                line = node.loc.start_token.line if node.loc else 0
                name = node.name.value if node.name else None
                problems: list[GraphQLError | str] = [*_twice(places, name, f"{file}:{line}")]
                reached = _reached(node, fragments)
                problems += _refusals([node, *reached.values()], settings)
                report.problems += [_problem(error, file, line) for error in problems]
                if not problems:
                    worst, most = worst_case(node, reached, sizes), costliest(node, reached, sizes)
                    calls = await typical.calls(ast.DocumentNode(definitions=(node, *reached.values())))
                    within = worst <= settings.max_rest_calls
                    field = most and most.field
                    report.operations.append(
                        Checked(file, line, node.operation.value, name, worst, calls, field, within)
                    )
    return report


def _twice(places: dict[str, str], name: str | None, place: str) -> Iterable[str]:
    """Refuse a second operation of one name: clients, logs and trusted documents tell operations by their names."""
    if name is not None and places.setdefault(name, place) != place:
        yield f"An operation named '{name}' is also at {places[name]}; rename one of them."


def _fragments(documents: Iterable[ast.DocumentNode]) -> dict[str, ast.FragmentDefinitionNode]:
    nodes = [node for document in documents for node in document.definitions]
    return {node.name.value: node for node in nodes if isinstance(node, ast.FragmentDefinitionNode)}


def _reached(
    operation: ast.OperationDefinitionNode, fragments: Mapping[str, ast.FragmentDefinitionNode]
) -> dict[str, ast.FragmentDefinitionNode]:
    """Return the fragments that an operation spreads, and those that these spread."""
    reached: dict[str, ast.FragmentDefinitionNode] = {}

    def enter(name: str) -> ast.FragmentDefinitionNode | None:
        if name not in fragments or name in reached:
            return None
        reached[name] = fragments[name]
        return fragments[name]

    todo = [operation.selection_set]
    while todo:
        todo = [field.selection_set for field in collect_fields(todo, enter) if field.selection_set]
    return reached


def _refusals(definitions: Sequence[ast.ExecutableDefinitionNode], settings: Settings) -> Sequence[GraphQLError | str]:
    """Return why the gateway would refuse a document of these definitions."""
    limits = Limits.of(settings)
    document = ast.DocumentNode(definitions=tuple(definitions))
    text = print_ast(document)
    try:
        check_text(text, limits)
        check_document(parse(text), limits)
    except LimitExceeded as error:
        return [str(error)]
    return validate_document(GRAPHQL_SCHEMA, document, rules(introspection=settings.introspection))


def _problem(error: GraphQLError | str, file: str, line: int = 1) -> Problem:
    if isinstance(error, str) or not (error.locations and error.source):
        return Problem(file, line, 1, str(error))
    place = error.locations[0]
    return Problem(error.source.name, place.line, place.column, error.message)
