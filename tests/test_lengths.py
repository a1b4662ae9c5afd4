"""Length laws and tables: the published quantiles, the copula, and the smallest length."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from sdsim.errors import ScenarioError
from sdsim.lengths import LEVELS, LengthTable, length_law, length_table, length_tables
from sdsim.policy import IntArray


@dataclass(frozen=True)
class Mean:
    prompt: float
    output: float
    prompt_sigma: float | None = None
    output_sigma: float | None = None


def drawn(spec: object, count: int) -> tuple[IntArray, IntArray]:
    generator = np.random.default_rng(7)
    return length_law(spec)(generator.standard_normal(count), generator.standard_normal(count))


def test_a_number_fixes_the_length() -> None:
    prompt, output = drawn(Mean(500, 0.2), 5)
    assert prompt.tolist() == [500] * 5
    assert output.tolist() == [1] * 5
    with pytest.raises(ScenarioError, match=r"azure-con.*did you mean azure-conv"):
        length_law("azure-con")


def test_lognormal_lengths_have_their_mean() -> None:
    prompt, output = drawn(Mean(500, 200, 0.8, 1.2), 200_000)
    assert prompt.mean() == pytest.approx(500, rel=0.01)
    assert output.mean() == pytest.approx(200, rel=0.02)
    assert np.log(prompt).std() == pytest.approx(0.8, rel=0.01)
    assert output.min() >= 1


# p10, p50, p90, p99 and mean of prompts, then of outputs, and the rank correlation, as measured on the public traces.
PUBLISHED = {
    "azure-conv": ((207, 1020, 2735, 4142, 1155), (54, 129, 424, 601, 211), 0.07),
    "azure-code": ((147, 1469, 5188, 7436, 2048), (7, 13, 55, 252, 28), -0.02),
    "mooncake-conv": ((964, 6909, 27367, 85400, 12035), (24, 350, 597, 1119, 343), 0.07),
    "deepseek-r1": ((24, 260, 2050, 23854, 1305), (304, 744, 3614, 12485, 1532), 0.0),
    "arxiv-summarization": ((1242, 2730, 3702, 3933, 2588), (78, 167, 372, 3271, 291), -0.11),
}


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_a_table_samples_the_published_quantiles(name: str) -> None:
    prompt, output = drawn(name, 400_000)
    for tokens, published in zip((prompt, output), PUBLISHED[name], strict=False):
        sampled = [*np.percentile(tokens, [10, 50, 90, 99]), tokens.mean()]
        assert sampled == pytest.approx(published, rel=0.03, abs=0.6)
        assert tokens.min() >= 1
    correlation = stats.spearmanr(prompt, output).statistic
    assert correlation == pytest.approx(PUBLISHED[name][2], abs=0.015)


def test_tables_are_well_formed() -> None:
    assert length_tables() == sorted(PUBLISHED)
    for name in length_tables():
        table = length_table(name)
        assert len(table.scores) == len(LEVELS)
        assert np.all(np.diff(table.scores) > 0)
        assert np.all(np.diff(table.prompt_tokens) >= 0)
        assert np.all(np.diff(table.output_tokens) >= 0)


@given(r=st.floats(-0.95, 0.95))
@settings(max_examples=20)
def test_the_copula_keeps_the_rank_correlation(r: float) -> None:
    generator = np.random.default_rng(1)
    table = replace(length_table("azure-conv"), rank_correlation=r)
    prompt, output = table(generator.standard_normal(40_000), generator.standard_normal(40_000))
    assert stats.spearmanr(prompt, output).statistic == pytest.approx(r, abs=0.02)
    again = LengthTable.fit(prompt, output)
    assert again.rank_correlation == pytest.approx(r, abs=0.02)
    assert length_law(again) is again
