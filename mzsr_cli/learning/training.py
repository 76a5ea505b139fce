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

from mzsr_cli.errors import DivergedError, InputError, RankError
from mzsr_cli.learning.checkpoint import load_checkpoint, save_checkpoint
from mzsr_cli.learning.inner import Parameters
from mzsr_cli.learning.muon import Muon, is_hidden
from mzsr_cli.learning.networks import Network
from mzsr_cli.learning.ranks import ALONE, Ranks
from mzsr_cli.learning.weights import save_weights
from mzsr_cli.settings import GradientSettings, Optimizer, TrainSettings

GradientStep = Callable[[int, float], dict[str, float]]
"""(iteration, progress in [0, 1]) -> figures of all ranks; leaves gradients of this rank's share
of the batch in the leaves' ``.grad``."""

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
    With ``max_time`` the schedule follows the clock (the first rank's) instead of the iterations.
    """

    def __init__(
        self,
        network: Network,
        log_rates: Parameters,
        settings: TrainSettings,
        run: Run,
        facts: dict[str, Any],
        ranks: Ranks = ALONE,
    ) -> None:
        self.network = network
        self.ranks = ranks
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
        self.finished = False
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
        for free in ("max_time", "checkpoint_every", "validate_every", "data"):
            settings.pop(free)  # of the data, the digest counts
        if self.settings.gradient == GradientSettings():  # runs from before there were any go on
            settings.pop("gradient")
        settings.pop("modulated")  # the network's own says so
        if not self.settings.network.modulated:  # runs from before
            settings["network"].pop("modulated")
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
                "finished": self.finished,
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
        self.finished = bool(state.get("finished")) and self.progress() >= 1

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
        """One outer update; returns its figures. Raises DivergedError where its gradient is not
        finite; the parameters are as before."""
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        figures = gradient_step(self.iteration, self.progress())
        self.ranks.sum_gradients(self.leaves.values())
        norm = torch.nn.utils.clip_grad_norm_(
            [p for p in self.leaves.values() if p.grad is not None], self.settings.clip_norm
        )
        if not bool(norm.isfinite()):
            raise DivergedError(
                f"{self.run.output}: update {self.iteration + 1} has a gradient that is not "
                "finite. Type a smaller --learning-rate (meta-train: or --inner-rate); the last "
                "checkpoint is as it was."
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

    def log(self, kind: str, figures: dict[str, Any]) -> Event:
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
        """Run to the end of ``iterations`` or ``max_time``; returns the last validation.

        Of several ranks the first alone validates, reports and writes, and has a validation to
        return. Raises InputError where they differ, RankError where one has stopped.
        """
        self._check_ranks()
        chores = _Chores(self, validate, on_event, log_every)
        with self.ranks.stopping() as stop:
            try:
                while self.progress() < 1:
                    begin = time.monotonic()
                    figures = self.update(gradient_step)
                    self.elapsed += self.ranks.from_first(time.monotonic() - begin)
                    if self.ranks.first:
                        chores.after(figures)
                    stop()
                if self.ranks.first:
                    chores.finish()
            except (KeyboardInterrupt, RankError):
                if self.ranks.first and self._whole:
                    self.save()
                raise
            self.ranks.wait()
        return self.best

    def _check_ranks(self) -> None:
        """Raises InputError where ranks would start from different data, settings or weights."""
        if self.ranks.count == 1:
            return
        facts = json.dumps([self.fingerprint(), self.iteration, self.elapsed]).encode()
        leaves = [leaf.detach().cpu().numpy().tobytes() for leaf in self.leaves.values()]
        if not self.ranks.agree(b"".join([facts, *leaves])):
            raise InputError(
                f"{self.run.output}: the processes of torchrun do not start alike. Give all "
                "machines the same data, options, --init and checkpoint (a shared folder)."
            )


class _Chores:
    """What is done between updates: log means, validate and save when it is time."""

    def __init__(
        self,
        trainer: Trainer,
        validate: Validate,
        on_event: Callable[[Event], None],
        log_every: int,
    ) -> None:
        self.trainer = trainer
        self.validate = validate
        self.on_event = on_event
        self.log_every = log_every
        self.saved = self.validated = time.monotonic()
        self.figures: dict[str, list[float]] = {}

    def after(self, figures: dict[str, float]) -> None:
        """What is due after an update with these figures."""
        trainer, settings = self.trainer, self.trainer.settings
        for key, value in figures.items():
            self.figures.setdefault(key, []).append(value)
        if trainer.iteration % self.log_every == 0:
            means = {k: sum(v) / len(v) for k, v in self.figures.items()}
            self.on_event(trainer.log("train", means))
            self.figures = {}
        now = time.monotonic()
        if now - self.validated >= settings.validate_every:
            self._validate()
            self.validated = time.monotonic()
        if now - self.saved >= settings.checkpoint_every:
            trainer.save()
            self.saved = time.monotonic()

    def finish(self) -> None:
        """The last validation and the last checkpoint."""
        self._validate()
        self.trainer.finished = True
        self.trainer.save()

    def _validate(self) -> None:
        self.trainer.best = self.validate(*self.trainer.averaged())
        self.on_event(self.trainer.log("validation", self.trainer.best))
