"""What the documentation says is true: generated files are fresh, examples load, messages are the real ones, links lead
somewhere.

A fenced block is checked by its info string: ``yaml`` loads as a configuration (or a part of one); ``yaml wrong`` gives
exactly the messages of the ``text`` block that follows it.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from proxy.cli import COMMANDS
from proxy.config import ConfigError
from proxy.errors import TABLE
from proxy.load import load_config
from proxy.policy import BUILT_IN

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    [
        *ROOT.glob("*.md"),
        *(
            page for page in (ROOT / "docs").rglob("*.md") if page.parent.name != "written"
        ),  # they stand in generated ones
        *(ROOT / "examples").rglob("*.md"),
        *(ROOT / "helm").rglob("*.md"),
    ]
)
_FENCE = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


class Block(NamedTuple):
    """A fenced block: its page, line, info string and text, and the block after it."""

    page: Path
    line: int
    info: str
    text: str
    following: str

    def __repr__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def _blocks() -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        found = list(_FENCE.finditer(text))
        for number, block in enumerate(found):
            indent = len(block[1])
            body = "".join(line[indent:] for line in block[3].splitlines(keepends=True))
            following = found[number + 1][3] if number + 1 < len(found) else ""
            yield Block(page, text.count("\n", 0, block.start()) + 1, block[2].strip(), body, following)


BLOCKS = list(_blocks())


def _of(info: str) -> list[Block]:
    return [block for block in BLOCKS if block.info == info]


def _environment(text: str) -> dict[str, str]:
    """Every variable that the text asks for."""
    return dict.fromkeys(re.findall(r"\$\{(?:set:)?([A-Z_][A-Z0-9_]*)\}", text), "a-value-for-the-test")


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs" / "generate.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_files_are_fresh(generate: ModuleType) -> None:
    stale = [
        str(path.relative_to(ROOT))
        for path, text in generate.render().items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    ]
    assert not stale, f"run `make docs`, these files do not say what the code says: {', '.join(stale)}"


def test_every_policy_has_a_page_and_no_page_lacks_its_policy() -> None:
    pages = {page.stem for page in (ROOT / "docs" / "policies").glob("*.md")} - {"README"}
    written = {page.stem for page in (ROOT / "docs" / "policies" / "written").glob("*.md")}
    assert pages == written == set(BUILT_IN)


@pytest.mark.parametrize("block", _of("yaml"), ids=repr)
def test_an_example_loads(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.yaml").write_text(block.text, encoding="utf-8")
    (tmp_path / "policies").symlink_to(ROOT / "policies")
    monkeypatch.syspath_prepend(str(ROOT / "examples" / "custom-policy"))
    load_config(tmp_path / "config.yaml", env=_environment(block.text))


@pytest.mark.parametrize("block", _of("yaml wrong"), ids=repr)
def test_a_mistake_gives_the_message_that_the_page_shows(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("config.yaml").write_text(block.text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config("config.yaml", env={})
    assert "\n".join(str(problem) for problem in caught.value.problems) == block.following.rstrip("\n")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    broken = []
    for link in _LINK.findall(text):
        if re.match(r"[a-z]+:", link):
            continue
        place, _, anchor = link.partition("#")
        target = page.parent / place if place else page
        if not target.exists() or (anchor and target.suffix == ".md" and anchor not in _anchors(target)):
            broken.append(link)
    assert not broken


def _anchors(page: Path) -> set[str]:
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in _HEADING.findall(text)}


def test_the_table_of_errors_is_whole() -> None:
    text = (ROOT / "docs" / "http.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)` \| (\d{3}) \|", text, re.MULTILINE))
    assert {code: int(status) for code, status in rows.items()} == {code: kind.status for code, kind in TABLE.items()}


def test_the_readme_lists_every_command_and_policy() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert [name for name in COMMANDS if not re.search(rf"^\| `{name}\b", text, re.MULTILINE)] == []
    assert [name for name in BUILT_IN if f"docs/policies/{name}.md" not in text] == []


def test_the_worked_example_stands_in_the_docs_as_it_runs() -> None:
    text = (ROOT / "docs" / "writing-a-policy.md").read_text(encoding="utf-8")
    for name in ("answer_limit.py", "test_answer_limit.py", "config.yaml"):
        code = (ROOT / "examples" / "custom-policy" / name).read_text(encoding="utf-8")
        assert code in text, f"docs/writing-a-policy.md does not hold examples/custom-policy/{name} as it is"


@pytest.mark.parametrize("block", _of("sh run"), ids=repr)
def test_a_command_prints_what_the_page_shows(block: Block, tmp_path: Path) -> None:
    """``sh run``: one command a line, run in the repository; the next block is its output."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OPENAI", "LLM_SIDECAR"))}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    environment["LLM_SIDECAR__DATA"] = str(tmp_path)
    done = subprocess.run(
        ["bash", "-c", block.text.replace("llm-sidecar ", f"{sys.executable} -m proxy ")],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (done.stdout + done.stderr).strip() == block.following.strip()


async def test_every_admin_page_is_described(sidecar: Any) -> None:
    proxy = await sidecar(
        "upstreams: {demo: {api: demo}}\nchains: {main: []}\nroutes: [{upstream: demo, chain: main}]\n"
    )
    text = (ROOT / "docs" / "admin.md").read_text(encoding="utf-8")
    pages = {route.resource.canonical for route in proxy.app.admin._runner.app.router.routes() if route.resource}
    assert [page for page in sorted(pages) if f"`{page}`" not in text] == []
