"""Carries out the Dockerfile in a directory, without a Docker engine, and asks the result what an orchestrator asks.

    python3.13 .ci/image.py

Every step is done but those with apt-get, whose packages the machine must have. What COPY takes must pass
.dockerignore. Then ENTRYPOINT and CMD run with the image's environment, and as its user where that user may read
this interpreter: HEALTHCHECK's command must agree, and STOPSIGNAL must end the process with 0.
"""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PATIENCE = 30


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="image-") as made:
        root = Path(made)
        root.chmod(0o755)
        venv.create(root / "usr", symlinks=True, with_pip=True)
        instructions = list(read(Path("Dockerfile").read_text()))
        environ, config = build(root, instructions)
        judge(root, environ, config)


def read(text: str) -> Iterator[tuple[str, str]]:
    for line in re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", "").splitlines():
        if line:
            instruction, value = line.split(maxsplit=1)
            yield instruction, value


def build(root: Path, instructions: list[tuple[str, str]]) -> tuple[dict[str, str], dict[str, str]]:
    """Do the steps; return the last stage's environment and its other instructions."""
    plain = {**os.environ, "PATH": f"{root}/usr/bin:{os.environ['PATH']}"}
    environ: dict[str, str] = {}
    config: dict[str, str] = {}
    here = root
    for instruction, value in instructions:
        moved = move(root, instructions, value)
        if instruction == "FROM":
            environ, config, here = dict(plain), {}, root
        elif instruction == "WORKDIR":
            here = Path(moved)
            here.mkdir(parents=True)
        elif instruction == "ENV":
            for name, _, given in (part.partition("=") for part in shlex.split(moved)):
                environ[name] = given.replace("$PATH", environ["PATH"])
        elif instruction == "COPY":
            copy(moved.split(), here)
        elif instruction == "RUN":
            print(f"RUN {value}", flush=True)
            subprocess.run(["/bin/sh", "-ec", moved], cwd=here, env=environ, check=True)
        else:
            config[instruction] = value
    return environ, config


def move(root: Path, instructions: list[tuple[str, str]], text: str) -> str:
    """Put the image's own directories below `root`."""
    places = [value.split()[-1] for name, value in instructions if name == "WORKDIR" or value.startswith("--from=")]
    return re.sub(rf"(?<![\w/])({'|'.join(places)})\b", lambda found: str(root) + found[1], text)


def copy(parts: list[str], here: Path) -> None:
    if parts[0].startswith("--from="):
        assert parts[1] == parts[2], "what moves between stages is not found at its new place here"
        assert Path(parts[1]).is_dir(), parts
        return
    passing = Path(".dockerignore").read_text().split()
    for source in map(Path, parts[:-1]):
        assert f"!{source}" in passing, f".dockerignore keeps {source} back"
        if source.is_dir():
            unwanted = shutil.ignore_patterns("static", "__pycache__", "node_modules")
            shutil.copytree(source, here / parts[-1], ignore=unwanted)
        else:
            shutil.copy(source, here / parts[-1])


def judge(root: Path, environ: dict[str, str], config: dict[str, str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        environ["GATEWAY_PORT"] = str(free.getsockname()[1])
    who = user(root, config["USER"])
    command = json.loads(config["ENTRYPOINT"]) + json.loads(config["CMD"])
    check = json.loads(config["HEALTHCHECK"].partition("CMD ")[2])
    command[0], check[0] = (str(shutil.which(name, path=environ["PATH"])) for name in (command[0], check[0]))
    assert command[0].startswith(str(root / "opt")), command
    assert not healthy(check, environ, who), "the check agrees before anything runs"
    with subprocess.Popen(command, cwd="/", env=environ, **who) as process:
        end = time.monotonic() + PATIENCE
        while not (agreed := healthy(check, environ, who)) and process.poll() is None and time.monotonic() < end:
            time.sleep(0.2)
        process.send_signal(signal.Signals[config["STOPSIGNAL"]])
        code = process.wait(PATIENCE)
    assert agreed, "the health check never agreed"
    assert code == 0, f"{config['STOPSIGNAL']} ended it with {code}"
    print(f"{' '.join(command)}: healthy as {who or 'root'}, stopped with 0")


def user(root: Path, told: str) -> dict[str, Any]:
    uid, gid = map(int, told.split(":"))
    assert uid > 0, "the image runs as root"
    who: dict[str, Any] = {"user": uid, "group": gid, "extra_groups": []}
    try:
        subprocess.run([root / "usr/bin/python", "-c", ""], check=True, cwd="/", **who)
    except (OSError, subprocess.CalledProcessError):
        print(f"{sys.base_prefix} is closed to user {told}")
        return {}
    return who


def healthy(check: list[str], environ: dict[str, str], who: dict[str, Any]) -> bool:
    return not subprocess.run(check, cwd="/", env=environ, stderr=subprocess.DEVNULL, check=False, **who).returncode


if __name__ == "__main__":
    main()
