"""Acceptance and load from metrics pages: against simulated drafts, closed forms, and vLLM's own exporter."""

from __future__ import annotations

import io
import json
import sys
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("prometheus_client", reason="needs prometheus_client: pip install -e '.[engines]'")

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from rich.console import Console
from scipy.stats import binomtest

from sdsim.engine_metrics import estimate
from sdsim.engine_metrics.__main__ import main
from sdsim.engine_metrics.position_rates import position_rates, shares
from sdsim.engine_metrics.scrape import Interval, Scrape, read_interval
from sdsim.errors import ScenarioError
from sdsim.policies.acceptance_estimate import tokens_per_step
from sdsim.report.metrics_sheet import print_metrics, scenario_lines
from sdsim.scenario import scenario_from_mapping

RATES = (0.8, 0.7, 0.6, 0.5)
LABELS = {"model_name": "m", "engine": "0"}


def drafted(lengths, rates=RATES, seed=0):
    """Return (drafts, draft tokens, accepted at each position) of drafts of *lengths*, by the coins of *seed*."""
    lengths = np.asarray(lengths)
    won = np.random.default_rng(seed).random((len(lengths), len(rates))) < rates
    won &= np.arange(len(rates)) < lengths[:, None]
    accepted = np.minimum.accumulate(won, axis=1).sum(axis=0)
    return len(lengths), int(lengths.sum()), accepted.tolist()


def naive(drafts, accepted):
    return [a / drafts for a in accepted]


# --- positions ---


def test_at_one_draft_length_the_rates_are_counts_over_counts():
    drafts, tokens, accepted = drafted([4] * 5000)
    found = position_rates(drafts, tokens, accepted)
    before = [drafts, *accepted]
    for p, (tried, won) in zip(found, zip(before, accepted, strict=False), strict=True):
        assert p.tried == (drafts, drafts)
        assert p.unconditional.rate == pytest.approx(won / drafts)
        assert p.conditional.rate == pytest.approx(won / tried)
        expected = binomtest(won, tried).proportion_ci(0.95, "wilson")
        assert (p.conditional.low, p.conditional.high) == pytest.approx((expected.low, expected.high))
    assert [p.position for p in found] == [1, 2, 3, 4]


def test_intervals_hold_the_true_rate_19_times_in_20():
    held = []
    for seed in range(100):
        found = position_rates(*drafted([4] * 400, seed=seed))
        held += [p.conditional.low <= rate <= p.conditional.high for p, rate in zip(found, RATES, strict=True)]
    assert 0.91 < np.mean(held) < 0.99


def test_a_changing_length_hides_deep_positions_from_a_plain_ratio():
    """The trap: by drafts alone, acceptance seems to fall off where only the drafts did."""
    lengths = np.random.default_rng(1).permutation([1] * 6000 + [4] * 4000)
    drafts, tokens, accepted = drafted(lengths)
    true = np.cumprod(RATES)
    assert naive(drafts, accepted)[3] < 0.5 * true[3]
    known = position_rates(drafts, tokens, accepted, [0, 1, 4])
    assert [p.tried for p in known] == [(10000, 10000), *[(4000, 4000)] * 3]
    for p, rate, conditional in zip(known, true, RATES, strict=True):
        assert p.unconditional.low <= rate <= p.unconditional.high
        assert p.conditional.rate == pytest.approx(conditional, abs=0.03)
    unknown = position_rates(drafts, tokens, accepted)
    assert unknown[0].unconditional.rate == pytest.approx(0.8, abs=0.02)
    for p, rate in zip(unknown[1:], true[1:], strict=True):
        assert p.unconditional.rate is None
        assert p.tried[0] <= 4000 <= p.tried[1]
        assert p.unconditional.low <= rate <= p.unconditional.high


MIXES = st.lists(st.integers(1, 6), min_size=1, max_size=40)


@given(MIXES, st.booleans())
def test_bounds_hold_whatever_the_lengths_were(lengths, told):
    drafts, tokens, accepted = drafted(lengths, rates=(0.9,) * 6)
    found = position_rates(drafts, tokens, accepted, lengths if told else ())
    for p in found:
        had = sum(length >= p.position for length in lengths)
        assert p.tried[0] <= had <= p.tried[1]
        assert 0 <= p.conditional.low <= p.conditional.high <= 1
        assert 0 <= p.unconditional.low <= p.unconditional.high <= 1
    if told and len(set(lengths)) <= 2:
        assert all(p.tried[0] == p.tried[1] for p in found)


@settings(max_examples=25)
@given(MIXES)
def test_the_extremes_of_all_mixes_are_mixes_of_two_lengths(lengths):
    """Against linear programming over all mixes with that mean."""
    from scipy.optimize import linprog

    mean, longest = float(np.mean(lengths)), 6
    ks = np.arange(1, longest + 1)
    bounds = shares(mean, ks.tolist())
    for j in (2, 4, 6):
        for sign in (1, -1):
            best = linprog(sign * (ks >= j), A_eq=[np.ones(longest), ks], b_eq=[1, mean])
            extreme = bounds[:, j - 1].min() if sign == 1 else bounds[:, j - 1].max()
            assert sign * best.fun == pytest.approx(extreme, abs=1e-7)


def test_a_few_drafts_cut_short_leave_the_rates_known():
    found = position_rates(*drafted([4] * 9990 + [2] * 10))
    assert all(p.unconditional.rate is not None for p in found)
    assert found[3].tried[0] >= 9970


def test_a_position_that_no_draft_reached_is_not_known():
    found = position_rates(3, 12, [0, 0, 0, 0])
    assert (found[0].conditional.rate, found[1].conditional.rate) == (0.0, None)
    assert tuple(found[1].conditional)[1:] == (0.0, 1.0)


@pytest.mark.parametrize(
    ("counts", "lengths", "says"),
    [
        ((10, 40, [8, 9, 3, 1]), (), "never rise"),
        ((10, 40, [11, 9, 3, 1]), (), "never rise"),
        ((10, 25, [8, 5, 3, 1]), (4,), "2.500 tokens in the mean"),
        ((10, 25, [8, 5, 3, 1]), (1, 9), "allowed: 0 to 4"),
        ((10, 50, [8, 5, 3, 1]), (), "5.000 tokens in the mean"),
    ],
)
def test_counts_that_cannot_be_are_refused(counts, lengths, says):
    with pytest.raises(ScenarioError, match=says):
        position_rates(*counts, lengths)


# --- vLLM's page ---


def vllm_page(lengths=(4,) * 1000, batch=32, requests=10, engines=1, extra="", scale=1):
    """Return the page that vLLM would serve after drafts of *lengths*, made with Prometheus's own client."""
    drafts, tokens, accepted = drafted(list(lengths) * scale)
    registry = CollectorRegistry()
    for engine in map(str, range(engines)):
        label = {"model_name": "m", "engine": engine}

        def add(kind, name, value, label=label, **more):
            made = registry._names_to_collectors.get(name) or kind(name, "-", [*label, *more], registry=registry)
            child = made.labels(**label, **more)
            (child.set if kind is Gauge else child.inc)(value)

        iterations = drafts // batch
        add(Counter, "vllm:spec_decode_num_drafts", drafts)
        add(Counter, "vllm:spec_decode_num_draft_tokens", tokens)
        add(Counter, "vllm:spec_decode_num_accepted_tokens", sum(accepted))
        for position, count in enumerate(accepted):
            add(Counter, "vllm:spec_decode_num_accepted_tokens_per_pos", count, position=str(position))
        add(Counter, "vllm:generation_tokens", drafts + sum(accepted) + requests * scale)
        add(Counter, "vllm:request_success", requests * scale, finished_reason="stop")
        add(Gauge, "vllm:num_requests_running", batch)
        add(Gauge, "vllm:num_requests_waiting", 2)
        add(Gauge, "vllm:kv_cache_usage_perc", 0.5)
        for name, count, value in (
            ("vllm:iteration_tokens_total", iterations, 100),
            ("vllm:time_to_first_token_seconds", requests * scale, 0.1),
            ("vllm:request_prompt_tokens", requests * scale, 700),
            ("vllm:request_generation_tokens", requests * scale, 150),
        ):
            made = registry._names_to_collectors.get(name) or Histogram(name, "-", list(label), registry=registry)
            for _ in range(count):
                made.labels(**label).observe(value)
    return generate_latest(registry).decode() + extra


def once(text, lengths=(), **options):
    return estimate(Interval(None, Scrape(text, "page", **options)), lengths)


def test_vllms_counters_tell_acceptance_and_load():
    found = once(vllm_page())
    drafts, tokens, accepted = drafted([4] * 1000)
    acceptance, load = found["acceptance"], found["load"]
    assert acceptance["length"] == pytest.approx(1 + sum(accepted) / drafts)
    assert acceptance["mean_draft_length"] == tokens / drafts == 4
    assert acceptance["rate"] == pytest.approx(accepted[0] / drafts)
    assert load["mean_batch"] == pytest.approx(1000 / 31)
    assert (load["running"], load["waiting"], load["kv_used"]) == (32, 2, 0.5)
    assert (load["prompt_tokens"], load["output_tokens"]) == (700, 150)
    assert load["requests_per_s"] is None
    assert any("warm-up" in w for w in found["warnings"])
    assert not any("varied" in w for w in found["warnings"])


def test_two_pages_are_differenced_and_engines_added_up():
    before, after = vllm_page(), vllm_page(scale=3, engines=2)
    whole = Interval(Scrape(before, "a", at=100.0), Scrape(after, "b", at=110.0))
    found = estimate(whole)
    drafts, _, accepted = drafted([4] * 3000)
    _, _, earlier = drafted([4] * 1000)
    grown = [2 * a - e for a, e in zip(accepted, earlier, strict=True)]
    assert [p["accepted"] for p in found["acceptance"]["positions"]] == grown
    assert found["acceptance"]["positions"][0]["tried"] == [2 * drafts - 1000] * 2
    assert found["load"]["requests_per_s"] == pytest.approx(50 / 10)
    assert found["load"]["running"] == pytest.approx((32 + 64) / 2)
    assert found["load"]["kv_used"] == 0.5
    assert found["seconds"] == 10.0


def test_a_changing_draft_length_is_warned_of_and_can_be_told():
    page = vllm_page(lengths=[1] * 600 + [4] * 400)
    unsure, sure = once(page), once(page, [1, 4])
    assert any("draft length varied" in w and "--lengths" in w for w in unsure["warnings"])
    assert unsure["acceptance"]["positions"][3]["unconditional"]["rate"] is None
    assert not any("varied" in w for w in sure["warnings"])
    assert sure["acceptance"]["positions"][3]["unconditional"]["rate"] == pytest.approx(np.prod(RATES), abs=0.06)
    assert unsure["acceptance"]["rate"] == sure["acceptance"]["rate"]


def test_without_speculation_load_is_still_told():
    page = "\n".join(line for line in vllm_page().splitlines() if "spec_decode" not in line) + "\n"
    found = once(page)
    assert found["acceptance"] is None
    assert any("acceptance is unknown" in w for w in found["warnings"])
    assert found["load"]["mean_batch"] > 32


def test_one_of_several_models_is_asked_for():
    page = vllm_page() + 'vllm:num_requests_running{model_name="other",engine="1"} 5.0\n'
    with pytest.raises(ScenarioError, match="serves m, other; allowed: one model"):
        once(page)
    with pytest.raises(ScenarioError, match="did you mean other"):
        once(page, model="othr")
    assert once(page, model="m")["load"]["running"] == 32


def test_the_time_since_the_start_is_that_of_the_process():
    page = vllm_page(extra="process_start_time_seconds 1000.0\n")
    assert once(page, at=1500.0)["load"]["requests_per_s"] == pytest.approx(10 / 500)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "none of an engine"),
        ("up 1\n", "1 samples, none of an engine"),
        ("<html>not found</html>", "allowed: metrics in Prometheus text"),
        ('vllm:num_requests_running{model_name="m" 3\n', "allowed: metrics in Prometheus text"),
        ("vllm:num_requests_running three\n", "allowed: metrics in Prometheus text"),
        ("vllm:num_requests_running 1\nsglang:num_running_reqs 1\n", "metrics of both"),
    ],
)
def test_a_page_that_is_none_is_one_clear_error(text, says):
    with pytest.raises(ScenarioError, match=says) as error:
        once(text)
    assert "\n" not in str(error.value)


def test_positions_with_a_gap_are_refused():
    page = vllm_page().replace('position="2"', 'position="7"')
    with pytest.raises(ScenarioError, match="without a gap"):
        once(page)


def test_counters_that_fell_mean_a_restart():
    with pytest.raises(ScenarioError, match="restarted"):
        estimate(Interval(Scrape(vllm_page(scale=2), "a"), Scrape(vllm_page(), "b")))
    with pytest.raises(ScenarioError, match="allowed: one engine"):
        Interval(Scrape("sglang:num_running_reqs 1\n", "a"), Scrape(vllm_page(), "b"))


def test_vllms_own_exporter_writes_what_is_read_here():
    from tests.real_vllm import import_vllm

    metrics = import_vllm("vllm.v1.spec_decode.metrics")
    from prometheus_client import REGISTRY

    speculation = type("Config", (), {"num_speculative_tokens": 4})()
    exporter = metrics.SpecDecodingProm(speculation, ["model_name", "engine"], {0: ["m", "0"]})
    stats = metrics.SpecDecodingStats.new(4)
    rng = np.random.default_rng(3)
    accepted = rng.integers(0, 5, 500)
    for count in accepted.tolist():
        stats.observe_draft(4, count)
    exporter.observe(stats)
    found = once(generate_latest(REGISTRY).decode())
    positions = found["acceptance"]["positions"]
    assert [p["accepted"] for p in positions] == [int((accepted >= j).sum()) for j in (1, 2, 3, 4)]
    assert found["acceptance"]["length"] == pytest.approx(1 + accepted.mean())


# --- SGLang's page ---


def sglang_page(rate=0.7, steps=3, calls=10_000, requests=100, ranks=2):
    tokens = round(calls * tokens_per_step(rate, steps)) + requests
    lines = [
        f'sglang:spec_verify_calls_total{{model_name="m"}} {calls}',
        f'sglang:generation_tokens_total{{model_name="m",is_streaming="true"}} {tokens - 1000}',
        'sglang:generation_tokens_total{model_name="m",is_streaming="false"} 1000',
        f'sglang:num_requests_total{{model_name="m",is_streaming="true"}} {requests}',
        f'sglang:prompt_tokens_total{{model_name="m",is_streaming="true"}} {requests * 500}',
    ]
    for rank in range(ranks):
        label = f'{{model_name="m",tp_rank="{rank}",dp_rank="0"}}'
        lines += [f"sglang:num_running_reqs{label} 24", f"sglang:spec_num_steps{label} {steps}"]
        lines += [f"sglang:num_queue_reqs{label} 1", f"sglang:token_usage{label} 0.3"]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.7, 0.95])
def test_sglangs_mean_length_gives_one_rate(rate):
    found = once(sglang_page(rate))
    assert found["acceptance"]["rate"] == pytest.approx(rate, abs=1e-3)
    assert found["acceptance"]["length"] == pytest.approx(tokens_per_step(rate, 3), abs=1e-3)
    assert found["load"]["mean_batch"] == found["load"]["running"] == 24
    assert found["load"]["prompt_tokens"] == 500
    assert any("counts no positions" in w for w in found["warnings"])


def test_sglangs_rate_is_unknown_once_the_number_of_steps_moved():
    earlier = sglang_page(steps=1, calls=1000, requests=10)
    found = estimate(Interval(Scrape(earlier, "a"), Scrape(sglang_page(), "b")))
    assert found["acceptance"]["rate"] is None
    assert any("changed or is 0" in w for w in found["warnings"])


def test_more_tokens_than_drafts_allow_is_refused():
    with pytest.raises(ScenarioError, match="tokens a verify step of 1 drafts"):
        once(sglang_page(0.9, steps=3).replace("spec_num_steps{", 'spec_num_steps{x="",').replace("} 3\n", "} 1\n"))


# --- fetching, and the command ---


class Server:
    """Serves what `pages` yields, one page a request."""

    def __init__(self, *pages, status=200, delay=0.0):
        left, asked = list(pages), []

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.path)
                time.sleep(delay)
                body = left.pop(0) if len(left) > 1 else left[0]
                with suppress(BrokenPipeError, ConnectionResetError):  # who asked may have given up
                    self.send_response(status)
                    self.end_headers()
                    self.wfile.write(body if isinstance(body, bytes) else body.encode())

            def log_message(self, *_):
                pass

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        self.asked = asked
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.http.shutdown()
        self.http.server_close()


def test_an_address_is_scraped_twice_and_differenced(capsys):
    with Server(vllm_page(), vllm_page(scale=3)) as server:
        assert main(["--metrics", server.url, "--every", "0.2", "--json"]) == 0
        assert server.asked == ["/metrics", "/metrics"]
    found = json.loads(capsys.readouterr().out)
    assert found["acceptance"]["positions"][0]["tried"] == [2000, 2000]
    assert 0.2 <= found["seconds"] < 5
    assert found["load"]["requests_per_s"] == pytest.approx(20 / found["seconds"])


@pytest.mark.parametrize(
    ("server", "says"),
    [
        (lambda: Server("no", status=404), "Not Found"),
        (lambda: Server(b"\xff\xfe\x00"), "not text"),
        (lambda: Server("slow", delay=0.5), "timed out"),
        (lambda: Server("up 1\n"), "none of an engine"),
    ],
)
def test_an_address_that_does_not_answer_is_one_clear_error(server, says):
    with server() as running, pytest.raises(ScenarioError, match=says) as error:
        read_interval([f"{running.url}/metrics"], timeout_s=0.2)
    assert "\n" not in str(error.value)


def test_nobody_listens_there():
    with pytest.raises(ScenarioError, match="refused"):
        read_interval(["http://127.0.0.1:9"], timeout_s=1.0)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "before.txt").write_text(vllm_page())
    (tmp_path / "after.txt").write_text(vllm_page(scale=2))
    return str(tmp_path / "before.txt"), str(tmp_path / "after.txt")


def test_files_are_differenced_and_the_time_is_told(files, capsys):
    assert main(["--metrics", *files, "--seconds", "20", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["seconds"], found["load"]["requests_per_s"]) == (20.0, 0.5)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--metrics", "A", "A", "A"], "3 sources"),
        (["--metrics", "A", "--every", "5"], "a file does not change"),
        (["--metrics", "A", "--every", "-1"], "--every"),
        (["--metrics", "A", "--seconds", "0"], "--seconds"),
        (["--metrics", "A", "--lengths", "1,x"], "--lengths"),
        (["--metrics", "A", "--lengths", "99"], "--lengths"),
        (["--metrics", "/nowhere"], "No such file"),
    ],
)
def test_wrong_words_are_one_clear_error(words, says, files):
    with pytest.raises(ScenarioError, match=says) as error:
        main([files[0] if word == "A" else word for word in words])
    assert "\n" not in str(error.value)


def test_what_is_printed_fits_a_terminal_and_pastes_into_a_scenario(files):
    found = estimate(read_interval(files, seconds=20.0))
    console = Console(width=80, record=True, file=io.StringIO())
    print_metrics(console, found)
    lines = console.export_text().splitlines()
    assert any("acceptance length" in line for line in lines)
    assert [len(line.split()) for line in lines if line.startswith("       1 ")] == [11]
    keys = dict(line.split(": ", 1) for line in scenario_lines(found))
    mapping = {key: yaml.safe_load(value) for key, value in keys.items()}
    mapping |= {"model": "qwen3-30b-a3b", "draft": "eagle3", "gpus": "1 x h200", "policy": {"kind": "off"}}
    scenario = scenario_from_mapping(mapping)
    assert scenario.acceptance.rates[0] == pytest.approx(found["acceptance"]["rate"], abs=1e-4)
    assert scenario.workload.rate == pytest.approx(0.5)


def test_without_the_parser_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client.parser", None)
    with pytest.raises(ScenarioError, match=r"pip install -e '.\[engines\]'"):
        once(vllm_page())


pytestmark = pytest.mark.filterwarnings("ignore:::vllm", "ignore:::torch")
