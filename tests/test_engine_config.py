"""What is written for an engine says the same when read by that engine's rule, at every batch size."""

from __future__ import annotations

import json
import shlex
from bisect import bisect_left, bisect_right

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sdsim.adapters.tensorrt_llm import schedule_keys, speculative_config
from sdsim.engine_config import (
    length_table,
    policy_table,
    ranges,
    read_sglang_adaptive_config,
    read_tensorrt_llm_schedule,
    read_vllm_arguments,
    read_vllm_ranges,
    sglang_adaptive_config,
    sglang_arguments,
    tensorrt_llm_schedule,
    vllm_arguments,
    vllm_speculative_config,
    with_lengths,
)
from sdsim.engine_costs import dspark_costs, read_dspark_seconds
from sdsim.errors import CalibrationError, PolicyError
from sdsim.policies import get_policy

TABLES = st.lists(st.tuples(st.integers(0, 16), st.integers(1, 40)), min_size=1, max_size=12).map(
    lambda runs: np.repeat([k for k, _ in runs], [n for _, n in runs])
)
DRAFTING = TABLES.filter(lambda table: table.any())
FALLING = DRAFTING.map(lambda table: np.append(table.max(), table))


def vllm_rule(entries, max_num_seqs, longest):
    """vLLM's rule, written out batch by batch: the range that holds it, else the one before it."""
    found = []
    for batch in range(1, max_num_seqs + 1):
        before = [entry for entry in sorted(entries) if entry[0] <= batch]
        found.append(min(before[-1][2], longest))
    return found


@given(DRAFTING)
def test_vllm_ranges_round_trip(table):
    written = ranges(table)
    longest = int(table.max())
    assert read_vllm_ranges(written, len(table), longest).tolist() == table.tolist()
    assert vllm_rule(written, len(table), longest) == table.tolist()
    assert len(written) == 1 + np.count_nonzero(np.diff(table))


@given(DRAFTING, st.integers(0, 16), st.randoms())
def test_vllm_ranges_with_gaps_and_a_shorter_limit_are_read_as_vllm_does(table, longest, random):
    entries = [entry for entry in ranges(table) if entry[0] == 1 or random.random() < 0.6]
    random.shuffle(entries)
    size = len(table) + 20
    assert read_vllm_ranges(entries, size, longest).tolist() == vllm_rule(entries, size, longest)


@given(DRAFTING)
def test_vllms_command_line_round_trips_through_a_shell(table):
    drafter = {"method": "eagle3", "model": "it's a path"}
    line = f"vllm serve m {vllm_arguments(table, **drafter)} --port 8000"
    assert read_vllm_arguments(line, len(table)).tolist() == table.tolist()
    words = shlex.split(line)
    config = json.loads(words[words.index("--speculative-config") + 1])
    assert config["model"] == "it's a path"
    assert config["num_speculative_tokens"] == table.max()


@given(DRAFTING)
def test_sglang_slots_round_trip(table):
    config = json.loads(json.dumps(sglang_adaptive_config(table)))
    assert read_sglang_adaptive_config(config, len(table)).tolist() == table.tolist()
    assert f"--speculative-num-steps {table.max()} " in sglang_arguments(table, "a b.json")


@given(DRAFTING, st.sets(st.integers(1, 400), min_size=1, max_size=9))
def test_sglang_looks_a_batch_up_at_the_graph_that_it_is_padded_to(table, graphs):
    config = sglang_adaptive_config(table)
    read = read_sglang_adaptive_config(config, len(table), sorted(graphs)).tolist()
    for batch, length in enumerate(read, 1):
        padded = min((size for size in graphs if size >= batch), default=batch)
        assert length == table[min(padded, len(table)) - 1]


@given(FALLING)
def test_tensorrt_llm_schedules_round_trip_in_both_meanings(table):
    lower, upper = tensorrt_llm_schedule(table, "lower"), tensorrt_llm_schedule(table, "upper")
    assert read_tensorrt_llm_schedule(lower, len(table), "lower").tolist() == table.tolist()
    assert read_tensorrt_llm_schedule(upper, len(table), "upper").tolist() == table.tolist()
    lows, ups = sorted(lower), sorted(upper)
    for batch, length in enumerate(table.tolist(), 1):
        assert lower[lows[bisect_right(lows, batch) - 1]] == length
        assert upper[ups[bisect_left(ups, batch)]] == length
    # what its validator demands of either
    assert lower[min(lower)] == upper[min(upper)] == max(lower.values()) == max(upper.values()) == table.max()
    assert min(lower) == 1
    assert read_tensorrt_llm_schedule(upper, len(table) + 3, "upper").tolist()[-3:] == [0, 0, 0]


def test_the_examples_of_tensorrt_llms_two_meanings():
    old = read_tensorrt_llm_schedule({1: 4, 4: 2, 8: 0}, 10, "lower")
    new = read_tensorrt_llm_schedule({4: 4, 8: 2, 32: 1}, 34, "upper")
    assert old.tolist() == [4] * 3 + [2] * 4 + [0] * 3
    assert new.tolist() == [4] * 4 + [2] * 4 + [1] * 24 + [0] * 2


def test_tensorrt_llm_cannot_say_that_drafts_grow():
    with pytest.raises(PolicyError, match="batch 1 drafts 2 but batch 3 drafts 4"):
        tensorrt_llm_schedule(np.array([2, 3, 4, 1]))


@pytest.mark.parametrize(
    ("version", "keys"), [("1.2.1", "lower"), ("0.21.0", "lower"), ("1.3.0", "upper"), ("1.3.0rc29", "upper")]
)
def test_the_meaning_of_the_keys_follows_the_release(version, keys):
    assert schedule_keys(version) == keys
    config = speculative_config(np.array([4, 4, 2, 0]), version, decoding_type="Eagle3")
    read = read_tensorrt_llm_schedule(config["draft_len_schedule"], 4, keys)
    assert (config["max_draft_len"], config["decoding_type"], read.tolist()) == (4, "Eagle3", [4, 4, 2, 0])


@given(TABLES, st.sets(st.integers(0, 16), max_size=4))
def test_every_length_can_be_put_into_a_table(table, lengths):
    try:
        changed = with_lengths(table, lengths)
    except PolicyError:
        assert len(set(table.tolist()) | lengths) > len(table)
        return
    missing = lengths - set(table.tolist())
    assert set(changed.tolist()) == set(table.tolist()) | lengths
    assert np.count_nonzero(changed != table) == len(missing)


def test_a_function_of_batch_and_context_and_its_array_make_one_table():
    def rule(batch, context):
        return 4 if batch * context < 8000 else 1

    contexts = [0, 1000, 4000]
    grid = [[rule(batch, context) for context in contexts] for batch in range(1, 33)]
    for context, column in ((1000, 1000), (3999, 1000), (9000, 4000), (5, 0)):
        expected = length_table(lambda b, _: rule(b, column), 32).tolist()  # noqa: B023
        assert length_table(grid, 32, context, contexts).tolist() == expected
    assert length_table([row[0] for row in grid], 32).tolist() == [4] * 32


def test_a_policys_table_is_what_it_plans():
    assert policy_table(get_policy("disable_by_batch", {"length": 3, "threshold": 5}), 8).tolist() == [3] * 5 + [0] * 3
    by_context = get_policy("batch_context_table", {"table": [[1, 4, 0, 999, 4], [1, 4, 1000, 9999, 2], [5, 8, 1]]})
    assert policy_table(by_context, 8, 500).tolist() == [4] * 4 + [1] * 4
    assert policy_table(by_context, 8, 5000).tolist() == [2] * 4 + [1] * 4


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: length_table([1, 2], 3), "shape (2,)"),
        (lambda: length_table([1.5, 2], 2), "draft length 1.5"),
        (lambda: length_table([1, -1], 2), "draft length -1"),
        (lambda: length_table(lambda b, c: 17, 2), "draft length 17"),
        (lambda: length_table([], 0), "shape (0,)"),
        (lambda: vllm_speculative_config(np.zeros(4, dtype=int)), "drafts at no batch size"),
        (lambda: sglang_adaptive_config(np.zeros(4, dtype=int)), "drafts at no batch size"),
        (lambda: read_vllm_ranges([[2, 4, 1]], 8, 4), "range 2 to 4"),
        (lambda: read_vllm_ranges([[1, 4, 1], [4, 6, 2]], 8, 4), "range 4 to 6"),
        (lambda: read_vllm_ranges([[1, 4, -1]], 8, 4), "draft length -1"),
        (lambda: read_vllm_ranges([[1, 4]], 8, 4), "[1, 4]"),
        (lambda: read_vllm_ranges(None, 8, 4), "num_speculative_tokens_per_batch_size"),
        (lambda: read_vllm_arguments("vllm serve m", 8), "found no --speculative-config"),
        (lambda: read_vllm_arguments('vllm serve --speculative-config \'{"method": "mtp"}\'', 8), "per_batch_size"),
        (lambda: read_vllm_arguments("vllm serve --speculative-config {oops", 8), "not JSON"),
        (
            lambda: read_sglang_adaptive_config({"1": {"candidate_steps": [1, 3]}}, 8),
            "slot 1 has candidate steps [1, 3]",
        ),
        (lambda: read_sglang_adaptive_config({"ema_alpha": 0.2}, 8), "no slots"),
        (lambda: read_sglang_adaptive_config({"1": {}}, 8), "candidate steps None"),
        (lambda: read_tensorrt_llm_schedule({2: 4}, 8, "lower"), "the least of them 1"),
        (lambda: read_tensorrt_llm_schedule({}, 8), "keys []"),
        (lambda: read_tensorrt_llm_schedule({4: 99}, 8), "draft length 99"),
        (lambda: schedule_keys("latest"), "version 'latest'"),
    ],
)
def test_what_an_engine_could_not_take_is_one_clear_error(call, says):
    with pytest.raises(PolicyError) as error:
        call()
    assert says in str(error.value)
    assert "allowed" in str(error.value) or "serve without" in str(error.value)


# --- DSpark's step prices ---


class Additive:
    """Steps that are such a sum as the table holds."""

    def verify_seconds(self, rows, verify_tokens, context, prefill_tokens=0, draft_length=0):
        rows_cost = np.interp(rows, [1, 2, 4, 8, 16, 32, 64, 128, 256], [0, 1, 1.5, 2, 4, 5, 9, 15, 40])
        return 0.001 * (5 + rows_cost + 0.02 * verify_tokens) + 1e-7 * context


def test_a_step_that_is_such_a_sum_is_read_back_exactly():
    written, error = dspark_costs(Additive(), 4, 2000)
    assert error < 1e-12
    table = json.loads(json.dumps(written))
    for rows in (1, 3, 8, 37, 256):
        for drafts in (0, rows, 4 * rows):
            expected = Additive().verify_seconds(rows, rows + drafts, 2000, 0, 4)
            assert read_dspark_seconds(table, rows, drafts) == pytest.approx(expected, rel=1e-9)
    assert table["bias_seconds"] > 0
    assert table["m_probes"] == sorted(set(table["m_probes"]))
    assert min(table["alpha_seconds"]) == 0


def test_the_error_of_a_step_that_is_no_such_sum_is_told():
    class Product(Additive):
        def verify_seconds(self, rows, verify_tokens, context, prefill_tokens=0, draft_length=0):
            return 0.001 + 1e-7 * rows * verify_tokens

    written, error = dspark_costs(Product(), 4)
    points = [(n, k) for n in written["bs_probes"] for k in range(5)]
    cost = Product()
    ratios = [read_dspark_seconds(written, n, n * k) / cost.verify_seconds(n, n * (1 + k), 0) for n, k in points]
    assert error == pytest.approx(max(abs(ratio - 1) for ratio in ratios), rel=1e-6)
    assert error > 0.1


def test_a_table_of_another_kind_is_refused():
    with pytest.raises(CalibrationError, match="no bias_seconds"):
        read_dspark_seconds({"sample_batch_tokens": [1]}, 1, 1)


def test_sglang_reads_the_emitted_prices_as_this_project_does():
    from tests.test_adapters_sglang import import_sglang

    theirs = import_sglang("sglang.srt.speculative.dspark_components.dspark_sps")
    written, _ = dspark_costs(Additive(), 3, 100)
    table = theirs.SpsAdditiveCostTable.from_json(json.dumps(written))
    for rows in (1, 5, 64, 300):
        for drafts in (0, 7, 3 * rows):
            expected = table.step_time(num_reqs=rows, budget=drafts)
            assert read_dspark_seconds(written, rows, drafts) == pytest.approx(expected, rel=1e-12)


pytestmark = pytest.mark.filterwarnings("ignore:::sglang", "ignore:::torch")
