"""Replays the Dockerfile without a Docker engine: its COPY and RUN lines in a temporary folder, then the container's
command, health check and SIGTERM.

    python tests/image/replay.py [--python python3.11]

Not part of `make test`: it installs every locked package (`make image-test`). What it cannot see is the base image.
"""

from __future__ import annotations

import argparse
import fnmatch
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
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
PREFIXES = ("/opt/llm-sidecar", "/etc/llm-sidecar", "/src", "/data")


def instructions() -> list[tuple[str, str]]:
    """(name, arguments) of every instruction, with continued lines joined."""
    text = "\n".join(line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#"))
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [(line.split(None, 1)[0], line.split(None, 1)[1].strip()) for line in lines if line.strip()]


def context() -> set[Path]:
    """The files that .dockerignore lets into the build, as Docker reads it: the last pattern that matches decides."""
    patterns = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    kept = set()
    tracked = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for name in [*tracked, *(["proxy/__pycache__/x.pyc", ".env"])]:
        left_out = False
        for pattern in patterns:
            bare = pattern.removeprefix("!")
            parents = [name, *(str(parent) for parent in Path(name).parents)]
            if any(
                fnmatch.fnmatch(part, bare) or fnmatch.fnmatch("/" + part, "/" + bare.replace("**/", "*"))
                for part in parents
            ):
                left_out = not pattern.startswith("!")
        if not left_out:
            kept.add(Path(name))
    return kept


def copy(arguments: str, stage: Path, kept: set[Path], workdir: str) -> None:
    """One COPY from the build's context."""
    *sources, target = shlex.split(arguments)
    place = stage / target.lstrip("/") if target.startswith("/") else stage / workdir.lstrip("/") / target
    for source in sources:
        below = [name for name in kept if name == Path(source) or Path(source) in name.parents]
        if not below:
            raise SystemExit(f"COPY {source}: .dockerignore leaves nothing of it")
        for name in below:
            if target.endswith("/"):
                goal = place / name
            else:
                goal = place / name.relative_to(source) if (ROOT / source).is_dir() else place
            goal.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, goal)


def run(arguments: str, stage: Path, workdir: str, python: str) -> None:
    """One RUN, with the image's folders moved below the temporary one."""
    moved = moved_below(arguments, stage).replace("python -m venv", f"{python} -m venv")
    moved = re.sub(r"chown \S+ (\S+)", r"test -d \1", moved)
    print(f"RUN {arguments}", flush=True)
    subprocess.run(["sh", "-ec", moved], cwd=stage / workdir.lstrip("/"), check=True)


def moved_below(text: str, stage: Path) -> str:
    """The text with the image's folders replaced by those below ``stage``."""
    return re.sub(rf"(?<![\w.])({'|'.join(PREFIXES)})(?![\w-])", lambda found: f"{stage}{found[1]}", text)


def build(stage: Path, python: str) -> dict[str, str]:
    """Both stages in one folder, since they share the path of the environment. Returns what the last stage declares."""
    kept = context()
    unwanted = [name for name in kept if name.suffix == ".pyc" or name.name == ".env" or "tests" in name.parts]
    if unwanted:
        raise SystemExit(f".dockerignore lets in {unwanted[0]}")
    workdir, last = "/", {}
    for name, arguments in instructions():
        match name:
            case "FROM":
                workdir, last = "/", {}
            case "WORKDIR":
                workdir = arguments
                (stage / workdir.lstrip("/")).mkdir(parents=True, exist_ok=True)
            case "COPY" if not arguments.startswith("--from"):
                copy(arguments, stage, kept, workdir)
            case "RUN":
                run(arguments, stage, workdir, python)
            case "ENV":
                last[name] = f"{last.get(name, '')} {arguments}"
            case _:
                last[name] = arguments
        last["WORKDIR"] = workdir
    return last


def serve(stage: Path, last: dict[str, str]) -> None:
    """The container's life: ready, healthy, answers, ends with 0 on SIGTERM. Raises SystemExit."""
    if not re.fullmatch(r"[1-9]\d*:[1-9]\d*", last["USER"]):
        raise SystemExit(f"USER {last['USER']} is no pair of numbers other than root's")
    declared = dict(word.split("=", 1) for word in shlex.split(last["ENV"]))
    environment = {
        name: moved_below(value, stage).replace("$PATH", os.environ["PATH"]) for name, value in declared.items()
    }
    data, admin = free_port(), free_port()
    environment |= {"LLM_SIDECAR__SERVER__PORT": str(data), "LLM_SIDECAR__ADMIN__PORT": str(admin)}
    command = [moved_below(word, stage) for word in [*json.loads(last["ENTRYPOINT"]), *json.loads(last["CMD"])]]
    command[0] = f"{stage}/opt/llm-sidecar/bin/{command[0]}"
    check = json.loads(last["HEALTHCHECK"].partition("CMD")[2])
    check = [word.replace(":8081/", f":{admin}/") for word in check]
    check[0] = f"{stage}/opt/llm-sidecar/bin/{check[0]}"
    started = time.monotonic()
    with subprocess.Popen(command, cwd=stage / "etc/llm-sidecar", env=environment) as process:
        while subprocess.run(check, env=environment, capture_output=True, check=False).returncode != 0:
            if process.poll() is not None or time.monotonic() - started > 20:
                process.kill()
                raise SystemExit("the container's command is not healthy after 20 s")
        print(f"healthy after {time.monotonic() - started:.1f} s, the checks' own starts included", flush=True)
        call = urllib.request.Request(
            f"http://127.0.0.1:{data}/v1/chat/completions",
            headers={"content-type": "application/json"},
            data=b'{"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hello"}]}',
        )
        with urllib.request.urlopen(call, timeout=10) as answer:
            print(f"a call: {answer.status}", flush=True)
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=40)
    if code != 0:
        raise SystemExit(f"SIGTERM: exit code {code}")
    if not any((stage / "data").iterdir()):
        raise SystemExit("nothing was written to /data")
    print("answers, drains, exits with 0", flush=True)


def free_port() -> int:
    """A port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main() -> int:
    """Replay."""
    parser = argparse.ArgumentParser(description="Replay the Dockerfile without an engine.")
    parser.add_argument("--python", default=sys.executable, help="the base image's Python")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llm-sidecar-image-") as folder:
        stage = Path(folder)
        serve(stage, build(stage, args.python))
    return 0


if __name__ == "__main__":
    sys.exit(main())
