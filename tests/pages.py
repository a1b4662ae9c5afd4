"""The HTML report, parsed, and mischief to put into it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from html.parser import HTMLParser

from sdsim.result import Result

EVIL = """</script><img src=x onerror="window.evil=1">'&amp;<b>"""
VOID = {"meta", "link", "input", "br", "img", "line"}


@dataclass
class Page(HTMLParser):
    """A page's elements, and its tables as rows of text."""

    tags: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    tables: dict[str, list[list[str]]] = field(default_factory=dict)
    scripts: list[tuple[dict[str, str], str]] = field(default_factory=list)
    text: str = ""

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self._open: list[str] = []
        self._table: list[list[str]] | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = {k: v or "" for k, v in attrs}
        self.tags.append((tag, known))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self._table = self.tables[known["id"]] = []
        if tag == "tr":
            assert self._table is not None
            self._table.append([])
        if tag in ("th", "td"):
            self._table[-1].append("")
        if tag == "script":
            self.scripts.append((known, ""))

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
            return
        if {"th", "td"} & set(self._open):
            self._table[-1][-1] += data
        if "style" not in self._open:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attrs for name, attrs in self.tags if name == tag]


def parsed(text: str) -> Page:
    page = Page()
    page.feed(text)
    page.close()
    return page


def hostile(result: Result) -> Result:
    """Return *result* with mischief wherever a scenario, a policy or a trace puts words."""
    scenario = result.scenario.model_copy()
    scenario._name = EVIL
    summary = result.summary | {"policy": EVIL, "engine": EVIL}
    names = tuple(f"{EVIL}{i}" for i in range(len(result.class_names)))
    workload = result.scenario.workload
    classes = dict(zip(names, workload.classes.values(), strict=True))
    law = result.scenario.acceptance
    rates = dict(zip(names, law.classes.values(), strict=True))
    update = {
        "workload": workload.model_copy(update={"classes": classes}),
        "acceptance": law.model_copy(update={"classes": rates}),
    }
    return replace(result, scenario=scenario.model_copy(update=update), summary=summary, class_names=names)
