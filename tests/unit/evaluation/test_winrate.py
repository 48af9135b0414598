"""Statistics of a paired comparison: numbers by hand, symmetry, coverage, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from inpo.errors import InputError
from inpo.evaluation.winrate import paired_difference, sign_test, win_rate


def test_numbers_by_hand():
    """Gains 1, 2, 0, −1: two wins, a tie, a loss; rate (2 + ½)/4 = 0.625, gain 2/4; p of 2 against 1 is min(1, 2·4/8) = 1."""
    result = win_rate([2.0, 5.0, 1.0, 0.0], [1.0, 3.0, 1.0, 1.0])
    assert (result.wins, result.ties, result.losses, result.n) == (2, 1, 1, 4)
    assert result.win_rate == 0.625
    assert result.mean_gain == 0.5
    assert result.sign_test_p == 1.0


def test_samples_of_a_prompt_are_one_unit():
    """Prompt 0 wins both samples, prompt 1 wins one and loses one: rate (1 + ½)/2, n = 2, and one prompt ahead, none behind: p = 1."""
    result = win_rate([[1.0, 1.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 3.0]])
    assert (result.n, result.wins, result.losses) == (2, 3, 1)
    assert result.win_rate == 0.75
    assert result.mean_gain == pytest.approx((1 + (1 - 3) / 2) / 2)
    assert result.sign_test_p == 1.0


def test_copying_every_sample_changes_no_interval():
    """Ten identical samples a prompt carry no information beyond one; treated as independent they would shrink the interval threefold."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(0.3, 1, 100), rng.normal(0, 1, 100)
    once, repeated = win_rate(a, b), win_rate(np.tile(a[:, None], 10), np.tile(b[:, None], 10))
    assert (repeated.low, repeated.high) == pytest.approx((once.low, once.high))


@pytest.mark.parametrize(
    ("wins", "losses", "p"),
    [(0, 0, 1.0), (1, 0, 1.0), (5, 0, 2 / 32), (9, 1, 2 * 11 / 1024), (3, 3, 1.0), (8, 2, 2 * (1 + 10 + 45) / 1024)],
)
def test_sign_test_against_binomial_sums(wins: int, losses: int, p: float):
    """Two-sided p = 2 Σ_{i≤min} C(n, i)/2ⁿ, at most 1, whichever side is ahead."""
    assert sign_test(wins, losses) == sign_test(losses, wins) == p


def test_sign_test_of_thousands_agrees_with_the_normal_limit():
    """1,700 against 1,500: z = 199/√3200 with continuity correction."""
    z = (1700 - 1500 - 1) / math.sqrt(3200)
    assert sign_test(1700, 1500) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=1e-2)
    assert sign_test(3200, 0) == pytest.approx(0.0, abs=1e-300)


def test_swapping_the_models_mirrors_everything():
    """Rate w becomes 1 − w, its interval is mirrored, the gain changes sign, p stays."""
    rng = np.random.default_rng(1)
    a, b = rng.integers(0, 5, 80).astype(float), rng.integers(0, 4, 80).astype(float)
    one, other = win_rate(a, b), win_rate(b, a)
    assert other.win_rate == pytest.approx(1 - one.win_rate)
    assert (other.low, other.high) == pytest.approx((1 - one.high, 1 - one.low))
    assert (other.gain_low, other.gain_high) == pytest.approx((-one.gain_high, -one.gain_low))
    assert (other.sign_test_p, other.ties) == (one.sign_test_p, one.ties)


def test_base_against_itself_contains_one_half():
    """Equal scores are ties; other noise from the same distribution is a coin."""
    rng = np.random.default_rng(2)
    a = rng.normal(size=192)
    same = win_rate(a, a)
    assert (same.low, same.win_rate, same.high, same.sign_test_p) == (0.5, 0.5, 0.5, 1.0)
    again = win_rate(a, rng.normal(size=192))
    assert again.low <= 0.5 <= again.high


@pytest.mark.parametrize("samples", [1, 4])
def test_intervals_cover_at_their_nominal_rate(samples: int):
    """Of 400 data sets with a known truth, between 92 % and 98 % have it inside the 95 % interval; samples of a prompt correlated."""
    rng = np.random.default_rng(3)
    gains = rng.normal(0.2, 0.7, (400, 120, 1)) + rng.normal(0, 0.7, (400, 120, samples))
    truth = 0.5 * math.erfc(-0.2 / math.sqrt(2 * (0.49 + 0.49)))
    results = [win_rate(gain, np.zeros_like(gain), resamples=1000) for gain in gains]
    assert 0.92 <= np.mean([r.low <= truth <= r.high for r in results]) <= 0.98
    assert 0.92 <= np.mean([r.gain_low <= 0.2 <= r.gain_high for r in results]) <= 0.98


def test_tie_tolerance_turns_small_differences_into_ties():
    """With tolerance 0.1, gains 0.1 and −0.05 are ties and 0.2 is a win: (1 + ½ + ½)/3."""
    result = win_rate([0.1, -0.05, 0.2], [0.0, 0.0, 0.0], tie_tolerance=0.1)
    assert (result.wins, result.ties) == (1, 2)
    assert result.win_rate == pytest.approx(2 / 3)


def test_missing_scores_are_refused_or_counted():
    """Never silent: an error that names the prompt, or an `excluded` count that is printed."""
    a, b = [1.0, math.nan, 2.0, math.inf], [0.0, 0.0, 3.0, 0.0]
    with pytest.raises(InputError, match=r"2 of 4 comparisons .* prompt 1"):
        win_rate(a, b)
    result = win_rate(a, b, missing="exclude")
    assert (result.n, result.excluded, result.win_rate) == (2, 2, 0.5)
    assert str(result).endswith("(n=2, ties 0, excluded 2)")


def test_a_missing_sample_leaves_the_rest_of_its_prompt():
    """The prompt still counts, through the sample that has both scores."""
    result = win_rate([[1.0, math.nan], [0.0, 0.0]], [[0.0, 0.0], [1.0, 1.0]], missing="exclude")
    assert (result.n, result.wins, result.losses, result.excluded) == (2, 1, 2, 1)
    assert result.win_rate == 0.5


@pytest.mark.parametrize(
    ("a", "b"), [([1.0], [1.0, 2.0]), ([], []), ([math.nan], [1.0]), ([[[1.0]]], [[[1.0]]]), (np.ones((2, 0)), np.ones((2, 0)))]
)
def test_nothing_to_compare_is_an_error(a: list[float], b: list[float]):
    """Shapes that differ, no prompt, no sample, or no finite score."""
    with pytest.raises(InputError):
        win_rate(a, b, missing="exclude")


def test_negative_tolerance_is_refused():
    """It would make a win of every loss."""
    with pytest.raises(InputError, match="tie_tolerance"):
        win_rate([1.0], [0.0], tie_tolerance=-0.1)


def test_seed_decides_the_interval():
    """The same seed gives the same interval, another seed a slightly different one."""
    rng = np.random.default_rng(4)
    a, b = rng.normal(size=(2, 50))
    assert win_rate(a, b, seed=7) == win_rate(a, b, seed=7)
    assert win_rate(a, b, seed=7).gain_low != win_rate(a, b, seed=8).gain_low


def test_paired_difference_by_hand():
    """Gains 1 and 3: mean 2; resampled means are 1, 2 or 3 with odds 1:2:1, so the 95 % interval is [1, 3]."""
    difference = paired_difference([2.0, 3.0], [1.0, 0.0])
    assert (difference.gain, difference.low, difference.high, difference.n) == (2.0, 1.0, 3.0, 2)
    assert str(difference) == "+2.000 [+1.000, +3.000] (n=2)"


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_all_won_or_none_is_not_certain(sign: float) -> None:
    """Ten of ten: Wilson's interval, 1/(1 + 1.96²/10) = 0.722 to 1, and its mirror image; resampling would say ±0."""
    result = win_rate(sign * np.ones(10), np.zeros(10))
    low, high = (result.low, result.high) if sign > 0 else (1 - result.high, 1 - result.low)
    assert (low, high) == pytest.approx((0.72247, 1.0), abs=1e-5)


def test_printed_as_rate_interval_and_doubt():
    """The form that every result is reported in."""
    assert str(win_rate([1.0, 1.0], [0.0, 1.0])) == "0.75 [0.50, 1.00] (n=2, ties 1)"
