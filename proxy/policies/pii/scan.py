"""The state of one `detect` call: the bytes, what was found, and how much work its judges spent."""

from __future__ import annotations

from collections.abc import Sequence

from proxy.policies.pii.found import Found
from proxy.policies.pii.words import words_in

WORK_FREE = 1_000_000
"""Units of work that any text may cost, however short it is. A unit stands for about 10 ns of judging."""
WORK_PER_BYTE = 30
"""Units that each byte of text adds to that; dense real data (a CSV of contacts) needs about 20."""
WORK_EACH = 150
"""Units that each candidate costs before anybody looks at it: finding it, and who is to judge it."""
PROOFS = 500_000
"""Units of `WORK_FREE` that may go into proofs which shape and context do not need: a hash, a foreign check digit."""

NEAR = 44
"""Bytes before a value in which words may say what it is."""

_SPACED = bytes.maketrans(b"_", b" ")
_DELIMITERS = b";,\t|"
_HEADER = 512
"""Bytes that the head line of delimited rows may have."""
_HEAD = 40
"""Bytes that the name of a column may have."""
_ROW = 400
"""Bytes that a value may stand behind the start of its row."""


class WorkExceededError(Exception):
    """A text holds more candidates than a linear amount of work can verify.

    Detection fails closed: the caller must refuse the text or mask it whole, never pass it on.
    """


class Scan:
    """One text under inspection, as UTF-8 bytes. Offsets here are byte offsets."""

    __slots__ = (
        "_cell", "_cell_at", "_columns", "_delimiter", "_words", "_words_at",
        "data", "floor", "found", "limit", "named", "named_at", "pem_end", "proofs", "spoken", "work",
    )  # fmt: skip

    def __init__(self, data: bytes, floor: int = 0) -> None:
        self.data = data
        self.floor = floor
        """Bytes before it are the JSON key the text stood under; nothing there is reported."""
        self.found: list[Found] = []
        self.work = 0
        self.limit = WORK_FREE + WORK_PER_BYTE * len(data)
        self.proofs = PROOFS
        self.spoken = False
        """Whether a candidate was met that holds words: only then a plain number can have been named."""
        self.pem_end = -2
        """Where the next PEM footer is: -2 not looked for yet, -1 there is none."""
        self.named_at = -1
        self.named = False
        """Whether the words before the digit run at `named_at` speak of a phone: all cuts of a run share them."""
        self._words_at = -1
        self._words: list[bytes] = []
        self._cell_at = -1
        self._cell: Sequence[bytes] = ()
        self._columns: list[list[bytes]] | None = None
        self._delimiter = b""

    def spend(self, units: int) -> None:
        """Count units of work; `WorkExceededError` beyond the linear limit."""
        self.work += units
        if self.work > self.limit:
            raise WorkExceededError(f"more candidates than {len(self.data)} bytes of text may hold")

    def affords(self, units: int) -> bool:
        """Take the units of a proof that may be left out; False when enough of them were made in this text."""
        if self.proofs < units:
            return False
        self.proofs -= units
        self.work += units
        return True

    def add(self, start: int, end: int, kind: str, rank: int) -> None:
        if start >= self.floor and end > start:
            self.found.append(Found(start, end, kind, rank))

    def before(self, start: int, size: int) -> bytes:
        """Up to `size` bytes before `start`, in lower case, `_` as space."""
        self.work += 30
        window = self.data[start - size if start > size else 0 : start].lower()
        return window.translate(_SPACED) if b"_" in window else window

    def words(self, start: int) -> list[bytes]:
        """The words in the `NEAR` bytes before `start`, in lower case; kept for the next who asks there."""
        if start != self._words_at:
            self.work += 60
            self._words_at = start
            self._words = words_in(self.data[start - NEAR if start > NEAR else 0 : start])
        return self._words

    def has_columns(self) -> bool:
        """Whether the text looks like delimited rows below a line of heads."""
        if self._columns is None:
            self._columns = self._heads()
        return bool(self._columns)

    def column(self, start: int) -> Sequence[bytes]:
        """The words in the head of the column that `start` stands in, when the text looks like delimited rows."""
        if not self.has_columns():
            return ()
        if start != self._cell_at:
            self.work += 80
            self._cell_at = start
            self._cell = ()
            line = self.data.rfind(b"\n", start - _ROW if start > _ROW else 0, start) + 1
            if line:
                cell = self.data.count(self._delimiter, line, start)
                columns = self._columns or ()
                self._cell = columns[cell] if cell < len(columns) else ()
        return self._cell

    def _heads(self) -> list[list[bytes]]:
        """The words of each cell of the first line, if it has cells, and a line follows."""
        self.work += 200
        stop = self.data.find(b"\n", self.floor, self.floor + _HEADER)
        if stop < 0:
            return []
        line = self.data[self.floor : stop]
        self._delimiter = max((bytes((c,)) for c in _DELIMITERS), key=line.count)
        cells = line.split(self._delimiter)
        return [words_in(cell) for cell in cells] if len(cells) > 1 and max(map(len, cells)) <= _HEAD else []

    def is_lone(self, start: int, end: int) -> bool:
        """True if nothing but white space stands around the span: a text that is this one value."""
        data = self.data
        return not self.floor and len(data) <= 64 and not data[:start].strip() and not data[end:].strip()
