"""``llm-sidecar`` and ``python -m proxy``: finds the command and gives it its arguments.

Only the command that runs is imported, so that ``serve`` is ready at once.
"""

from __future__ import annotations

import os
import sys

os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")  # looking for plugins costs start-up time and finds none


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Returns its exit code."""
    from proxy.cli import run  # noqa: PLC0415 - after the environment is set

    return run(sys.argv[1:] if arguments is None else arguments)


if __name__ == "__main__":
    sys.exit(main())
