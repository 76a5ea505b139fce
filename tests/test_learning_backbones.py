"""Every backbone of the registry, and LRFNet's sizes, fields of view and options."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_networks import random, shaken
from upscale_files import field, load, run, save

from mzsr_cli.cli import upscale
from mzsr_cli.errors import UsageError, WeightsError
from mzsr_cli.imaging import kernels
from mzsr_cli.imaging.gradient import gradient_map
from mzsr_cli.imaging.hints import Hints
from mzsr_cli.learning import inner, networks, weights
from mzsr_cli.learning.adapt import tiled_residual
from mzsr_cli.learning.inner import Pair, residual
from mzsr_cli.learning.pretrain import supervision
from mzsr_cli.learning.seen import Whole
from mzsr_cli.learning.zssr import Zssr
from mzsr_cli.settings import (
    LRF_DILATIONS,
    Filters,
    GradientSettings,
    Layout,
    LrfSettings,
    NetworkSettings,
    Precision,
    Sampling,
    TileSettings,
    ZssrSettings,
)

SEPARABLE = Filters.SEPARABLE
FIELDS = [
    LrfSettings(3),
    LrfSettings(5),
    LrfSettings(7, SEPARABLE),
    LrfSettings(3, dilations=(1, 3, 5)),
    LrfSettings(3, dilations=(1, 2), layout=Layout.B),
    LrfSettings(5, SEPARABLE, (1, 2, 3)),
    LrfSettings(5, SEPARABLE, (1, 2), Layout.C),
    LrfSettings(3, SEPARABLE, (1, 4, 8), Layout.D),
]


def lrf(shape: LrfSettings, width: int = 64, channels: int = 1) -> NetworkSettings:
    return NetworkSettings(backbone="lrfnet", width=width, channels=channels, lrfnet=shape)


# -- sizes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("side", "filters", "count"),
    [
        (3, Filters.STANDARD, 889_795),
        (5, Filters.STANDARD, 2_462_659),
        (3, SEPARABLE, 299_971),
        (5, SEPARABLE, 496_579),
        (7, SEPARABLE, 693_187),
        (9, SEPARABLE, 889_795),
        (11, SEPARABLE, 1_086_403),
    ],
)
def test_lrfnet_has_the_published_sizes(side: int, filters: Filters, count: int) -> None:
    network = networks.build(lrf(LrfSettings(side, filters), channels=3))
    assert networks.parameter_count(network) == count


@pytest.mark.parametrize("dilations", LRF_DILATIONS)
@pytest.mark.parametrize("layout", [Layout.A, Layout.B])
def test_dilation_and_layout_cost_nothing(dilations: tuple[int, ...], layout: Layout) -> None:
    network = networks.build(lrf(LrfSettings(3, dilations=dilations, layout=layout), channels=3))
    assert networks.parameter_count(network) == 889_795


def test_the_bound_of_scalars_is_one() -> None:
    """Below what is stored, but not so far that a wrong size would pass for a right one."""
    others = [NetworkSettings(backbone=name) for name in networks.BACKBONES]
    for settings in [*others, *map(lrf, FIELDS)]:
        stored = networks.parameter_count(networks.build(settings))
        assert stored / 16 < networks.scalars_min(settings) <= stored


# -- fields of view -----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", FIELDS, ids=str)
def test_lrfnet_reaches_exactly_so_far(shape: LrfSettings) -> None:
    """The gradient of a pixel is non-zero up to ``reach`` on every side, and nowhere beyond."""
    network = shaken(lrf(shape, width=5)).double()
    size = 2 * network.reach + 7
    top, left = network.reach + 2, network.reach + 4
    image = random(1, 1, size, size + 3).double().requires_grad_()
    network(image).residual[0, 0, top, left].backward()
    assert image.grad is not None
    seen = image.grad[0, 0] != 0
    for lines, at in ((seen.any(1), top), (seen.any(0), left)):
        found = torch.nonzero(lines)[:, 0]
        assert (int(found.min()), int(found.max())) == (at - network.reach, at + network.reach)


@pytest.mark.parametrize(
    ("shape", "reach"),
    [
        (LrfSettings(3), 26),
        (LrfSettings(11, SEPARABLE), 62),
        (LrfSettings(3, dilations=(1, 2, 3)), 50),
        (LrfSettings(7, SEPARABLE, (1, 2, 3)), 74),
    ],
)
def test_reach_of_the_full_size(shape: LrfSettings, reach: int) -> None:
    """Head and tail, and for every block two convolutions, or one along each axis."""
    assert networks.build(lrf(shape)).reach == reach


SMALL = [NetworkSettings(backbone=name, depth=6, width=6) for name in networks.BACKBONES]
SMALL += [lrf(replace(shape, blocks=6), width=5) for shape in FIELDS]


@pytest.mark.parametrize("settings", SMALL, ids=str)
def test_no_backbone_reaches_further_than_it_says(settings: NetworkSettings) -> None:
    """Nor less far by more than a pixel of its own grid, whatever the pixel's phase."""
    network, found = shaken(settings).double(), 0
    size = 2 * network.reach + 9
    for at in (network.reach + 3, network.reach + 4):
        image = random(1, 1, size, size).double().requires_grad_()
        network(image).residual[0, 0, at, at].backward()
        assert image.grad is not None
        for axis in (0, 1):
            lines = torch.nonzero(image.grad[0, 0].abs().sum(axis))[:, 0]
            found = max(found, at - int(lines.min()), int(lines.max()) - at)
    assert network.reach - network.stride < found <= network.reach


@pytest.mark.parametrize("settings", SMALL, ids=str)
def test_tiled_is_whole(settings: NetworkSettings) -> None:
    network = shaken(settings)
    planes = random(2, 97, 75)
    parameters = {name: p.detach() for name, p in network.named_parameters()}
    precision = Precision.FP32
    whole = residual(network, parameters, planes[:, None], precision, Hints())[:, 0]
    seen, tiles = Whole(planes), TileSettings(13)
    parts = tiled_residual(network, parameters, seen, tiles, precision, None)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-5 * float(whole.abs().max()))


def test_layouts_differ() -> None:
    """The four read the same filters in four ways."""
    image = random(1, 1, 19, 23)
    shapes = [LrfSettings(5, SEPARABLE, layout=layout) for layout in Layout]
    outputs = [shaken(lrf(shape, width=5))(image).residual for shape in shapes]
    for i, one in enumerate(outputs):
        for other in outputs[:i]:
            assert (one - other).abs().max() > 1e-3


# -- the branch for gradient maps ---------------------------------------------------------------

SPSR = NetworkSettings(backbone="spsr", depth=6, width=6, guides=2)


@pytest.mark.parametrize(("guides", "count"), [(0, 370_122), (2, 372_170)])
def test_spsr_has_so_many_parameters(guides: int, count: int) -> None:
    settings = NetworkSettings(backbone="spsr", guides=guides)
    assert networks.parameter_count(networks.build(settings)) == count


@pytest.mark.parametrize("settings", SMALL, ids=str)
def test_who_predicts_a_gradient_map_says_so(settings: NetworkSettings) -> None:
    network, image = shaken(settings), random(2, 1, 13, 19)
    answer = network(image)
    assert answer.residual.shape == image.shape
    assert network.predicts_gradient == (answer.gradient is not None)
    if answer.gradient is not None:
        assert answer.gradient.shape == image.shape


def test_the_map_of_the_image_is_corrected() -> None:
    network, image = shaken(SPSR), random(1, 1, 13, 19)
    assert (network(image).gradient - gradient_map(image)).abs().max() > 1e-3
    with torch.no_grad():
        network.gradient_tail.weight.zero_()
        network.gradient_tail.bias.zero_()
    assert torch.equal(network(image).gradient, gradient_map(image))


def test_each_branch_listens_to_the_other() -> None:
    """At every depth: each block of the one moves what the other says."""
    image, network = random(1, 1, 13, 19), shaken(SPSR)
    before = network(image)
    others = {
        "residual": ["gradient_head.weight", "gradient_blocks.0.first.weight"],
        "gradient": ["head.weight", "blocks.0.first.weight", "blocks.1.first.weight"],
    }
    for said, names in others.items():
        for name in names:
            changed = shaken(SPSR)
            with torch.no_grad():
                changed.get_parameter(name).add_(0.1)
            now = changed(image)
            assert (getattr(now, said) - getattr(before, said)).abs().max() > 1e-4, name


def test_the_map_is_supervised_where_training_looks() -> None:
    """The outer loss reaches the map's tail; an inner step leaves it where it was."""
    network = shaken(SPSR)
    parameters = dict(network.named_parameters())
    pair = Pair(random(1, 1, 13, 19), random(1, 1, 13, 19, seed=1), None, 1.0)
    prediction = inner.pair_prediction(network, parameters, pair, Precision.FP32)
    value = supervision(prediction, pair, GradientSettings(supervision=0.5))
    assert isinstance(value, torch.Tensor)
    value.backward()
    tail = network.get_parameter("gradient_tail.weight")
    assert tail.grad is not None and float(tail.grad.abs().max()) > 0
    for second in (False, True):
        _, slopes = inner.gradient(network, parameters, pair, Precision.FP32, second)
        assert not slopes["gradient_tail.weight"].any()
        assert slopes["gradient_head.weight"].any()


# -- bad combinations ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "shape",
    [
        {"layout": Layout.C},
        {"layout": Layout.D, "kernel_size": 5},
        {"kernel_size": 4},
        {"kernel_size": 13, "filters": SEPARABLE},
        {"dilations": (1, 2, 4)},
        {"dilations": ()},
        {"blocks": 10, "dilations": (1, 2, 3)},
        {"blocks": 0},
    ],
)
def test_what_is_no_lrfnet_is_refused(shape: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        LrfSettings(**shape)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--backbone", "lrfnet", "--layout", "C"), "--layout"),
        (("--backbone", "lrfnet", "--guides"), "--guides"),
        (("--backbone", "lrfnet", "--recursions", 2), "--recursions"),
        (("--backbone", "strided", "--kernel-size", 5), "--kernel-size"),
        (("--dilations", "1-2"), "--dilations"),
        (("--init", "w.safetensors", "--filters", "separable"), "--filters"),
    ],
)
def test_options_that_do_not_go_together(
    tmp_path: Path, options: tuple[object, ...], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("pretrain", tmp_path, "-o", tmp_path / "new.safetensors", *options) == 2
    assert named in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options",
    [
        ("--backbone", "lrfnet"),
        ("--kernel-size", 5, "--method", "mzsr"),
        ("--method", "zssr", "--filters", "separable"),
        ("--method", "zssr", "--backbone", "lrfnet", "--layout", "D"),
    ],
)
def test_backbones_are_for_zssr(tmp_path: Path, options: tuple[object, ...]) -> None:
    source = save(tmp_path / "c.npy", field())
    assert run("upscale", source, "--scale", 2, *options) == 2


# -- files --------------------------------------------------------------------------------------


def stored(path: Path, settings: NetworkSettings) -> dict[str, object]:
    """Write a random network; the header's description of it."""
    parameters = dict(networks.build(settings, 0).named_parameters())
    weights.save_weights(path, parameters, {}, settings, {})
    found: dict[str, object] = weights.read_header(path)["network"]
    return found


@pytest.mark.parametrize("shape", FIELDS, ids=str)
def test_files_know_the_blocks(tmp_path: Path, shape: LrfSettings) -> None:
    path, settings = tmp_path / "w.safetensors", lrf(shape, width=6)
    stored(path, settings)
    loaded = weights.load_weights(path)
    assert loaded.settings == settings
    image = random(1, 1, 21, 13)
    expected = networks.build(settings, 0)(image).residual
    torch.testing.assert_close(loaded.network(image).residual, expected)


def test_files_of_other_backbones_do_not_mention_them(tmp_path: Path) -> None:
    assert "lrfnet" not in stored(tmp_path / "w.safetensors", NetworkSettings(depth=3, width=5))


@pytest.mark.parametrize(
    "change",
    [
        {"kernel_size": 5},
        {"kernel_size": "3"},
        {"kernel_size": 3.0},
        {"filters": "round"},
        {"layout": "C"},
        {"layout": None},
        {"dilations": 1},
        {"dilations": [1, 2, 4]},
        {"blocks": 11},
        {"blocks": 10**12},
        {"blocks": "12"},
        {"extra": 1},
    ],
)
def test_edited_blocks_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "w.safetensors"
    facts = stored(path, lrf(LrfSettings(), width=5))
    facts["lrfnet"] = {**facts["lrfnet"], **change}  # type: ignore[dict-item]
    text = json.dumps({"format": 1, "network": facts, "facts": {}})
    save_file(load_file(path), path, {"mzsr": text})
    with pytest.raises(WeightsError):
        weights.load_weights(path)


@pytest.mark.parametrize(
    "change",
    [{"guides": 10**9}, {"guides": "2"}, {"guides": 1}, {"recursions": "x"}, {"recursions": 0},
     {"recursions": 10**9}, {"width": 5.0}, {"passes": 0}, {"backbone": "spsr", "recursions": 2},
     {"modulated": 1}, {"modulated": True}, {"backbone": "spsr", "modulated": True}],
    ids=str,
)  # fmt: skip
def test_edited_sizes_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "w.safetensors"
    facts = stored(path, NetworkSettings(backbone="strided", depth=4, width=5)) | change
    text = json.dumps({"format": 1, "network": facts, "facts": {}})
    save_file(load_file(path), path, {"mzsr": text})
    with pytest.raises(WeightsError):
        weights.load_weights(path)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    facts = stored(path, NetworkSettings(depth=3, width=5))
    tensors = load_file(path)
    next(iter(tensors.values()))[0] = float("nan")
    save_file(tensors, path, {"mzsr": json.dumps({"format": 1, "network": facts, "facts": {}})})
    with pytest.raises(WeightsError, match="not finite"):
        weights.load_weights(path)


def test_recursions_need_a_backbone_that_has_them(tmp_path: Path, capsys: Any) -> None:
    cube, init = save(tmp_path / "c.npy", field((41, 37, 2))), tmp_path / "w.safetensors"
    stored(init, lrf(LrfSettings(), width=5))
    more = ("--init", init, "--recursions", 3, "--iterations", 1, "--patch", 16)
    assert run("pretrain", cube, "-o", tmp_path / "a.safetensors", *more) == 2
    assert "--recursions 3: --init brings the backbone lrfnet" in capsys.readouterr().err


# -- the command line ---------------------------------------------------------------------------

EVERY = [("--backbone", name) for name in networks.BACKBONES] + [
    ("--backbone", "lrfnet", "--kernel-size", 5, "--filters", "separable",
     "--dilations", "1-2-3", "--layout", "D"),
]  # fmt: skip


@pytest.mark.parametrize("chosen", EVERY, ids=lambda o: "-".join(map(str, o[1::2])))
def test_trained_by_the_commands_and_used(tmp_path: Path, chosen: tuple[object, ...]) -> None:
    """Pretrain, meta-train (second order), upscale: each knows the architecture from the file."""
    cube = save(tmp_path / "c.npy", field((41, 37, 2)))
    quick = ("--iterations", 2, "--patch", 32, "--batch", 1, "-q", "--precision", "fp32")
    first, second = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    assert run("pretrain", cube, "-o", first, *quick, *chosen) == 0
    meta = ("--inner-steps", 1, "--first-order", 0, "--init", first)
    assert run("meta-train", cube, "-o", second, *quick, *meta) == 0
    made, found = weights.load_weights(first), weights.load_weights(second)
    assert found.settings == made.settings and found.settings.backbone == chosen[1]
    assert set(found.rates) == set(found.parameters())
    before, after = made.parameters(), found.parameters()
    assert any(not torch.equal(before[name], after[name]) for name in before)
    options = ("--scale", 2, "--weights", second, "--no-self-check", "--steps", 1, "-q")
    assert run("upscale", cube, *options, "-o", tmp_path / "out.npy") == 0
    assert load(tmp_path / "out.npy").shape == (82, 74, 2)


@pytest.mark.parametrize("chosen", EVERY, ids=lambda o: "-".join(map(str, o[1::2])))
def test_zssr_trains_any(
    tmp_path: Path, chosen: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two iterations; the provenance says what was trained."""
    quick = partial(ZssrSettings, iterations_max=2, self_ensemble=False)
    monkeypatch.setattr(upscale, "ZssrSettings", quick)
    cube = save(tmp_path / "c.npy", field((23, 17, 1)))
    out, how = tmp_path / "out.npy", ("--method", "zssr", "--gradient-loss", 0.1, "-q")
    assert run("upscale", cube, "--scale", 2, *how, *chosen, "-o", out) == 0
    assert load(out).shape == (46, 34, 1) and np.isfinite(load(out)).all()
    settings = json.loads(Path(f"{out}.json").read_text())["settings"]
    assert settings["network"]["backbone"] == chosen[1]
    assert settings["zssr"]["gradient_loss"] == 0.1


def test_zssr_trains_what_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every backbone and the gradient loss give another result."""
    quick = partial(ZssrSettings, iterations_max=3, self_ensemble=False, back_projections=0)
    monkeypatch.setattr(upscale, "ZssrSettings", quick)
    cube, out, found = save(tmp_path / "c.npy", field((23, 17, 1))), tmp_path / "out.npy", []
    for chosen in [*EVERY, ("--gradient-loss", 5.0)]:
        how = ("--scale", 2, "--method", "zssr", "-q", "--overwrite", *chosen)
        assert run("upscale", cube, *how, "-o", out) == 0
        found.append(load(out).tobytes())
    assert len(set(found)) == len(found)


def tail_of(network: networks.Network) -> torch.Tensor:
    """What predicts the gradient map in SPSR."""
    return dict(network.named_parameters())["gradient_tail.weight"].detach().clone()


def test_zssr_learns_the_gradient_map() -> None:
    network = networks.build(NetworkSettings(backbone="spsr", depth=4, width=6), 0)
    before = tail_of(network)
    settings = ZssrSettings(iterations_max=2)
    zssr = Zssr(
        network, kernels.delta(), Sampling.BICUBIC, settings, Precision.FP32, TileSettings(),
        np.random.default_rng(0),
    )  # fmt: skip
    zssr.train([torch.as_tensor(field((24, 20, 1))[None, ..., 0], dtype=torch.float32)], (2.0, 2.0))
    assert not torch.equal(tail_of(network), before)


@pytest.mark.parametrize("kind", ["pretrain", "meta-train"])
def test_training_learns_the_gradient_map(tmp_path: Path, kind: str) -> None:
    """SPSR's second tail moves; only the distance of the maps depends on it."""
    settings = NetworkSettings(backbone="spsr", depth=4, width=6)
    cube, init = save(tmp_path / "c.npy", field((41, 37, 2))), tmp_path / "i.safetensors"
    stored(init, settings)
    quick = ("--iterations", 1, "--patch", 32, "--batch", 1, "-q", "--precision", "fp32")
    assert run(kind, cube, "-o", tmp_path / "o.safetensors", "--init", init, *quick) == 0
    after = weights.load_weights(tmp_path / "o.safetensors").network
    assert not torch.equal(tail_of(after), tail_of(networks.build(settings, 0)))
