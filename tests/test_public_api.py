"""What `import sdsim` promises, and what it does not drag in."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys

import pytest

import sdsim
from sdsim.__main__ import COMMANDS, overview
from sdsim.__main__ import main as command_line
from sdsim.errors import ScenarioError
from tests.scenario_texts import GOOD


def test_a_result_is_a_table_in_a_repl(tmp_path):
    path = tmp_path / "short.yaml"
    path.write_text(GOOD)
    result = sdsim.simulate(sdsim.load_scenario(path, ["until=3s"]))
    lines = repr(result).splitlines()
    assert lines[0] == "Result of short: fixed-3, seed 7"
    assert lines[1].split() == ["mean", "p50", "p90", "p99"]
    printed = dict(line.split(maxsplit=1) for line in lines[2:])
    assert set(printed) == set(result.summary)
    assert float(printed["ttft_s"].split()[1]) == pytest.approx(result.summary["ttft_s"]["p50"], rel=1e-3)
    assert float(printed["goodput_rps"]) == pytest.approx(result.summary["goodput_rps"], rel=1e-3)


def fresh(code):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.parametrize("name", sdsim.__all__)
def test_every_public_name_loads(name):
    assert getattr(sdsim, name) is not None


def test_names_are_sorted_and_complete():
    assert sorted(sdsim.__all__) == sdsim.__all__
    assert set(sdsim._HOMES) == set(sdsim.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = sdsim.nothing


def test_a_function_is_not_shadowed_by_its_module():
    assert fresh("import sdsim; sdsim.simulate; import sdsim.simulation; print(callable(sdsim.simulate))") == "True"


def test_the_policy_contract_costs_numpy_alone():
    heavy = ("numba", "scipy", "pydantic", "yaml", "matplotlib", "rich", "pyarrow", "torch", "triton")
    use = "sdsim.Policy, sdsim.get_policy('fixed', {'length': 2})"
    code = f"import sys, sdsim; {use}; print([m for m in {heavy} if m in sys.modules])"
    assert fresh(code) == "[]"


def test_running_needs_no_plotting_and_no_torch():
    heavy = ("matplotlib", "torch", "triton", "plotly", "dask")
    code = f"import sys, sdsim.run, sdsim.predict; print([m for m in {heavy} if m in sys.modules])"
    assert fresh(code) == "[]"


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_has_help_with_an_example(command):
    words = [sys.executable, "-m", f"sdsim.{command}", "--help"]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    _, _, examples = said.rpartition("example")
    assert f"python -m sdsim.{command}" in examples
    assert command in overview()


def test_a_command_runs_by_its_name_alone(capsys):
    words = ["--model", "qwen3-30b-a3b", "--gpu", "h200", "--batch", "1", "--draft-length", "0", "--json"]
    assert command_line(["predict", *words]) == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 1
    assert command_line([]) == 0
    assert capsys.readouterr().out.strip() == overview()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["recomend"], "unknown command 'recomend'; did you mean recommend"),
        (["--print-completion", "bsh"], "did you mean bash"),
        (["--print-completion"], "allowed: bash, zsh, tcsh"),
    ],
)
def test_what_is_no_command_is_one_clear_error(words, says):
    with pytest.raises(ScenarioError, match=says):
        command_line(words)


def test_without_shtab_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(ScenarioError, match=r"pip install 'sdsim\[completion\]'"):
        command_line(["--print-completion", "bash"])


def test_bash_completes_commands_options_and_files(tmp_path, capsys):
    """By bash itself, with the words as a user has typed them."""
    pytest.importorskip("shtab")
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("there is no bash")
    assert command_line(["--print-completion", "bash"]) == 0
    (tmp_path / "complete.sh").write_text(capsys.readouterr().out)
    (tmp_path / "mine.yaml").touch()

    def completed(*words):
        line = " ".join(map(shlex.quote, words))
        setting = f"COMP_WORDS=({line}); COMP_CWORD={len(words) - 1}"
        run = f"source ./complete.sh; {setting}; _shtab_sdsim {line}; printf '%s\\n' \"${{COMPREPLY[@]}}\""
        return subprocess.run([bash, "-c", run], cwd=tmp_path, capture_output=True, text=True).stdout.split()

    assert completed("sdsim", "recom") == ["recommend"]
    assert "--slo-attainment" in completed("sdsim", "recommend", "--slo")
    assert "mine.yaml" in completed("sdsim", "run", "mi")
