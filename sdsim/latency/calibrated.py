"""Kernel prices from a GPU's calibration: measured tables per shape, a fit per kernel family for other shapes.

No price is below the roofline of the same GPU's measured ceilings, and each says what it rests on.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Iterable
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from sdsim.gpus import Gpu
from sdsim.latency import work
from sdsim.latency.backend import load_backend, with_backend
from sdsim.latency.calibration import DIMENSIONS, Calibration, load_calibration, load_shipped
from sdsim.latency.composition import Attention, Experts, Kernels
from sdsim.latency.family import Family, fit_family
from sdsim.latency.leave_out import without
from sdsim.latency.quality import FREE, Price, PriceList, Quality, listed
from sdsim.latency.roofline import RooflineAttention, RooflineExperts, RooflineKernels
from sdsim.latency.tables import Curve, ExpertTable, Plane, along
from sdsim.matrices import Matrix
from sdsim.model_config import MXFP4_BYTES, WeightFormat, weight_format
from sdsim.models import Model
from sdsim.policy import IntArray

LAUNCH_S = 0.25e-6
"""What a kernel costs in a chain of different kernels beyond its time in a chain of its own kind, s: the mean over the
20 captured stacks of eight layers in the H200 calibration of what the layers take more than the sum of their kernels,
per kernel (`tests/test_composition.py`)."""
WIDTHS: dict[WeightFormat, float] = {"bf16": 2.0, "fp8": 1.0, "mxfp4": MXFP4_BYTES}
"""Bytes of a weight in the formats that are measured; fp8's block scales add 0.02%."""
SHORTEST_CHUNK = 128
REMEMBERED = 20_000
"""Batches and query counts whose attention is kept."""


class CalibratedKernels:
    """See `sdsim.latency.composition.Kernels`."""

    launch = Price(LAUNCH_S, Quality.INTERPOLATED)

    def __init__(self, calibration: Calibration, gpu: Gpu) -> None:
        self.calibration = calibration
        self._roofline = RooflineKernels(gpu)
        self._roofline.bytes_per_s = calibration.read_bytes_per_s
        self._roofline.flops_per_s = max(calibration.flops_per_s, self._roofline.flops_per_s)
        self._gemms = {
            (weights, *k): Curve(self._floored(Matrix(k[0], k[1]), _points(found), width))
            for weights, width in WIDTHS.items()
            for k, found in _by_shape(self._in(weights, "gemm"), "inputs", "outputs").items()
        }
        self._norms = _curves(calibration.of("norm"), "hidden")
        self._ropes = _curves(calibration.of("rope"), "heads", "kv_heads", "head_dim")
        self._silus = _curves(calibration.of("silu_mul"), "intermediate")
        self._samplings = _curves((r for r in calibration.of("rejection") if r["shape"]["mode"] == "sample"), "vocab")
        self._families: dict[tuple[str, WeightFormat], Family] = {}
        self._attentions: dict[tuple[Model, float], Attention] = {}

    def _in(self, weights: WeightFormat, kernel: str) -> list[dict[str, Any]]:
        """Return the rows of *kernel* on weights of a format."""
        return [row for row in self.calibration.of(kernel) if row["shape"].get("weights", "bf16") == weights]

    def _floored(self, matrix: Matrix, points: list[tuple[int, float]], width: float) -> list[tuple[int, float]]:
        """Return *points* raised to the roofline, which is convex: what lies between them is above it too."""
        tokens, seconds = np.array([t for t, _ in points]), np.array([s for _, s in points])
        floor = self._roofline.dense(tokens, matrix, width).seconds
        return list(zip(tokens.tolist(), np.maximum(seconds, floor).tolist(), strict=True))

    @cached_property
    def _experts(self) -> dict[tuple[WeightFormat | int, ...], ExpertTable]:
        rate = self.calibration.read_bytes_per_s
        return {
            (weights, *k): ExpertTable(found, k[0], 3.0 * width * k[2] * k[3] / rate)
            for weights, width in WIDTHS.items()
            for k, found in _by_shape(self._in(weights, "moe"), "experts", "topk", "hidden", "intermediate").items()
        }

    def family(self, kernel: str, weights: WeightFormat = "bf16") -> Family:
        """Return the fit of a kernel family over all measured shapes in a format, in bf16 where there are none."""
        if (kernel, weights) not in self._families:
            rows = self._in(weights, kernel) or self._in("bf16", kernel)
            rates = self.calibration.read_bytes_per_s, self._roofline.flops_per_s
            self._families[kernel, weights] = fit_family(rows, *rates) if rows else Family(0.0, *rates)
        return self._families[kernel, weights]

    def _fitted(self, kernel: str, sizes: IntArray, needed: work.Works, width: float = 2.0) -> PriceList:
        family = self.family(kernel, weight_format(width))
        return listed(sizes, family.all_seconds(needed), Quality.EXTRAPOLATED)

    def dense(self, tokens: IntArray, matrix: Matrix, weight_bytes: float) -> PriceList:
        """See `Kernels.dense`."""
        curve = self._gemms.get((weight_format(weight_bytes), matrix.inputs, matrix.outputs))
        if curve is not None:
            return curve.prices(tokens)
        floor = self._roofline.dense(tokens, matrix, weight_bytes).seconds
        fitted = self._fitted("gemm", tokens, work.product(tokens, matrix, weight_bytes), weight_bytes)
        return fitted._replace(seconds=np.maximum(fitted.seconds, floor))

    def experts(self, model: Model, share: float) -> Experts:
        """See `Kernels.experts`."""
        weights, width = weight_format(model.expert_bytes), round(model.expert_intermediate * share)
        table = self._experts.get((weights, model.experts, model.experts_per_token, model.hidden, width))
        priced = table or FittedExperts(self.family("moe", weights), model, share)
        return FlooredExperts(priced, self._roofline.experts(model, share))

    def norms(self, model: Model, tokens: IntArray) -> PriceList:
        """See `Kernels.norms`: two norms, the rotary embedding, and the dense feed-forward's activation."""
        width = model.shared_intermediate or (model.intermediate if model.dense_layers else 0)
        parts = [
            (2.0, "norm", self._norms.get((model.hidden,)), work.norm(tokens, model.hidden)),
            (1.0, "rope", self._ropes.get(_heads(model)), work.rope(tokens, *_heads(model))),
        ]
        if width:
            parts.append((1.0, "silu_mul", self._silus.get((width,)), work.silu(tokens, width)))
        seconds, worst = np.zeros(tokens.shape), np.zeros(tokens.shape, dtype=np.int64)
        for times, kernel, curve, needed in parts:
            found = curve.prices(tokens) if curve is not None else self._fitted(kernel, tokens, needed)
            seconds = seconds + times * found.seconds
            worst = np.maximum(worst, found.quality)
        return PriceList(seconds, worst)

    def sampling(self, rows: IntArray, vocabulary: int) -> PriceList:
        """See `Kernels.sampling`."""
        curve = self._samplings.get((vocabulary,))
        if curve is None:
            return self._fitted("rejection", rows, work.sampling(rows, vocabulary))
        found = curve.prices(rows)
        # two rows were the fewest timed, and a row takes no longer
        smaller = (rows == 1) & (found.quality == Quality.EXTRAPOLATED)
        return found._replace(quality=np.where(smaller, Quality.INTERPOLATED, found.quality))

    def attention(self, model: Model, share: float) -> Attention:
        """See `Kernels.attention`; all models of latency share it, for it remembers."""
        if (model, share) not in self._attentions:
            self._attentions[model, share] = self._attention(model, share)
        return self._attentions[model, share]

    def _attention(self, model: Model, share: float) -> Attention:
        floor = self._roofline.attention(model, share)
        kernel = "attention" if model.mla is None else "latent"
        verify = _by_shape(self.calibration.of(kernel), *DIMENSIONS[kernel])
        prefill = _by_shape(self.calibration.of("prefill"), *DIMENSIONS["prefill"])
        parts = [(share, 1.0), (1.0, share)]
        for part, rest in parts if model.mla is None else parts[:1]:  # every rank reads MLA's whole latent
            rows = verify.get(_verifying(model, part)), prefill.get(_heads(model, part))
            if rows[0] and rows[1]:
                whole = CalibratedAttention(rows[0], rows[1], floor)
                return whole if rest == 1.0 else PartialAttention(whole, rest)
        fit = self.family(kernel if verify else "attention")
        return FittedAttention(fit.fixed_s, self.calibration.read_bytes_per_s / fit.bytes_per_s, floor)


def _by_shape(rows: Iterable[dict[str, Any]], *dimensions: str) -> dict[tuple[int, ...], list[dict[str, Any]]]:
    """Return *rows* grouped by the *dimensions* of their shape."""
    grouped: dict[tuple[int, ...], list[dict[str, Any]]] = {}
    for row in rows:
        grouped.setdefault(tuple(int(row["shape"][d]) for d in dimensions), []).append(row)
    return grouped


def _points(rows: Iterable[dict[str, Any]]) -> list[tuple[int, float]]:
    return [(row["tokens"], row["us_p50"] * 1e-6) for row in rows]


def _curves(rows: Iterable[dict[str, Any]], *dimensions: str) -> dict[tuple[int, ...], Curve]:
    return {key: Curve(_points(found)) for key, found in _by_shape(rows, *dimensions).items()}


def check_calibration(name: str, folder: Path, gpu: str) -> None:
    """Raise CalibrationError unless *name*, relative to *folder*, is a calibration of *gpu*."""
    load_calibration(folder / name, gpu)


def make_kernels(gpu: Gpu, chosen: str | None = None, backend: str = "", unseen: Model | None = None) -> Kernels:
    """Return the kernels of *gpu*: from the file *chosen*, of the `roofline`, or (None) from the shipped one.

    Where an engine has a *backend* of its own, its kernels replace the calibration's. The model *unseen* is priced as
    if the calibration had no row of its shapes: by the families' fits.
    """
    if chosen == "roofline":
        return RooflineKernels(gpu)
    calibration = load_calibration(Path(chosen), gpu.name) if chosen else load_shipped(gpu.name)
    if calibration is None:
        return RooflineKernels(gpu)
    if backend:
        calibration = with_backend(calibration, load_backend(backend, gpu.name))
    return CalibratedKernels(without(calibration, unseen) if unseen else calibration, gpu)


def _heads(model: Model, share: float = 1.0) -> tuple[int, int, int]:
    """Return query heads, KV heads (one at least) and width of a head, of a GPU that has *share* of them."""
    return round(model.heads * share), max(1, round(model.kv_heads * share)), model.head_dim


def _verifying(model: Model, share: float) -> tuple[int, int, int]:
    """Return what names a model's verification attention: its heads, or with MLA the query heads over its latent."""
    heads = _heads(model, share)
    return heads if model.mla is None else (heads[0], model.mla.kv_lora_rank, model.mla.rope_dim)


class FlooredExperts:
    """The price of a table or a fit, never below the roofline."""

    def __init__(self, priced: Experts, floor: RooflineExperts) -> None:
        self._priced, self._floor = priced, floor

    def price(self, tokens: int, distinct: float) -> Price:
        """See `Experts.price`."""
        if not tokens:
            return FREE
        price, floor = self._priced.price(tokens, distinct), self._floor.seconds(tokens, distinct)
        return price if price.seconds >= floor else Price(floor, price.quality)


class FittedExperts:
    """The family's fixed cost and achieved rates, for experts that nobody measured: *share* of each."""

    def __init__(self, family: Family, model: Model, share: float) -> None:
        self._family, self._model, self._share = family, model, share

    def price(self, tokens: int, distinct: float) -> Price:
        """See `Experts.price`."""
        size, flops = work.experts(self._model, tokens, distinct)
        return Price(self._family.seconds(size * self._share, flops * self._share), Quality.EXTRAPOLATED)


class CalibratedAttention:
    """Measured attention of one head layout: a plane over batch and context for each query length.

    Its points are raised to the roofline, which is linear in each of the three sizes, so what lies between is above it.
    """

    def __init__(self, verify: list[dict[str, Any]], prefill: list[dict[str, Any]], floor: RooflineAttention) -> None:
        by_length: dict[int, dict[tuple[int, int], float]] = {}
        for row in verify:
            batch, length, place = row["batch"], row["q_len"], row["context"]
            context, queries = batch * (place - length), batch * length
            least = floor.verify(batch, queries, context, length * context)
            by_length.setdefault(length, {})[batch, place] = max(row["us_p50"] * 1e-6, least)
        self._lengths = sorted(by_length)
        self._planes = [Plane(by_length[q]) for q in self._lengths]
        chunks = {(r["tokens"], max(r["context"] - r["tokens"], 1)): r["us_p50"] * 1e-6 for r in prefill}
        self._prefill = Plane(chunks)
        self._floor = floor
        self._batch, self._longest = self._planes[0].largest
        self._lines: dict[tuple[int, int], tuple[list[int], list[float]]] = {}
        self.prefill = lru_cache(REMEMBERED)(self._priced_prefill)
        """See `Attention.prefill`: one kernel a chunk, chunks sharing tokens and context evenly."""

    def verify(self, rows: int, queries: int, context: int, pairs: int) -> float:
        """See `Attention.verify`; rows share queries and context evenly."""
        places, times = self._lines.get((rows, queries)) or self._line(rows, queries)
        place = (context + queries) / rows
        seconds = along(places, times, place)
        return seconds if place <= self._longest else max(seconds, self._floor.verify(rows, queries, context, pairs))

    def _line(self, rows: int, queries: int) -> tuple[list[int], list[float]]:
        """Return, and keep, mean contexts and the times at them: few batches and query counts occur in a run."""
        length, lengths = queries / rows, self._lengths
        i = max(bisect.bisect_right(lengths, length) - 1, 0)
        places, times = self._planes[i].ys, self._planes[i].across(rows)
        if i + 1 < len(lengths) and length > lengths[i]:
            part = (length - lengths[i]) / (lengths[i + 1] - lengths[i])
            longer = self._planes[i + 1].across_at(rows, places)
            times = [low + part * (high - low) for low, high in zip(times, longer, strict=True)]
        elif length > lengths[-1]:
            times = [s * length / lengths[-1] for s in times]
        if len(self._lines) >= REMEMBERED:
            self._lines.clear()
        line = self._lines[rows, queries] = places, times
        return line

    def _priced_prefill(self, rows: int, queries: int, context: int, pairs: int) -> float:
        chunk, stored = max(queries / rows, SHORTEST_CHUNK), max(context / rows, 1.0)
        seconds = rows * self._prefill.seconds(chunk, stored) + context * self._floor.expand_s
        return max(seconds, self._floor.prefill(rows, queries, context, pairs))

    def quality(self, rows: int, context: int) -> Quality:
        """Return interpolated inside the measured batch and context."""
        inside = rows <= self._batch and context <= rows * self._longest
        return Quality.INTERPOLATED if inside else Quality.EXTRAPOLATED


class PartialAttention:
    """A *share* of the heads of a measured layout: they do for all rows what all heads do for that share of them."""

    def __init__(self, whole: Attention, share: float) -> None:
        self._whole, self._share = whole, share

    def verify(self, rows: int, queries: int, context: int, pairs: int) -> float:
        """See `Attention.verify`."""
        return self._whole.verify(*self._part(rows, queries, context, pairs))

    def prefill(self, rows: int, queries: int, context: int, pairs: int) -> float:
        """See `Attention.prefill`: a chunk's heads run side by side, so it keeps its length and takes its share."""
        return self._share * self._whole.prefill(rows, queries, context, pairs)

    def quality(self, rows: int, context: int) -> Quality:
        """Return extrapolated: another head layout was measured."""
        return Quality.EXTRAPOLATED

    def _part(self, *counts: int) -> tuple[int, int, int, int]:
        rows, queries, context, pairs = (math.ceil(count * self._share) for count in counts)
        return rows, queries, context, pairs


class FittedAttention:
    """The family's fixed cost and its achieved rate on the roofline's bytes, for head layouts that nobody measured."""

    def __init__(self, fixed_s: float, slower: float, floor: Attention) -> None:
        self._fixed, self._slower, self._floor = fixed_s, slower, floor

    def verify(self, rows: int, queries: int, context: int, pairs: int) -> float:
        """See `Attention.verify`."""
        return self._fixed + self._slower * self._floor.verify(rows, queries, context, pairs)

    def prefill(self, rows: int, queries: int, context: int, pairs: int) -> float:
        """See `Attention.prefill`."""
        return self._fixed + self._slower * self._floor.prefill(rows, queries, context, pairs)

    def quality(self, rows: int, context: int) -> Quality:
        """Return extrapolated."""
        return Quality.EXTRAPOLATED
