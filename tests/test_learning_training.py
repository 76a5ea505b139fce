"""learning.patches, pretrain, meta and training: tasks, the loop, resuming, the commands."""

from __future__ import annotations

import json
import math
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage

from mzsr_cli.cli import show
from mzsr_cli.cli.main import exit_code
from mzsr_cli.cubes.journal import Journal
from mzsr_cli.errors import DivergedError, InputError, ResumeError
from mzsr_cli.imaging import degrade
from mzsr_cli.imaging.bounds import Bounds
from mzsr_cli.learning import networks
from mzsr_cli.learning.meta import meta_step
from mzsr_cli.learning.patches import Physics, Source, TaskMaker, check_patch
from mzsr_cli.learning.pretrain import pretrain_step
from mzsr_cli.learning.training import Event, Run, Trainer
from mzsr_cli.learning.weights import load_weights, save_weights
from mzsr_cli.pipeline import training as pipeline
from mzsr_cli.pipeline.slices import parse_slices
from mzsr_cli.settings import (
    ConsistencySettings,
    DegradationMix,
    GateSettings,
    MetaSettings,
    NetworkSettings,
    Precision,
    TaskSettings,
    TrainSettings,
    WienerSettings,
)

CPU = torch.device("cpu")
NETWORK = NetworkSettings(depth=3, width=9)
TASKS = TaskSettings(patch=24, scales=(2.0,))
SETTINGS = TrainSettings(
    iterations=6, batch=2, warmup=2, tasks=TASKS, network=NETWORK, precision=Precision.FP32
)
META = MetaSettings(tasks_per_iteration=1, inner_steps=2, first_order_fraction=0.5)
PHYSICS = Physics(ConsistencySettings(), WienerSettings(), GateSettings())


def texture(seed: int, shape: tuple[int, int] = (37, 31)) -> np.ndarray:
    """Blobs in [0, 1], (1, H, W) float32."""
    noise = np.random.default_rng(seed).standard_normal(shape)
    field = ndimage.gaussian_filter(noise, 1.0)
    return ((field - field.min()) / np.ptp(field)).astype(np.float32)[None]


def sources() -> list[Source]:
    levels = [(np.round(texture(i) * 255) / 255).astype(np.float32) for i in range(3)]
    waves = np.concatenate([texture(5), texture(6)])
    return [Source("images", levels, True), Source("cube", [waves, texture(7)], False)]


def maker(settings: TaskSettings = TASKS, seed: int = 0) -> TaskMaker:
    return TaskMaker(sources(), settings, PHYSICS, seed)


# -- tasks -----------------------------------------------------------------------------------


def same(a: Any, b: Any) -> bool:
    pairs = ((a.query, b.query), (a.support, b.support))
    return a.source == b.source and all(
        torch.equal(p.start, q.start) and torch.equal(p.truth, q.truth) and p.trust == q.trust
        for p, q in pairs
    )


def test_tasks_depend_on_seed_iteration_and_index_alone() -> None:
    first = maker()
    wanted = first.task(7, 1, True)
    torch.rand(3)
    np.random.random(3)
    for i in range(3):
        first.task(i, 0, True)
    assert same(first.task(7, 1, True), wanted)
    assert same(maker().task(7, 1, True), wanted)
    alone = maker().task(7, 1, False)
    assert alone.support is None and torch.equal(alone.query.start, wanted.query.start)
    for other in (
        maker().task(7, 0, True),
        maker().task(1, 7, True),
        maker(seed=1).task(7, 1, True),
    ):
        assert not same(other, wanted)


def mixes(task: Any) -> bool:
    operator = task.query.consistency.operator
    return degrade.mixes(operator.kernel, operator.sampling)


def test_queries_know_the_bounds_of_their_slice() -> None:
    """Those of samples that are means, in about the share that is asked for; sons do not keep
    them, because LR samples ring."""
    floored = np.maximum(texture(3, (48, 53)) - 0.4, 0)
    source = Source("maps", [floored], False, [0.0], [Bounds(0.0)])
    draws = TaskMaker([source], replace(TASKS, bounded_fraction=0.5), PHYSICS, 0)
    tasks = [draws.task(i, 0, True) for i in range(200)]
    known = [t for t in tasks if t.query.bounds]
    means = [t for t in tasks if mixes(t)]
    assert 0.3 < len(known) / len(means) < 0.7
    assert all(t.query.bounds == Bounds(0.0) for t in known)
    assert all(mixes(t) for t in known)
    assert not any(t.support.bounds for t in tasks)
    assert not any(maker().task(i, 0, True).query.bounds for i in range(9))


def test_son_of_a_task_is_the_low_image_degraded() -> None:
    """Shapes halve twice; rounded images have rounded LR images, which are the support's truth."""
    rounded, plain = [], []
    for iteration in range(24):
        task = maker().task(iteration, 0, True)
        assert task.query.start.shape == task.query.truth.shape == (1, 1, 24, 24)
        assert task.support.start.shape == task.support.truth.shape == (1, 1, 12, 12)
        error = (task.query.start - task.query.truth).abs().mean()
        assert task.base_error == pytest.approx(float(error))
        assert 0 <= task.query.trust <= 1
        levels = task.support.truth * 255
        off = float((levels - levels.round()).abs().max())
        (rounded if off < 1e-3 else plain).append(task.source)
    assert set(rounded) == {"images"}
    assert {"images", "cube"} <= set(plain)


def test_starting_images_explain_their_low_image() -> None:
    for iteration in range(12):
        task = maker(replace(TASKS, rounded_fraction=0.0)).task(iteration, 3, True)
        operator = task.query.consistency.operator
        low = task.support.truth[:, 0]
        misfit = operator.apply(task.query.start[:, 0]) - low
        assert float(misfit.abs().max()) < 0.03
        torch.testing.assert_close(operator.apply(task.query.truth[:, 0]), low, atol=1e-5, rtol=0)


def test_bicubic_mix_draws_one_degradation() -> None:
    draws = maker(replace(TASKS, mix=DegradationMix.BICUBIC))
    for iteration in range(8):
        operator = draws.task(iteration, 0, False).query.consistency.operator
        assert operator.kernel.size == 1
        assert operator.sampling.value == "bicubic"


def test_random_mix_draws_many() -> None:
    operators = [maker().task(i, 0, False).query.consistency.operator for i in range(40)]
    assert {o.sampling.value for o in operators} == {"direct", "bicubic"}
    direct = np.mean([o.sampling.value == "direct" for o in operators])
    assert 0.35 < direct < 0.85
    assert len({o.kernel.tobytes() for o in operators}) > 20


@pytest.mark.parametrize("scale", [1.5, 2.0, 3.0, 4.0])
def test_crops_are_whole_low_pixels(scale: float) -> None:
    draws = maker(replace(TASKS, scales=(scale,), patch=30))
    for iteration in range(8):
        operator = draws.task(iteration, 0, False).query.consistency.operator
        for hr, lr in zip(operator.hr_shape, operator.lr_shape, strict=True):
            assert hr <= 30
            assert lr * scale == hr


@pytest.mark.parametrize(("scale", "patch"), [(3.8, 31), (4.6, 37), (5.4, 44), (7.6, 61)])
def test_crops_keep_eight_low_pixels(scale: float, patch: int) -> None:
    """Where whole LR pixels come in large numbers (19 HR pixels at x3.8), crops are not whole."""
    settings = replace(TASKS, scales=(scale,), patch=patch)
    check_patch(settings)
    large = [Source("large", [texture(3, (70, 90))], False)]
    operator = TaskMaker(large, settings, PHYSICS, 0).task(0, 0, False).query.consistency.operator
    assert min(operator.lr_shape) >= 8 and max(operator.hr_shape) <= patch


def test_crops_show_all_eight_symmetries() -> None:
    ramp = (np.arange(24)[:, None] * 24 + np.arange(24)).astype(np.float32)[None] / 576
    draws = TaskMaker([Source("ramp", [ramp], False)], TASKS, PHYSICS, 0)
    corners = {
        tuple(draws.task(i, 0, False).query.truth[0, 0, [0, 0, -1], [0, -1, 0]].tolist())
        for i in range(60)
    }
    assert len(corners) == 8


def test_training_without_slices_is_refused() -> None:
    with pytest.raises(InputError, match="no usable slices"):
        TaskMaker([Source("empty", [], True)], TASKS, PHYSICS, 0)


def test_small_patches_are_refused() -> None:
    check_patch(TaskSettings(patch=16, scales=(2.0,)))
    with pytest.raises(InputError, match=r"--patch 16: .* scale 4") as caught:
        check_patch(TaskSettings(patch=16, scales=(2.0, 4.0)))
    assert "--patch 32" in str(caught.value)


# -- the loop --------------------------------------------------------------------------------


def trainer_for(
    folder: Path, settings: TrainSettings = SETTINGS, meta: MetaSettings | None = None
) -> tuple[Trainer, Callable[[int, float], dict[str, float]]]:
    network = networks.build(settings.network, settings.seed)
    log_rates = {}
    if meta is not None:
        log_rates = {
            n: torch.tensor([meta.inner_rate]).log() for n, _ in network.named_parameters()
        }
    trainer = Trainer(network, log_rates, settings, Run(folder / "w.safetensors"), {"kind": "test"})
    draws = maker(settings.tasks, settings.seed)
    parameters = dict(network.named_parameters())
    if meta is None:
        step = pretrain_step(network, parameters, draws, settings.batch, Precision.FP32, CPU)
    else:
        step = meta_step(network, parameters, trainer.log_rates, draws, meta, Precision.FP32, CPU)
    return trainer, step


def blind(parameters: Any, rates: Any) -> dict[str, float]:
    return {"psnr": 1.0}


def ignore(event: Event) -> None:
    pass


def interrupt(event: Event) -> None:
    raise KeyboardInterrupt


def finished(folder: Path, settings: TrainSettings, meta: MetaSettings | None) -> Trainer:
    folder.mkdir()
    trainer, step = trainer_for(folder, settings, meta)
    trainer.train(step, blind, ignore)
    return trainer


def assert_equal_runs(one: Trainer, other: Trainer) -> None:
    assert one.iteration == other.iteration
    for name, leaf in one.leaves.items():
        assert torch.equal(leaf, other.leaves[name]), name
        assert torch.equal(one.average[name], other.average[name]), name
    mine, theirs = load_weights(one.run.output), load_weights(other.run.output)
    for name, p in mine.parameters().items():
        assert torch.equal(p, theirs.parameters()[name])
    assert mine.rates.keys() == theirs.rates.keys()
    for name, rate in mine.rates.items():
        assert torch.equal(rate, theirs.rates[name])


@pytest.mark.parametrize("meta", [None, META], ids=["pretrain", "meta-train"])
def test_resumed_is_unbroken(tmp_path: Path, meta: MetaSettings | None) -> None:
    """Stopped after three of six iterations, in another process's place, bit for bit."""
    whole = finished(tmp_path / "whole", SETTINGS, meta)
    broken = tmp_path / "broken"
    broken.mkdir()
    trainer, step = trainer_for(broken, SETTINGS, meta)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(step, blind, interrupt, log_every=3)
    assert trainer.iteration == 3
    assert load_weights(trainer.run.output).facts["iterations"] == 3
    trainer, step = trainer_for(broken, SETTINGS, meta)
    trainer.restore()
    assert trainer.iteration == 3 and trainer.elapsed > 0
    trainer.train(step, blind, ignore)
    assert_equal_runs(trainer, whole)


@pytest.mark.parametrize("meta", [None, META], ids=["pretrain", "meta-train"])
def test_interrupted_within_an_iteration(tmp_path: Path, meta: MetaSettings | None) -> None:
    """Ctrl-C while gradients are computed loses that iteration and nothing else."""
    whole = finished(tmp_path / "whole", SETTINGS, meta)
    broken = tmp_path / "broken"
    broken.mkdir()
    trainer, step = trainer_for(broken, SETTINGS, meta)

    def struck(iteration: int, progress: float) -> dict[str, float]:
        figures = step(iteration, progress)
        if iteration == 4:
            raise KeyboardInterrupt
        return figures

    with pytest.raises(KeyboardInterrupt):
        trainer.train(struck, blind, ignore)
    trainer, step = trainer_for(broken, SETTINGS, meta)
    trainer.restore()
    trainer.train(step, blind, ignore)
    assert_equal_runs(trainer, whole)


def test_interrupted_by_the_last_validation(tmp_path: Path) -> None:
    """Ctrl-C there does not cost the updates since the last checkpoint."""
    whole = finished(tmp_path / "whole", SETTINGS, None)
    broken = tmp_path / "broken"
    broken.mkdir()
    trainer, step = trainer_for(broken, SETTINGS, None)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(step, blind, interrupt)
    trainer, step = trainer_for(broken, SETTINGS, None)
    trainer.restore()
    assert trainer.iteration == SETTINGS.iterations and not trainer.finished
    trainer.train(step, blind, ignore)
    assert trainer.finished
    assert_equal_runs(trainer, whole)


def test_sigterm_leaves_a_checkpoint(tmp_path: Path) -> None:
    """As Ctrl-C does; what batch systems send before they kill."""
    trainer, step = trainer_for(tmp_path, SETTINGS, None)

    def struck(iteration: int, progress: float) -> dict[str, float]:
        if iteration == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(iteration, progress)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(struck, blind, ignore)
    assert signal.getsignal(signal.SIGTERM) is before
    trainer, step = trainer_for(tmp_path, SETTINGS, None)
    trainer.restore()
    assert trainer.iteration == 3


def test_interrupted_between_step_and_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C just after Adam's step must not make the resumed run take that step twice."""
    whole = finished(tmp_path / "whole", SETTINGS, None)
    broken = tmp_path / "broken"
    broken.mkdir()
    trainer, step = trainer_for(broken)
    first = trainer.optimizers[0]
    adam_step = first.step

    def struck() -> None:
        adam_step()
        if trainer.iteration == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(first, "step", struck)
    trainer.settings = replace(SETTINGS, checkpoint_every=0.0)
    with pytest.raises(KeyboardInterrupt):
        trainer.train(step, blind, ignore)
    trainer, step = trainer_for(broken)
    trainer.restore()
    trainer.train(step, blind, ignore)
    assert_equal_runs(trainer, whole)


def test_step_sizes_live_where_the_network_lives() -> None:
    """Shown with torch's storage-free device; on a GPU mixed devices stop the first inner step."""
    network = networks.build(NETWORK, 0).to("meta")
    for rate in pipeline._log_rates(network, None, META).values():
        assert rate.device.type == "meta"


def test_seeds_reproduce(tmp_path: Path) -> None:
    one = finished(tmp_path / "one", SETTINGS, META)
    again = finished(tmp_path / "again", SETTINGS, META)
    assert_equal_runs(one, again)
    other = finished(tmp_path / "other", replace(SETTINGS, seed=1), META)
    assert any(not torch.equal(p, other.leaves[n]) for n, p in one.leaves.items())


CHANGES = {
    "learning_rate": replace(SETTINGS, learning_rate=2e-3),
    "seed": replace(SETTINGS, seed=1),
    "iterations": replace(SETTINGS, iterations=7),
    "patch": replace(SETTINGS, tasks=replace(TASKS, patch=26)),
    "width": replace(SETTINGS, network=replace(NETWORK, width=4)),
}


@pytest.mark.parametrize("key", CHANGES)
def test_changed_settings_are_refused(tmp_path: Path, key: str) -> None:
    trainer, _ = trainer_for(tmp_path)
    trainer.save()
    changed, _ = trainer_for(tmp_path, CHANGES[key])
    before = [p.detach().clone() for p in changed.leaves.values()]
    with pytest.raises(ResumeError, match=key) as caught:
        changed.restore()
    assert caught.value.exit_code == 6
    others = ["warmup", "clip_norm", *(k for k in CHANGES if k != key)]
    named = [other for other in others if other in str(caught.value)]
    assert not named, f"the message names settings that did not change: {named}"
    assert all(torch.equal(p, q) for p, q in zip(before, changed.leaves.values(), strict=True))


def test_times_may_change(tmp_path: Path) -> None:
    trainer, _ = trainer_for(tmp_path)
    trainer.save()
    longer = replace(SETTINGS, max_time=60.0, checkpoint_every=1.0, validate_every=2.0)
    trainer_for(tmp_path, longer)[0].restore()


def test_log_is_json_lines(tmp_path: Path) -> None:
    trainer, step = trainer_for(tmp_path, replace(SETTINGS, validate_every=0.0), META)
    events: list[Event] = []
    trainer.train(step, blind, events.append, log_every=2)
    lines = [json.loads(t) for t in trainer.run.log.read_text(encoding="utf-8").splitlines()]
    assert [(e.kind, e.iteration) for e in events] == [(i["kind"], i["iteration"]) for i in lines]
    train = [line for line in lines if line["kind"] == "train"]
    assert [line["iteration"] for line in train] == [2, 4, 6]
    assert [line["second_order"] for line in train] == pytest.approx([0, 0.5, 1])
    for line in train:
        assert math.isfinite(line["loss"]) and line["loss"] > 0
        assert line["gradient_norm"] > 0
    assert sum(line["kind"] == "validation" for line in lines) == 7
    assert [line["elapsed"] for line in lines] == sorted(line["elapsed"] for line in lines)
    assert events[-1].remaining == pytest.approx(0)


def test_learning_rate_warms_up_and_decays(tmp_path: Path) -> None:
    settings = replace(
        SETTINGS, iterations=100, warmup=10, learning_rate=1.0, learning_rate_min=0.1
    )
    trainer, _ = trainer_for(tmp_path, settings)
    rates = []
    for trainer.iteration in range(101):
        rates.append(trainer.rate())
    assert rates[0] == pytest.approx(0.1, rel=0.01)
    assert rates[:9] == sorted(rates[:9])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[50] == pytest.approx(0.55)
    assert rates[100] == pytest.approx(0.1)


@pytest.mark.parametrize("meta", [None, META], ids=["pretrain", "meta-train"])
def test_loss_falls(tmp_path: Path, meta: MetaSettings | None) -> None:
    """One bicubic degradation, one slice: below the start's loss, and falling."""
    settings = replace(
        SETTINGS, iterations=120 if meta is None else 80, batch=1, learning_rate=5e-3,
        learning_rate_min=5e-4, network=NetworkSettings(depth=3, width=8),
        tasks=replace(TASKS, mix=DegradationMix.BICUBIC),
    )  # fmt: skip
    trainer, _ = trainer_for(tmp_path, settings, meta)
    edges = (texture(3, (24, 24)) > 0.5).astype(np.float32)  # of a Gaussian field Wiener is best
    draws = TaskMaker([Source("one", [edges], False)], settings.tasks, PHYSICS, 0)
    parameters = dict(trainer.network.named_parameters())
    if meta is None:
        step = pretrain_step(trainer.network, parameters, draws, 1, Precision.FP32, CPU)
    else:
        step = meta_step(
            trainer.network, parameters, trainer.log_rates, draws, meta, Precision.FP32, CPU
        )
    events: list[Event] = []
    trainer.train(step, blind, events.append, log_every=20)
    losses = [e.figures["loss"] for e in events if e.kind == "train"]
    starts = [e.figures["start_loss"] for e in events if e.kind == "train"]
    assert losses[-1] < 0.96 * losses[0]
    assert losses[-1] < 0.95 * starts[-1]


def test_learned_rates_move(tmp_path: Path) -> None:
    trainer = finished(tmp_path / "run", SETTINGS, META)
    rates = load_weights(trainer.run.output).rates
    assert rates.keys() == {n for n, _ in trainer.network.named_parameters()}
    values = torch.cat(list(rates.values()))
    assert bool((values > 0).all())
    assert float((values / META.inner_rate).log().abs().max()) > 1e-4


def test_max_time_is_respected(tmp_path: Path) -> None:
    settings = replace(SETTINGS, iterations=10**6, max_time=1.5)
    trainer, step = trainer_for(tmp_path, settings)
    begin = time.monotonic()
    trainer.train(step, blind, ignore)
    assert time.monotonic() - begin < 5
    assert 1.5 <= trainer.elapsed < 3
    assert 1 < trainer.iteration < 10**6
    assert trainer.progress() == 1
    assert trainer.rate() <= settings.learning_rate_min * 1.0001


def test_average_follows_the_leaves(tmp_path: Path) -> None:
    """After the first update the average has gone 9/10 of the way, later less."""
    trainer, step = trainer_for(tmp_path)
    before = {n: p.detach().clone() for n, p in trainer.leaves.items()}
    trainer.update(step)
    for name, leaf in trainer.leaves.items():
        expected = before[name] + 0.9 * (leaf.detach() - before[name])
        torch.testing.assert_close(trainer.average[name], expected, atol=1e-7, rtol=1e-5)


def test_gradients_are_clipped(tmp_path: Path) -> None:
    trainer, _ = trainer_for(tmp_path)

    def steep(iteration: int, progress: float) -> dict[str, float]:
        for leaf in trainer.leaves.values():
            leaf.grad = torch.full_like(leaf, 1e3)
        return {}

    figures = trainer.update(steep)
    assert figures["gradient_norm"] > 1e3
    total = sum(float(p.grad.square().sum()) for p in trainer.leaves.values())
    assert math.sqrt(total) == pytest.approx(SETTINGS.clip_norm, rel=1e-3)


def test_updates_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    trainer, _ = trainer_for(tmp_path)
    before = {name: leaf.detach().clone() for name, leaf in trainer.leaves.items()}

    def endless(iteration: int, progress: float) -> dict[str, float]:
        for leaf in trainer.leaves.values():
            leaf.grad = torch.full_like(leaf, math.nan)
        return {}

    with pytest.raises(DivergedError, match="update 1 has a gradient that is not finite") as caught:
        trainer.update(endless)
    assert caught.value.exit_code == 2
    assert all(torch.equal(leaf, before[name]) for name, leaf in trainer.leaves.items())


# -- files and commands ----------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two small PNGs and one small cube."""
    path = tmp_path / "data"
    path.mkdir()
    for i, shape in enumerate([(37, 31), (30, 41)]):
        grey = np.round(texture(i, shape)[0] * 255).astype(np.uint8)
        Image.fromarray(np.stack([grey, grey.T.reshape(shape), grey], -1)).save(path / f"{i}.png")
    cube = np.stack([texture(8)[0] * 10**k for k in range(3)], -1) + 1j
    np.save(path / "cube.npy", cube.astype(np.complex64))
    return path


def test_sources_from_files(folder: Path) -> None:
    found = {s.name: s for s in pipeline.load_sources([str(folder)])}
    assert set(found) == {"data", "cube.npy"}
    assert found["data"].rounded and not found["cube.npy"].rounded
    assert [s.shape for s in found["data"].slices] == [(1, 37, 31), (1, 30, 41)]
    assert [s.shape for s in found["cube.npy"].slices] == [(2, 37, 31)] * 3
    for source in found.values():
        for planes in source.slices:
            assert planes.dtype == np.float32
            assert planes.min() >= 0 and planes.max() <= 1
    for planes in found["cube.npy"].slices:
        assert planes.min() == 0 and planes.max() == 1


def test_unusable_slices_are_left_out(tmp_path: Path) -> None:
    cube = np.random.default_rng(0).random((20, 17, 4))
    cube[..., 1] = 3.0
    cube[2, 3, 2] = np.nan
    np.save(tmp_path / "mixed.npy", cube)
    np.save(tmp_path / "small.npy", cube[:15])
    mixed, small = pipeline.load_sources([str(tmp_path / n) for n in ("mixed.npy", "small.npy")])
    assert len(mixed.slices) == 2
    assert small.slices == []


def test_constant_complex_slices_are_left_out(tmp_path: Path) -> None:
    """Real and imaginary part are constants, but not the same."""
    cube = np.full((20, 17, 3), 0.25 + 0j)
    cube[..., 1] = np.random.default_rng(0).random((20, 17))
    np.save(tmp_path / "c.npy", cube)
    (source,) = pipeline.load_sources([str(tmp_path / "c.npy")])
    assert source.numbers == [1]


def test_images_of_each_bit_depth_and_size(tmp_path: Path) -> None:
    """Levels of 16 bits are divided by 65535 and not taken for rounded; thumbnails and black frames
    are left out."""
    grey = texture(5, (33, 21))[0]
    Image.fromarray(np.round(grey * 65535).astype(np.uint16)).save(tmp_path / "deep.png")
    Image.fromarray(np.round(grey * 255).astype(np.uint8)).save(tmp_path / "plain.png")
    Image.fromarray(np.round(grey[:12] * 255).astype(np.uint8)).save(tmp_path / "thumbnail.png")
    Image.fromarray(np.zeros((33, 21), np.uint8)).save(tmp_path / "black.png")
    plain, deep = pipeline.load_sources([str(tmp_path)])
    assert plain.rounded and not deep.rounded
    for source, step in ((plain, 1 / 255), (deep, 1 / 65535)):
        (planes,) = source.slices
        np.testing.assert_allclose(planes[0], grey, atol=0.51 * step)


def test_validation_meets_every_case() -> None:
    """Both planes, every scale and every degradation, for each of five cubes."""
    planes = np.stack([texture(1, (64, 64))[0], 0.5 * texture(2, (64, 64))[0]])
    held = [Source(f"cube{k}", [planes], False) for k in range(5)]
    settings = replace(SETTINGS, tasks=replace(TASKS, scales=(2.0, 3.0)), validation_patches=100)
    maker = TaskMaker(held, settings.tasks, PHYSICS, 0)
    tasks = pipeline.validation_tasks(held, maker, settings, support=False)
    met = set()
    for task in tasks:
        operator = task.query.consistency.operator
        first = float(task.query.truth.max()) > 0.6
        met.add((task.source, operator.kernel.tobytes(), operator.sampling, operator.scale, first))
    assert len({case[:4] for case in met}) == 5 * 5 * 2
    assert {m[4] for m in met} == {True, False}


def test_split_holds_out_and_keeps_all() -> None:
    source = Source("many", [np.full((1, 16, 16), i, np.float32) for i in range(45)], False)
    (train,), (held,), ((_, count, text),) = pipeline.split([source], None)
    values = [sorted(float(s[0, 0, 0]) for s in part.slices) for part in (train, held)]
    assert values[1] == [10, 30] == list(parse_slices(text, 45))
    assert count == len(train.slices) == 43
    assert sorted(values[0] + values[1]) == list(range(45))


def command(kind: str, folder: Path, output: Path, *more: str) -> list[str]:
    return [kind, str(folder), "-o", str(output), "--iterations", "3", "--batch", "1",
            "--patch", "16", "--precision", "fp32", "--device", "cpu", *more]  # fmt: skip


def tiny_weights(path: Path) -> Path:
    """Weights of a network that is not the default one."""
    network = networks.build(NETWORK, seed=2)
    save_weights(path, dict(network.named_parameters()), {}, NETWORK, {"kind": "pretrain"})
    return path


def tensors(path: Path) -> list[torch.Tensor]:
    loaded = load_weights(path)
    return [*loaded.parameters().values(), *loaded.rates.values()]


@pytest.mark.parametrize("kind", ["pretrain", "meta-train"])
def test_command_interrupted_and_resumed(
    kind: str,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """End to end: weights, log and checkpoint; 130 when interrupted; resumed to the same weights;
    changed settings exit 6; an existing output is not overwritten."""
    whole, broken = tmp_path / "whole.safetensors", tmp_path / "broken.safetensors"
    assert exit_code(command(kind, folder, whole)) == 0
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "validation 3" in shown.err
    facts = load_weights(whole).facts
    assert facts["kind"] == kind and facts["iterations"] == 3
    assert sorted(facts["data"]) == [["cube.npy", 2], ["data", 1]]
    assert sorted(facts["held_out"]) == [["cube.npy", "1"], ["data", "1"]]
    assert bool(load_weights(whole).rates) == (kind == "meta-train")

    with monkeypatch.context() as patch:
        patch.setattr(show, "training_reporter", lambda bar, quiet: interrupt)
        assert exit_code(command(kind, folder, broken, "--validate-every", "0")) == 130
    assert load_weights(broken).facts["iterations"] == 1
    assert exit_code(command(kind, folder, broken)) == 2
    assert "--resume" in capsys.readouterr().err
    assert exit_code(command(kind, folder, broken, "--resume", "--seed", "5")) == 6
    assert "seed" in capsys.readouterr().err
    assert load_weights(broken).facts["iterations"] == 1
    assert exit_code(command(kind, folder, broken, "--resume", "-q")) == 0
    assert capsys.readouterr().err == ""
    for a, b in zip(tensors(whole), tensors(broken), strict=True):
        assert torch.equal(a, b)
    for name in ("whole", "broken"):
        for line in (tmp_path / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            assert {"kind", "iteration", "elapsed"} <= json.loads(line).keys()


def test_meta_settings_must_not_change(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, init = tmp_path / "w.safetensors", tiny_weights(tmp_path / "tiny.safetensors")
    start = ("--init", str(init))
    assert exit_code(command("meta-train", folder, output, *start)) == 0
    for key, change in [("inner_steps", "--inner-steps=1"), ("inner_rate", "--inner-rate=0.5"),
                        ("first_order", "--first-order=0.1")]:  # fmt: skip
        code = exit_code(command("meta-train", folder, output, *start, "--resume", change))
        assert code == 6, change
        assert key in capsys.readouterr().err


def test_other_data_of_the_same_names_is_refused(folder: Path, tmp_path: Path) -> None:
    """§7: a changed input is refused."""
    output, init = tmp_path / "w.safetensors", tiny_weights(tmp_path / "tiny.safetensors")
    start = ("--init", str(init))
    assert exit_code(command("pretrain", folder, output, *start)) == 0
    cube = np.load(folder / "cube.npy")
    np.save(folder / "cube.npy", cube[::-1])
    assert exit_code(command("pretrain", folder, output, *start, "--resume")) == 6


@pytest.mark.parametrize("kind", ["pretrain", "meta-train"])
def test_init_decides_the_network(kind: str, folder: Path, tmp_path: Path) -> None:
    """Weights made from --init carry the architecture of --init, and can be loaded."""
    init, output = tiny_weights(tmp_path / "tiny.safetensors"), tmp_path / "w.safetensors"
    assert exit_code(command(kind, folder, output, "--init", str(init))) == 0
    loaded = load_weights(output)
    assert loaded.settings == NETWORK
    assert loaded.facts["init"]["sha256"] == load_weights(init).digest
    again = tmp_path / "again.safetensors"
    assert exit_code(command(kind, folder, again, "--init", str(output))) == 0
    told = load_weights(again).facts
    assert told["data"] and told["held_out"]
    assert told["init"]["facts"]["init"]["sha256"] == load_weights(init).digest
    assert not {"data", "held_out"} & told["init"]["facts"].keys()
    moved = [
        float((p - q).abs().max())
        for p, q in zip(
            loaded.parameters().values(), load_weights(init).parameters().values(), strict=True
        )
    ]
    assert 0 < max(moved) < 0.1


@pytest.mark.parametrize(
    ("more", "code", "says"),
    [
        (["--patch", "16", "--scale", "4"], 3, "--patch 32"),
        (["--device", "cuda:97"], 4, "cuda"),
        (["--device", "tpu"], 2, "cuda:N"),
        (["--resume"], 6, "no checkpoint"),
        (["--init", "gone.safetensors"], 3, "gone.safetensors"),
        (["--max-time", "soon"], 2, "45m"),
        (["--degradations", "odd"], 2, "bicubic"),
        (["--no-blur", "1.5"], 2, "no-blur"),
    ],
)
def test_refusals(
    more: list[str], code: int, says: str, folder: Path, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    output = tmp_path / "w.safetensors"
    assert exit_code(command("pretrain", folder, output, *more)) == code
    assert says in capsys.readouterr().err
    assert not output.exists()


def test_refused_outputs(folder: Path, tmp_path: Path) -> None:
    assert exit_code(command("pretrain", folder, tmp_path / "w.pt")) == 3
    assert exit_code(command("pretrain", folder, tmp_path / "no" / "w.safetensors")) == 4
    empty = tmp_path / "empty"
    empty.mkdir()
    assert exit_code(command("pretrain", empty, tmp_path / "w.safetensors")) == 3
    assert exit_code(command("pretrain", tmp_path / "gone", tmp_path / "w.safetensors")) == 3


def test_a_second_training_of_one_name_is_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each would write its checkpoint over the other's. Nothing of the lock stays."""
    output, log = tmp_path / "w.safetensors", tmp_path / "w.jsonl"
    log.write_text("of the first one")
    with Journal(tmp_path / "w.safetensors.journal"):
        assert exit_code(command("pretrain", folder, output)) == 4
        assert "w.safetensors: another run is writing it" in capsys.readouterr().err
        assert log.read_text() == "of the first one" and not output.exists()
    assert exit_code(command("pretrain", folder, output)) == 0
    there = ["data", "w.checkpoint", "w.jsonl", "w.safetensors"]
    assert sorted(path.name for path in tmp_path.iterdir()) == there


@pytest.mark.parametrize("taken", ["w.safetensors", "w.checkpoint", "w.jsonl"])
def test_a_name_that_a_folder_has_is_refused_before_work(
    folder: Path, tmp_path: Path, taken: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / taken).mkdir()
    output = tmp_path / "w.safetensors"
    assert exit_code(command("pretrain", folder, output, "--overwrite")) == 4
    said = capsys.readouterr().err
    assert taken in said and "folder" in said and "held out" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data", taken]


def test_zero_time_trains_nothing_or_is_refused(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "w.safetensors"
    code = exit_code(command("pretrain", folder, output, "--max-time", "0", "-q"))
    assert code == 2 or load_weights(output).facts["iterations"] <= 1
