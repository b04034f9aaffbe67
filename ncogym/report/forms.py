"""Tables on a terminal, in Markdown and in LaTeX."""

from __future__ import annotations

import re
from collections.abc import Sequence

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from ncogym.evaluation import Evaluation
from ncogym.page import Chapter, Column, Grid
from ncogym.report.chapters import chapters_of
from ncogym.report.tables import LESS, MORE, columns_of, grids_of, matrices_of, notes

LATEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    "–": r"\textendash{}",
    "…": r"\ldots{}",
    "·": r"$\cdot$",
    "×": r"$\times$",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}


def rich_table(evaluation: Evaluation, width: int = 80) -> Table:
    """Return the table for a terminal, one row a solver, its notes as the caption.

    Args:
        evaluation: what to show.
        width: columns of the terminal; more is shown where more fits.
    """
    columns = {column.title: column for column in columns_of(evaluation, evaluation.summaries())}
    optional = (*(LESS if evaluation.versus else ()), *MORE)
    wanted = [title for title in columns if title not in optional]
    for title in optional:
        if title in columns and sum(_width(columns[each]) + 2 for each in (*wanted, title)) <= width:
            wanted.append(title)
    table = Table(box=box.SIMPLE, pad_edge=False, collapse_padding=True)
    table.caption, table.caption_justify = Text("\n".join(notes(evaluation, origin=False))), "left"
    shown = [column for column in columns.values() if column.title in wanted]
    for at, column in enumerate(shown):
        if at:
            table.add_column(_broken(column.title), justify="right", no_wrap=True)
        else:
            table.add_column(column.title, overflow="fold")  # on a narrow terminal a name is broken before a number is
    for row in zip(*(column.texts for column in shown), strict=True):
        table.add_row(*map(Text, row))  # as it is, without markup
    return table


def markdown_table(evaluations: Sequence[Evaluation]) -> str:
    """Return the tables in Markdown, each with its notes as a list below; the best mean is bold.

    Args:
        evaluations: a set under a budget each.
    """
    return markdown_of(chapters_of(evaluations))


def latex_table(evaluations: Sequence[Evaluation]) -> str:
    r"""Return the tables in LaTeX, to be ``\input`` where the package booktabs is loaded; the best mean is bold.

    Args:
        evaluations: a set under a budget each.
    """
    return latex_of(chapters_of(evaluations))


def markdown_of(chapters: Sequence[Chapter]) -> str:
    """Return the tables of chapters in Markdown."""
    lines: list[str] = []

    def add(grid: Grid) -> None:
        cells = [[re.sub(r"([\\|*<`])", r"\\\1", cell) for cell in row] for row in grid.rows]
        cells = [
            [f"**{cell}**" if (at, column) in grid.best else cell for column, cell in enumerate(row)]
            for at, row in enumerate(cells)
        ]
        header = [title.replace("|", "\\|") for title in grid.header]
        table = [header, ["---", *["---:"] * (len(header) - 1)], *cells]
        lines.extend([f"### {grid.title}", "", *(f"| {' | '.join(row)} |" for row in table), ""])
        lines.extend([grid.note.replace("*", "\\*"), ""] * bool(grid.note))

    of_all = [note for note in chapters[0].notes if all(note in chapter.notes for chapter in chapters)]
    apart = of_all if len(chapters) > 1 else []
    for chapter in chapters:
        for grid in grids_of(chapter):
            add(grid)
        lines.extend([*(f"- {note}" for note in chapter.notes if note not in apart), ""])
    for grid in matrices_of(chapters):
        add(grid)
    if apart:
        lines.extend(["All of these tables:", "", *(f"- {note}" for note in apart), ""])
    return "\n".join(lines)


def latex_of(chapters: Sequence[Chapter]) -> str:
    """Return the tables of chapters in LaTeX."""
    lines = [r"% \usepackage{booktabs}; each table is a float of its own"]

    def add(grid: Grid, told: Sequence[str]) -> None:
        words = sum(title in ("solver", "trained on") for title in grid.header)
        header = [_escaped(_broken(title)).replace("\n", r"\\") for title in grid.header]
        heads = [rf"\shortstack[r]{{{title}}}" if r"\\" in title else title for title in header]
        lines.extend([r"\begin{table}", r"\centering\footnotesize\setlength{\tabcolsep}{3pt}"])
        lines.append(rf"\caption{{{_escaped(grid.title)}}}")
        lines.append(rf"\begin{{tabular}}{{{'l' * words}{'r' * (len(header) - words)}}}")
        lines.extend([r"\toprule", " & ".join(heads) + r" \\", r"\midrule"])
        for at, row in enumerate(grid.rows):
            cells = [
                rf"\textbf{{{_escaped(cell)}}}" if (at, column) in grid.best else _escaped(cell)
                for column, cell in enumerate(row)
            ]
            # a star or a bracket at the start of a line would be read as an option of the line break before
            lines.append(("{}" if cells[0].startswith(("*", "[")) else "") + " & ".join(cells) + r" \\")
        lines.extend([r"\bottomrule", r"\end{tabular}"])
        if told:
            lines.append(r"\par\smallskip\begin{minipage}{\linewidth}\raggedright\scriptsize")
            lines.extend([rf"{_escaped(note)}.\par" for note in told])
            lines.append(r"\end{minipage}")
        lines.extend([r"\end{table}", ""])

    for chapter in chapters:
        main, *others = grids_of(chapter)
        add(main, chapter.notes)
        for grid in others:
            add(grid, ())
    for grid in matrices_of(chapters):
        add(grid, [grid.note] if grid.note else [])
    return "\n".join(lines)


def _escaped(text: str) -> str:
    """Return a text as LaTeX shows it; signs that its standard fonts lack become question marks."""
    known = "".join(LATEX.get(sign, sign if ord(sign) < 0x180 else "?") for sign in text)
    minus = re.sub(r"(?<!\S)(\[?)-(?=\d)", r"\1$-$", known)
    return re.sub(r"-(?=-)", "-{}", minus)  # two hyphens, and no dash


def _broken(title: str) -> str:
    """Return a long title on two lines."""
    return re.sub(r" (\(.*\)|\w\S*(?: %)?)$", r"\n\1", title) if len(title) > 8 else title


def _width(column: Column) -> int:
    return max(cell_len(line) for text in (_broken(column.title), *column.texts) for line in text.split("\n"))
