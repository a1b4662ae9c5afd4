import pytest
import torch

from kernels import numerics, routing


@pytest.mark.parametrize(
    ("tokens", "experts", "topk", "block_m", "distinct"),
    [
        (1, 8, 2, 16, None),  # fewer pairs than experts
        (7, 12, 5, 16, None),  # no power of two anywhere
        (16, 32, 8, 16, None),
        (70, 8, 2, 16, 2),  # one hot pair of experts, most experts empty, several tiles each
        (90, 6, 3, 32, None),
        (130, 4, 1, 64, 1),  # everything to one expert
    ],
)
def test_every_pair_is_in_one_tile_of_its_expert(tokens, experts, topk, block_m, distinct):
    assert numerics.check_tiles(tokens, experts, topk, block_m, distinct, "cpu") == 0


@pytest.mark.parametrize("renormalise", [True, False])
def test_top_k_against_torch(renormalise):
    logits = torch.randn(9, 60)
    weights, ids = routing.top_k(logits, 6, renormalise)
    expected, chosen = routing.reference(logits, 6, renormalise)
    assert torch.equal(ids.long(), chosen)
    torch.testing.assert_close(weights.double(), expected, rtol=1e-5, atol=1e-7)


def test_top_k_gives_ties_to_the_lowest_expert():
    assert routing.top_k(torch.zeros(2, 8), 3)[1].tolist() == [[0, 1, 2]] * 2


@pytest.mark.parametrize("law", ["uniform", "balanced", "skewed"])
@pytest.mark.parametrize(
    ("tokens", "experts", "topk", "distinct"), [(1, 8, 2, 2), (5, 64, 8, 11), (40, 16, 4, 16), (300, 128, 8, 9)]
)
def test_injected_ids_name_exactly_the_experts_asked_for(law, tokens, experts, topk, distinct):
    ids = routing.inject_topk_ids(tokens, experts, topk, distinct=distinct, law=law)
    assert routing.distinct_experts(ids) == distinct
    assert all(len(set(row)) == topk for row in ids.tolist())


def test_injection_defaults_to_the_law_of_independent_tokens():
    ids = routing.inject_topk_ids(16, 128, 8)
    assert routing.distinct_experts(ids) == round(128 * (1 - (1 - 8 / 128) ** 16))


def test_injection_refuses_what_cannot_be():
    with pytest.raises(ValueError, match="between 2 and 4 experts, not 5"):
        routing.inject_topk_ids(2, 8, 2, distinct=5)
    with pytest.raises(ValueError, match="unknown law 'zipf'"):
        routing.inject_topk_ids(2, 8, 2, law="zipf")


def test_work_by_hand():
    # 3 tokens, 4 experts, top 2: 12 bf16 logits, 6 ids and 6 fp32 weights written, 6 ids read again
    assert routing.bytes_moved(3, 4, 2) == 12 * 2 + 6 * 4 + 6 * 4 + 6 * 4
    assert routing.flops(3, 4, 2) == 12 * 5
