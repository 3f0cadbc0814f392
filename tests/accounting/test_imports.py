"""What the accounting loads before it is used: the process must be ready at once and stay small."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HEAVY = ("genai_prices", "asyncpg", "sqlite3", "redis")


def test_the_policies_load_nothing_heavy():
    code = (
        "import sys, proxy.policies.account, proxy.policies.budget, proxy.cli.costs, proxy.accounting.reports;"
        "import proxy.config.model;"
        f"print([name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
