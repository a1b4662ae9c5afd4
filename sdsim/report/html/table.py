"""A sheet as an HTML table: a caption, headings with their scope, and room to scroll on narrow screens."""

from __future__ import annotations

from html import escape

from sdsim.report.sheet import Column, Sheet


def table(sheet: Sheet, caption: str, name: str) -> str:
    """Return *sheet* under *caption*; *name* is unique on the page. The first columns name the rows."""
    head = "".join(f'<th scope="col"{_kind(c)}>{_heading(c.heading)}</th>' for c in sheet.columns)
    rows = "".join(_row(sheet, i) for i in range(len(sheet.columns[0].cells)))
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-labelledby="{name}-caption">'
        f'<table id="{name}"><caption id="{name}-caption"><span>{escape(caption)}</span></caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _row(sheet: Sheet, row: int) -> str:
    cells = []
    for i, column in enumerate(sheet.columns):
        text = escape(column.cells[row])
        stressed = f"<strong>{text}</strong>" if row in column.stressed else text
        tag, scope = ("th", ' scope="row"') if i < sheet.keys else ("td", "")
        cells.append(f"<{tag}{scope}{_kind(column)}>{stressed}</{tag}>")
    return f"<tr>{''.join(cells)}</tr>"


def _kind(column: Column) -> str:
    return ' class="name"' if column.names else ""


def _heading(text: str) -> str:
    """Return a heading on one line; a word that was cut for a narrow terminal is whole again."""
    return escape(text.replace("-\n", "").replace("\n/", "/").replace("\n", " "))
