"""YAML text to a tree of nodes with positions.

Built on the event stream of libyaml's parser rather than on PyYAML's constructors: those take `off` for a boolean
and `1:30` for 90, let the last of two equal keys win in silence, and recurse on the input's nesting in C.
"""

from __future__ import annotations

from collections.abc import Callable

import yaml

from proxy.config.problem import Place, Problem
from proxy.config.tree import Mapping, Node, Scalar, Sequence, typed

MAX_DEPTH = 48
MAX_NODES = 100_000
MAX_TEXT = 4 * 1024 * 1024

Report = Callable[[Problem], None]
_TEXT_TAGS = {"tag:yaml.org,2002:str", "!"}
_MAP_TAGS = {None, "!", "tag:yaml.org,2002:map"}
_LIST_TAGS = {None, "!", "tag:yaml.org,2002:seq"}


class _Stop(Exception):  # noqa: N818 - a signal within this module
    """The rest of the text cannot be understood."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem


class _Frame:
    """A list or map that is being read; `key` waits for its value."""

    __slots__ = ("anchor", "key", "key_place", "merges", "node", "waiting")

    def __init__(self, node: Sequence | Mapping, anchor: str | None) -> None:
        self.node = node
        self.anchor = anchor
        self.waiting = False
        self.key: str | None = None
        self.key_place = node.place
        self.merges: list[Node] = []


class _Composer:
    def __init__(self, file: str, report: Report) -> None:
        self.file = file
        self.report = report
        self.anchors: dict[str, Node] = {}
        self.open_anchors: set[str] = set()
        self.frames: list[_Frame] = []
        self.root: Node | None = None
        self.nodes = 0

    def place(self, event: yaml.Event) -> Place:
        mark = event.start_mark
        return Place(self.file, mark.line + 1, mark.column + 1) if mark else Place(self.file)

    def wrong(self, place: Place, message: str) -> None:
        path = [frame.key for frame in self.frames if isinstance(frame.node, Mapping) and frame.key is not None]
        self.report(Problem.at(place, path, message))

    def stop(self, place: Place, message: str) -> _Stop:
        return _Stop(Problem.at(place, (), message))

    def count(self, size: int, place: Place) -> None:
        self.nodes += size
        if self.nodes > MAX_NODES:
            raise self.stop(place, f"more than {MAX_NODES:,} values, aliases counted: too large for a configuration")

    def feed(self, event: yaml.Event) -> None:
        place = self.place(event)
        if isinstance(event, yaml.ScalarEvent):
            self.count(1, place)
            self.scalar(event, place)
        elif isinstance(event, yaml.AliasEvent):
            self.alias(event, place)
        elif isinstance(event, yaml.MappingStartEvent | yaml.SequenceStartEvent):
            self.count(1, place)
            self.start(event, place)
        elif isinstance(event, yaml.MappingEndEvent | yaml.SequenceEndEvent):
            self.end()

    def scalar(self, event: yaml.ScalarEvent, place: Place) -> None:
        frame = self.frames[-1] if self.frames else None
        if frame is not None and isinstance(frame.node, Mapping) and not frame.waiting:
            self.set_key(frame, event.value, place)
            return
        if event.tag is not None and event.tag not in _TEXT_TAGS:
            self.wrong(place, f"the tag {event.tag[:60]} is not used here: write the value alone")
        plain = event.tag is None and event.implicit[0]
        self.add(Scalar(typed(event.value) if plain else event.value, event.value, place), event.anchor)

    def set_key(self, frame: _Frame, key: str, place: Place) -> None:
        assert isinstance(frame.node, Mapping)
        frame.waiting = True
        frame.key = key
        frame.key_place = place
        if not key:
            self.wrong(place, "a key must not be empty")
        elif key != "<<" and key in frame.node.items:
            first = frame.node.keys[key]
            frame.key = None
            path_key = key
            self.wrong(place, f'the key "{path_key[:60]}" is here twice; the first stands in line {first.line}')

    def alias(self, event: yaml.AliasEvent, place: Place) -> None:
        name = event.anchor or ""
        if name in self.open_anchors:
            raise self.stop(place, f"*{name} stands inside what it names: that would never end")
        target = self.anchors.get(name)
        if target is None:
            raise self.stop(place, f"*{name} names nothing: there is no &{name} above it")
        self.count(target.size, place)
        self.add(target.copy(), None, target.size)

    def start(self, event: yaml.MappingStartEvent | yaml.SequenceStartEvent, place: Place) -> None:
        is_map = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (_MAP_TAGS if is_map else _LIST_TAGS):
            self.wrong(place, f"the tag {str(event.tag)[:60]} is not used here: write the value alone")
        if len(self.frames) >= MAX_DEPTH:
            raise self.stop(place, f"nested more than {MAX_DEPTH} levels deep")
        frame = self.frames[-1] if self.frames else None
        if frame is not None and isinstance(frame.node, Mapping) and not frame.waiting:
            raise self.stop(place, "a key must be a text, not a list or a map")
        if event.anchor:
            self.open_anchors.add(event.anchor)
        self.frames.append(_Frame(Mapping(place) if is_map else Sequence(place), event.anchor))

    def end(self) -> None:
        frame = self.frames.pop()
        if isinstance(frame.node, Mapping):
            for merged in frame.merges:
                self.merge(frame.node, merged)
        if frame.anchor:
            self.open_anchors.discard(frame.anchor)
        self.add(frame.node, frame.anchor, frame.node.size)

    def merge(self, into: Mapping, node: Node) -> None:
        """`<<`: keys that are there already win; of several maps the first wins."""
        if isinstance(node, Sequence):
            for item in node.items:
                self.merge(into, item)
        elif isinstance(node, Mapping):
            for key, item in node.items.items():
                if key not in into.items:
                    into.put(key, node.keys[key], item)
        else:
            self.wrong(node.place, "<< takes a map, an alias of one, or a list of them")

    def add(self, node: Node, anchor: str | None, size: int = 1) -> None:
        if anchor:
            self.anchors[anchor] = node
        if not self.frames:
            self.root = node
            return
        frame = self.frames[-1]
        frame.node.size += size
        if isinstance(frame.node, Sequence):
            frame.node.items.append(node)
            return
        if not frame.waiting:
            if not isinstance(node, Scalar):
                raise self.stop(node.place, "a key must be a text, not a list or a map")
            self.set_key(frame, node.text, node.place)
            return
        frame.waiting = False
        if frame.key == "<<":
            frame.merges.append(node)
        elif frame.key:
            frame.node.put(frame.key, frame.key_place, node)
        frame.key = None


def compose(text: str, file: str, report: Report, unreadable: Report) -> Node | None:
    """The tree of one YAML document, or None when it is empty or cannot be read.

    `report` gets mistakes that leave the rest readable (a key that is there twice), `unreadable` the one that ends it.
    """
    if len(text) > MAX_TEXT:
        unreadable(Problem(file, 0, 0, "", f"larger than {MAX_TEXT // 1024**2} MiB: too large for a configuration"))
        return None
    composer = _Composer(file, report)
    parser = yaml.CSafeLoader(text)
    documents = 0
    try:
        while parser.check_event():
            event = parser.get_event()
            assert event is not None
            if isinstance(event, yaml.DocumentStartEvent):
                documents += 1
                if documents > 1:
                    raise composer.stop(composer.place(event), "a second document (---): one file holds one")
            composer.feed(event)
    except _Stop as stop:
        unreadable(stop.problem)
        return None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = Place(file, mark.line + 1, mark.column + 1) if mark else Place(file)
        hint = ": indent with spaces, not tabs" if mark and _tab_at(text, mark.line) else ""
        begun = error.context_mark
        since = f" that began in line {begun.line + 1}" if begun and mark and begun.line != mark.line else ""
        context = f" ({error.context}{since})" if error.context else ""
        unreadable(Problem.at(place, (), f"not valid YAML: {error.problem or 'it ends too early'}{context}{hint}"))
        return None
    except yaml.reader.ReaderError as error:
        unreadable(Problem.at(_index_place(text, file, error.position), (), f"not valid YAML: {error.reason}"))
        return None
    except (yaml.YAMLError, UnicodeError) as error:
        unreadable(Problem(file, 0, 0, "", f"not valid YAML: {type(error).__name__}"))
        return None
    finally:
        parser.dispose()
    return composer.root


def _tab_at(text: str, line: int) -> bool:
    lines = text.split("\n")
    return line < len(lines) and "\t" in lines[line][: len(lines[line]) - len(lines[line].lstrip())]


def _index_place(text: str, file: str, index: int) -> Place:
    before = text[:index]
    return Place(file, before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)
