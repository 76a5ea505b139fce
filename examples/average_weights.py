"""Mean of weights files of one architecture, such as a training's start and its end.

python examples/average_weights.py A.safetensors B.safetensors -o MEAN.safetensors

Weights that lie in one basin are often better on average than alone (Wortsman et al., "Model
soups", ICML 2022). The header is that of the last file, with the names and digests of all. Files
whose blocks facts do not modulate count as modulated by nothing where the last one's are.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch

from mzsr_cli.learning.weights import Weights, load_weights, save_weights

Tensors = dict[str, torch.Tensor]


def mean(tensors: list[Tensors]) -> Tensors:
    """Name by name, of those that have one of that name."""
    names = tensors[-1]
    return {n: torch.stack([one[n] for one in tensors if n in one]).mean(0) for n in names}


def complete(rates: Tensors, of: Weights) -> Tensors:
    """Step sizes for all parameters ``of`` weights: the (geometric) mean of all where one has
    none."""
    usual = torch.cat([rate.reshape(1) for rate in rates.values()]).log().mean().exp().reshape(1)
    return {name: rates.get(name, usual).clone() for name in of.parameters()}


def completed(one: Weights, like: Weights) -> Tensors:
    """The parameters of ``one``, those that only ``like`` has without effect."""
    return {name: torch.zeros_like(p) for name, p in like.parameters().items()} | one.parameters()


def main() -> None:
    """Read, average, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    held = [load_weights(path) for path in options.files]
    last = held[-1].settings
    if any(
        one.settings.modulated > last.modulated
        or replace(one.settings, modulated=last.modulated) != last
        for one in held
    ):
        raise SystemExit("the files are of different architectures (the last of modulated ones)")
    rated = [one.rates for one in held if one.rates]
    facts = held[-1].facts | {"mean_of": [[one.name, one.digest] for one in held]}
    save_weights(
        options.output,
        mean([completed(one, held[-1]) for one in held]),
        complete(mean(rated), held[-1]) if rated else {},
        last,
        facts,
    )


if __name__ == "__main__":
    main()
