"""The picture of ``helperd top``: a snapshot, where the user is in it, and the lines that show both. Pure.

Rules:
  1. ``key`` changes where the user is, ``lines`` shows it; neither knows a terminal.
  2. The selected line begins with ``>``, the sorted column's head ends in ``v`` or ``^``: all is readable without
     colour.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from helperd.cli.status import details
from helperd.table import (
    CONSUMER_COLUMNS,
    SOURCE_COLUMNS,
    Cell,
    Column,
    consumer_cells,
    fit,
    line,
    losses,
    source_cells,
    summary,
    widths_of,
)
from helperd.visible import visible

Row = Mapping[str, Any]


def _natural(name: str) -> list[tuple[str, int]]:
    """Names with numbers as people order them: radio9 before radio10."""
    return [(word, int(number or 0)) for word, number in re.findall(r"([^0-9]*)([0-9]*)", name)]


SORTS: Final[Mapping[str, tuple[int, Callable[[Row], Any], bool]]] = {
    # key: column, value, whether the highest comes first
    "n": (0, lambda source: _natural(str(source.get("name"))), False),
    "s": (1, lambda source: str(source.get("state")), False),
    "r": (2, lambda source: source.get("rate") or 0, True),
    "p": (3, lambda source: source.get("packets") or 0, True),
    "l": (4, losses, True),
    "t": (5, lambda source: source.get("restarts") or 0, True),
    "a": (6, lambda source: -1 if source.get("age_s") is None else source["age_s"], True),
}
HELP: Final = (
    "up, down, page up, page down, home, end   select a source",
    "enter     details of the selected source, and back",
    "n s r p l t a   sort by name, state, rate, packets, lost, restarts, age of the last packet;",
    "          once more turns the order round; f is the configuration's own order",
    "c         consumers, and back",
    "space     hold the picture, and go on",
    "h ?       this help",
    "q         quit",
)


@dataclass(slots=True)
class Screen:
    """Where the user is.

    Attributes:
        snapshot: the latest one.
        view: ``sources``, ``consumers``, ``details`` or ``help``.
        sort: a key of ``SORTS``; empty: the configuration's order.
        reverse: turned round by asking for the same order twice.
        selected: name of the selected source; empty: the first.
        held: the picture stays as it is.
        ended: why there will be no new snapshot; empty while there will.
    """

    snapshot: Mapping[str, Any] = field(default_factory=dict)
    view: str = "sources"
    sort: str = ""
    reverse: bool = False
    selected: str = ""
    held: bool = False
    ended: str = ""
    _top: int = 0
    _page: int = 10

    def take(self, snapshot: Mapping[str, Any]) -> None:
        """Show a newer snapshot, unless the picture is held."""
        if not self.held or not self.snapshot:
            self.snapshot = snapshot

    def sources(self) -> list[Row]:
        """The sources in the order in which they are shown."""
        sources: list[Row] = list(self.snapshot.get("sources", []))
        if self.sort:
            _column, value, highest_first = SORTS[self.sort]
            sources.sort(key=value, reverse=highest_first != self.reverse)
        elif self.reverse:
            sources.reverse()
        return sources

    def key(self, name: str) -> bool:
        """Act on a key: a letter, or ``up``, ``page-down``, ``enter`` and the like.

        Returns:
            False when the user wants to leave.
        """
        if name in {"q", "escape"}:
            if self.view == "sources" or name == "q":
                return False
            self.view = "sources"
        elif name in SORTS or name == "f":
            order = "" if name == "f" else name
            self.reverse = order == self.sort and not self.reverse
            self.sort = order
        elif name == " ":
            self.held = not self.held
        elif name in {"c", "h", "?", "enter"}:
            view = {"c": "consumers", "enter": "details"}.get(name, "help")
            self.view = "sources" if self.view == view else view
            self._top = 0
        else:
            self._move(name)
        return True

    def _move(self, name: str) -> None:
        steps = {
            "up": -1,
            "down": 1,
            "page-up": -self._page,
            "page-down": self._page,
            "home": -(10**9),
            "end": 10**9,
        }
        step = steps.get(name, 0)
        if self.view in {"details", "help"}:
            self._top = max(0, self._top + step)
            return
        rows = self.sources() if self.view == "sources" else self.snapshot.get("consumers", [])
        if self.view == "consumers":
            self._top = min(max(0, self._top + step), max(0, len(rows) - self._page))
            return
        names = [row["name"] for row in rows]
        at = names.index(self.selected) if self.selected in names else 0
        if names:
            self.selected = names[min(max(0, at + step), len(names) - 1)]

    def lines(self, width: int, height: int) -> list[str]:
        """Exactly ``height`` lines of at most ``width`` columns; the first tells the daemon, the last the keys."""
        if height < 4:
            return [fit(summary(self.snapshot), width)][:height]
        self._page = height - 3
        body = {"consumers": self._consumers, "details": self._details, "help": self._help}.get(
            self.view, self._sources
        )
        shown = [fit(visible(text), width) for text in body(width, height - 2)[: height - 2]]
        shown += [""] * (height - 2 - len(shown))
        return [fit(summary(self.snapshot), width), *shown, fit(visible(self._foot()), width)]

    def _foot(self) -> str:
        if self.ended:
            return f"{self.ended}; q quits"
        held = "HELD  " if self.held else ""
        sources = self.sources()
        more = ""
        if self.view == "sources" and len(sources) > self._page:
            more = f"{self._top + 1}-{min(self._top + self._page, len(sources))} of {len(sources)}  "
        return f"{held}{more}q quit  h help  enter details  c consumers  sort: n s r p l t a"

    def _sources(self, width: int, height: int) -> list[str]:
        sources = self.sources()
        names = [source["name"] for source in sources]
        if self.selected not in names:
            self.selected = names[0] if names else ""
        at = names.index(self.selected) if names else 0
        page = height - 1
        self._top = min(max(self._top, at - page + 1), at, max(0, len(names) - page))
        heads = self._heads()
        rows = [source_cells(source) for source in sources]
        shown = range(self._top, min(self._top + page, len(rows)))
        lines = _table(heads, rows, shown, width - 2)
        marks = ["  ", *("> " if names[index] == self.selected else "  " for index in shown)]
        lines = [mark + text for mark, text in zip(marks, lines, strict=True)]
        return lines if sources else [*lines, "  no sources; add a [[source]] to the configuration"]

    def _heads(self) -> list[Column]:
        """The columns; the sorted one's head has a mark."""
        columns = list(SOURCE_COLUMNS)
        if self.sort:
            at, _value, highest_first = SORTS[self.sort]
            mark = "v" if highest_first != self.reverse else "^"
            one = columns[at]
            columns[at] = Column(one.head + mark, one.least, one.most, number=one.number)
        return columns

    def _consumers(self, width: int, height: int) -> list[str]:
        rows = [consumer_cells(consumer) for consumer in self.snapshot.get("consumers", [])]
        self._top = min(self._top, max(0, len(rows) - 1))
        shown = range(self._top, min(self._top + height - 1, len(rows)))
        lines = _table(list(CONSUMER_COLUMNS), rows, shown, width)
        return lines if rows else [*lines, "nobody is connected; see `helperd tap --help`"]

    def _details(self, width: int, _height: int) -> list[str]:
        chosen = [source for source in self.sources() if source["name"] == self.selected]
        if not chosen:
            return ["no source is selected"]
        lines = [self.selected, *details(dict(chosen[0]))]
        return [fit(text, width) for text in lines[min(self._top, len(lines) - 1) :]]

    def _help(self, width: int, _height: int) -> list[str]:
        return [fit(text, width) for text in ("", *HELP)]


def _table(columns: list[Column], rows: list[list[Cell]], shown: range, width: int) -> list[str]:
    """The head and the rows shown; all rows decide the widths, so that nothing jumps while scrolling."""
    widths = widths_of(columns, rows, width)
    head = [Cell(column.head) for column in columns]
    return [line(cells, columns, widths, width, color=False) for cells in (head, *(rows[at] for at in shown))]
