"""Mean of weights files of one architecture, such as a training's start and its end.

python examples/average_weights.py A.safetensors B.safetensors -o MEAN.safetensors

Weights that lie in one basin are often better on average than alone (Wortsman et al., "Model
soups", ICML 2022). The header is that of the last file, with the names and digests of all.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from mzsr_cli.learning.weights import load_weights, save_weights


def mean(tensors: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Name by name."""
    return {name: torch.stack([one[name] for one in tensors]).mean(0) for name in tensors[0]}


def main() -> None:
    """Read, average, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    options = parser.parse_args()
    held = [load_weights(path) for path in options.files]
    if any(one.settings != held[-1].settings for one in held):
        raise SystemExit("the files are of different architectures")
    rated = [one.rates for one in held if one.rates]
    facts = held[-1].facts | {"mean_of": [[one.name, one.digest] for one in held]}
    save_weights(
        options.output,
        mean([one.parameters() for one in held]),
        mean(rated) if rated else {},
        held[-1].settings,
        facts,
    )


if __name__ == "__main__":
    main()
