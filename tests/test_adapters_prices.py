"""Prices in a file: exact where the law is linear, near the simulator's, refused when damaged; and their command."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdsim.adapters.prices import AXES, PriceTable, read_price_table, tabulate
from sdsim.engine_config import policy_table
from sdsim.errors import PolicyError, ScenarioError
from sdsim.policies import get_policy
from sdsim.policies.acceptance_estimate import tokens_per_step
from sdsim.price_table import axes, main
from sdsim.scenario import load_scenario
from sdsim.simulation import make_system

GRID = {
    "rows": [1, 2, 8, 64],
    "drafts_per_row": [0, 1, 4],
    "draft_lengths": [0, 1, 4],
    "contexts": [0, 1000, 8000],
    "prefill_tokens": [0, 512],
}
SCENARIO = str(Path(__file__).parent.parent / "scenarios" / "steady.yaml")


class Linear:
    """Linear along each axis of the grid, and lengths priced apart."""

    def verify_seconds(self, rows, verify_tokens, context, prefill_tokens=0, draft_length=0):
        drafts = verify_tokens / rows - 1
        return (1 + rows) * (2 + drafts) * (3 + context) * (4 + prefill_tokens) * (1 + draft_length**2) * 1e-9

    def step_seconds(self, rows, draft_length, context, prefill_tokens=0):
        return self.verify_seconds(rows, rows * (1 + draft_length), context, prefill_tokens, draft_length)

    def off_seconds(self, rows, context, prefill_tokens=0):
        return (1 + rows) * (3 + context) * (4 + prefill_tokens) * 1e-9


TABLE = tabulate(Linear(), GRID)
POINTS = st.tuples(st.integers(1, 500), st.sampled_from([0, 1, 4]), st.floats(0, 1e5), st.integers(0, 9000))


@given(POINTS, st.integers(0, 4))
def test_prices_that_are_linear_along_the_axes_are_exact_inside_and_beyond(point, drafts):
    rows, length, context, prompt = point
    exact = Linear()
    assert TABLE.step_seconds(*point) == pytest.approx(exact.step_seconds(*point), rel=1e-9)
    assert TABLE.off_seconds(rows, context, prompt) == pytest.approx(exact.off_seconds(rows, context, prompt), rel=1e-9)
    tokens = rows * (1 + drafts)
    told = TABLE.verify_seconds(rows, tokens, context, prompt, length)
    assert told == pytest.approx(exact.verify_seconds(rows, tokens, context, prompt, length), rel=1e-9)


def test_below_the_grid_the_first_price_holds():
    axes_ = GRID | {"rows": [4, 8]}
    table = tabulate(Linear(), axes_)
    assert table.step_seconds(1, 1, 500) == table.step_seconds(4, 1, 500)


def test_a_length_without_prices_is_an_error_and_not_a_guess():
    with pytest.raises(ValueError, match="no price for draft length 3"):
        TABLE.step_seconds(4, 3, 100)


@pytest.mark.parametrize("single", AXES)
def test_an_axis_of_one_point_is_constant(single):
    table = tabulate(Linear(), GRID | {single: [GRID[single][0]]})
    assert table.step_seconds(*(4, 0, 500, 100)) > 0


def test_a_file_holds_the_prices_to_six_digits(tmp_path):
    file = tmp_path / "prices.json"
    file.write_text(json.dumps(TABLE.content()))
    read = read_price_table(file)
    for point in ((3, 4, 123.0, 77), (64, 0, 0.0, 0), (500, 1, 9e4, 8000)):
        assert read.step_seconds(*point) == pytest.approx(TABLE.step_seconds(*point), rel=2e-5)
        assert read.off_seconds(point[0], *point[2:]) == pytest.approx(
            TABLE.off_seconds(point[0], *point[2:]), rel=2e-5
        )
    assert read.draft_lengths == (0, 1, 4)


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda c: c.update(format="other"), "another format"),
        (lambda c: c.pop("rows"), "'rows'"),
        (lambda c: c.update(rows=[2, 1, 8, 64]), "rows [2, 1, 8, 64], which do not ascend"),
        (lambda c: c.update(contexts=[]), "contexts []"),
        (lambda c: c.update(rows=[1, 2, 8]), "on a grid of (3, 3, 3, 3, 2)"),
        (lambda c: c["seconds"].pop(), "prices of shape"),
        (lambda c: c["off_seconds"][0][0].__setitem__(0, 0.0), "not above 0"),
        (lambda c: c["off_seconds"][0][0].__setitem__(0, None), "not above 0"),
    ],
)
def test_a_damaged_file_is_one_clear_error(tmp_path, damage, says):
    content = json.loads(json.dumps(TABLE.content()))
    damage(content)
    file = tmp_path / "prices.json"
    file.write_text(json.dumps(content))
    with pytest.raises(PolicyError) as error:
        read_price_table(file)
    assert says in str(error.value)
    assert "python -m sdsim.price_table" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["", "[1", "[]", "3"])
def test_a_file_of_something_else_is_refused(tmp_path, text):
    file = tmp_path / "prices.json"
    file.write_text(text)
    with pytest.raises(PolicyError, match="price_table"):
        read_price_table(file)
    with pytest.raises(PolicyError, match="No such file"):
        read_price_table(tmp_path / "none.json")


def test_reading_prices_needs_numpy_alone(tmp_path):
    file = tmp_path / "prices.json"
    file.write_text(json.dumps(TABLE.content()))
    heavy = ("numba", "scipy", "pydantic", "yaml", "matplotlib", "rich", "pyarrow", "torch", "vllm", "sglang")
    code = (
        "import os, sys; os.environ['SDSIM_POLICY'] = sys.argv[1]; import sdsim.adapters.vllm, sdsim.adapters.sglang, "
        "sdsim.adapters.tensorrt_llm; from sdsim.adapters.settings import load_settings; "
        f"load_settings(None, frozenset()); print([m for m in {heavy} if m in sys.modules])"
    )
    policy = json.dumps({"policy": {"kind": "goodput", "lengths": [0, 1, 4]}, "prices": str(file)})
    said = subprocess.run([sys.executable, "-c", code, policy], capture_output=True, text=True, check=True)
    assert said.stdout.strip() == "[]"


# --- the command ---


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return a table of the scenario's prices, and the prices themselves."""
    file = tmp_path_factory.mktemp("prices") / "prices.json"
    words = [SCENARIO, "--lengths", "0,1,2,3,4", "--context", "8192", "--out", str(file)]
    assert main(words) == 0
    scenario = load_scenario(SCENARIO)
    return json.loads(file.read_text()), read_price_table(file), make_system(scenario).prices, scenario


def test_the_file_says_what_it_rests_on_and_how_far_it_is_off(written):
    content, table, exact, scenario = written
    assert isinstance(table, PriceTable)
    assert content["about"]["model"] == scenario.model
    assert content["median_error"] < 0.01
    assert content["largest_error"] < 0.15
    rng = np.random.default_rng(5)
    rows, lengths, contexts = rng.integers(1, 200, 100), rng.integers(0, 5, 100), rng.integers(1, 8000, 100)
    errors = [
        table.step_seconds(n, k, c) / exact.step_seconds(n, k, c) - 1
        for n, k, c in zip(rows.tolist(), lengths.tolist(), contexts.tolist(), strict=True)
    ]
    assert np.median(np.abs(errors)) < 0.01


def test_a_policy_decides_by_the_table_as_by_the_simulators_prices(written):
    _, table, exact, scenario = written
    lengths = {"lengths": [0, 1, 2, 3, 4]}
    for context in (400, 6000):
        ours = policy_table(get_policy("goodput", lengths, table), scenario.replica.max_num_seqs, context)
        best = policy_table(get_policy("goodput", lengths, exact), scenario.replica.max_num_seqs, context)

        def goodput(batch, length, context=context):
            return tokens_per_step(0.7, int(length)) / exact.step_seconds(batch, int(length), context)

        lost = [1 - goodput(b, k) / goodput(b, j) for b, (k, j) in enumerate(zip(ours, best, strict=True), 1)]
        assert max(lost) < 0.04
        assert np.mean(lost) < 0.005


def test_the_grid_covers_the_engines_limits():
    grid = axes([0, 2, 5], 100, 3000, 8192)
    assert (grid["rows"][0], grid["rows"][-1]) == (1, 100)
    assert grid["drafts_per_row"] == [0, 1, 2, 3, 4, 5]
    assert (grid["contexts"][0], grid["contexts"][-1]) == (0, 3000)
    assert (grid["prefill_tokens"][0], grid["prefill_tokens"][-1]) == (0, 8192)
    assert all(axis == sorted(set(axis)) for axis in grid.values())
    assert axes([0], 1, 1, 1)["rows"] == [1]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([SCENARIO, "--lengths", "0,99"], "--lengths"),
        ([SCENARIO, "--context", "0"], "--context"),
        (["scenarios/none.yaml"], "none.yaml"),
        ([SCENARIO, "--set", "draft=none", "--set", "policy=off"], "no draft"),
    ],
)
def test_wrong_words_write_nothing(tmp_path, words, says):
    file = tmp_path / "prices.json"
    with pytest.raises(ScenarioError, match=says):
        main([*words, "--out", str(file)])
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_said():
    with pytest.raises(ScenarioError, match="--out"):
        main([SCENARIO, "--lengths", "0,1", "--context", "600", "--out", "/dev/null/prices.json"])
