"""What `import sdsim` promises, and what it does not drag in."""

from __future__ import annotations

import subprocess
import sys

import pytest

import sdsim
from sdsim.__main__ import COMMANDS, overview


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
    assert f"python -m sdsim.{command}" in said
    assert command in overview()
