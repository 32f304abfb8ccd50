"""A table, printed once: cells with the numbers behind them, and what csv, Markdown, LaTeX and JSON make of these.

A kind of table adds rows, and to a row its cells from left to right:

    table = Table()
    row = table.row("Baseline DPO", policy="dpo", decoding="token")
    row.label("Model")
    row.number("Sentiment", "0.466 ± 0.014", [{"row": "Baseline DPO", "column": "sentiment", "mean": 0.46625}])
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import takewhile

import pandas as pd
from tabulate import tabulate

LATEX = {
    "±": r"$\pm$",
    "σ": r"$\sigma$",
    "β": r"$\beta$",
    "✓": r"\checkmark",
    "✗": r"$\times$",
    "‖": r"$\|$",
    "π": r"$\pi$",
    "≥": r"$\ge$",
    "–": "--",
    "−": "$-$",
}


@dataclass(frozen=True)
class Heading:
    """Of a column: its text, whether numbers stand below it, and the heading of the published values beside them.

    By default the published values stand below `TEXT, published`, and that column is left out where there are none.
    """

    text: str
    number: bool
    published: str


@dataclass(frozen=True)
class Cell:
    """What stands in one place of a table.

    `records` are the lines of the csv that the text was written from; a label has none, nor what is no result (a count,
    a level of chance). `published` are the printed values of the same number. `row` and `column` are its names for
    `explain`. If completions are behind it, `policy` and `decoding` say whose, and `domain` for which prompts.
    """

    text: str
    records: Sequence[dict] = ()
    published: Sequence[str] = ()
    label: bool = False
    row: str = ""
    column: str = ""
    experiment: str | None = None
    policy: str | None = None
    decoding: str | None = None
    domain: str | None = None


class Row:
    """Cells by heading. `about` are fields of `Cell` that they all share."""

    def __init__(self, table: "Table", name: str, about: dict) -> None:
        self.table, self.name, self.about, self.cells = table, name, about, dict[str, Cell]()

    def label(self, heading: str, text: str | None = None) -> None:
        """What the row is about: its name, if no text is given."""
        self._add(Heading(heading, False, ""), Cell(self.name if text is None else text, label=True, row=self.name))

    def text(self, heading: str, text: str, records: Sequence[dict] = (), column: str = "") -> None:
        """Words about the row."""
        cell = Cell(text, records, row=self.name, column=column or heading, **self.about)
        self._add(Heading(heading, False, ""), cell)

    def number(
        self,
        heading: str,
        text: str | int,
        records: Sequence[dict] = (),
        published: Sequence[str] = (),
        *,
        column: str = "",
        above_published: str = "",
        **about: str | None,
    ) -> None:
        """A number, and the published ones, which Markdown and LaTeX print in a column of their own."""
        cell = Cell(str(text), records, published, False, self.name, column or heading, **self.about | about)
        self._add(Heading(heading, True, above_published), cell)

    def _add(self, heading: Heading, cell: Cell) -> None:
        self.cells[heading.text] = cell
        self.table.headings.setdefault(heading.text, heading)


@dataclass
class Table:
    """`gap` stands where a row has no cell under a heading. `records` are the lines of the csv, by default those of the
    cells in their order; `types` gives pandas types to some of their columns."""

    gap: str = "–"
    types: dict[str, str] = field(default_factory=dict)
    records: list[dict] = field(default_factory=list)
    headings: dict[str, Heading] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def row(self, name: str, **about: str | None) -> Row:
        self.rows.append(Row(self, name, about))
        return self.rows[-1]

    def lines(self) -> list[dict]:
        """The lines of the csv, each once."""
        behind = (record for row in self.rows for cell in row.cells.values() for record in cell.records)
        return self.records or list({id(record): record for record in behind}.values())

    def cells(self) -> list[list[Cell]]:
        """A cell for every row and heading."""
        return [
            [row.cells.get(h) or Cell(self.gap, row=row.name, column=h) for h in self.headings] for row in self.rows
        ]

    def numbers(self) -> pd.DataFrame:
        """One line per number, with every digit."""
        return pd.DataFrame(self.lines()).astype(self.types)

    def csv(self) -> str:
        return self.numbers().to_csv(index=False)

    def markdown(self) -> str:
        return self._text("pipe")

    def latex(self) -> str:
        text = self._text("latex_booktabs")
        for sign, command in LATEX.items():
            text = text.replace(sign, command)
        return text

    def _text(self, form: str) -> str:
        headings, columns, sides = [], [], []
        for heading, cells in zip(self.headings.values(), zip(*self.cells(), strict=True), strict=True):
            shown = {heading.text: [cell.text for cell in cells]}
            if heading.published or any(cell.published for cell in cells):
                published = heading.published or f"{heading.text}, published"
                shown[published] = ["; ".join(cell.published) for cell in cells]
            headings += shown
            columns += shown.values()
            sides += ["right" if heading.number else "left"] * len(shown)
        rows = list(zip(*columns, strict=True))
        return tabulate(rows, headings, form, colalign=sides, disable_numparse=True) + "\n"

    def nested(self) -> dict:
        """Our numbers by the labels that stand before them, {row: {column: {name: number}}}, for `dvc metrics diff`."""
        frame = self.numbers()
        labels = list(takewhile(lambda name: not pd.api.types.is_numeric_dtype(frame[name]), frame))
        ours = frame.select_dtypes("number").loc[:, lambda numbers: ~numbers.columns.str.startswith("published")]
        tree: dict = {}
        for names, numbers in zip(frame[labels].values, ours.to_dict("records"), strict=True):
            place = tree
            for name in names:
                place = place.setdefault(name, {})
            place.update({name: number for name, number in numbers.items() if pd.notna(number)})
        return tree

    def json(self, **about: str) -> dict:
        """`numbers` are nested, which DVC compares; `printed` is the table as it is read, which DVC leaves alone.

        A cell has the fields of `Cell`, its records as the csv writes them. `about` is put beside headings and rows.
        """
        written = csv.DictReader(io.StringIO(self.csv()))
        lines = {id(record): line for record, line in zip(self.lines(), written, strict=True)}

        def told(cell: Cell) -> dict:
            return vars(cell) | {"published": [*cell.published], "records": [lines[id(r)] for r in cell.records]}

        rows = [[told(cell) for cell in cells] for cells in self.cells()]
        headings = [{"text": heading.text, "number": heading.number} for heading in self.headings.values()]
        return {"numbers": self.nested(), "printed": [about | {"headings": headings, "rows": rows}]}
