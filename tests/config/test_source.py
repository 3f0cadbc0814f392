from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from proxy.config import ConfigError, Loaded

Files = Callable[..., Loaded]
DEMO = "upstreams: {demo: {api: demo}}\nroutes: [{upstream: demo, chain: a}]\n"


def told(run: Files, folder: Path, files: dict[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        run(files)
    return [str(problem).replace(f"{folder}/", "") for problem in caught.value.problems]


def test_an_included_file_gives_what_the_including_file_leaves_out(from_files: Files) -> None:
    got = from_files(
        {"config.yaml": "include: b/c.yaml\n" + DEMO, "b/c.yaml": "chains: {a: [account]}\nlog: {access: false}"}
    )
    assert [entry.policy for entry in got.config.chains["a"]] == ["account"]
    assert got.config.log.access is False
    assert [path.name for path in got.sources] == ["config.yaml", "c.yaml"]


def test_the_including_file_wins_value_by_value_and_replaces_whole_lists(from_files: Files) -> None:
    base = "chains: {a: [account, rate_limit]}\nserver: {port: 1, workers: 2}\n"
    got = from_files({"config.yaml": "include: b.yaml\nserver: {port: 3}\nchains: {a: []}\n" + DEMO, "b.yaml": base})
    assert (got.config.server.port, got.config.server.workers) == (3, 2)
    assert got.config.chains["a"] == ()


def test_routes_are_joined_with_the_including_files_first(from_files: Files) -> None:
    route = "routes: [{{match: {{path: {}}}, upstream: demo, chain: a}}]"
    files = {
        "config.yaml": "include: [b.yaml, c.yaml]\nchains: {a: []}\nupstreams: {demo: {api: demo}}\n"
        + route.format("/1"),
        "b.yaml": route.format("/2"),
        "c.yaml": route.format("/3"),
    }
    assert [route.match.path for route in from_files(files).config.routes] == [("/1",), ("/2",), ("/3",)]


def test_patterns_take_files_by_name(from_files: Files) -> None:
    files = {
        "config.yaml": "include: ['p/*.yaml', 'none/*.yaml']\n" + DEMO,
        "p/b.yaml": "chains: {a: []}",
        "p/a.yaml": "{}",
    }
    assert [path.name for path in from_files(files).sources] == ["config.yaml", "a.yaml", "b.yaml"]


def test_a_file_reached_on_two_ways_counts_once(from_files: Files) -> None:
    files = {
        "config.yaml": "include: [b.yaml, c.yaml]\n" + DEMO,
        "b.yaml": "include: d.yaml",
        "c.yaml": "include: d.yaml",
        "d.yaml": "chains: {a: []}\nroutes: [{match: {path: /x}, upstream: demo, chain: a}]",
    }
    assert len(from_files(files).config.routes) == 2


def test_two_included_files_must_not_define_the_same_chain(from_files: Files, tmp_path: Path) -> None:
    files = {
        "config.yaml": "include: [b.yaml, c.yaml]\n" + DEMO,
        "b.yaml": "chains: {a: []}",
        "c.yaml": "chains:\n  a: []",
    }
    assert told(from_files, tmp_path, files) == [
        "c.yaml:2:6: chains.a: also set in b.yaml:1:13; two included files must not set the same thing: "
        "remove one, or set it in the file that includes both"
    ]


def test_the_including_file_may_settle_it(from_files: Files) -> None:
    files = {
        "config.yaml": "include: [b.yaml, c.yaml]\nchains: {a: [account]}\n" + DEMO,
        "b.yaml": "chains: {a: []}",
        "c.yaml": "chains: {a: []}",
    }
    assert len(from_files(files).config.chains["a"]) == 1


def test_a_circle_is_told(from_files: Files, tmp_path: Path) -> None:
    files = {"config.yaml": "include: b.yaml\n" + DEMO, "b.yaml": "include: [config.yaml]"}
    assert told(from_files, tmp_path, files) == [
        "b.yaml:1:11: include.0: files include one another in a circle: config.yaml -> b.yaml -> config.yaml"
    ]


@pytest.mark.parametrize(
    ("include", "message"),
    [
        ("b.yaml", "config.yaml:1:10: include: b.yaml cannot be read: No such file or directory"),
        ("[5]", "config.yaml:1:11: include.0: must be the path of a YAML file, or a list of paths"),
        ("{a: b}", "config.yaml:1:10: include: must be the path of a YAML file, or a list of paths"),
        ('"**/x"', "config.yaml:1:10: include: ** is not allowed: name the folders, such as policies/*.yaml"),
        ("/dev/zero", "config.yaml:1:10: include: /dev/zero cannot be read: it is not a file"),
        ('"a\\0b"', "config.yaml:1:10: include: a\x00b cannot be read: embedded null byte"),
    ],
)
def test_what_cannot_be_included_is_told(from_files: Files, tmp_path: Path, include: str, message: str) -> None:
    assert told(from_files, tmp_path, {"config.yaml": f"include: {include}\n"}) == [message]


def test_bytes_that_are_not_utf_8_are_told(from_files: Files, tmp_path: Path) -> None:
    (tmp_path / "b.yaml").write_bytes(b"a: 1\nb: \xff")
    found = told(from_files, tmp_path, {"config.yaml": "include: b.yaml"})
    assert found == ["config.yaml:1:10: include: b.yaml cannot be read: it is not UTF-8 text (line 2)"]


def test_a_missing_main_file_is_told(from_files: Files, tmp_path: Path) -> None:
    assert told(from_files, tmp_path, {}) == [
        "config.yaml: this file cannot be read: No such file or directory; give another with --config",
    ]


def test_a_list_as_a_file_is_told(from_files: Files, tmp_path: Path) -> None:
    assert told(from_files, tmp_path, {"config.yaml": "- a"}) == [
        "config.yaml:1:1: a configuration file must be a map (key: value)"
    ]


def test_a_broken_include_hides_no_other_mistake_and_adds_none(from_files: Files, tmp_path: Path) -> None:
    found = told(from_files, tmp_path, {"config.yaml": "include: b.yaml\nserver: {port: x}\n" + DEMO, "b.yaml": "a: ["})
    assert [line.split(":")[0] for line in found] == ["config.yaml", "b.yaml"]


def test_a_pipe_can_be_the_main_file(from_files: Files, tmp_path: Path) -> None:
    read, write = os.pipe()
    os.write(write, (DEMO + "chains: {a: []}").encode())
    os.close(write)
    (tmp_path / "config.yaml").symlink_to(f"/proc/self/fd/{read}")
    try:
        assert len(from_files({}).config.routes) == 1
    finally:
        os.close(read)


def test_an_include_pattern_that_matches_nothing_is_a_warning(from_files: Files, tmp_path: Path) -> None:
    got = from_files({"config.yaml": "include: [none/*.yaml]\nchains: {a: []}\n" + DEMO})
    (warning,) = got.warnings
    assert str(warning).replace(f"{tmp_path}/", "") == (
        'config.yaml:1:11: include.0: "none/*.yaml" matches no file: nothing is included'
    )
