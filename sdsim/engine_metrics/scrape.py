"""An engine's metrics page: fetched or read, parsed, and two of them differenced."""

from __future__ import annotations

import time
import urllib.error
import urllib.parse
import urllib.request
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from sdsim.errors import ScenarioError, unknown

ENGINES = ("vllm", "sglang")
LARGEST = 64 * 2**20
RANKS = ("engine", "dp_rank")
"""Labels whose series add up; a gauge is repeated under the others."""
MISSING = "sdsim.engine_metrics needs prometheus_client: pip install -e '.[engines]'"


class Sample(NamedTuple):
    """One number of the page."""

    name: str
    labels: dict[str, str]
    value: float


class Scrape:
    """One reading of a metrics page in Prometheus text. Raises ScenarioError for text that is none, or no engine's.

    *at* is the time of the reading in s since the epoch, where known; *model* picks one of several served.
    """

    def __init__(self, text: str, where: str, at: float | None = None, model: str | None = None) -> None:
        self.where, self.at = where, at
        samples = _samples(text, where)
        found = [engine for engine in ENGINES if any(s.name.startswith(f"{engine}:") for s in samples)]
        if len(found) != 1:
            which = "metrics of both" if found else f"{len(samples)} samples, none of an engine"
            raise ScenarioError(f"{where}: {which}; allowed: the page of a vLLM or an SGLang server; check the address")
        self.engine = found[0]
        served = {s.labels["model_name"] for s in samples if "model_name" in s.labels}
        if len(served) > 1 and model is None:
            raise ScenarioError(
                f"{where}: serves {', '.join(sorted(served))}; allowed: one model; name it with --model"
            )
        if model is not None and model not in served:
            raise ScenarioError(f"{where}: {unknown('model', model, served)}; name one of them")
        self._series: dict[str, list[Sample]] = defaultdict(list)
        for sample in samples:
            if model is None or sample.labels.get("model_name", model) == model:
                self._series[sample.name].append(sample)

    def counter(self, name: str) -> float | None:
        """Return the sum of a counter's series, None if the page has none."""
        series = self._series.get(name)
        return sum(s.value for s in series) if series else None

    def gauge(self, name: str, mean: bool = False) -> float | None:
        """Return a gauge summed over engines and data-parallel ranks, or its *mean*; None if the page has none."""
        ranks: dict[tuple[str, ...], float] = {}
        for _, labels, value in self._series.get(name, ()):
            rank = tuple(labels.get(label, "") for label in RANKS)
            ranks[rank] = max(value, ranks.get(rank, value))
        return sum(ranks.values()) / (len(ranks) if mean else 1) if ranks else None

    def positions(self, name: str) -> list[float]:
        """Return a counter by its label `position`, from 0 on, summed over engines."""
        counts: dict[int, float] = defaultdict(float)
        for _, labels, value in self._series.get(name, ()):
            position = labels.get("position", "")
            counts[int(position) if position.isdigit() else -1] += value
        if sorted(counts) != list(range(len(counts))):
            raise ScenarioError(f"{self.where}: {name} at positions {sorted(counts)}; allowed: 0, 1, ... without a gap")
        return [counts[i] for i in range(len(counts))]


class Interval:
    """What happened between two scrapes, or, without *before*, since the engine started.

    *seconds* is its duration; by default the time between the scrapes or since the start, None where that is unknown.
    """

    def __init__(self, before: Scrape | None, after: Scrape, seconds: float | None = None) -> None:
        self.engine, self.where, self._before, self._after = after.engine, after.where, before, after
        if before is not None and before.engine != after.engine:
            raise ScenarioError(
                f"{after.where}: {after.engine}, but {before.where} is {before.engine}; allowed: one engine"
            )
        started = after.gauge("process_start_time_seconds") if before is None else before.at
        known = after.at is not None and started is not None
        self.seconds = seconds if seconds is not None or not known else (after.at or 0.0) - (started or 0.0)
        self.warnings = [] if before is not None else ["one scrape: all since the engine started, its warm-up included"]

    def counter(self, name: str) -> float | None:
        """Return by how much a counter grew, None if the engine has none."""
        after = self._after.counter(name)
        if after is None or self._before is None:
            return after
        return self._growth(name, self._before.counter(name) or 0.0, after)

    def positions(self, name: str) -> list[float]:
        """Return by how much a counter grew at each position."""
        after = self._after.positions(name)
        before = self._before.positions(name) if self._before else []
        before += [0.0] * (len(after) - len(before))
        return [self._growth(name, was, now) for was, now in zip(before, after, strict=True)]

    def _growth(self, name: str, before: float, after: float) -> float:
        if after < before:
            mend = "give the older scrape first; if the engine restarted between them, scrape anew"
            raise ScenarioError(
                f"{self.where}: {name} fell from {before:g} to {after:g}; allowed: counters that grow; {mend}"
            )
        return after - before

    def gauge(self, name: str, mean: bool = False) -> float | None:
        """Return the mean of a gauge over the scrapes; see `Scrape.gauge`."""
        values = [v for s in (self._before, self._after) if s is not None and (v := s.gauge(name, mean)) is not None]
        return sum(values) / len(values) if values else None

    def constant(self, name: str) -> float | None:
        """Return a gauge's mean over ranks if it is the same in both scrapes, else None."""
        after = self._after.gauge(name, mean=True)
        return after if self._before is None or self._before.gauge(name, mean=True) == after else None

    def ratio(self, over: str, under: str) -> float | None:
        """Return the growth of one counter over that of another, None where it is undefined."""
        top, bottom = self.counter(over), self.counter(under)
        return top / bottom if top is not None and bottom else None


def read_interval(
    sources: Sequence[str],
    gap_s: float = 0.0,
    seconds: float | None = None,
    model: str | None = None,
    timeout_s: float = 5.0,
) -> Interval:
    """Return the interval of one or two *sources*, files or addresses; one address is scraped again after *gap_s* > 0.

    Raises ScenarioError for a source that cannot be read or is no engine's page.
    """
    scrapes = [scrape(source, model, timeout_s) for source in sources]
    if len(sources) == 1 and gap_s > 0:
        if not is_url(sources[0]):
            raise ScenarioError(
                f"{sources[0]}: a file does not change; allowed: an address with --every; or give two files"
            )
        time.sleep(gap_s)
        scrapes.append(scrape(sources[0], model, timeout_s))
    return Interval(scrapes[0] if len(scrapes) == 2 else None, scrapes[-1], seconds)


def scrape(source: str, model: str | None = None, timeout_s: float = 5.0) -> Scrape:
    """Return a reading of *source*: a file, or an http address, where a missing path means /metrics."""
    if is_url(source):
        parts = urllib.parse.urlsplit(source)
        source = parts._replace(path=parts.path if parts.path not in ("", "/") else "/metrics").geturl()
        return Scrape(_fetch(source, timeout_s), source, time.time(), model)
    try:
        return Scrape(Path(source).read_text(encoding="utf-8"), source, None, model)
    except OSError as error:
        raise ScenarioError(
            f"{source}: {error.strerror}; allowed: a file, or an address such as http://localhost:8000"
        ) from None
    except UnicodeDecodeError:
        raise ScenarioError(f"{source}: not text; allowed: a metrics page in Prometheus text") from None


def is_url(source: str) -> bool:
    """Return whether *source* is an http address."""
    return source.startswith(("http://", "https://"))


def _fetch(url: str, timeout_s: float) -> str:
    mend = "check that the engine runs there and serves /metrics (SGLang: --enable-metrics)"
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:  # noqa: S310 is_url lets http through only
            page = answer.read(LARGEST + 1)
    except urllib.error.HTTPError as error:
        error.close()
        raise ScenarioError(f"{url}: {error.code} {error.reason}; {mend}") from None
    except (OSError, ValueError) as error:  # URLError and timeouts are OSErrors
        raise ScenarioError(f"{url}: {getattr(error, 'reason', error)}; {mend}") from None
    if len(page) > LARGEST:
        raise ScenarioError(f"{url}: more than {LARGEST:,} bytes; allowed: a metrics page; {mend}")
    try:
        text: str = page.decode("utf-8")
    except UnicodeDecodeError:
        raise ScenarioError(f"{url}: not text; {mend}") from None
    return text


def _samples(text: str, where: str) -> list[Sample]:
    try:
        from prometheus_client.parser import text_string_to_metric_families
    except ImportError:
        raise ScenarioError(MISSING) from None
    try:
        found = [s for family in text_string_to_metric_families(text) for s in family.samples]
    except (ValueError, KeyError, IndexError) as error:
        raise ScenarioError(f"{where}: {error}; allowed: metrics in Prometheus text; save the page as served") from None
    return [Sample(s.name, dict(s.labels), float(s.value)) for s in found]
