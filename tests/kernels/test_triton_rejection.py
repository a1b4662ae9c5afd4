import pytest
import torch

from kernels import numerics, rejection


@pytest.mark.parametrize("probs", [False, True])
@pytest.mark.parametrize(("batch", "length", "vocab"), [(3, 1, 50), (4, 4, 9000), (2, 8, 4096)])
def test_against_float64(batch, length, vocab, probs):
    assert numerics.check_rejection(batch, length, vocab, "cpu", probs) == 0


def test_emitted_tokens_follow_the_target_exactly():
    """Enumerates draft, acceptance coin and draw: sum over the drafts of q times the share of coins = p, to the
    last bit.

    p is in 24ths and q in 12ths, so that midpoints of 12 and of 24 * sum(max(p - q, 0)) strata hit every outcome's
    exact share.
    """
    p = torch.tensor([7, 1, 4, 8, 2, 2]) / 24
    q = torch.tensor([2, 1, 3, 1, 2, 3]) / 12
    draws = round(24 * float((p - q).clamp_min(0).sum()))
    u, w = (torch.arange(n).add(0.5) / n for n in (12, draws))
    drafts, coins = [], []
    for d in range(6):
        for a in u:
            for b in w:
                drafts.append([d])
                coins.append([float(a), float(b)])
    batch = len(drafts)
    logits = p.log().expand(batch, 2, 6).contiguous()
    out = rejection.sample(
        logits, torch.tensor(drafts, dtype=torch.int32), torch.tensor(coins), q.expand(batch, 1, 6).contiguous()
    )
    share = q[torch.tensor(drafts)[:, 0]] / (12 * draws)
    emitted = torch.zeros(6).index_add_(0, out.tokens[:, 0].long(), share)
    torch.testing.assert_close(emitted, p, rtol=1e-6, atol=1e-7)
    assert torch.equal(out.accepted > 0, out.tokens[:, 1] >= 0)


def test_a_token_the_target_excludes_is_never_drawn():
    logits = torch.tensor([[[0.0, float("-inf"), 1.0, float("-inf")]] * 2] * 16)
    coins = torch.rand(16, 2)
    tokens = rejection.sample(logits, torch.ones(16, 1, dtype=torch.int32), coins).tokens
    assert set(tokens[:, 0].tolist()) <= {0, 2}
    assert (tokens[:, 1] == -1).all()


def test_temperature_scales_the_logits():
    logits, drafts = torch.randn(6, 3, 200), torch.randint(0, 200, (6, 2), dtype=torch.int32)
    coins = torch.rand(6, 3)
    hot = rejection.sample(logits, drafts, coins, temperature=0.5)
    scaled = rejection.sample(logits * 2, drafts, coins)
    assert torch.equal(hot.tokens, scaled.tokens)


def test_greedy_takes_the_first_maximum_across_chunks():
    logits = torch.zeros(1, 1, 20000)
    logits[0, 0, [9000, 17000]] = 5
    assert rejection.sample(logits, torch.empty(1, 0, dtype=torch.int32)).tokens.tolist() == [[9000]]


def test_work_by_hand():
    assert rejection.bytes_moved(2, 3, 10) == 2 * 4 * 10 * 2 + 2 * 10 * 2
    assert rejection.bytes_moved(2, 3, 10, draft_probs=True) == 2 * 4 * 10 * 2 + 2 * 10 * 6
    assert rejection.bytes_moved(2, 3, 10, greedy=True) == 2 * 4 * 10 * 2
    assert rejection.flops(2, 3, 10) == 4 * 80
