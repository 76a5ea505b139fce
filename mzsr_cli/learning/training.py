"""What pretraining and meta-training share: the loop around an outer gradient."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from mzsr_cli.learning.checkpoint import load_checkpoint, save_checkpoint
from mzsr_cli.learning.inner import Parameters
from mzsr_cli.learning.muon import Muon, is_hidden
from mzsr_cli.learning.networks import Network
from mzsr_cli.learning.weights import save_weights
from mzsr_cli.settings import Optimizer, TrainSettings

GradientStep = Callable[[int, float], dict[str, float]]
"""(iteration, progress in [0, 1]) -> figures; leaves gradients in the leaves' ``.grad``."""

Validate = Callable[[Parameters, Parameters], dict[str, float]]
"""(parameters, rates) -> figures, on slices held out of training."""


@dataclass
class Event:
    """One line of the run's log."""

    iteration: int
    elapsed: float
    remaining: float | None
    figures: dict[str, float]
    kind: str


@dataclass
class Run:
    """Where a training run keeps its files: NAME.safetensors, NAME.checkpoint, NAME.jsonl."""

    output: Path

    @property
    def checkpoint(self) -> Path:
        """Path of the checkpoint."""
        return self.output.with_suffix(".checkpoint")

    @property
    def log(self) -> Path:
        """Path of the JSON-lines log."""
        return self.output.with_suffix(".jsonl")


def _optimizers(
    network: Network, rates: list[torch.Tensor], settings: TrainSettings
) -> list[torch.optim.Optimizer]:
    """Adam on the network's parameters and the logarithms of step sizes; with Muon, that on the
    convolutions between features. Each group's ``factor`` multiplies the learning rate."""
    rate, parameters = settings.learning_rate, list(network.parameters())
    hidden: list[torch.Tensor] = []
    if settings.optimizer is Optimizer.MUON:
        hidden = [p for p in parameters if is_hidden(p)]
        parameters = [p for p in parameters if not is_hidden(p)]
    groups = [{"params": parameters, "factor": 1.0}]
    if rates:
        groups.append({"params": rates, "factor": settings.inner_rate_factor})
    adam: torch.optim.Optimizer = torch.optim.Adam(groups, lr=rate)
    if not hidden:
        return [adam]
    return [adam, Muon([{"params": hidden, "factor": settings.muon_factor}], lr=rate)]


class Trainer:
    """Gradient descent on the leaves (network parameters and log step sizes) by Adam or Muon, with
    warm-up, cosine decay, gradient clipping and a running average of the leaves that is validated
    and exported.

    All randomness is drawn from (seed, iteration), so that a resumed run is an unbroken one.
    With ``max_time`` the schedule follows the clock instead of the iterations.
    """

    def __init__(
        self,
        network: Network,
        log_rates: Parameters,
        settings: TrainSettings,
        run: Run,
        facts: dict[str, Any],
    ) -> None:
        self.network = network
        self.log_rates = {n: r.detach().clone().requires_grad_() for n, r in log_rates.items()}
        self.settings = settings
        self.run = run
        self.facts = facts
        self.leaves: Parameters = dict(network.named_parameters()) | {
            f"rate.{n}": r for n, r in self.log_rates.items()
        }
        self.average = {n: p.detach().clone() for n, p in self.leaves.items()}
        self.optimizers = _optimizers(network, list(self.log_rates.values()), settings)
        self.iteration = 0
        self.elapsed = 0.0
        self.best: dict[str, float] = {}
        self._whole = True

    # -- schedule ---------------------------------------------------------------------------

    def progress(self) -> float:
        """Share of the run that is done, 0 to 1."""
        s = self.settings
        by_count = self.iteration / max(1, s.iterations)
        by_time = 0.0 if s.max_time is None else self.elapsed / max(s.max_time, 1e-9)
        if s.max_time == 0:
            return 1.0
        return min(1.0, max(by_count, by_time))

    def remaining(self) -> float | None:
        """Seconds left at the present pace; None before the first iteration."""
        done = self.progress()
        return self.elapsed * (1 - done) / done if done > 0 else None

    def rate(self) -> float:
        """Learning rate now: linear warm-up, then cosine from its value to its minimum."""
        s = self.settings
        decay = 0.5 * (1 + math.cos(math.pi * self.progress()))
        rate = s.learning_rate_min + (s.learning_rate - s.learning_rate_min) * decay
        return rate * min(1.0, (self.iteration + 1) / max(1, s.warmup))

    # -- state ------------------------------------------------------------------------------

    def fingerprint(self) -> dict[str, Any]:
        """What must not change between a run and its continuation."""
        settings = json.loads(json.dumps(asdict(self.settings), default=str))
        for free in ("max_time", "checkpoint_every", "validate_every"):
            settings.pop(free)
        decisive = json.loads(json.dumps(self.facts.get("decisive", {}), default=str))
        return {"settings": settings, "kind": self.facts["kind"], **decisive}

    def save(self) -> None:
        """Checkpoint, then the weights file made from the running average."""
        save_checkpoint(
            self.run.checkpoint,
            {
                "fingerprint": self.fingerprint(),
                "leaves": {n: p.detach().clone() for n, p in self.leaves.items()},
                "average": self.average,
                "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
                "iteration": self.iteration,
                "elapsed": self.elapsed,
                "best": self.best,
            },
        )
        self.export()

    def export(self) -> None:
        """Write the running average as a weights file."""
        facts = {k: v for k, v in self.facts.items() if k != "decisive"}
        facts |= {"iterations": self.iteration, "seconds": round(self.elapsed, 1)}
        facts["validation"] = self.best
        parameters, rates = self.averaged()
        save_weights(self.run.output, parameters, rates, self.settings.network, facts)

    def restore(self) -> None:
        """Continue from the checkpoint. Raises ResumeError."""
        state = load_checkpoint(self.run.checkpoint, self.fingerprint())
        with torch.no_grad():
            for name, leaf in self.leaves.items():
                leaf.copy_(state["leaves"][name])
        device = next(iter(self.leaves.values())).device
        self.average = {n: p.to(device) for n, p in state["average"].items()}
        for optimizer, kept in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        self.iteration, self.elapsed = state["iteration"], state["elapsed"]
        self.best = state["best"]

    def averaged(self) -> tuple[Parameters, Parameters]:
        """Running averages of the parameters, and of the step sizes (not their logarithms)."""
        parameters = {n: p for n, p in self.average.items() if not n.startswith("rate.")}
        rates = {
            n.removeprefix("rate."): p.exp()
            for n, p in self.average.items()
            if n.startswith("rate.")
        }
        return parameters, rates

    # -- loop -------------------------------------------------------------------------------

    def update(self, gradient_step: GradientStep) -> dict[str, float]:
        """One outer update; returns its figures."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        figures = gradient_step(self.iteration, self.progress())
        norm = torch.nn.utils.clip_grad_norm_(
            [p for p in self.leaves.values() if p.grad is not None], self.settings.clip_norm
        )
        self._whole = False
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.rate() * group["factor"]
            optimizer.step()
        keep = min(self.settings.average, (1 + self.iteration) / (10 + self.iteration))
        with torch.no_grad():
            for name, leaf in self.leaves.items():
                self.average[name].lerp_(leaf.detach(), 1 - keep)
        self.iteration += 1
        self._whole = True
        return {**figures, "gradient_norm": float(norm), "learning_rate": self.rate()}

    def log(self, kind: str, figures: dict[str, float]) -> Event:
        """Append a JSON line and return it as an event."""
        event = Event(self.iteration, self.elapsed, self.remaining(), figures, kind)
        line = {"kind": kind, "iteration": self.iteration, "elapsed": round(self.elapsed, 2)}
        with self.run.log.open("a", encoding="utf-8") as handle:
            handle.write(json.dumps({**line, **figures}) + "\n")
        return event

    def train(
        self,
        gradient_step: GradientStep,
        validate: Validate,
        on_event: Callable[[Event], None],
        log_every: int = 50,
    ) -> dict[str, float]:
        """Run to the end of ``iterations`` or ``max_time``; returns the last validation."""
        s = self.settings
        last_save = last_validation = time.monotonic()
        means: dict[str, list[float]] = {}
        try:
            while self.progress() < 1:
                begin = time.monotonic()
                for key, value in self.update(gradient_step).items():
                    means.setdefault(key, []).append(value)
                self.elapsed += time.monotonic() - begin
                if self.iteration % log_every == 0:
                    on_event(self.log("train", {k: sum(v) / len(v) for k, v in means.items()}))
                    means = {}
                now = time.monotonic()
                if now - last_validation >= s.validate_every:
                    self.best = validate(*self.averaged())
                    on_event(self.log("validation", self.best))
                    last_validation = time.monotonic()
                if now - last_save >= s.checkpoint_every:
                    self.save()
                    last_save = time.monotonic()
        except KeyboardInterrupt:
            if self._whole:
                self.save()
            raise
        self.best = validate(*self.averaged())
        on_event(self.log("validation", self.best))
        self.save()
        return self.best
