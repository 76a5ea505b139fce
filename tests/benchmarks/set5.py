"""Image benchmark: PSNR/SSIM on Y, x2, five degradations, by mzsr and the classical methods.

python tests/benchmarks/set5.py [--folder Set5/x2] [--steps 0,1,10] [--methods spline,wiener]
                                [--self-ensemble 1]

LR images are made by ``mzsr degrade`` (8-bit RGB); ``g2.0d published`` are the LR files of the
MZSR authors with their kernel.mat. Borders of 2 pixels are left out.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
from common import data_folder, markdown, mzsr

from mzsr_cli.pipeline.evaluate import EvaluateSettings, evaluate

DEGRADATIONS = {
    "bicubic": ("none", "bicubic"),
    "g0.2d": ("gaussian:0.2", "direct"),
    "g2.0d": ("gaussian:2.0", "direct"),
    "ganid": ("gaussian:4,1,-0.5", "direct"),
    "g1.3b": ("gaussian:1.3", "bicubic"),
}
PROTOCOL = EvaluateSettings(2, True, None, None, 2, None)


def quality(outputs: list[Path], truths: list[Path]) -> str:
    """Mean PSNR/SSIM of a folder."""
    reports = [evaluate(o, t, PROTOCOL) for o, t in zip(outputs, truths, strict=True)]
    psnr, ssim = (np.mean([r["psnr"] for r in reports]), np.mean([r["ssim"] for r in reports]))
    return f"{psnr:.2f}/{ssim:.4f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", default="Set5/x2")
    parser.add_argument("--steps", default="0,1,10")
    parser.add_argument("--methods", default="bicubic,spline,back-projection,wiener")
    parser.add_argument("--weights", default=None)
    parser.add_argument("--self-ensemble", default=None, help="1, 2 or 8")
    options = parser.parse_args()
    data = data_folder()
    truths = sorted((data / options.folder).glob("*.png"))
    methods = [(m, ["--method", m]) for m in options.methods.split(",") if m]
    extra = ["--weights", options.weights] if options.weights else []
    extra += ["--self-ensemble", options.self_ensemble] if options.self_ensemble else []
    methods += [(f"mzsr:{n}", ["--steps", n, *extra]) for n in options.steps.split(",") if n]
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        cases = dict(DEGRADATIONS)
        if options.folder == "Set5/x2":
            kernel = data / "mzsr_g20" / "Input" / "g20" / "kernel.mat"
            cases["g2.0d published"] = (str(kernel), "direct")
        for name, (kernel_text, sampling) in cases.items():
            low = Path(scratch) / name.replace(" ", "_")
            low.mkdir()
            if name == "g2.0d published":
                inputs = sorted((data / "mzsr_g20" / "Input" / "g20" / "Set5").glob("*.png"))
            else:
                mzsr("degrade", *truths, "--scale", 2, "--kernel", kernel_text, "--sampling",
                     sampling, "-o", f"{low}/", "-q")  # fmt: skip
                inputs = sorted(low.glob("*.png"))
            cells = []
            for label, arguments in methods:
                out = low / label.replace(":", "_")
                out.mkdir()
                mzsr("upscale", *inputs, "--scale", 2, "--kernel", kernel_text, "--sampling",
                     sampling, *arguments, "-o", f"{out}/", "-q")  # fmt: skip
                cells.append(quality(sorted(out.glob("*.png")), truths))
            rows.append([name, *cells])
            print(rows[-1], flush=True)
    print(markdown([options.folder, *(label for label, _ in methods)], rows))


if __name__ == "__main__":
    main()
