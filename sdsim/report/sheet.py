"""A table that never breaks a number: columns that do not fit beside the keys go into a further table below."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

WIDEST_NAME = 28
"""Characters; a longer name is folded, so that the numbers keep their places."""
HEADING, BEST = "bold", "bold green"


@dataclass(frozen=True, slots=True)
class Column:
    """A heading, its cells, and the rows to stress. Names stand left and are folded, figures right and whole."""

    heading: str
    cells: Sequence[str]
    stressed: frozenset[int] = frozenset()
    names: bool = False

    def cell(self, row: int) -> Text:
        """Return one cell as it is printed."""
        return Text(self.cells[row], style=BEST if row in self.stressed else "")


@dataclass(frozen=True, slots=True)
class Sheet:
    """Columns of text; the first *keys* name the rows."""

    columns: tuple[Column, ...]
    keys: int = 1

    def show(self, console: Console) -> None:
        """Print the sheet, in as many tables as the console's width asks for, each with a blank line below."""
        for part in self.parts(console):
            console.print(part.table())
            console.print()

    def parts(self, console: Console) -> list[Sheet]:
        """Return sheets that each fit the console, or hold a single column beside the keys."""
        rest, parts = list(self.columns[self.keys :]), []
        while rest:
            fitting = (n for n in range(len(rest), 1, -1) if self._with(rest[:n])._fits(console))
            taken = next(fitting, 1)
            parts.append(self._with(rest[:taken]))
            rest = rest[taken:]
        return parts

    def _with(self, figures: Sequence[Column]) -> Sheet:
        return replace(self, columns=(*self.columns[: self.keys], *figures))

    def _fits(self, console: Console) -> bool:
        unbounded = console.options.update(max_width=10_000)
        return Measurement.get(console, unbounded, self.table()).maximum <= console.width

    def table(self) -> Table:
        """Return the whole sheet as one table."""
        table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        for column in self.columns:
            if column.names:
                table.add_column(Text(column.heading), overflow="fold", max_width=WIDEST_NAME)
            else:
                table.add_column(Text(column.heading), justify="right", no_wrap=True)
        for row in range(len(self.columns[0].cells)):
            table.add_row(*(column.cell(row) for column in self.columns))
        return table
