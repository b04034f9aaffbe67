from __future__ import annotations

import math

import pytest
import torch

from ncogym.errors import ArgumentError
from ncogym.policies.decoding import Greedy, Sample

DRAWS = 40_000
BAN = -math.inf


def frequencies(decoding: Sample, logits: list[float], rng: torch.Generator) -> torch.Tensor:
    """Return how often each action is drawn."""
    drawn = decoding(torch.tensor(logits).expand(1, DRAWS, -1), torch.rand(1, DRAWS, generator=rng))
    return torch.bincount(drawn.flatten(), minlength=len(logits)) / DRAWS


def assert_distributed(found: torch.Tensor, probs: list[float]) -> None:
    """Compare frequencies with probabilities: exactly where these are 0, by a loose chi-square bound elsewhere."""
    expected = torch.tensor(probs)
    assert (found[expected == 0] == 0).all()
    drawable = expected > 0
    chi_square = DRAWS * ((found - expected)[drawable].square() / expected[drawable]).sum()
    assert chi_square < 25  # passed by chance once in 60,000 times with 3 degrees of freedom


def test_greedy_takes_the_highest_logit_allowed():
    """Greedy takes the best action of each query and never one that is masked."""
    logits = torch.tensor([[[0.1, 3.0, BAN], [BAN, -7.0, BAN]]])
    assert Greedy()(logits).tolist() == [[1, 1]]


def test_only_greedy_is_the_same_without_dice():
    """Searches can tell whether another rollout of the same start could differ."""
    assert Sample().stochastic
    assert not Greedy().stochastic


def test_samples_follow_the_probabilities(rng):
    """Actions are drawn as often as their softmax says."""
    probs = [0.5, 0.3, 0.15, 0.05]
    assert_distributed(frequencies(Sample(), [math.log(p) for p in probs], rng), probs)


def test_temperature_sharpens_and_flattens(rng):
    """At temperature T an action is drawn in proportion to its probability to the power of 1/T."""
    logits = [math.log(p) for p in (0.5, 0.3, 0.2)]
    for temperature in (0.5, 2.0):
        weights = [p ** (1 / temperature) for p in (0.5, 0.3, 0.2)]
        expected = [w / sum(weights) for w in weights]
        assert_distributed(frequencies(Sample(temperature=temperature), logits, rng), expected)


def test_top_k_keeps_the_k_best(rng):
    """With top-k only the k likeliest actions are drawn, in their own proportion."""
    logits = [math.log(p) for p in (0.1, 0.4, 0.2, 0.3)]
    assert_distributed(frequencies(Sample(top_k=2), logits, rng), [0, 4 / 7, 0, 3 / 7])


@pytest.mark.parametrize("top_k", [0, 4, 9])
def test_top_k_of_all_changes_nothing(rng, top_k):
    """A k of 0, or of all actions and more, keeps every action."""
    probs = [0.1, 0.4, 0.2, 0.3]
    assert_distributed(frequencies(Sample(top_k=top_k), [math.log(p) for p in probs], rng), probs)


@pytest.mark.parametrize(
    ("top_p", "expected"),
    [
        (0.35, [0, 1, 0, 0]),
        (0.65, [0, 4 / 7, 0, 3 / 7]),
        (0.75, [0, 4 / 9, 2 / 9, 3 / 9]),
        (1.0, [0.1, 0.4, 0.2, 0.3]),
    ],
)
def test_top_p_keeps_the_smallest_set_that_reaches_p(rng, top_p, expected):
    """With top-p the likeliest actions are kept until their probabilities reach p, the one that reaches it too."""
    logits = [math.log(p) for p in (0.1, 0.4, 0.2, 0.3)]
    assert_distributed(frequencies(Sample(top_p=top_p), logits, rng), expected)


def test_top_k_comes_before_top_p(rng):
    """The share p is of what top-k has left: of 0.4 and 0.3, the first alone is over one half."""
    logits = [math.log(p) for p in (0.1, 0.4, 0.2, 0.3)]
    assert_distributed(frequencies(Sample(top_k=2, top_p=0.5), logits, rng), [0, 1, 0, 0])


@pytest.mark.parametrize(
    "decoding", [Sample(), Sample(temperature=50.0), Sample(top_k=3), Sample(top_p=0.999), Sample(top_k=4, top_p=0.9)]
)
def test_a_masked_action_is_never_drawn(rng, decoding):
    """Whatever the filter, an action at -inf is never drawn, even where only one is allowed."""
    logits = torch.randn(64, 200, 5, generator=rng) * 3
    allowed = torch.rand(64, 200, 5, generator=rng) < 0.3
    allowed[..., 2] |= ~allowed.any(-1)
    drawn = decoding(logits.masked_fill(~allowed, BAN), torch.rand(64, 200, generator=rng))
    assert allowed.gather(-1, drawn.unsqueeze(-1)).all()


@pytest.mark.parametrize("temperature", [1e-3, 1e-39])
def test_a_low_temperature_is_greedy(rng, temperature):
    """Near temperature 0 the best action is drawn, and never a masked one, even where the quotient overflows."""
    logits = torch.tensor([BAN, 9.0, 10.0]).expand(1, 50, -1)
    assert Sample(temperature=temperature)(logits, torch.rand(1, 50, generator=rng)).unique().tolist() == [2]


def test_filters_do_not_change_the_logits_given(rng):
    """Filtering works on a copy."""
    logits = torch.randn(2, 3, 6, generator=rng)
    before = logits.clone()
    Sample(0.5, top_k=2, top_p=0.5)(logits, torch.rand(2, 3, generator=rng))
    assert torch.equal(logits, before)


def test_each_query_is_filtered_by_itself():
    """The same action may be kept for one query and dropped for another."""
    logits = torch.tensor([[[2.0, 1.0, 0.0], [0.0, 1.0, 2.0]]])
    assert Sample(top_k=1).filtered(logits).isfinite().tolist() == [[[True, False, False], [False, False, True]]]
    assert Sample(top_p=0.5).filtered(logits).isfinite().tolist() == [[[True, False, False], [False, False, True]]]


@pytest.mark.parametrize("noise", [0.0, 1 - 2**-24])
def test_the_ends_of_the_noise_draw_what_is_allowed(noise):
    """The smallest number draws the first allowed action, and the largest a late one, whatever rounding does."""
    logits = torch.randn(1, 4000, 301, generator=torch.Generator().manual_seed(0))
    logits[..., :3], logits[..., -3:] = BAN, BAN
    drawn = Sample()(logits, torch.full((1, 4000), noise))
    assert (drawn == 3).all() if noise == 0 else ((drawn > 250) & (drawn <= 297)).all()


def test_noise_decides():
    """A number picks the action in whose share of the whole it lies, in the order of the actions."""
    logits = torch.tensor([0.2, 0.5, 0.3]).log().expand(1, 5, -1)
    assert Sample()(logits, torch.tensor([[0.1, 0.25, 0.65, 0.75, 0.99]])).tolist() == [[0, 1, 1, 2, 2]]


def test_sampling_takes_noise():
    """Without numbers to draw from, sampling refuses in words."""
    with pytest.raises(ArgumentError, match=r"^noise: None is not allowed"):
        Sample()(torch.zeros(1, 1, 2), None)


def test_what_a_kernel_may_do_is_plain():
    """Greedy and tempered sampling are all said by two attributes; filters are not."""
    assert Greedy().plain
    assert Sample(temperature=0.5).plain
    assert not Sample(top_k=2).plain
    assert not Sample(top_p=0.5).plain


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("temperature", 0.0),
        ("temperature", -1.0),
        ("temperature", math.inf),
        ("temperature", math.nan),
        ("top_k", -1),
        ("top_p", 0.0),
        ("top_p", 1.1),
        ("top_p", math.nan),
    ],
)
def test_bad_arguments_are_refused(argument, value):
    """A value outside of what is allowed is refused in one line that names it."""
    with pytest.raises(ArgumentError, match=f"^{argument}: {value} is not allowed; it must be"):
        Sample(**{argument: value})
