"""Records of measured steps and replayed requests: what is read, what is derived, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sdsim.errors import TraceError
from sdsim.measurements import read_measurements
from sdsim.measurements.record import shipped_config
from sdsim.measurements.replay import queue_grew
from sdsim.models import load_model

STEP = {
    "model": "qwen2-57b", "draft": "qwen2-0.5b", "gamma": 2, "B": 8, "P": 128, "step_ms_median": 30.8,
    "step_ms_p90": 31.0, "tokens_per_seq_step": 2.5, "n": 40, "alpha": 0.8, "init_s": 28.5, "engine": "vllm 0.22.1",
}  # fmt: skip
REQUEST = {
    "model": "qwen2-57b", "gamma": 0, "alpha": None, "rate": 2.0, "i": 0, "arrival": 0.0, "prompt": 300, "output": 20,
    "first": 0.1, "finish": 0.5, "got": 20,
}  # fmt: skip


def written(tmp_path, *lines):
    path = tmp_path / "measured.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


def read(tmp_path, *lines):
    return read_measurements(written(tmp_path, *lines))


def test_a_step_has_its_figures_and_keeps_other_keys(tmp_path):
    found = read(tmp_path, STEP)
    (one,) = found.steps
    assert found.replays == ()
    assert (one.record.batch, one.record.draft_length, one.record.step_s) == (8, 2, 0.0308)
    assert one.record.model_extra == {"step_ms_p90": 31.0}


def test_the_context_is_the_prompt_and_what_was_generated_up_to_the_middle(tmp_path):
    found = read(tmp_path, STEP, STEP | {"n": 48, "B": 16}, STEP | {"context": 700.5, "B": 32})
    assert [one.record.mean_context for one in found.steps] == [128 + 2.5 * 32, 128 + 2.5 * 36, 700.5]
    silent = {k: v for k, v in STEP.items() if k != "tokens_per_seq_step"}
    (one,) = read(tmp_path, silent).steps
    assert one.record.mean_context == pytest.approx(128 + (1 + 0.8 + 0.64) * 32)


def test_a_process_is_limited_to_its_largest_batch(tmp_path):
    other = {"gamma": 0, "draft": None, "alpha": None}
    found = read(tmp_path, STEP, STEP | {"B": 64}, STEP | other, STEP | {"init_s": 9.0}, STEP | {"max_num_seqs": 99})
    assert [one.max_num_seqs for one in found.steps] == [64, 64, 8, 8, 99]


def test_parts_of_a_step_have_the_names_of_predictions(tmp_path):
    parts = {"target_ms": 20.0, "rejection_ms": 1.0, "draft_ms": 0.0, "distinct_experts": 40.5}
    (one,) = read(tmp_path, STEP | parts).steps
    assert one.record.parts == {"target_s": 0.02, "reject_s": 0.001, "distinct_experts": 40.5}


def test_requests_are_grouped_by_rate_and_ordered_by_arrival(tmp_path):
    later = REQUEST | {"i": 1, "arrival": 0.2, "first": 0.4, "finish": 0.9, "got": 19}
    found = read(tmp_path, later, REQUEST | {"rate": 8.0}, REQUEST, STEP)
    assert len(found.steps) == 1
    slow, fast = found.replays
    assert (slow.record.rate, len(slow), fast.record.rate, len(fast)) == (2.0, 2, 8.0, 1)
    assert slow.requests["arrival_s"].tolist() == [0.0, 0.2]
    assert slow.requests["output_tokens"].tolist() == [20, 20]
    assert slow.requests["got_tokens"].tolist() == [20, 19]
    assert slow.max_num_seqs == 256


def ramp(ttft):
    arrival = np.arange(len(ttft), dtype=float)
    return {"arrival_s": arrival, "first_token_s": arrival + ttft}


def test_a_queue_that_grows_is_told_from_a_batch_that_fills_up():
    even = np.full(100, 0.1)
    assert not queue_grew(ramp(even))
    assert not queue_grew(ramp(0.1 + 0.1 * (1 - np.exp(-np.arange(100) / 20))))
    assert not queue_grew(ramp(np.where(np.arange(100) == 99, 5.0, 0.1)))
    assert queue_grew(ramp(0.05 + 0.3 * np.arange(100)))
    assert queue_grew(ramp(np.where(np.arange(100) > 60, np.nan, 0.1)))
    assert not queue_grew(ramp(np.array([0.1, 9.0])))


def test_models_that_exist_for_measuring_only():
    path = shipped_config("tiny-mistral")
    assert path is not None
    model = load_model(path)
    assert (model.name, model.vocabulary) == ("tiny-mistral", load_model("mixtral-8x7b").vocabulary)
    assert shipped_config("qwen2-0.5b") is None
    assert shipped_config("../engines/ideal") is None


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "no JSON"),
        ("[1]", "one object a line"),
        (json.dumps(STEP).replace("30.8", "NaN"), "NaN is no measurement"),
        ({"a": 1}, "step_ms_median"),
        (STEP | {"step_ms_median": 0}, "step_ms_median: found 0"),
        (STEP | {"B": 0}, "B: found 0"),
        (STEP | {"B": 1.5}, "B: found 1.5"),
        (STEP | {"alpha": 1.5}, "alpha: found 1.5"),
        (STEP | {"alpha": None}, "alpha: missing with gamma 2"),
        (STEP | {"model": 3}, "model: found 3"),
        (STEP | {"P": 0}, "P: missing"),
        (STEP | {"capture_sizes": [4, 2]}, "capture_sizes: found"),
        ({k: v for k, v in STEP.items() if k != "B"}, "B: missing"),
        (REQUEST | {"first": 0.6}, "times in this order"),
        (REQUEST | {"got": 0}, "got: found 0"),
        ({k: v for k, v in REQUEST.items() if k != "finish"}, "finish: missing"),
    ],
)
def test_mistakes_name_the_line_and_the_key(tmp_path, line, said):
    with pytest.raises(TraceError, match=r"measured\.jsonl:2: ") as caught:
        read(tmp_path, STEP, line)
    assert said in str(caught.value)
    assert len(caught.value.problems) == 1


def test_a_request_that_was_measured_twice_is_refused(tmp_path):
    with pytest.raises(TraceError, match=":2: request 0 at rate 2 again, after line 1"):
        read(tmp_path, REQUEST, REQUEST)


def test_empty_and_missing_files(tmp_path):
    with pytest.raises(TraceError, match="no measurement in it"):
        read(tmp_path, "")
    with pytest.raises(TraceError, match="no such file"):
        read_measurements(tmp_path / "nothing.jsonl")


def test_many_mistakes_are_counted(tmp_path):
    with pytest.raises(TraceError, match="and 3 more") as caught:
        read(tmp_path, *["{"] * 8)
    assert len(caught.value.problems) == 6
