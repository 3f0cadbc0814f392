"""The real helm, built once from its Go module at a pinned version and kept in ~/.cache."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

VERSION = "v3.22.0"
MODULE = "helm.sh/helm/v3/cmd/helm"


def binary() -> Path:
    """Path of helm. Raises RuntimeError without Go; CalledProcessError when it cannot be built."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llm-sidecar" / f"helm-{VERSION}"
    helm = cache / "helm"
    if helm.exists():
        return helm
    go = shutil.which("go")
    if go is None:
        raise RuntimeError("the chart's tests build helm from its Go module: install Go 1.26 or newer, or put a helm "
                           f"{VERSION} at {helm}")  # fmt: skip
    cache.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"GOBIN": str(cache), "CGO_ENABLED": "0"}
    subprocess.run([go, "install", f"{MODULE}@{VERSION}"], env=environment, check=True, timeout=900)
    return helm
