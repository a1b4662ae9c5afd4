"""Drafters: what proposes tokens, and what it costs in weights, KV and matrix products.

- model: a smaller model of its own, with its own embedding and head.
- eagle3: one dense layer on the target's hidden states (EAGLE-3, arXiv 2503.01840, section 3.1). Three of them are
  projected to one; the layer's attention reads that beside the token's embedding, so its input is twice as wide; the
  head spans a draft vocabulary of 32,000. The embedding is the target's. Weights are 16-bit whatever the target's are.
- mtp: one more layer of the target, experts included, behind a projection of the hidden state and the token's embedding
  to one (DeepSeek-V3, arXiv 2412.19437, section 2.2). Embedding and head are the target's.
- ngram: a look-up in the request's own tokens: no weights and no KV.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from sdsim.errors import ScenarioError, unknown
from sdsim.models import Model, load_model

KINDS = ("model", "eagle3", "mtp", "ngram")
EAGLE3_STATES = 3
"""Hidden states of the target (a low, a middle and a high layer) that EAGLE-3 joins."""
EAGLE3_VOCABULARY = 32_000
"""The draft vocabulary of the published EAGLE-3 heads: the target's most frequent tokens."""


@dataclass(frozen=True, slots=True)
class Draft:
    """A drafter; `available` is the share of the rows and steps in which it has anything to propose."""

    kind: str
    model: Model | None
    shares_head: bool
    available: float

    @property
    def extra_projection_parameters(self) -> int:
        """What a pass computes beyond a plain model of this shape; EAGLE-3 needs the joining part once a step only."""
        if self.model is None:
            return 0
        square = self.model.hidden**2
        if self.kind == "eagle3":
            return EAGLE3_STATES * square + self.model.attention_input_parameters
        return 2 * square if self.kind == "mtp" else 0

    @property
    def weights_bytes(self) -> float:
        """Weights that the drafter adds to the target's, B."""
        if self.model is None:
            return 0.0
        if self.kind == "model":
            return self.model.weights_bytes
        head = 0.0 if self.shares_head else self.model.head_parameters * self.model.head_bytes
        return self.model.layers_bytes + head + self.extra_projection_parameters * self.model.weight_bytes

    @property
    def kv_bytes_per_token(self) -> float:
        """KV of one token that the drafter stores beside the target's, B."""
        return 0.0 if self.model is None else self.model.kv_bytes_per_token


def make_draft(
    kind: str, target: Model, model_name: str | None = None, available: float = 1.0, folder: Path = Path()
) -> Draft:
    """Return the drafter *kind* for *target*; *model_name*, as in `load_model`, is for the kind `model` alone."""
    problems = _problems(kind, model_name, available)
    if problems:
        raise ScenarioError(*problems)
    if model_name is not None:
        return Draft(kind, load_model(model_name, folder), False, available)
    if kind == "ngram":
        return Draft(kind, None, False, available)
    model = _eagle3_layer(target) if kind == "eagle3" else _mtp_layer(target)
    return Draft(kind, model, kind == "mtp", available)


def _problems(kind: str, model_name: str | None, available: float) -> list[str]:
    problems = [] if kind in KINDS else [f"draft.kind: {unknown('draft kind', kind, KINDS)}"]
    if kind == "model" and model_name is None:
        problems.append("draft.model: missing; give the name of a model or the path of its config.json")
    if kind in KINDS[1:] and model_name is not None:
        problems.append(f"draft.model: found {model_name!r}; allowed: none, {kind} takes its shape from the target")
    if not 0.0 <= available <= 1.0:
        problems.append(f"draft.available: found {available}; allowed: a share from 0 to 1")
    return problems


def _eagle3_layer(target: Model) -> Model:
    """Return one dense layer with the target's attention, as wide as the target's dense FFN.

    A config that declares no dense FFN gets the Llama family's 8/3 of the hidden size, rounded up to 256.
    """
    llama_width = -(-8 * target.hidden // (3 * 256)) * 256
    return replace(
        _mtp_layer(target),
        name=f"{target.name}-eagle3",
        intermediate=target.intermediate or llama_width,
        experts=0,
        experts_per_token=0,
        expert_intermediate=0,
        shared_intermediate=0,
        dense_layers=1,
        vocabulary=min(EAGLE3_VOCABULARY, target.vocabulary),
        weight_bytes=2.0,
        expert_bytes=2.0,
    )


def _mtp_layer(target: Model) -> Model:
    """Return one layer of the target's own shape, with full attention."""
    return replace(
        target,
        name=f"{target.name}-mtp",
        layers=1,
        dense_layers=0 if target.is_moe else 1,
        tied_embeddings=False,
        sliding_window=0,
        sliding_layers=0,
    )
