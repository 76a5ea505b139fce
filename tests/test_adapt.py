"""Algorithm 2 (learning.adapt): any number of steps is safe; the verdict; the window."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from mzsr_cli.imaging import degrade, kernels
from mzsr_cli.learning import adapt as adapting
from mzsr_cli.learning import networks, superresolve
from mzsr_cli.learning.adapt import (
    NETWORK,
    START,
    adapt,
    cosine,
    learned,
    tiled_residual,
    verdict,
    window_side,
)
from mzsr_cli.learning.inner import Pair, pair_loss
from mzsr_cli.learning.patches import detailed_window
from mzsr_cli.learning.seen import Whole
from mzsr_cli.learning.superresolve import Sample, Solver
from mzsr_cli.settings import (
    Adapting,
    AdaptSettings,
    CheckSettings,
    Method,
    NetworkSettings,
    Precision,
    Sampling,
    StageSettings,
    TileSettings,
    UpscaleSettings,
)

FP32 = Precision.FP32
CHECK = CheckSettings()


@pytest.fixture
def network() -> Any:
    return networks.build(NetworkSettings(depth=3, width=8), seed=4)


@pytest.fixture
def pair(rng: np.random.Generator) -> Pair:
    high = torch.from_numpy(rng.random((2, 1, 22, 18))).float()
    return Pair(0.8 * high + 0.1, high, None, 1.0)


def parameters_of(network: Any) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in network.named_parameters()}


def rates_of(network: Any, rate: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor([rate]) for name, _ in network.named_parameters()}


def loss_of(network: Any, parameters: dict[str, torch.Tensor], pair: Pair) -> float:
    return float(pair_loss(network, parameters, pair, FP32).detach())


# adapt -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.0, 1e-3, 1e-2, 1.0, 1e3, math.inf])
@pytest.mark.parametrize("steps", [0, 1, 10, 60])
def test_kept_parameters_are_never_worse(network: Any, pair: Pair, rate: float, steps: int) -> None:
    before = parameters_of(network)
    first = loss_of(network, before, pair)
    adapted = adapt(network, before, rates_of(network, rate), [pair], AdaptSettings(steps), FP32)
    kept = loss_of(network, adapted.parameters, pair)
    assert kept <= first
    assert math.isclose(kept, min(adapted.losses), rel_tol=1e-6)
    assert adapted.losses[0] == first
    assert len(adapted.losses) == steps + 1
    assert adapted.losses[adapted.kept] == min(adapted.losses)
    assert all(torch.isfinite(p).all() for p in adapted.parameters.values())
    assert not any(p.requires_grad for p in adapted.parameters.values())


def test_steps_lower_the_loss(network: Any, pair: Pair) -> None:
    settings = AdaptSettings(30)
    adapted = adapt(
        network, parameters_of(network), rates_of(network, 3e-2), [pair], settings, FP32
    )
    assert min(adapted.losses) < 0.9 * adapted.losses[0]
    assert adapted.kept > 0


def test_rounds_take_a_step_on_each_pair_in_turn(network: Any, pair: Pair) -> None:
    """Two pairs for one round are two slices, the second on from the first."""
    other = Pair(pair.truth, pair.start, None, 1.0)
    rates = rates_of(network, 1e-3)
    both = adapt(network, parameters_of(network), rates, [pair, other], AdaptSettings(1), FP32)
    first = adapt(network, parameters_of(network), rates, [pair], AdaptSettings(1), FP32)
    second = adapt(network, first.parameters, rates, [other], AdaptSettings(1), FP32)
    assert both.kept == 1, "both losses fell"
    for name, p in second.parameters.items():
        torch.testing.assert_close(both.parameters[name], p)
    begin = [loss_of(network, parameters_of(network), pair),
             loss_of(network, first.parameters, other)]  # fmt: skip
    assert both.losses[0] == pytest.approx(np.mean(begin))


def test_a_rate_too_large_is_halved_until_it_helps(network: Any, pair: Pair) -> None:
    settings = AdaptSettings(60)
    adapted = adapt(network, parameters_of(network), rates_of(network, 1e3), [pair], settings, FP32)
    assert max(adapted.losses) > 1.5 * adapted.losses[0] or not np.isfinite(adapted.losses).all()
    assert min(adapted.losses) < adapted.losses[0]


def test_first_step_is_gradient_descent(network: Any, pair: Pair) -> None:
    """One step equals theta - alpha * gradient, by torch's own optimiser."""
    before = parameters_of(network)
    optimiser = torch.optim.SGD(network.parameters(), lr=1e-3)
    start, truth = pair.start, pair.truth
    (start + network(start).residual - truth).abs().mean().backward()
    optimiser.step()
    adapted = adapt(network, before, rates_of(network, 1e-3), [pair], AdaptSettings(1), FP32)
    assert adapted.kept == 1
    for name, p in network.named_parameters():
        torch.testing.assert_close(adapted.parameters[name], p.detach(), rtol=1e-5, atol=1e-7)


def test_given_parameters_are_left_alone(network: Any, pair: Pair) -> None:
    before = parameters_of(network)
    copy = {name: p.clone() for name, p in before.items()}
    adapted = adapt(network, before, rates_of(network, 1e-2), [pair], AdaptSettings(3), FP32)
    assert all(torch.equal(before[name], copy[name]) for name in copy)
    assert any(not torch.equal(adapted.parameters[name], copy[name]) for name in copy)


def test_zero_steps_keep_the_parameters(network: Any, pair: Pair) -> None:
    before = parameters_of(network)
    adapted = adapt(network, before, rates_of(network, 1.0), [pair], AdaptSettings(0), FP32)
    assert adapted.kept == 0
    assert all(torch.equal(before[name], p) for name, p in adapted.parameters.items())


@pytest.mark.parametrize("side", [5, 7, 16, 40])
def test_tiles_cover_the_whole(network: Any, rng: np.random.Generator, side: int) -> None:
    planes = torch.from_numpy(rng.standard_normal((2, 29, 23))).float()
    with torch.no_grad():
        whole = network(planes[:, None]).residual[:, 0]
    tiled = tiled_residual(
        network, parameters_of(network), Whole(planes), TileSettings(side), FP32, None
    )
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5)


# verdict ---------------------------------------------------------------------------------


class Judge:
    """Candidates made of two orthogonal errors, each with the truth's energy about its mean."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.truth = 100 + torch.from_numpy(rng.standard_normal((2, 9, 7)))
        size = (self.truth - self.truth.mean()).norm()
        errors = torch.from_numpy(rng.standard_normal((2, 9 * 7 * 2)))
        basis = torch.linalg.qr(errors.T).Q.T.reshape(2, 2, 9, 7) * size
        self.one, self.two = basis[0], basis[1]

    def off(self, db: float) -> torch.Tensor:
        """An image with that NMSE."""
        return self.truth + 10 ** (db / 20) * self.one

    def __call__(
        self, network: Any, start: Any, oversampled: bool = False, stretch: float = 1.0,
        **others: float,
    ) -> Any:  # fmt: skip
        images = {
            name: value if isinstance(value, torch.Tensor) else self.off(value)
            for name, value in {NETWORK: network, START: start, **others}.items()
        }
        return verdict(images, self.truth, oversampled, CHECK, stretch)


@pytest.fixture
def judge(rng: np.random.Generator) -> Judge:
    return Judge(rng)


def test_figures_are_mean_free_nmse(judge: Judge) -> None:
    found = judge(-20.0, -13.5, spline=4.0)
    assert found.nmse == pytest.approx({NETWORK: -20.0, START: -13.5, "spline": 4.0})
    assert found.chosen == NETWORK and found.informative and not found.hopeless


@pytest.mark.parametrize("oversampled", [False, True])
def test_network_stands_when_the_pair_says_nothing(judge: Judge, oversampled: bool) -> None:
    edge = CHECK.informative_nmse
    found = judge(-1.0, -2.0, oversampled, spline=edge + 0.1)
    assert found.chosen == NETWORK and not found.informative and found.share == 1
    assert judge(-1.0, -2.0, oversampled, spline=edge - 0.1).informative


def test_another_wins_by_its_margin(judge: Judge) -> None:
    step = CHECK.margin
    assert judge(-20.0, -19.0, spline=-20.0 - 0.9 * step).chosen == NETWORK
    past = judge(-20.0, -19.0, bicubic=-18.0, spline=-20.0 - 1.1 * step)
    assert past.chosen == "spline"


def test_another_must_beat_the_scaled_network(judge: Judge) -> None:
    """A network that only harms is scaled away, and what is left is as good as the start."""
    step = CHECK.margin
    assert judge(-10.0, -20.0, spline=-20.0 - 0.9 * step).chosen == NETWORK
    assert judge(-10.0, -20.0, spline=-20.0 - 1.1 * step).chosen == "spline"


def test_oversampled_slices_keep_the_network(judge: Judge) -> None:
    assert judge(-20.0, -19.0, True, spline=-60.0).chosen == NETWORK
    assert judge(-20.0, -19.0, False, spline=-60.0).chosen == "spline"


@pytest.mark.parametrize("oversampled", [False, True])
def test_hopeless_pairs_say_nothing(judge: Judge, oversampled: bool) -> None:
    """A start that is worse than the mean: the network stands, whatever the others do."""
    worst = CHECK.hopeless_nmse
    found = judge(worst + 2, worst + 0.1, oversampled, bicubic=-30.0)
    assert found.hopeless and found.unsupported and found.chosen == NETWORK and found.share == 1
    assert not judge(worst + 2, worst - 0.1, oversampled, spline=worst - 0.2).hopeless


@pytest.mark.parametrize("wanted", [0.0, 0.3, 0.59, 0.8, 1.0])
def test_share_is_what_the_pair_supports(judge: Judge, wanted: float) -> None:
    """The start misses e; the network adds r that holds e and an orthogonal error. The best
    multiple of r is <e, r> / <r, r>, by construction ``wanted``; from 0.6 on all is kept."""
    missing = 0.1 * judge.one
    start = judge.truth - missing
    if wanted == 0:
        added = 0.2 * judge.two
    else:
        added = missing + math.sqrt(1 / wanted - 1) * 0.1 * judge.two
    found = judge(start + added, start)
    assert found.share == pytest.approx(min(1, wanted / 0.6), abs=1e-6)
    assert found.chosen == NETWORK


def test_networks_that_gain_little_are_scaled_down(judge: Judge) -> None:
    """By how many dB the best multiple of the residual beats the start."""
    none, full = CHECK.gain_none, CHECK.gain_full
    shares = [
        judge(-20 - gain, -20.0).share for gain in (0.9 * none, (none + full) / 2, 1.1 * full)
    ]
    least = CHECK.share_ungained
    assert shares == pytest.approx([least, (1 + least) / 2, 1], abs=0.01)
    half = judge(-20 - (none + full) / 2 * 2, -20.0, stretch=2.0)
    assert half.share == pytest.approx((1 + least) / 2, abs=0.01) and not half.gradual
    assert judge(-20 - 1.1 * CHECK.gradual_gain, -20.0, stretch=9.0).share == 1
    assert judge(-20 - 1.1 * CHECK.gradual_gain, -20.0).gradual
    assert not judge(-20 - 0.9 * CHECK.gradual_gain, -20.0).gradual


def test_share_stays_between_nothing_and_all(judge: Judge) -> None:
    missing = 0.1 * judge.one
    start = judge.truth - missing
    assert judge(start + 0.5 * missing, start).share == 1  # twice would be better still
    assert judge(start - missing, start).share == 0
    assert judge(start, start).share == CHECK.share_ungained


def test_a_perfect_candidate_and_a_constant_truth_have_figures() -> None:
    truth = torch.zeros(1, 8, 8)
    constant = verdict({NETWORK: truth, START: truth + 1}, truth, False, CHECK)
    assert all(math.isfinite(v) for v in (*constant.nmse.values(), constant.share))
    ramp = torch.arange(64.0).reshape(1, 8, 8)
    exact = verdict({NETWORK: ramp + 1, START: ramp}, ramp, False, CHECK)
    assert exact.share == 0
    assert all(math.isfinite(v) for v in exact.nmse.values())


def test_an_answer_that_is_not_finite_never_stands() -> None:
    truth = torch.linspace(0, 1, 64).reshape(1, 8, 8).square()
    for broken in (torch.nan, torch.inf):
        images = {NETWORK: truth * broken, START: truth + 0.1, "spline": truth + 0.05}
        found = verdict(images, truth, True, CHECK)
        assert found.overruled and found.chosen == "spline" and found.share == 0


def test_what_steps_taught_has_to_show_on_the_pair(rng: np.random.Generator) -> None:
    """Better than before by the margin, and below the limit from which a pair tells something."""
    truth = torch.from_numpy(rng.standard_normal((1, 23, 17)))

    def off(nmse: float) -> torch.Tensor:
        error = truth.roll(5, 1) - truth.mean()
        return truth + error * float(10 ** (nmse / 20) / error.std() * truth.std())

    limit, margin = CHECK.informative_nmse, CHECK.margin
    start = off(CHECK.hopeless_nmse - 0.1)
    assert learned(start, off(0.0), off(limit - 0.1), truth, CHECK)
    assert not learned(start, off(0.0), off(limit + 0.1), truth, CHECK)
    assert learned(start, off(limit - 3), off(limit - 3.1 - margin), truth, CHECK)
    assert not learned(start, off(limit - 3), off(limit - 2.9 - margin), truth, CHECK)
    assert not learned(start, off(0.0), truth * torch.nan, truth, CHECK)
    hopeless = off(CHECK.hopeless_nmse + 0.1)
    assert not learned(hopeless, off(0.0), off(limit - 9.0), truth, CHECK)


def test_hopeless_limits_may_be_given(judge: Judge) -> None:
    images = {NETWORK: judge.off(1.0), START: judge.off(1.0)}
    assert verdict(images, judge.truth, False, CHECK).hopeless
    assert not verdict(images, judge.truth, False, CHECK, 1.0, 1.1).hopeless


# window ----------------------------------------------------------------------------------


def detail(window: torch.Tensor) -> float:
    rows, cols = window.diff(dim=-2), window.diff(dim=-1)
    return float(rows.square().sum() + cols.square().sum())


@pytest.mark.parametrize(
    ("facts", "side"),
    [
        ({}, 64),
        ({"patch": 96}, 64),
        ({"patch": 160}, 80),
        ({"patch": 300}, 96),
        ({"patch": "x"}, 64),
    ],
)
def test_windows_are_as_large_as_what_was_trained_with(facts: dict[str, Any], side: int) -> None:
    """At x2, within limits; whoever asks for more has more."""
    assert window_side(facts, AdaptSettings(window=64, window_most=96)) == side
    assert window_side(facts, AdaptSettings(window=500)) == 500


def test_steps_are_taken_on_that_window(monkeypatch: pytest.MonkeyPatch) -> None:
    from mzsr_cli.learning.weights import Weights

    shape = NetworkSettings(depth=3, width=8)
    net = networks.build(shape, seed=4)
    weights = Weights(net, shape, rates_of(net, 1e-3), {"scales": [2.0], "patch": 40})
    how = AdaptSettings(steps=1, son_min=8, window=16, window_most=96)
    solver = Solver(
        (40, 45), (2.0, 2.0), (80, 90), kernels.delta(), Method.MZSR, weights,
        UpscaleSettings(scale=(2.0, 2.0), adapt=how), FP32, torch.device("cpu"),
    )  # fmt: skip
    seen: list[tuple[int, ...]] = []
    taken = Solver._adapt

    def watched(self: Solver, parameters: Any, pairs: Any) -> Any:
        seen.extend(tuple(pair.truth.shape[-2:]) for pair in pairs)
        return taken(self, parameters, pairs)

    monkeypatch.setattr(Solver, "_adapt", watched)
    rng = np.random.default_rng(5)
    solver.solve(Sample(torch.from_numpy(rng.random((1, 40, 45))).float(), 0.0, signed=True), 0)
    assert seen == [(20, 20)]


@pytest.mark.parametrize("planes", [1, 2])
@pytest.mark.parametrize("corner", [(0, 0), (0, 19), (13, 7), (29, 19)])
def test_window_with_the_most_detail(
    rng: np.random.Generator, planes: int, corner: tuple[int, int]
) -> None:
    """Noise in a patch of the window's size, a gentle slope around it."""
    side, (height, width) = 12, (41, 31)
    slope = np.linspace(0, 1, height)[:, None] + np.linspace(0, 1, width)
    image = np.repeat(slope[None], planes, 0)
    top, left = corner
    image[-1, top : top + side, left : left + side] += rng.standard_normal((side, side))
    found = detailed_window(torch.from_numpy(image), side).numpy()
    assert found.shape == (planes, side, side)
    # The jump between patch and slope may be worth a border row or column.
    matches = [
        (t, le)
        for t in range(max(0, top - 1), top + 2)
        for le in range(max(0, left - 1), left + 2)
        if np.array_equal(image[:, t : t + side, le : le + side], found)
    ]
    assert len(matches) == 1


def test_window_is_the_best_of_all(rng: np.random.Generator) -> None:
    """No other window of that size has more squared differences inside it, but for the
    differences across its border."""
    image = torch.from_numpy(rng.standard_normal((1, 17, 23)) * rng.random((1, 17, 23)) ** 3)
    side = 9
    found = detail(detailed_window(image, side))
    everywhere = [
        detail(image[:, top : top + side, left : left + side])
        for top in range(17 - side + 1)
        for left in range(23 - side + 1)
    ]
    assert found >= np.quantile(everywhere, 0.9)


def test_small_slices_are_their_own_window(rng: np.random.Generator) -> None:
    image = torch.from_numpy(rng.standard_normal((2, 12, 9)))
    assert torch.equal(detailed_window(image, 12), image)
    narrow = detailed_window(torch.from_numpy(rng.standard_normal((2, 30, 9))), 10)
    assert narrow.shape == (2, 10, 9)


# the pair and the check inside the solver ------------------------------------------------


def mzsr(
    cube: Any, factor: float = 2.0, steps: int = 4, sampling: Sampling = Sampling.BICUBIC,
    passes: int = 1, **settings: Any,
) -> Any:  # fmt: skip
    """A slice by a tiny network: (HR planes, report)."""
    from mzsr_cli.learning.weights import Weights

    how = settings.pop("adapt", AdaptSettings())
    shape = NetworkSettings(depth=3, width=8, passes=passes)
    net = networks.build(shape, seed=4)
    weights = Weights(net, shape, rates_of(net, 1e-3), {"scales": [2.0, 4.0]})
    low = tuple(cube.shape[-2:])
    operator = degrade.enlargement(kernels.delta(), sampling, (factor, factor), low)
    made = Solver(
        low, (factor, factor), operator.hr_shape, kernels.delta(), Method.MZSR, weights,
        UpscaleSettings(
            scale=(factor, factor), sampling=sampling,
            adapt=replace(how, steps=steps, son_min=8), **settings
        ),
        FP32, torch.device("cpu"),
    )  # fmt: skip
    return made.solve(Sample(torch.as_tensor(cube).float(), 0.0, signed=True), 0)


def test_slices_too_small_for_a_son_still_come_out(rng: np.random.Generator) -> None:
    image, report = mzsr(rng.random((1, 9, 9)))
    assert image.shape == (1, 18, 18) and torch.isfinite(image).all()
    assert report.losses == [] and report.check is not None
    assert report.check.unsupported and report.trust <= CHECK.share_unchecked


def test_the_check_can_be_switched_off(rng: np.random.Generator) -> None:
    _, report = mzsr(rng.random((1, 20, 19)), check=CheckSettings(enabled=False))
    assert report.check is None and report.method == "mzsr" and len(report.losses) == 5


def test_a_classical_choice_is_that_classical_answer() -> None:
    """A verdict for a classical method gives that method's result, exactly."""
    always = CheckSettings(informative_nmse=1e9, hopeless_nmse=1e9, margin=-1e9)
    seen = set()
    for seed in range(12):
        rng = np.random.default_rng(seed)
        cube = torch.from_numpy(rng.random((1, 20, 19)) ** (1 + seed)).float()
        image, report = mzsr(cube, check=always)
        assert report.check is not None and report.check.overruled
        seen.add(report.method)
        others = [v for name, v in report.check.nmse.items() if name != NETWORK]
        assert report.check.nmse[report.check.chosen] == min(others)
        if report.method in ("bicubic", "spline", "bandlimited"):
            torch.testing.assert_close(image, enlarged(cube, report.method), rtol=0, atol=1e-6)
    assert seen - {"mzsr", "wiener"}


def enlarged(
    cube: torch.Tensor, method: str, sampling: Sampling = Sampling.BICUBIC
) -> torch.Tensor:
    """Slices of 20 x 19 at x2."""
    operator = degrade.enlargement(kernels.delta(), sampling, (2, 2), (20, 19))
    return operator.interpolate(cube, Method(method), 1e-6)


@pytest.mark.parametrize("sampling", list(Sampling))
@pytest.mark.parametrize("informative", [False, True])
def test_steps_are_taken_where_they_may_help(sampling: Sampling, informative: bool) -> None:
    """After direct sampling where the pair says nothing they are not kept; asked for alone,
    always."""
    cube = torch.from_numpy(np.random.default_rng(3).random((1, 20, 19))).float()
    limit = CheckSettings(
        informative_nmse=1e9 if informative else -1e9, hopeless_nmse=1e9, margin=1e9
    )
    _, report = mzsr(cube, sampling=sampling, check=limit)
    taken = sampling is Sampling.BICUBIC or informative
    assert len(report.losses) == (5 if taken else 0)
    assert report.check is not None and report.check.informative == informative
    _, alone = mzsr(cube, sampling=sampling, check=CheckSettings(enabled=False))
    assert len(alone.losses) == 5


@pytest.mark.parametrize("alike", [-1.1, 1.1])
def test_steps_that_turn_the_answer_are_taken_back(
    monkeypatch: pytest.MonkeyPatch, alike: float
) -> None:
    """After antialiased sampling, where classical methods learn nothing of the pair: the answer is
    then that of no steps. Where slices learn together they are not asked."""
    cube = torch.from_numpy(np.random.default_rng(3).random((1, 20, 19))).float()
    for module in (superresolve, adapting):
        monkeypatch.setattr(module, "informs", lambda *_: False)
    limit = CheckSettings(
        hopeless_nmse=1e9, steps_alike=alike, certain=(-98.0, -99.0), silent_hopeful=(-99.0, -98.0)
    )
    compared: list[list[torch.Tensor]] = []

    def watched(*changes: torch.Tensor) -> float:
        compared.append([change.clone() for change in changes])
        return cosine(*changes)

    monkeypatch.setattr(superresolve, "cosine", watched)
    found, report = mzsr(cube, check=limit)
    kept = alike < 0
    (before, after), pairs = compared[0], []
    monkeypatch.setattr(Solver, "_check", lambda self, pair, change, _: pairs.append(change))
    for steps in (0, 4):  # what the untouched and the adapted network add, in this order
        mzsr(cube, steps=steps, check=replace(limit, steps_alike=-1.1))
    assert torch.equal(pairs[0], before) and torch.equal(pairs[1], after)
    assert not torch.equal(before, after)
    monkeypatch.undo()
    for module in (superresolve, adapting):
        monkeypatch.setattr(module, "informs", lambda *_: False)
    assert len(report.losses) == (5 if kept else 0) and (report.steps > 0) == kept
    steps, _ = mzsr(cube, check=CheckSettings(enabled=False))
    none, _ = mzsr(cube, steps=0, check=CheckSettings(enabled=False))
    assert float((steps - none).abs().max()) > 1e-4
    torch.testing.assert_close(found, steps if kept else none, rtol=0, atol=1e-5)
    _, together = mzsr(cube, check=limit, adapt=AdaptSettings(mode=Adapting.WARM))
    assert len(together.losses) == 5


def test_cosine() -> None:
    one, other = torch.tensor([[3.0, 0.0]]), torch.tensor([[1.0, 1.0]])
    assert cosine(one, other) == pytest.approx(0.5**0.5)
    assert cosine(one, -2 * one) == pytest.approx(-1)
    assert cosine(one, 0 * one) == 0


@pytest.mark.parametrize("margin", [-1e9, 1e9])
def test_steps_that_teach_the_pair_are_kept(monkeypatch: pytest.MonkeyPatch, margin: float) -> None:
    """After direct sampling, though classical methods learn nothing of it: the answer is then that
    of the steps alone, else that of no steps."""
    cube = torch.from_numpy(np.random.default_rng(3).random((1, 20, 19))).float()
    for module in (superresolve, adapting):
        monkeypatch.setattr(module, "informs", lambda *_: False)
    limit = CheckSettings(
        informative_nmse=1e9, hopeless_nmse=1e9, margin=margin, certain=(-98.0, -99.0),
        silent_hopeful=(-99.0, -98.0),
    )  # fmt: skip
    found, report = mzsr(cube, sampling=Sampling.DIRECT, check=limit)
    kept = margin < 0
    assert len(report.losses) == (5 if kept else 0) and (report.steps > 0) == kept
    alone = {"sampling": Sampling.DIRECT, "check": CheckSettings(enabled=False)}
    steps, _ = mzsr(cube, **alone)
    none, _ = mzsr(cube, steps=0, **alone)
    assert float((steps - none).abs().max()) > 1e-4
    torch.testing.assert_close(found, steps if kept else none, rtol=0, atol=1e-5)
    _, told = mzsr(
        cube, sampling=Sampling.DIRECT, check=limit, adapt=AdaptSettings(mode=Adapting.CUBE)
    )
    assert told.steps == 0


@pytest.mark.parametrize("passes", [1, 2, 3])
def test_passes_over_tiles_are_passes_over_the_whole(passes: int) -> None:
    """Each pass sees the consistent result of the one before, whatever the tiles."""
    cube = torch.from_numpy(np.random.default_rng(7).random((2, 31, 23))).float()
    options = {"check": CheckSettings(enabled=False), "passes": passes, "steps": 0}
    whole, _ = mzsr(cube, tiles=TileSettings(512), **options)
    tiled, _ = mzsr(cube, tiles=TileSettings(17), **options)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-5)
    other, _ = mzsr(cube, tiles=TileSettings(512), **{**options, "passes": passes + 1})
    assert float((other - whole).abs().max()) > 1e-4


@pytest.mark.parametrize(("factor", "long"), [(2.0, [2.0]), (4.0, [4.0]), (6.0, [4.0, 6.0])])
def test_stages_are_long_where_the_pair_says_nothing(factor: float, long: list[float]) -> None:
    """The weights know x4: no stage of x2 between. Informative pairs go gradually."""
    cube = torch.from_numpy(np.random.default_rng(5).random((1, 24, 20))).float()
    silent = CheckSettings(informative_nmse=-1e9, hopeless_nmse=1e9)
    told = CheckSettings(informative_nmse=1e9, hopeless_nmse=1e9, margin=1e9)
    made = {name: mzsr(cube, factor, steps=0, check=c)[0] for name, c in
            {"silent": silent, "told": told}.items()}  # fmt: skip
    alone = CheckSettings(enabled=False)
    jump, _ = mzsr(cube, factor, steps=0, check=alone, stages=StageSettings(factor_max=4.0))
    gradual, _ = mzsr(cube, factor, steps=0, check=alone)
    differs = float((jump - gradual).abs().max()) > 1e-4
    assert differs == (long != [2.0])
    assert made["silent"].shape == jump.shape
    near = {k: float((v - jump).abs().mean()) for k, v in made.items()}
    assert near["silent"] <= near["told"]
