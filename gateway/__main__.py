"""`python -m gateway` is the `gateway` command."""

from gateway.cli import main

if __name__ == "__main__":  # pragma: no cover - true only in a process of its own, which test_process starts
    main(prog_name="gateway")
