"""How much of what the network adds is plausible beside what the Wiener model claims."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from mzsr_cli.imaging.start import Start
from mzsr_cli.learning.trust import Claim, audible_share, hopeful_share, kept_share
from mzsr_cli.settings import CheckSettings, Sampling

CHECK = CheckSettings()
BICUBIC, DIRECT = Sampling.BICUBIC, Sampling.DIRECT


def of(level: float, **known: bool) -> Claim:
    """A claim of an expected error of ``level`` dB of the variance."""
    return Claim(0.04, 0.04 / 10 ** (level / 10), **known)


SMALL = of(-60.0)


def kept(
    ratio: float,
    claim: Claim = SMALL,
    hopeless: bool = False,
    sampling: Sampling = BICUBIC,
    scale: float = 2.0,
    settings: CheckSettings = CHECK,
) -> float:
    """The share kept where the added energy is ``ratio`` times the expected error, 0.04."""
    added = torch.full((1, 4, 5), math.sqrt(ratio * 0.04))
    return kept_share(added, claim, hopeless, sampling, scale, settings)


def test_small_corrections_are_kept_and_large_ones_are_not() -> None:
    full, none = CHECK.added_full, CHECK.added_none
    assert kept(0.0) == 1 and kept(0.99 * full) == 1
    assert kept(1.01 * none) == 0 and kept(100.0) == 0
    assert kept((full + none) / 2) == pytest.approx(0.5, abs=1e-5)
    ramp = [kept(full + (none - full) * x) for x in np.linspace(0, 1, 9)]
    assert all(a >= b for a, b in pairwise(ramp))


@pytest.mark.parametrize("hopeless", [False, True])
def test_models_that_claim_little_do_not_count(hopeless: bool) -> None:
    """And those of hopeless pairs have to claim more."""
    none, full = CHECK.certain_hopeless if hopeless else CHECK.certain
    assert kept(2.0, of(none + 0.1), hopeless) == 1
    assert kept(2.0, of(full - 0.1), hopeless) == 0
    assert kept(2.0, of((none + full) / 2), hopeless) == pytest.approx(0.5, abs=1e-5)
    assert CHECK.certain_hopeless[1] < CHECK.certain[1]


def test_limits_move_with_the_scale() -> None:
    """Those of x2 up to x2, the long ones from x4 on, between them in octaves."""
    for scale, part in ((1.1, 0.0), (2.0, 0.0), (8**0.5, 0.5), (4.0, 1.0), (20.0, 1.0)):
        (near, _), (far, _) = CHECK.certain, CHECK.certain_long
        none = near + part * (far - near)
        for level, share in ((none + 0.1, 1), (none - 0.6, 0)):
            assert kept(2.0, of(level), scale=scale) == share, (scale, level)
        (low, full), (low_long, full_long) = CHECK.silent_direct, CHECK.silent_direct_long
        middle = (low + full + part * (low_long + full_long - low - full)) / 2
        assert audible_share(of(middle), DIRECT, scale, CHECK) == pytest.approx(0.5)
        assert audible_share(of(-30.5), BICUBIC, scale, CHECK) == pytest.approx(0.5)


@pytest.mark.parametrize("hopeless", [False, True])
@pytest.mark.parametrize(
    ("scale", "most"),
    [
        (1.3, CHECK.added_most_direct[0]),
        (2.0, CHECK.added_most_direct[0]),
        (8**0.5, sum(CHECK.added_most_direct) / 2),
        (4.0, CHECK.added_most_direct[1]),
    ],
)
def test_no_more_than_so_many_times_the_expected_error_is_kept(
    scale: float, most: float, hopeless: bool
) -> None:
    """However little the model counts; the energy that is kept is that many dB above it."""
    for above in (0.5, 20.0):
        ratio = 10 ** ((most + above) / 10)
        share = kept(ratio, of(-3.0), hopeless, DIRECT, scale)
        assert 10 * math.log10(ratio * share**2) == pytest.approx(most, abs=1e-4)
    assert kept(10 ** ((most - 0.1) / 10), of(-3.0), hopeless, DIRECT, scale) == 1
    assert kept(1e4, of(-3.0), hopeless, BICUBIC, scale) == 1


def test_complex_slices_have_limits_of_their_own() -> None:
    """Models of both sides count from smaller claims on, and always where the spectrum has ended;
    a small correction is kept all the same."""
    none, full = CHECK.certain_two_sided
    assert kept(2.0, of(none + 0.1, two_sided=True)) == 1
    assert kept(2.0, of(full - 0.1, two_sided=True)) == 0
    assert kept(2.0, of(none + 0.1, two_sided=True, sure=True)) == 0
    assert kept(0.1, of(none + 0.1, two_sided=True, sure=True)) == 1


def test_hopeful_pairs_of_waves_are_silenced_earlier() -> None:
    none, full = CHECK.silent_hopeful
    assert none > max(CHECK.silent[1], CHECK.silent_direct[1])
    for level, share in ((none - 1, 0.0), ((none + full) / 2, 0.5), (full + 1, 1.0)):
        assert hopeful_share(of(level), CHECK) == pytest.approx(share, abs=1e-9)


def test_the_network_is_silent_where_next_to_no_error_is_left() -> None:
    for sampling, low, high in [(BICUBIC, -33.0, -28.0), (DIRECT, -28.0, -24.0)]:
        levels = (-40.0, low, (low + high) / 2, high, 0.0)
        shares = [audible_share(of(level), sampling, 2.0, CHECK) for level in levels]
        assert shares == pytest.approx([0.0, 0.0, 0.5, 1.0, 1.0])


def test_everything_is_kept_where_nothing_is_claimed_or_checked() -> None:
    nothing, off = Claim(None, 1.0), CheckSettings(enabled=False)
    for claim, settings in ((nothing, CHECK), (of(-60.0), off)):
        assert kept(1e6, claim, settings=settings) == 1
        assert hopeful_share(claim, settings) == 1
        assert audible_share(claim, DIRECT, 2.0, settings) == 1


def test_no_error_expected_leaves_nothing_to_add() -> None:
    certain = Claim(0.0, 1.0)
    assert kept(1.0, certain) == 0
    assert kept(0.0, certain) == 1


def test_claims_are_those_of_the_start_and_its_planes() -> None:
    """The variance is that of both planes together, as the expected error is."""
    planes = torch.tensor([[[0.0, 2.0]], [[4.0, 2.0]]])
    for two_sided, sure in ((True, False), (False, True)):
        start = Start(torch.zeros(2, 2, 4), 0.3, two_sided=two_sided, sure=sure)
        expected = Claim(0.3, float(planes.var()), two_sided=two_sided, sure=sure)
        assert Claim.of(start, planes) == expected


def test_levels_are_in_db_of_the_variance() -> None:
    assert Claim(0.01, 1.0).level == pytest.approx(-20)
    assert math.isfinite(Claim(0.0, 0.0).level)
