"""What each choice of training is worth: one changed at a time, with equal budgets, from scratch.

python tests/benchmarks/choices.py IMAGES... --test FOLDER -o FOLDER [--iterations 500]
                                   [--meta-iterations 150] [--only "Adam" --only "one inner step"]

Each variant of pretraining gets as many iterations of as many crops, drawn alike; variants of
meta-training continue from the first of them. They are tested at x2 by ``mzsr benchmark`` on
--test: PSNR of the luma in dB. FOLDER keeps weights, logs and results: what is finished is not
done again, and another budget is refused: name another -o.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

from common import markdown, mzsr

from mzsr_cli.learning.networks import parameter_count
from mzsr_cli.learning.weights import load_weights

DEGRADATIONS = ("bicubic", "g2.0d")
START = "wiener"
"""The starting image alone, for comparison."""


@dataclass(frozen=True)
class Variant:
    """One changed choice: options of ``mzsr pretrain`` or ``meta-train``, and methods to test."""

    name: str
    options: tuple[str, ...] = ()
    methods: tuple[str, ...] = ("mzsr:0",)

    def weights(self, folder: Path) -> Path:
        """Its weights file."""
        return folder / (self.name.replace(" ", "-") + ".safetensors")


SCALES = tuple(part for s in (1.25, 1.5, 2, 3, 4) for part in ("--scale", str(s)))
BASE = Variant("pretrained", methods=("mzsr:0", "mzsr:10"))
PRETRAINED = (
    BASE,
    Variant("Adam", ("--optimizer", "adam")),
    Variant("published layout", ("--backbone", "mzsr")),
    Variant("blocks twice", ("--recursions", "2")),
    Variant("network and consistency twice", ("--passes", "2")),
    Variant("root mean square", ("--loss", "rms")),
    Variant("bicubic pairs only", ("--degradations", "bicubic")),
    Variant("scales 1.25 to 4", SCALES),
    Variant("without consistency", ("--consistency", "0"), ("mzsr:0", "mzsr-paper:0")),
)
ADAPTED = ("mzsr:0", "mzsr:1", "mzsr:10")
META = (
    Variant("meta-trained", methods=ADAPTED),
    Variant("first order only", ("--first-order", "1"), ADAPTED),
    Variant("second order only", ("--first-order", "0"), ADAPTED),
    Variant("one inner step", ("--inner-steps", "1"), ADAPTED),
    Variant("five inner steps", ("--inner-steps", "5"), ADAPTED),
)


def common_options(options: argparse.Namespace, iterations: int) -> list[str]:
    """What all trainings share."""
    drawn = ["--no-blur", "0.4", "--direct", "0.5", "--seed", "0"]
    sizes = ["--patch", str(options.patch), "--iterations", str(iterations)]
    return [*drawn, *sizes, "--validate-every", "10h", "--threads", "1", "-q"]


def trained(variant: Variant, options: argparse.Namespace) -> float:
    """Train a variant, or go on with it; the seconds of its updates."""
    path = variant.weights(options.output)
    begun = ["--resume"] if path.with_suffix(".checkpoint").is_file() else []
    if variant in META:
        how = ["--init", str(BASE.weights(options.output)), "--learning-rate", "1e-4"]
        how += ["--inner-rate", "0.02", *common_options(options, options.meta_iterations)]
        mzsr("meta-train", *options.data, *how, *variant.options, *begun, "-o", path)
    else:
        how = ["--degradations", "random", *common_options(options, options.iterations)]
        mzsr("pretrain", *options.data, *how, *variant.options, *begun, "-o", path)
    return float(load_weights(path).facts["seconds"])


def tested(name: str, methods: tuple[str, ...], options: argparse.Namespace, path: Path | None
           ) -> dict[str, dict[str, float]]:  # fmt: skip
    """PSNR by method and degradation."""
    record = options.output / f"{name.replace(' ', '-')}.json"
    how = [part for d in DEGRADATIONS for part in ("--degradation", d)]
    how += [part for m in methods for part in ("--method", m)]
    how += ["--weights", path, "--self-ensemble", "2"] if path else []
    how += ["--resume"] if record.is_file() else []
    mzsr("benchmark", options.test, *how, "--json", record, "-q")
    found: dict[str, dict[str, float]] = {}
    for cell in json.loads(record.read_text(encoding="utf-8"))["cells"]:
        found.setdefault(cell["method"], {})[cell["degradation"]] = float(cell["psnr"])
    return found


def rows_of(variant: Variant, options: argparse.Namespace) -> list[list[str]]:
    """Train and test a variant; its rows of the table."""
    seconds = trained(variant, options)
    path = variant.weights(options.output)
    size = parameter_count(load_weights(path).network)
    rows = []
    for method, quality in tested(variant.name, variant.methods, options, path).items():
        figures = [f"{quality[d]:.2f}" for d in DEGRADATIONS]
        rows.append([variant.name, f"{size:,}", f"{seconds:.0f}", method, *figures])
        print(rows[-1], flush=True)
    return rows


def main() -> None:
    """Train and test what is not finished yet; print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="+", help="folders of images to train on")
    parser.add_argument("--test", required=True, help="folder of images to test on")
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--iterations", type=int, default=500)
    parser.add_argument("--meta-iterations", type=int, default=150)
    parser.add_argument("--patch", type=int, default=64)
    parser.add_argument("--only", action="append", help="variants [all]")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    begin = tested("start", (START,), options, None)[START]
    rows = [["start", "", "", START, *(f"{begin[d]:.2f}" for d in DEGRADATIONS)]]
    for variant in (*PRETRAINED, *META):
        if not options.only or variant.name in options.only:
            rows += rows_of(variant, options)
    print(markdown(["variant", "parameters", "s", "tested by", *DEGRADATIONS], rows))


if __name__ == "__main__":
    main()
