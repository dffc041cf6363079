# The usual commands; `just` lists them. They need the virtual environment of `just setup`.

_list:
    @just --list --unsorted

# make the virtual environment
setup:
    python3 -m venv .venv && .venv/bin/pip install -e '.[test,bench]'

# run the tests, or those that you name
test *ARGS:
    .venv/bin/pytest {{ARGS}}

# format, lint, check types and the schema
lint:
    .venv/bin/ruff format
    .venv/bin/ruff check
    .venv/bin/mypy
    .venv/bin/gateway schema --check schema.graphql

# serve the gateway with its REST API in memory
demo *ARGS:
    .venv/bin/gateway demo {{ARGS}}

# compare with other gateways (needs wrk, Node.js and npm)
bench *ARGS:
    .venv/bin/python -m benchmarks.compare {{ARGS}}

# count packages, imports and the modules that a query passes through
structure:
    .venv/bin/python -m benchmarks.structure

# everything that must pass before a change is merged (as root of a Debian machine)
ci:
    bash .ci/run
