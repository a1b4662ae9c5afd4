"""What is recommended for an engine, read by the engine's own code.

Skips without vLLM (0.24 or later) or SGLang (0.5.23), which need environments of their own, with sdsim installed:
python -m pip install vllm pytest hypothesis -e '.[engines]'; python -m pytest tests/test_recommend_against_engines.py
"""

from __future__ import annotations

import importlib
import json
import shlex
import warnings

import pytest

from sdsim.engine_config import read_sglang_adaptive_config, read_vllm_ranges
from sdsim.engine_costs import read_dspark_seconds
from sdsim.recommend import main
from tests.real_vllm import TINY, import_vllm
from tests.test_recommend import SMALL

pytestmark = [
    pytest.mark.slow,  # importing an engine takes 10 to 20 s
    pytest.mark.filterwarnings("ignore"),  # the engines' own
]


def recommended(capsys, *words):
    """Return the configuration that the command prints."""
    assert main([*map(str, words), "--jobs", "1", "--json"]) == 0
    return json.loads(capsys.readouterr().out)["config"]


def parsed_by_vllm(line, model):
    """Return the speculative configuration that `vllm serve` makes of *line*."""
    arguments, config = import_vllm("vllm.engine.arg_utils"), import_vllm("vllm.config")
    utilities = import_vllm("vllm.utils.argparse_utils")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parser = arguments.EngineArgs.add_cli_args(utilities.FlexibleArgumentParser())
        given = parser.parse_args(["--model", model, *shlex.split(line)]).speculative_config
        return config.SpeculativeConfig(
            target_model_config=config.ModelConfig(model=model, skip_tokenizer_init=True, dtype="bfloat16", seed=0),
            target_parallel_config=config.ParallelConfig(),
            **given,
        )


@pytest.mark.parametrize("policies", ["batch_table", "goodput"])
def test_vllm_looks_up_the_table_that_was_recommended(tmp_path, monkeypatch, capsys, policies):
    monkeypatch.setenv("VLLM_TARGET_DEVICE", "cpu")
    monkeypatch.setenv("VLLM_LOGGING_LEVEL", "ERROR")
    schedule = import_vllm("vllm.v1.spec_decode.dynamic.utils")
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    scenario = tmp_path / "small.yaml"
    scenario.write_text(SMALL)
    config = recommended(capsys, scenario, "--policies", policies, "--drafter", str(tmp_path))
    key = "num_speculative_tokens_per_batch_size"
    read = parsed_by_vllm(config["arguments"], str(tmp_path))
    longest = read.num_speculative_tokens
    looked_up = schedule.build_dynamic_sd_schedule_lookup(getattr(read, key), 256, longest)
    assert longest == max(length for *_, length in config[key])
    assert looked_up[1:] == read_vllm_ranges(config[key], 256, longest).tolist()
    if policies == "goodput":
        arguments = import_vllm("vllm.engine.arg_utils")
        parser = arguments.EngineArgs.add_cli_args(import_vllm("vllm.utils.argparse_utils").FlexibleArgumentParser())
        live = parser.parse_args(["--model", str(tmp_path), *shlex.split(config["live_arguments"])])
        assert live.scheduler_cls == "sdsim.adapters.vllm.AsyncScheduler"
        assert live.additional_config["sdsim"]["policy"]["kind"] == "goodput"


def import_sglang(name):
    """Return a module of SGLang, or skip."""
    try:
        return importlib.import_module(f"sglang.srt.speculative.{name}")
    except ImportError as error:
        pytest.skip(f"SGLang is not importable ({error}); see the top of this file")


def test_sglang_routes_batches_and_prices_steps_as_recommended(tmp_path, capsys):
    adaptive, sps = import_sglang("adaptive_spec_params"), import_sglang("dspark_components.dspark_sps")
    scenario, out = tmp_path / "small.yaml", tmp_path / "out"
    scenario.write_text(SMALL)
    words = ("--for", "sglang", "--policies", "batch_table", "--set", "draft=eagle3", "--set", "engine=vllm-0.22.1")
    config = recommended(capsys, scenario, *words, "--out", out)
    slots = config["speculative_adaptive_config"]
    longest = max(slot["candidate_steps"][0] for slot in slots.values())
    params = adaptive.AdaptiveSpeculativeParams(longest, str(out / "speculative_adaptive.json"))
    assert len(slots) > 1
    for graphs in (None, [1, 2, 4, 8, 16, 32, 64, 128, 256]):
        params.set_cuda_graph_bs(graphs)
        routed = [params.get_steps_for_batch(batch) for batch in range(1, 257)]
        assert routed == read_sglang_adaptive_config(slots, 256, graphs).tolist()
    table = sps.SpsAdditiveCostTable.from_json((out / "dspark_sps.json").read_text())
    for rows, drafts in ((1, 0), (3, 5), (40, 100), (256, 1000)):
        ours = read_dspark_seconds(config["dspark_sps_table"], rows, drafts)
        assert table.step_time(num_reqs=rows, budget=drafts) == pytest.approx(ours)
