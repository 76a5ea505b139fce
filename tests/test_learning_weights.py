"""learning.weights and learning.checkpoint: round trips, damage, nothing unpickled."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mzsr_cli.errors import MissingInputError, OutputError, ResumeError, WeightsError
from mzsr_cli.learning import checkpoint, networks, weights
from mzsr_cli.settings import NetworkSettings

SETTINGS = NetworkSettings(depth=3, width=5)
FACTS = {"kind": "pretrain", "scales": [2.0, 4.0], "validation": {"psnr_0": 31.5}, "wörter": "é"}


def written(folder: Path) -> tuple[Path, dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    network = networks.build(SETTINGS, seed=3)
    parameters = {n: p.detach() for n, p in network.named_parameters()}
    rates = {n: torch.tensor([0.01 * (i + 1)]) for i, n in enumerate(parameters)}
    path = folder / "tiny.safetensors"
    weights.save_weights(path, parameters, rates, SETTINGS, FACTS)
    return path, parameters, rates


def test_round_trip(tmp_path: Path, device: torch.device) -> None:
    path, parameters, rates = written(tmp_path)
    loaded = weights.load_weights(path, device)
    assert loaded.settings == SETTINGS
    assert loaded.facts == FACTS
    assert loaded.name == "tiny"
    assert len(loaded.digest) == 64
    assert set(loaded.rates) == set(rates)
    for name, p in loaded.parameters().items():
        assert p.device.type == device.type and not p.requires_grad
        assert torch.equal(p.cpu(), parameters[name])
        assert torch.equal(loaded.rates[name].cpu(), rates[name])
    assert weights.read_header(path)["facts"] == FACTS
    assert [p.name for p in tmp_path.iterdir()] == ["tiny.safetensors"]


def test_same_contents_same_bytes(tmp_path: Path) -> None:
    first = written(tmp_path)[0].read_bytes()
    assert written(tmp_path)[0].read_bytes() == first


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(MissingInputError, match=r"gone\.safetensors"):
        weights.load_weights(tmp_path / "gone.safetensors")


@pytest.mark.parametrize("size", [0, 4, 100, 1000, -1])
def test_truncated_file(tmp_path: Path, size: int) -> None:
    path = written(tmp_path)[0]
    whole = path.read_bytes()
    path.write_bytes(whole[:size])
    with pytest.raises(WeightsError, match=r"tiny\.safetensors") as caught:
        weights.load_weights(path)
    assert caught.value.exit_code == 3


def test_safetensors_of_others(tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(3)}, path, {"format": "pt"})
    with pytest.raises(WeightsError, match="not written by mzsr"):
        weights.load_weights(path)


def rewritten(path: Path, text: str) -> None:
    """The same tensors under another header."""
    save_file(load_file(path), path, {"mzsr": text})


def header(**changes: Any) -> str:
    network = {"backbone": "mzsr", "channels": 1, "depth": 3, "width": 5}
    network |= changes.pop("network", {})
    return json.dumps({"format": 1, "network": network, "facts": {}} | changes)


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[]",
        "{}",
        '{"format": 1}',
        '{"format": 1, "network": null}',
        header(format=2),
        header(network={"width": 6}),
        header(network={"width": "5"}),
        header(network={"depth": 4}),
        header(network={"channels": 3}),
        header(network={"backbone": "resnet"}),
        header(network={"dropout": 0.1}),
        header(network={"width": -5}),
        header(network={"width": 10**6}),
    ],
)
def test_edited_headers_are_refused(tmp_path: Path, text: str) -> None:
    path = written(tmp_path)[0]
    rewritten(path, text)
    with pytest.raises(WeightsError):
        weights.load_weights(path)


def test_unedited_header_is_accepted(tmp_path: Path) -> None:
    path = written(tmp_path)[0]
    rewritten(path, header())
    assert weights.load_weights(path).settings == SETTINGS


def test_extra_and_missing_tensors_are_refused(tmp_path: Path) -> None:
    path = written(tmp_path)[0]
    tensors = load_file(path)
    for changed in (
        {**tensors, "extra": torch.zeros(2)},
        {n: t for n, t in tensors.items() if n != "layers.0.bias"},
    ):
        save_file(changed, path, {"mzsr": header()})
        with pytest.raises(WeightsError, match="architecture"):
            weights.load_weights(path)


class Trap:
    """Makes a folder when unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("reader", ["weights", "checkpoint"])
@pytest.mark.parametrize("writer", ["torch", "torch legacy", "pickle"])
def test_nothing_is_unpickled(tmp_path: Path, writer: str, reader: str) -> None:
    suffix = "safetensors" if reader == "weights" else "checkpoint"
    path, sprung = tmp_path / f"evil.{suffix}", tmp_path / "sprung"
    if writer == "pickle":
        path.write_bytes(pickle.dumps(Trap(sprung)))
    else:
        torch.save(Trap(sprung), path, _use_new_zipfile_serialization=writer == "torch")
    refusal: type[Exception]
    if reader == "weights":
        refusal, read = WeightsError, lambda: weights.load_weights(path)
    else:
        refusal, read = ResumeError, lambda: checkpoint.load_checkpoint(path, {})
    with pytest.raises(Exception) as caught:
        read()
    assert not sprung.exists()
    assert isinstance(caught.value, refusal)


def test_unwritable_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        weights.save_weights(tmp_path / "no" / "w.safetensors", {}, {}, SETTINGS, {})


# -- checkpoints -----------------------------------------------------------------------------


def test_checkpoint_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "run.checkpoint"
    adam = torch.optim.Adam([torch.zeros(3, requires_grad=True)])
    state = {"fingerprint": {"seed": 1}, "leaves": {"a": torch.rand(5, 7)}, "iteration": 12,
             "adam": adam.state_dict()}  # fmt: skip
    checkpoint.save_checkpoint(path, state)
    loaded = checkpoint.load_checkpoint(path, {"seed": 1})
    assert torch.equal(loaded["leaves"]["a"], state["leaves"]["a"])
    assert loaded["iteration"] == 12
    assert [p.name for p in tmp_path.iterdir()] == ["run.checkpoint"]
    with pytest.raises(ResumeError, match="seed was 1, is 2"):
        checkpoint.load_checkpoint(path, {"seed": 2})
    with pytest.raises(ResumeError, match="data"):
        checkpoint.load_checkpoint(path, {"seed": 1, "data": {}})


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"\x80\x02}q\x00.", b"PK\x03\x04" + bytes(100), bytes(1000)]
)
def test_damaged_checkpoints_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.checkpoint"
    path.write_bytes(content)
    with pytest.raises(ResumeError, match="damaged") as caught:
        checkpoint.load_checkpoint(path, {})
    assert caught.value.exit_code == 6


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.99])
def test_truncated_checkpoints_are_refused(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "run.checkpoint"
    checkpoint.save_checkpoint(path, {"fingerprint": {}, "leaves": torch.rand(1000)})
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(ResumeError, match="damaged"):
        checkpoint.load_checkpoint(path, {})


def test_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(ResumeError, match="no checkpoint"):
        checkpoint.load_checkpoint(tmp_path / "run.checkpoint", {})


def test_interrupted_save_keeps_the_old_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run.checkpoint"
    checkpoint.save_checkpoint(path, {"fingerprint": {}, "iteration": 1})

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        checkpoint.save_checkpoint(path, {"fingerprint": {}, "iteration": 2})
    assert checkpoint.load_checkpoint(path, {})["iteration"] == 1
