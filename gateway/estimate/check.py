"""Holds a frontend's operations to the schema, the limits and a budget of REST calls, before they ship.

`cli` calls `check` for `gateway check FILE.graphql …` and prints `Report.text` or `Report.json`. Each operation is
judged as a client sends it: alone, with the fragments it reaches, which may stand in any of the files. Nothing is
executed; `cost` says what it would cost.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec
from graphql import GraphQLError, Source, parse, print_ast
from graphql.language import ast
from strawberry.schema.schema import validate_document

from gateway.estimate.cost import Sizes, estimate
from gateway.execution.limits import LimitExceeded, Limits, check_document, check_text
from gateway.execution.validation import rules
from gateway.schema import SCHEMA
from gateway.settings import Settings

_HEAD = ("worst", "typical", "operation", "where")


class Checked(msgspec.Struct, rename="camel"):
    """One valid operation and its REST calls."""

    file: str
    line: int
    type: str
    name: str | None
    worst: int
    typical: int
    within_budget: bool


class Problem(msgspec.Struct):
    """Why an operation, or a file, cannot be used."""

    file: str
    line: int
    column: int
    message: str


class Report(msgspec.Struct):
    """What a check has found."""

    agents: int
    numbers: int
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
        return msgspec.json.format(msgspec.json.encode(self)).decode()

    @property
    def text(self) -> str:
        """The report for people: a table, then what is wrong."""
        rows = [_HEAD]
        for found in self.operations:
            where = f"{found.file}:{found.line}" + ("" if found.within_budget else "   over budget")
            rows.append((str(found.worst), str(found.typical), found.name or f"({found.type})", where))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [f"REST calls with {self.agents} agents and {self.numbers} numbers; the budget is {self.budget}.", ""]
        if self.operations:
            lines += [
                f"  {worst:>{widths[0]}}  {typical:>{widths[1]}}  {name:<{widths[2]}}  {where}"
                for worst, typical, name, where in rows
            ]
            lines.append("")
        lines += [f"{found.file}:{found.line}:{found.column}: {found.message}" for found in self.problems]
        over = sum(not found.within_budget for found in self.operations)
        if not (self.operations or self.problems):
            lines.append("There is no operation in these files.")
        problems = "1 problem" if len(self.problems) == 1 else f"{len(self.problems)} problems"
        lines.append("All within the budget." if self.ok else f"{over} over budget, {problems}.")
        return "\n".join(lines)


def check(files: Mapping[str, str], sizes: Sizes, settings: Settings) -> Report:
    """Judge every operation of these files, given as texts by name, in a workspace of these sizes."""
    report = Report(sizes.agents, sizes.numbers, settings.max_rest_calls, [], [])
    documents: dict[str, ast.DocumentNode] = {}
    for file, text in files.items():
        try:
            documents[file] = parse(Source(text, file))
        except GraphQLError as error:
            report.problems.append(_problem(error, file))
    everywhere = _fragments(documents.values())
    for file, document in documents.items():
        fragments = everywhere | _fragments([document])
        for node in document.definitions:
            if isinstance(node, ast.OperationDefinitionNode):
                reached = _reached(node, fragments)
                problems = _judge([node, *reached.values()], settings)
                line = node.loc.start_token.line if node.loc else 0
                report.problems += [_problem(error, file, line) for error in problems]
                if not problems:
                    cost = estimate(node, reached, sizes)
                    name = node.name.value if node.name else None
                    within = cost.worst <= settings.max_rest_calls
                    report.operations.append(Checked(file, line, node.operation.value, name, *cost, within))
    return report


def _fragments(documents: Iterable[ast.DocumentNode]) -> dict[str, ast.FragmentDefinitionNode]:
    nodes = [node for document in documents for node in document.definitions]
    return {node.name.value: node for node in nodes if isinstance(node, ast.FragmentDefinitionNode)}


def _reached(
    operation: ast.OperationDefinitionNode, fragments: Mapping[str, ast.FragmentDefinitionNode]
) -> dict[str, ast.FragmentDefinitionNode]:
    """Return the fragments that an operation spreads, and those that these spread."""
    reached: dict[str, ast.FragmentDefinitionNode] = {}
    todo = [operation.selection_set]
    while todo:
        for node in todo.pop().selections:
            if isinstance(node, ast.FragmentSpreadNode):
                name = node.name.value
                if name in fragments and name not in reached:
                    reached[name] = fragments[name]
                    todo.append(fragments[name].selection_set)
            elif isinstance(node, ast.FieldNode | ast.InlineFragmentNode) and node.selection_set:
                todo.append(node.selection_set)
    return reached


def _judge(definitions: Sequence[ast.ExecutableDefinitionNode], settings: Settings) -> Sequence[GraphQLError | str]:
    """Return what the gateway would refuse a document of these definitions for."""
    limits = Limits(
        settings.max_tokens, settings.max_depth, settings.max_aliases, settings.max_root_fields, settings.max_directives
    )
    document = ast.DocumentNode(definitions=tuple(definitions))
    text = print_ast(document)
    try:
        check_text(text, limits)
        check_document(parse(text), limits)
    except LimitExceeded as error:
        return [str(error)]
    return validate_document(SCHEMA._schema, document, rules(introspection=settings.introspection))  # noqa: SLF001 - see `execution`


def _problem(error: GraphQLError | str, file: str, line: int = 1) -> Problem:
    if isinstance(error, str) or not (error.locations and error.source):
        return Problem(file, line, 1, str(error))
    place = error.locations[0]
    return Problem(error.source.name, place.line, place.column, error.message)
