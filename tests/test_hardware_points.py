"""The command that times single steps."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.hardware_models import SIZES, write_configs

# isort: split
from sdsim.errors import ScenarioError
from sdsim.hardware.points import main


@pytest.fixture
def words(tmp_path):
    """Return what makes the command's words for a list of points."""
    write_configs(tmp_path)

    def make(points, *more):
        (tmp_path / "points.json").write_text(points if isinstance(points, str) else json.dumps(points))
        files = "--points", str(tmp_path / "points.json"), "--out", str(tmp_path / "out.json")
        return ["--model", str(tmp_path / "moe"), *files, *more]

    return make


def point(rows, draft_length, context):
    return {"rows": rows, "draft_length": draft_length, "context": context}


def test_points_are_timed_and_written(words, tmp_path, capsys):
    asked = [point(2, 1, 20), point(1, 0, 20)]
    options = "--draft", str(tmp_path / "draft"), "--repeats", "1", "--kv-tokens", str(16 * SIZES.pages)
    assert main(words(asked, *options)) == 0
    found = json.loads((tmp_path / "out.json").read_text())
    assert (found["model"], found["draft"], found["layers"]) == ("moe", "draft", 1)
    assert [{k: p[k] for k in asked[0]} for p in found["points"]] == asked
    first, off = found["points"]
    assert first["step_s"] == pytest.approx(first["target_s"] + first["rejection_s"] + first["draft_s"])
    assert 2 <= first["distinct_experts"] <= 8
    assert off["draft_s"] == 0
    assert off["distinct_experts"] == 2
    assert found["provenance"]["command"].startswith("python -m sdsim.hardware.points")
    assert capsys.readouterr().err.count("rows") == 2


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ("[", "Expecting value"),
        ("{}", "no list of points"),
        ([], "no list of points"),
        ([7], "point 0: found 7; allowed: the keys rows, draft_length, context"),
        ([point(1, 0, 9), point(0, 17, -1)], "point 1: rows: found 0; allowed: 1 to 4096"),
        ([point(True, 0, 9)], "rows: found True"),
        ([point(1, 2.0, 9)], "draft_length: found 2.0; allowed: 0 to 16"),
        ([point(1, 2, 9)], "--draft: missing"),
    ],
)
def test_bad_points_are_refused(words, points, message):
    with pytest.raises(ScenarioError, match=message):
        main(words(points))


def test_all_mistakes_are_told_at_once(words):
    with pytest.raises(ScenarioError) as error:
        main(words([point(0, 17, -1), 3]))
    assert len(error.value.problems) == 4


def test_bad_options_are_refused(words):
    with pytest.raises(ScenarioError, match="--repeats: 0"):
        main(words([point(1, 0, 9)], "--repeats", "0"))
    with pytest.raises(ScenarioError, match="layers: 2; allowed: 1 to 1"):
        main(words([point(1, 0, 9)], "--layers", "2"))
    with pytest.raises(ScenarioError, match=r"nowhere/x\.json: no such folder"):
        main(words([point(1, 0, 9)], "--out", "nowhere/x.json"))
    missing = words([point(1, 0, 9)])
    missing[3] = "nowhere.json"
    with pytest.raises(ScenarioError, match=r"nowhere.json"):
        main(missing)


def test_a_bare_gpu_machine_needs_no_more_than_numpy_torch_triton_and_yaml():
    lacking = "pydantic", "numba", "scipy", "pyarrow", "rich", "matplotlib", "hypothesis"
    program = f"import sys; sys.modules.update(dict.fromkeys({lacking})); import sdsim.hardware.points, "
    program += "sdsim.hardware.executor, sdsim.hardware.generation, sdsim.hardware.provenance, sdsim.models"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
