"""The code, the commands and the figures of the README and of docs/."""

from __future__ import annotations

import json
import re
import shlex
import sys
from importlib import import_module
from pathlib import Path

import pytest

from sdsim.command import parsed
from sdsim.policies import get_policy
from sdsim.predict import main as predict
from sdsim.reproduce import main as reproduce
from sdsim.run import main as run
from sdsim.testing import check_policy

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page.name: page.read_text() for page in PAGES}
TEXT = TEXTS["README.md"]
ALL = "\n".join(TEXTS.values())
COMMANDS = [line.split(" #")[0].strip() for line in ALL.splitlines() if line.startswith("python -m sdsim.")]
INLINE = re.findall(r"`(python -m sdsim\.[^`]+)`", ALL)
WIDEST = 120


@pytest.mark.parametrize("name", TEXTS)
def test_paragraphs_are_not_overlong(name):
    """Tables, pictures and what a shell is given aside."""
    prose = re.sub(r"```.*?```", "", TEXTS[name], flags=re.S).splitlines()
    wide = [line for line in prose if len(line) > WIDEST and line[0] not in "|!"]
    assert not wide


@pytest.mark.parametrize("command", dict.fromkeys([*COMMANDS, *INLINE]))
def test_commands_have_the_options_shown(command):
    """And name files that there are, other than those that a command before has written."""
    module, *words = shlex.split(command)[2:]
    if words in ([], ["..."]):  # a command's name
        return
    if "engine_metrics" in module:
        module += ".__main__"
    assert parsed(import_module(module).parser(), words)
    for word in words:
        if word.startswith(("scenarios/", "tests/")):
            assert (ROOT / word).exists(), word


def test_the_example_policy_keeps_the_contract(tmp_path, monkeypatch, capsys):
    code = re.search(r"```python\n(# mine.py.*?)```", TEXT, re.S)
    assert code is not None
    assert len(code[1].splitlines()) <= 40
    (tmp_path / "mine.py").write_text(code[1])
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    check_policy(lambda: get_policy("mine:Cautious"))
    scenario = ROOT / "scenarios/steady.yaml"
    words = [str(scenario), "--policy", "mine:Cautious", "--json", "--set", "workload.limit=40", "--seeds", "1"]
    assert run(words) == 0
    assert '"policy": "cautious"' in capsys.readouterr().out
    sys.modules.pop("mine", None)


def test_predict_commands_run(tmp_path, monkeypatch, capsys):
    shown = [c for c in COMMANDS if "predict" in c and "path/to" not in c]
    assert shown
    for command in shown:
        assert predict(command.replace('"', "").split()[3:]) == 0
    assert "Speedup" in capsys.readouterr().out


def test_the_reproduction_prints_the_papers_page(capsys):
    """Those that need no file of the reader's: the cells, and the peaks of the prices and of the executor."""
    command = next(c for c in COMMANDS if "sdsim.reproduce" in c)
    words = [str(ROOT / word) if "/" in word else word for word in command.split()[3:]]
    assert reproduce([*words[: words.index("--out")], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    paper = " ".join(TEXTS["paper.md"].split())
    assert f"{found['tables']['within']} of the {found['tables']['cells']} peak speedups" in paper
    peaks = {row["source"]: row for row in found["peaks"] if row["gamma"] == 4 and row["device"] == "h200"}
    for source, how in (("our model", "priced, batch"), ("executor", "our executor,")):
        assert f"{peaks[source]['speedup']:.2f} ({how} {peaks[source]['batch']})" in paper


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!http)([^)#\s]+)[^)]*\)", TEXTS[page.name])
    assert links
    for target in links:
        assert (page.parent / target).exists(), target


def test_every_page_is_linked_from_the_readme():
    assert all(f"(docs/{name})" in TEXT for name in TEXTS if name != "README.md")


def test_ci_runs_the_readmes_test_command():
    command = next(line for line in TEXT.splitlines() if "pytest" in line and line.startswith("python3 -m venv"))
    assert command in (ROOT / ".ci/run").read_text()


def test_the_main_job_prints_what_the_readme_shows(tmp_path, monkeypatch, capsys):
    """Word by word as wide as there; figures but for their last digit."""
    monkeypatch.setenv("COLUMNS", "110")
    block = re.search(r"```\n(bursty · .*?)```", TEXT, re.S)
    assert block is not None
    assert run([str(ROOT / "scenarios/bursty.yaml"), "--out", str(tmp_path / "out"), "--no-plots"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    shown, found = block[1].split(), said.out.partition("files: ")[0].split()
    assert list(map(_worded, found)) == list(map(_worded, shown))
    numbers = [(float(a), float(b)) for a, b in zip(_numbers(found), _numbers(shown), strict=True)]
    assert len(numbers) > 60
    assert all(a == pytest.approx(b, rel=0.02, abs=0.051) for a, b in numbers)


def _worded(word):
    return re.sub(r"[\d.,]*\d", "#", word)


def _numbers(words):
    return [figure.replace(",", "") for word in words for figure in re.findall(r"\d[\d.,]*\d|\d", word)]
