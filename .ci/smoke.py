"""Starts `gateway demo` as it is given, asks it what README asks, and stops it.

    python .ci/smoke.py .venv/bin/gateway demo

The nested query must cost two REST calls by the demo's own log, GraphiQL must be there, SIGTERM must end it with 0.
"""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import urllib.parse
import urllib.request

QUERY = "{ agents(first: 50) { nodes { name numbers { phoneNumber agent { name } } } } }"
PATIENCE = 30


def main(command: list[str]) -> None:
    environ = {**os.environ, "GATEWAY_PORT": "0"}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        late = threading.Timer(PATIENCE, process.kill)
        late.start()
        try:
            assert process.stdout
            lines = iter(process.stdout.readline, "")
            graphiql = next((found[1] for line in lines if (found := re.search(r"(http://\S+)/graphql", line))), None)
            assert graphiql, "it ended before it told its address"
            ask(graphiql)
        finally:
            process.send_signal(signal.SIGTERM)
            rest = process.stdout.read() if process.stdout else ""
            code = process.wait()
            late.cancel()
    calls = re.findall(r"REST  ([A-Z]+ /\S*)", rest)
    assert len(calls) == 2, f"the query took {calls}"
    assert code == 0, f"SIGTERM ended it with {code}"
    print(f"{' '.join(command)}: {calls}, stopped with 0")


def ask(address: str) -> None:
    headers = {"X-API-Key": "demo", "Content-Type": "application/json"}
    body = json.dumps({"query": QUERY}).encode()
    answer = json.loads(fetch(urllib.request.Request(f"{address}/graphql", body, headers)))
    assert "errors" not in answer, answer["errors"][:3]
    agents = answer["data"]["agents"]["nodes"]
    assert sum(len(agent["numbers"]) for agent in agents) > 40, agents[:3]
    assert answer["extensions"]["quota"]["spent"] == 2, answer["extensions"]
    page = fetch(urllib.request.Request(f"{address}/graphql", headers={"Accept": "text/html"})).decode()
    script = re.search(r'src="(\S+/main\.js)"', page)
    assert script, "GraphiQL is missing"
    assert len(fetch(urllib.request.Request(urllib.parse.urljoin(f"{address}/graphql", script[1])))) > 100_000
    assert fetch(urllib.request.Request(f"{address}/healthz"))


def fetch(request: urllib.request.Request) -> bytes:
    with urllib.request.urlopen(request, timeout=10) as answer:
        return bytes(answer.read())


if __name__ == "__main__":
    main(sys.argv[1:])
