"""The options that choose a backbone, shared by the commands that make new networks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from mzsr_cli.errors import UsageError
from mzsr_cli.settings import (
    GUIDES,
    LRF_DILATIONS,
    LRF_KERNELS,
    Backbone,
    Filters,
    Layout,
    LrfSettings,
    NetworkSettings,
    dilation_scheme,
)

_LRF = LrfSettings()
_SCHEMES = {dilation_scheme(rates): rates for rates in LRF_DILATIONS}

Command = Callable[..., Any]

_LRFNET = (
    click.option("--kernel-size", type=click.Choice([str(k) for k in LRF_KERNELS]),
                 help=f"Side of LRFNet's filters. [{_LRF.kernel_size}]"),
    click.option("--filters", type=click.Choice([f.value for f in Filters]),
                 help=f"Convolutions of LRFNet's blocks: k x k, or 1 x k and k x 1. "
                 f"[{_LRF.filters}]"),
    click.option("--dilations", type=click.Choice(list(_SCHEMES)),
                 help="Dilation rates over which LRFNet's blocks are split. "
                 f"[{dilation_scheme(_LRF.dilations)}]"),
    click.option("--layout", type=click.Choice([m.value for m in Layout]),
                 help="LRFNet's blocks: rectifier between the convolutions (A), also before them "
                 "(B); 1-D ones added, rectifier before (C) or after (D). "
                 f"[{_LRF.layout}]"),
)  # fmt: skip


def lrfnet_options(command: Command) -> Command:
    """What only ``--backbone lrfnet`` has."""
    for option in reversed(_LRFNET):
        command = option(command)
    return command


OWN = {
    "guides": (Backbone.STRIDED, Backbone.SPSR),
    "recursions": (Backbone.STRIDED,),
    "modulated": (Backbone.STRIDED,),
    "kernel_size": (Backbone.LRFNET,),
    "filters": (Backbone.LRFNET,),
    "dilations": (Backbone.LRFNET,),
    "layout": (Backbone.LRFNET,),
}
"""Options that only some backbones have."""

STRUCTURAL = ("backbone", "guides", "kernel_size", "filters", "dilations", "layout")
"""Options that say what a new network is, and that weights bring with them."""


def given(options: dict[str, Any], names: tuple[str, ...]) -> list[str]:
    """Which of the options were typed, as they are typed."""
    return [f"--{name.replace('_', '-')}" for name in names if options.get(name)]


def new_network(options: dict[str, Any], default: str) -> NetworkSettings:
    """The architecture of a new network. Raises UsageError for an option that its backbone does not
    have, and for options of LRFNet that exclude each other."""
    backbone = Backbone(options["backbone"] or default)
    foreign = given(options, tuple(name for name, owners in OWN.items() if backbone not in owners))
    if foreign:
        owners = OWN[foreign[0].removeprefix("--").replace("-", "_")]
        raise UsageError(
            f"{' and '.join(foreign)}: --backbone {backbone} has no such thing. Type --backbone "
            f"{' or '.join(owners)}, or leave it out."
        )
    return NetworkSettings(
        backbone=backbone.value,
        guides=GUIDES if options.get("guides") else 0,
        lrfnet=_lrfnet(options) if backbone is Backbone.LRFNET else None,
    )


def _lrfnet(options: dict[str, Any]) -> LrfSettings:
    return LrfSettings(
        kernel_size=int(options["kernel_size"] or _LRF.kernel_size),
        filters=Filters(options["filters"] or _LRF.filters),
        dilations=_SCHEMES[options["dilations"] or dilation_scheme(_LRF.dilations)],
        layout=Layout(options["layout"] or _LRF.layout),
    )
