"""The README's own code and commands."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from sdsim.policies import get_policy
from sdsim.predict import main as predict
from sdsim.reproduce import main as reproduce
from sdsim.run import main as run
from sdsim.testing import check_policy

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text()
COMMANDS = [line.split("#")[0].strip() for line in TEXT.splitlines() if line.startswith("python -m sdsim.")]


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


def test_run_commands_name_files_and_keys_that_exist():
    for command in (c for c in COMMANDS if "sdsim.run" in c):
        assert (ROOT / command.split()[3]).exists(), command


def test_the_reproduction_prints_the_readmes_figures(capsys):
    """Those that need no file of the reader's: the cells, and the peaks of the prices and of the executor."""
    command = next(c for c in COMMANDS if "sdsim.reproduce" in c)
    words = [str(ROOT / word) if "/" in word else word for word in command.split()[3:]]
    assert reproduce([*words[: words.index("--out")], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert f"{found['tables']['within']} of the {found['tables']['cells']} peak speedups" in TEXT
    peaks = {row["source"]: row for row in found["peaks"] if row["gamma"] == 4 and row["device"] == "h200"}
    for source, how in (("our model", "priced, batch"), ("executor", "our executor,")):
        assert f"{peaks[source]['speedup']:.2f} ({how} {peaks[source]['batch']})" in TEXT


def test_links_lead_somewhere():
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", TEXT):
        assert (ROOT / target).exists(), target


def test_ci_runs_the_readmes_test_command():
    command = next(line for line in TEXT.splitlines() if "pytest" in line and line.startswith("python3 -m venv"))
    assert command in (ROOT / ".ci/run").read_text()


def test_the_main_job_prints_the_readmes_figures(capsys):
    assert run([str(ROOT / "scenarios/bursty.yaml"), "--json"]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    runs = json.loads(said.out)["runs"]
    for result in runs:
        row = next(line for line in TEXT.splitlines() if line.startswith(result["policy"] + " "))
        shown = float(re.search(r"([\d.]+) ±", row)[1])  # type: ignore[index]
        assert abs(result["goodput_rps"] - shown) <= 0.051, result["policy"]
        assert f"{100 * result['slo_attainment']:.1f}%" in row
