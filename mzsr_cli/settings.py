"""Every default, range and unit of mzsr, as frozen dataclasses. Nothing else sets a default."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from mzsr_cli.errors import UsageError

SCALE_MIN, SCALE_MAX = 1.1, 32.0
"""Smallest and largest total factor per axis."""

KERNEL_SUM_TOLERANCE = 1e-3
"""A kernel file must sum to 1 within this."""


class Method(StrEnum):
    """How a slice is super-resolved."""

    MZSR = "mzsr"
    ZSSR = "zssr"
    BICUBIC = "bicubic"
    SPLINE = "spline"
    BANDLIMITED = "bandlimited"
    WIENER = "wiener"
    BACK_PROJECTION = "back-projection"


class Sampling(StrEnum):
    """How the blurred HR image was decimated."""

    BICUBIC = "bicubic"
    DIRECT = "direct"


class Normalize(StrEnum):
    """What maps values to [0, 1] before the network; inverted exactly after."""

    SLICE = "slice"
    CUBE = "cube"
    PERCENTILE = "percentile"
    NONE = "none"


class NanPolicy(StrEnum):
    """What to do with NaN and Inf samples."""

    ERROR = "error"
    INTERPOLATE = "interpolate"


class Precision(StrEnum):
    """Arithmetic of the convolutions; everything else is float32 or better."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"


class Backbone(StrEnum):
    """Architecture of the network (learning.networks)."""

    MZSR = "mzsr"
    STRIDED = "strided"
    LRFNET = "lrfnet"
    SPSR = "spsr"


class Filters(StrEnum):
    """Convolutions of a block of LRFNet: two k x k, or 1 x k and k x 1."""

    STANDARD = "standard"
    SEPARABLE = "separable"


class Layout(StrEnum):
    """Order of a block of LRFNet (learning.backbones.lrfnet): convolution, rectifier, convolution
    (A); a rectifier before that (B); both convolutions side by side and added, the rectifier before
    (C) or after (D)."""

    A = "A"
    B = "B"
    C = "C"
    D = "D"


LRF_KERNELS = (3, 5, 7, 9, 11)
"""Sides of LRFNet's filters in pixels."""

LRF_DILATIONS = ((1,), (1, 2), (1, 2, 3), (1, 3, 5), (1, 4, 8))
"""Schemes of its dilation rates: the blocks are split evenly, in this order, over the rates."""


@dataclass(frozen=True)
class LrfSettings:
    """What a block of LRFNet is (Seif and Androutsos, CVPRW 2018)."""

    kernel_size: int = 3
    filters: Filters = Filters.STANDARD
    dilations: tuple[int, ...] = (1,)
    layout: Layout = Layout.A
    blocks: int = 12

    def __post_init__(self) -> None:
        if self.kernel_size not in LRF_KERNELS:
            known = ", ".join(map(str, LRF_KERNELS))
            raise UsageError(f"--kernel-size {self.kernel_size}: must be one of {known}.")
        if self.dilations not in LRF_DILATIONS:
            known = ", ".join(map(dilation_scheme, LRF_DILATIONS))
            raise UsageError(
                f"--dilations {dilation_scheme(self.dilations)}: must be one of {known}."
            )
        if self.layout in (Layout.C, Layout.D) and self.filters is not Filters.SEPARABLE:
            raise UsageError(
                f"--layout {self.layout}: adds the responses of 1-D filters, and these are "
                f"{self.filters}. Type --filters separable, or --layout A or B."
            )
        if self.blocks < 1 or self.blocks % len(self.dilations):
            raise UsageError(
                f"{self.blocks} blocks do not split evenly over {len(self.dilations)} dilations."
            )

    @property
    def block_dilations(self) -> tuple[int, ...]:
        """The dilation rate of each block."""
        share = self.blocks // len(self.dilations)
        return tuple(rate for rate in self.dilations for _ in range(share))


def dilation_scheme(dilations: tuple[int, ...]) -> str:
    """``1-2-3`` of (1, 2, 3)."""
    return "-".join(map(str, dilations))


ENSEMBLES = (1, 2, 8)
"""Sizes of a self-ensemble (imaging.symmetries)."""

RECURSIONS_MAX = 8
"""How often a network's blocks may be applied."""

GUIDES = 2
"""Interpolations that a network which looks at guides is shown (imaging.hints)."""


class Adapting(StrEnum):
    """What the parameters are adapted to: each slice by itself, the cube's slices together, or each
    slice on from what the slice before has left (its results depend on the order)."""

    SLICE = "slice"
    CUBE = "cube"
    WARM = "warm"


class Loss(StrEnum):
    """What training minimises, each in shares of the starting image's error: mean absolute error,
    root mean square, or the logarithm of that (what decibels count)."""

    L1 = "l1"
    RMS = "rms"
    LOG = "log"


@dataclass(frozen=True)
class GradientSettings:
    """Gradient maps in the losses of training (structure-preserving SR, Ma et al., 2020)."""

    weight: float = 0.0
    """Weight of the gradient maps' mean absolute difference beside the loss."""
    supervision: float = 0.2
    """Weight of the same for the gradient map that a network predicts beside its answer, if it
    does (learning.backbones.spsr)."""


class Optimizer(StrEnum):
    """What takes the outer steps of a training: Adam on everything, or Muon on the convolutions
    between features (learning.muon) and Adam on the rest."""

    ADAM = "adam"
    MUON = "muon"


class DegradationMix(StrEnum):
    """From which degradations a training draws its pairs."""

    BICUBIC = "bicubic"
    RANDOM = "random"


@dataclass(frozen=True)
class NetworkSettings:
    """A residual network of ``depth`` convolutions with ``width`` features.

    It is applied ``passes`` times with the same parameters, data consistency after each.
    ``recursions``, ``guides`` and ``modulated`` are for the backbones that have them
    (learning.networks).
    """

    backbone: str = Backbone.MZSR.value
    channels: int = 1
    depth: int = 8
    width: int = 64
    passes: int = 1
    recursions: int = 1
    """How often the convolutions between head and tail are applied, with the same parameters."""
    guides: int = 0
    """Other interpolations of the slice that are shown beside the starting image (0 or 2)."""
    modulated: bool = False
    """Whether facts of the degradation scale and shift features within the blocks."""
    lrfnet: LrfSettings | None = None
    """Blocks of LRFNet; None for other backbones."""


@dataclass(frozen=True)
class ConsistencySettings:
    """Data consistency with the known degradation (projection on {x : Ax = y}).

    Tikhonov's mu is ``damping`` for exact (floating-point) data; noise of standard deviation
    sigma (rounding, in units of the slice's range) adds sigma^2 / ``residual_variance``, the
    second being what interpolation typically leaves over.
    ``iterations`` are Chebyshev's, used when A is not separable.
    """

    enabled: bool = True
    damping: float = 1e-6
    residual_variance: float = 4.3e-4
    iterations: int = 12


@dataclass(frozen=True)
class PlateauSettings:
    """What counts as a plateau at a slice's lowest or highest value (imaging.bounds), in units of
    the slice's range."""

    tolerance: float = 1e-6
    roundings: float = 4.0
    """Samples that differ by less, or by so many roundings of floating point, are on the same
    plateau."""
    slice_min: int = 1024
    above_min: int = 128
    """Smaller slices, or so few samples off the plateau, show nothing: of an echo that has just
    begun, a few samples may happen to have one sign."""
    samples_min: int = 8
    share_min: float = 0.004
    """A plateau has at least so many samples, and this share of them ..."""
    excess: float = 8.0
    beside: float = 0.02
    """... and so many times what other values have on average just above it, up to that far."""
    candidates: int = 6
    """Plateaus that are looked at, the largest first ..."""
    looked_at: int = 2**21
    """... among about so many samples of large slices."""
    window: int = 5
    ringing: float = 0.12
    unexplained: float = 0.01
    """Antialiased sampling rings: a sample may lie beyond the bound by this share of what the
    highest one in a window of so many pixels is above it (on ray-traced maps 99 in 100 stay within
    0.09 at x2, 0.12 at x8), but for this share of those that do ..."""
    beyond_max: float = 0.07
    """... and all together by at most this share of what the others are above it."""


@dataclass(frozen=True)
class BoundsSettings:
    """Values that the fine slice cannot go beyond (imaging.bounds)."""

    search: bool = True
    """Take the slice's plateaus, and the ends of what integers and photographs can hold."""
    low: float | None = None
    high: float | None = None
    """Bounds that are known, in the cube's own units."""
    rings: float = 0.2
    """How far antialiased samples may lie beyond these, in shares of their span, before that is
    worth a word."""
    rounds: int = 48
    """Most steps, an evaluation of the degradation each ..."""
    enough: float = 1e-4
    hopeless: float = 10.0
    """... fewer where the squared misfit of the samples has fallen, or risen, to this many times
    that of cutting alone."""
    reached: float = 0.3
    """There is no image within bounds where it has not fallen to this: 0.0001 to 0.08 on ray-traced
    maps, 0.5 and more where a bound was wrong."""
    trial: float = 3.0
    """Length of the first step; most directions are held by bounds."""
    memory: int = 5
    """Steps that the next one's direction is made from."""
    wavers: float = 2.0
    """By how much the squared misfit may be above the least one so far."""
    between: float = 0.5
    """How far to the nearest image within bounds the slices between two stages go: at the last one
    they are held, but there a slice is a mean of finer samples, which may ring."""
    refinements: int = 1
    """How often the network sees its answer within bounds, if it was trained on such ones ..."""
    refined_scale: float = 4.0
    """... and the largest scale at which that is worth its time (at x8 it gains nothing)."""
    negligible: float = 1e-5
    """RMS beyond the bounds, in units of the range, that is cut off and no more."""
    plateau: PlateauSettings = field(default_factory=PlateauSettings)

    @property
    def given(self) -> bool:
        """Whether a bound is known."""
        return self.low is not None or self.high is not None


@dataclass(frozen=True)
class RoundingSettings:
    """What rounding has added to whole numbers (imaging.rounding)."""

    enabled: bool = True
    window: int = 15
    """Side of the square of coefficients whose mean power is taken."""


@dataclass(frozen=True)
class SettlingSettings:
    """Rounds after which the samples of an image are those that are known (imaging.powers)."""

    rounds: int = 16
    """At most ..."""
    reread: int = 4
    """... in the first and every fourth of which the spectrum is read anew."""
    step: float = 1.0
    """What is missing is added in this part at first, later in one that ..."""
    grows: float = 1.2
    shrinks: float = 0.5
    """... is this many times the one before, where that has not gone too far and where it has."""


@dataclass(frozen=True)
class IntensitySettings:
    """Interpolation of magnitudes through their squares (imaging.start)."""

    enabled: bool = True
    settling: SettlingSettings = field(default_factory=SettlingSettings)
    falls: float = 0.7
    """Rounds after antialiased sampling go on while each expects less error than this share of what
    the one before did, or as little as is ``sure``."""
    spread: float = 5.0
    """Power of magnitudes counts as no more than this many times their variance: that of Rayleigh's
    is 4.7 times it, and what lies far from 0 on one side of it (losses in dB) is none."""
    hopeful: float = 4.0
    """Squares are tried where their spectrum promises less error than this many times that which
    the spectrum of the values does, and ..."""
    given_up: float = 8.0
    """... given up where the first round expects more than this many times that."""
    clear: float = 8.0
    sure: float = 1e-3
    """Taken alone where it expects less error than ``clear`` times that of the values (its
    expectation is the more cautious one), and less than this share of the power ..."""
    plausible: float = 0.022
    """... and averaged with them, by the inverse of the expected errors, where it expects less
    than this share of the power."""
    believed_direct: float = 2.5e-3
    """Where squares are not plausible, values are believed if they expect less error than this
    share of the power; else B-spline and Keys cubic are averaged."""
    silent_direct: float = 6e-4
    """Below this share the network stays out under direct sampling: what it adds to interference
    that is known so well is mostly wrong (best share 0.05 to 0.3)."""
    believed_antialiased: float = 1e-2
    """The same after antialiased sampling; there values, B-spline and band-limited are."""


@dataclass(frozen=True)
class LevelSettings:
    """Interpolation of levels in dB through their powers (imaging.levels)."""

    enabled: bool = True
    least: float = 20.0
    most: float = 200.0
    """Ranges of a slice, in its own units, that may be levels'."""
    hopeful: float = 4.0
    """Powers are tried where their spectrum promises less error of the levels than this many times
    what would be taken, which is ..."""
    clear: float = 1.0
    sure: float = 0.014
    """... less than ``clear`` times what is expected otherwise, and less than ``sure`` of the
    levels' variance."""
    settled: float = 1e-3
    """Rounds after antialiased sampling end where less than this part of the expected error is
    missing, or ..."""
    patience: int = 8
    """... where after so many more than ``hopeful`` times what would be taken is expected."""
    settling: SettlingSettings = field(
        default_factory=lambda: SettlingSettings(rounds=24, step=0.5)
    )
    notch: tuple[float, float] = (-20.0, 10.0)
    """dB: what is missing of a level counts as no less and no more."""
    around: int = 15
    """Side, in pixels, of the neighbourhoods whose power shares the error out."""
    cut: float = 4.3e-5
    cut_samples: int = 8
    cut_share: float = 0.1
    """Levels were cut where so many samples have one value, to ``cut`` dB, among the lowest share
    of them: means of cut levels ring below. Nothing is looked for below a cut ..."""
    below: float = 20.0
    """... or, where there is none, so many dB below the lowest sample."""
    son_least: int = 12
    """Shortest side of samples of a slice's own samples on which levels are tried ..."""
    believed: float = 10.0
    """... and believed where their error is less than this many times what is expected, or than
    without powers."""


@dataclass(frozen=True)
class ContinuumSettings:
    """What a spectrum that is flat up to the LR Nyquist limit says of what lies beyond it.

    Waves sampled at their limit show lines and clumps there; a smooth continuum up to the limit is
    a field that goes on beyond, and is aliased. ``smooth``: geometric over arithmetic mean of the
    upper band, from which on the spectrum is continued, and from which on in full.
    """

    smooth: tuple[float, float] = (0.94, 0.98)
    smooth_sinking: tuple[float, float] = (0.8, 0.88)
    """The same of spectra that are lower at their edge than in their lowest band (phases, levels in
    dB, magnitudes), as far as ..."""
    sinks: tuple[float, float] = (1.0, 0.5)
    """... the one over the other goes from the first to the second."""
    share: float = 0.5
    """It is continued from this share of the power at the edge (the rest of that is aliases) ..."""
    slope: float = -2.0
    """... with this power law."""
    samples_min: int = 16
    """Fewer LR samples along an axis say too little: their periodogram is smooth by itself."""


@dataclass(frozen=True)
class WrappedSettings:
    """When a complex slice's spectrum is taken to go on through the LR Nyquist limit on one side
    (imaging.spectra.band_edge)."""

    smooth: float = 1 / 32
    """Half width, in periods, over which the periodogram is averaged."""
    floor: float = 0.015
    """Of the mean power: nothing is where there is less ..."""
    width: float = 1 / 8
    """... and a gap where that is so for at least this part of the period."""
    share: float = 0.85
    """Of the power, on the side that goes on."""
    beyond: float = 0.5
    """Most power beyond the limit, over that within."""
    least: int = 4
    """Frequencies (of the unpadded periodogram) that the other side keeps at least."""


@dataclass(frozen=True)
class DeblurSettings:
    """Interpolation of blurred slices by their spectra (imaging.start): README, design notes."""

    sure: float = 1e-3
    """Taken, and not touched again, where less than this share of the variance is expected to be
    wrong, if the spectra have ended before the limit; of complex slices taken ..."""
    likely: float = 1.3e-2
    """... where less than this is."""
    noise: float = 1e-6
    """Least share of white noise that is reckoned with, whatever the rounding: the filter's gain
    for it counts among what is wrong."""


@dataclass(frozen=True)
class WienerSettings:
    """Interpolation from the slice's own spectrum; bands are fractions of the LR Nyquist limit."""

    padding: int = 4
    """Zero padding of the periodogram."""
    edge_band: float = 0.85
    """Above this band the spectrum's edge is measured."""
    end_band: float = 0.97
    """Above this band it is seen whether the spectrum has died before the limit ..."""
    end_ratio: float | None = 4.0
    """... and goes on from at most this many times what is left there (None: it is not seen)."""
    left_sure: float = 0.03
    """A spectrum has ended where less than this part of its mean is left there; both axes' have
    to, or neither has."""
    left_alias: float = 0.2
    """Where more is left, a complex slice is modelled by the mean of both sides, as real ones: the
    difference between aliased sides says little."""
    edge_ratio: float = 0.5
    """Edge over mean below which the spectrum is seen to fall, and is continued."""
    dealias_ratio: float = 0.25
    """Edge over mean below which aliased power is removed from the estimate."""
    fit_band: float = 0.4
    """Above this band the power law is fitted."""
    low_band: float = 0.12
    """Below this band a flat-edged spectrum's level is measured ..."""
    lean_ratio: float = 0.25
    """... and an edge under this share of it is seen as a fall that aliasing hides."""
    slope_factor: float = 1.5
    """The continued power law falls this much faster than the fitted one ..."""
    slope_factor_antialiased: float = 3.0
    """... and this much after antialiased sampling, which leaves little to guard against."""
    slope_max: float = -4.0
    """And at least this fast."""
    continuum: ContinuumSettings = field(default_factory=ContinuumSettings)
    continuum_antialiased: ContinuumSettings = field(
        default_factory=lambda: ContinuumSettings(slope=0.0)
    )
    """Flat spectra; on 300 flat slices of simulated fields and captures no start lost more than
    0.5 dB by them, and half of those that were 0.3 dB behind another method are so no longer."""
    wrapped: WrappedSettings = field(default_factory=WrappedSettings)
    dealias: int = 3
    """Fixed-point iterations that remove aliased power."""
    response_min: float = 1e-2
    """Smallest squared response of the degradation that is divided out."""
    damping: float = 1e-7
    """Share of the variance taken as noise."""
    mean_variance: float = 1.0
    """Variance of the unknown mean, in variances of the slice."""
    intensity: IntensitySettings = field(default_factory=IntensitySettings)
    levels: LevelSettings = field(default_factory=LevelSettings)
    deblurred: DeblurSettings = field(default_factory=DeblurSettings)
    rounding: RoundingSettings = field(default_factory=RoundingSettings)

    @property
    def of_waves(self) -> WienerSettings:
        """The same for slices that are known to be waves: to sink says nothing."""
        how = replace(self.continuum, smooth_sinking=self.continuum.smooth)
        return replace(self, continuum=how)


@dataclass(frozen=True)
class KernelDraw:
    """Distribution of random Gaussian kernels: published theta ~ U[0, pi], l1 ~ U[1, 2.5 s],
    l2 ~ U[1, l1]; a fraction of the tasks is widened to near-delta kernels and to no blur."""

    published_fraction: float = 0.55
    narrow_fraction: float = 0.25
    narrow_min: float = 0.1
    narrow_max: float = 1.5
    isotropic_fraction: float = 0.4
    variance_max_per_scale: float = 2.5

    @property
    def blurred_fraction(self) -> float:
        """Share of the tasks that have a blur kernel."""
        return self.published_fraction + self.narrow_fraction


@dataclass(frozen=True)
class TaskSettings:
    """What one training task is: a kernel, a sampling and a scale, and patches degraded so."""

    mix: DegradationMix = DegradationMix.RANDOM
    kernels: KernelDraw = field(default_factory=KernelDraw)
    scales: tuple[float, ...] = (2.0,)
    direct_fraction: float = 0.6
    rounded_fraction: float = 0.8
    bounded_fraction: float = 0.75
    """Share of the tasks whose answer is kept within the bounds of its slice, where there are some:
    not all plateaus are found."""
    staged_fraction: float = 0.5
    """Share of the tasks without blur whose larger scales are reached in stages, so that
    the network sees what it has added before, as it will at test time."""
    refined_fraction: float = 0.5
    """Share of the tasks with bounds in which the network sees its own answer within them
    once more."""
    patch: int = 96
    """Side of an HR patch in pixels (query); support patches are the LR ones."""
    kernel_pool: int = 512
    """Random kernels in a run, for each scale: what they cost to set up is paid once."""


LR_PATCH_MIN = 8
"""Smallest side in pixels of an LR patch that is worth training on."""

HELD_OUT_EVERY = 20
"""Of so many slices of a cube (images of a folder) one is held out of training."""


@dataclass(frozen=True)
class DataSettings:
    """How training reads its data, and what it holds out of them."""

    variable: str | None = None
    slice_axis: int = 2
    held_out: str | None = None
    """Slices of each cube (images of each folder) that only validate: N (every N-th), P%,
    START:STOP[:STEP] or none; None: every HELD_OUT_EVERY-th."""


@dataclass(frozen=True)
class TrainSettings:
    """Common to pretrain and meta-train. Times in seconds, rates per update."""

    iterations: int = 100_000
    batch: int = 8
    learning_rate: float = 1e-3
    learning_rate_min: float = 1e-5
    optimizer: Optimizer = Optimizer.MUON
    muon_factor: float = 2.0
    """Muon's rate in learning rates. After 200 iterations on photographs 2 and 4 were alike, 8
    worse."""
    inner_rate_factor: float = 30.0
    """Learning rate of the logarithms of the inner step sizes, in learning rates."""
    warmup: int = 100
    clip_norm: float = 1.0
    average: float = 0.999
    """Decay of the running average of the weights that is validated and exported."""
    seed: int = 0
    max_time: float | None = None
    """Seconds of training, resumed parts included, over which the rate decays to its minimum."""
    checkpoint_every: float = 180.0
    validate_every: float = 300.0
    validation_patches: int = 24
    passes: int | None = None
    """Passes of the network; None: those of the weights it starts from."""
    recursions: int | None = None
    """Recursions of the blocks; None: those of the weights it starts from."""
    modulated: bool = False
    """Whether facts modulate the blocks, even where they do not those of the weights it starts
    from."""
    loss: Loss = Loss.L1
    gradient: GradientSettings = field(default_factory=GradientSettings)
    data: DataSettings = field(default_factory=DataSettings)
    tasks: TaskSettings = field(default_factory=TaskSettings)
    network: NetworkSettings = field(
        default_factory=lambda: NetworkSettings(backbone=Backbone.STRIDED.value)
    )
    consistency: ConsistencySettings = field(default_factory=ConsistencySettings)
    precision: Precision = Precision.AUTO


RANKS_TIMEOUT = 1800.0
"""Seconds that a process under torchrun waits for the others before it gives up; a validation of
the first one must fit in."""


@dataclass(frozen=True)
class MetaSettings:
    """Algorithm 1, lines 8-17."""

    tasks_per_iteration: int = 4
    inner_steps: int = 3
    inner_rate: float = 1e-2
    first_order_fraction: float = 0.7
    """Share of the run (of ``max_time`` or ``iterations``) with first-order outer gradients."""
    final_step_weight: float = 0.4
    """Weight of the query loss after the last inner step; the rest is spread over the others."""


@dataclass(frozen=True)
class AdaptSettings:
    """Algorithm 2: gradient steps on (son, LR)."""

    steps: int = 10
    mode: Adapting = Adapting.SLICE
    cube_slices: int = 16
    """Most slices whose pairs ``cube`` takes steps on (evenly spread), a step each a round."""
    rate: float = 0.05
    """Step size for weights that bring none of their own (pretrained only)."""
    window: int = 64
    window_most: int = 96
    """Largest side in LR pixels of the pair: that of the LR patches that the weights were trained
    with, within these limits (photographs 48, cubes 96); of larger slices the most detailed window
    is taken. With 64 for cubes maps lose 0.045 dB (x2), with 128 they gain 0.015 more; photographs
    are alike with 96 (Set14 up to 0.02 better, drawn facades up to 0.04 worse) and take longer."""
    son_min: int = 9
    """Smallest side of a son that is worth adapting to and checking with."""
    worse: float = 1.5
    """A step after which the loss exceeds this many times the best is taken back, rates halved."""
    self_ensemble: int | None = None
    """How many symmetries of the square the network's answer is the mean over (ENSEMBLES); None:
    one of the next two."""
    ensemble_cubes: int = 2
    """Two views gain 0.04 dB on simulated cubes (up to 1.5 after direct sampling, a loss of 0.12 at
    most), for 1.4 to 1.5 times the time."""
    ensemble_images: int = 8
    """Of photographs two views gain 0.04 to 0.06 dB (Set14), eight another 0.05 to 0.10, for three
    times the time (2.8 s with one thread instead of 1.0)."""
    gradient_loss: float = 0.0
    """Weight of the gradient maps' mean absolute difference in the loss of a step."""

    def views(self, is_image: bool) -> int:
        """How many views there are of slices, of a photograph or of a cube."""
        return self.self_ensemble or (self.ensemble_images if is_image else self.ensemble_cubes)


@dataclass(frozen=True)
class CheckSettings:
    """Self-check of the network against classical methods on (son, LR), and the limit that the
    Wiener model sets to what the network may add."""

    enabled: bool = True
    window: int = 128
    """Largest side in LR pixels of the pair that is checked."""
    informative_nmse: float = -8.0
    """dB, mean-free: the son still tells something where the best candidate gets below this."""
    second: bool = True
    """Whether shipped weights of cubes give way to those of photographs where the pair says so."""
    second_scale: float = 8.0
    """Beyond this the first network stays: nothing was measured there, and the second, which knows
    only stages of x2, takes twice the time. At x8 8 dB were gained by it in sum (tomographs 1.0 and
    1.2, power between walls 0.7 and 1.4) and 2 lost, on fields under water, up to 1.2."""
    second_margin: float = 0.4
    """dB by which the second network must be nearer to an informative pair than the first to take
    its place: on 186 measured and simulated slices (x2) 12 dB were gained in sum and none lost,
    with 0.2 dB 13 gained, but elsewhere 2.3 lost of a magnitude of waves and 0.8 of beams (gaps
    of 0.37)."""
    second_beside: float = 0.01
    """Where more of the slice lies beside bounds that it is kept within the first network stays: it
    has learned from maps with shadows, whose edges are harder than those of the pair (the second
    lost 1.1 dB of unseen cities at x2). 0.06 to 0.3 there, less the higher above the roofs; 0.02 to
    0.1 in pictures on an empty background, too, of which 0.1 to 0.9 dB are not gained so."""
    second_unlike: float = 14.0
    """dB by which the slice's start may be expected to be better than that of the pair: of waves
    that the slice resolves and its son does not (19 and 20 dB) the second lost 1 to 2 dB at x4, of
    a pulse (15 dB) 5."""
    second_seen: float = -6.0
    second_margin_unseen: float = 0.8
    """dB, mean-free: where the pair tells classical methods nothing, a second network is taken up
    to x2 that comes below the one and is nearer by the other; there 8 dB were gained and nothing
    lost, with a margin of 0.5 dB once 0.4. At x4 it lost 0.3 to 0.6 of beams, rain and photons."""
    steps_alike: float = 0.94
    """After antialiased sampling, where the pair tells classical methods nothing: cosine between
    what the network adds to the pair before and after its steps, under which these are taken back.
    What is seen of a pulse beyond the Nyquist limit changes its sign with the scale; where steps
    turn what the network says they have learned that of the pair. On 204 slices of captures (seeds
    7, 12 and 14 to 17, x2) 33 dB were gained in sum by it and 20 lost, on 324 others (x2 and x4)
    0.8 lost."""
    hopeless_nmse: float = 0.0
    """dB, mean-free: above this the start is worse than the mean of the slice (critically sampled
    or sparse data)."""
    hopeless_two_sided_direct: float = 1.4
    """The same after direct sampling where both sides of a complex slice's spectrum are modelled:
    where it is aliased itself, the start of its son is near 3 dB; where it is sampled at its limit,
    at 0 to 1.2."""
    margin: float = 2.0
    """dB by which a classical method must beat the network to be chosen."""
    gradual_gain: float = 0.5
    """dB by which the network must beat its start on an informative pair for gradual scales."""
    share_full: float = 0.6
    """Least-squares share of the network's residual on the pair from which on all of it is kept:
    sons are harder than slices, so that the share is 0.6 to 0.9 where the residual is right."""
    share_unchecked: float = 0.5
    """Share of the network's residual that is kept where a slice is too small for a pair."""
    share_ungained: float = 0.4
    """The same where the network gains nothing on an informative pair: on simulated fields the
    largest loss stays under 0.06 dB so, with three quarters of what all of it would gain."""
    gain_none: float = 0.05
    gain_full: float = 0.3
    """dB by which the network must beat its start on an informative pair: up to the first that
    share of its residual is kept, from the second on all of it."""
    added_full: float = 0.2
    added_none: float = 0.6
    """Where the pair is not informative: energy that the network adds over the error that the
    Wiener model expects of the start. A useful correction stays below 1; up to the first all of
    it is kept, above the second none, as far as the model may be believed (``certain``) ..."""
    added_most_direct: tuple[float, float] = (30.0, 6.0)
    """The most that is kept after direct sampling, whether the model may be believed or not: dB of
    the added energy over the expected error, up to x2 and from x4 on (between them the dB go with
    the octaves). At x2 what the network added to echoes was right at 10 to 17 dB; at x4 12 dB more
    than expected took 20 dB of noisy plane waves."""
    silent: tuple[float, float] = (-33.0, -28.0)
    silent_direct: tuple[float, float] = (-28.0, -24.0)
    silent_direct_long: tuple[float, float] = (-20.0, -16.0)
    silent_hopeful: tuple[float, float] = (-20.0, -16.0)
    """dB of the variance: what the network adds to signed and complex slices is faded out where the
    Wiener model expects so little error of the start. On 40 such slices of simulated arrays after
    antialiased sampling (-34 to -28 dB) it gained 0.05 dB on average and once lost 0.9; after
    direct sampling (-31 to -28 dB, 18 slices) it lost 0.36 on average, up to 2.7, and did nothing
    from there to -24; from x4 on (long; between x2 and x4 in octaves) it lost up to 19 dB of plane
    waves that the model had right at -20. Where the pair is neither informative nor hopeless less
    error is enough: on pulses (-26 to -15 dB) it lost up to 3.6 there and gained 0.1 at most."""
    certain: tuple[float, float] = (-17.5, -18.0)
    certain_long: tuple[float, float] = (-14.2, -14.7)
    certain_two_sided: tuple[float, float] = (-12.5, -13.2)
    certain_hopeless: tuple[float, float] = (-20.5, -23.0)
    """As far as the model may be believed: flat spectra look alike, whether the slice is
    sampled at its limit (then the model is right) or aliased (then it claims far too much): a model
    that expects an error above the first, in dB of the slice's variance, does not count, one below
    the second counts in full. The limits are those of x2, of x4 and beyond (between them in
    octaves), of slices both of whose sides are modelled, and of hopeless pairs. The higher the
    scale, the less can be told apart: at x4 fields at their limit expect -15 to -18 dB and are
    right, at x2 those who expect as much are mostly aliased."""


@dataclass(frozen=True)
class ZssrSettings:
    """ZSSR as published (Shocher et al., 2018, and the authors' configuration)."""

    learning_rate: float = 1e-3
    learning_rate_min: float = 9e-6
    learning_rate_ratio: float = 10.0
    """The rate is divided by this when the reconstruction error stalls."""
    stall_ratio: float = 1.5
    """Stalled: the error's scatter about its linear fit exceeds this many times its fall."""
    check_every: int = 60
    test_every: int = 50
    fit_span: int = 256
    """Iterations that the linear fit looks back on, and that pass before a first cut."""
    iterations_max: int = 3000
    crop: int = 128
    father_scale_min: float = 0.5
    leave_probability: float = 0.05
    """Share of fathers that are the image itself, not augmented."""
    symmetry_probability: float = 0.45
    """Share of fathers that are turned and mirrored, but not resized."""
    noise: float = 0.0
    """Standard deviation of noise added to sons, in units of the slice's range."""
    back_projections: int = 10
    self_ensemble: bool = True
    """Median over the eight symmetries of the square."""
    factor_max: float = 2.0
    """Largest factor of a gradual scale."""
    gradient_loss: float = 0.0
    """Weight of the gradient maps' mean absolute difference in the loss ..."""
    supervision: float = 0.2
    """... and of the same for the map that a network predicts beside its answer, if it does."""


@dataclass(frozen=True)
class TileSettings:
    """Network over tiles: side of the output tile in pixels (cache-sized)."""

    side: int = 256


@dataclass(frozen=True)
class StageSettings:
    """Gradual scales: no stage's factor exceeds ``factor_max``, nor what weights know. They presume
    that the slice resembles itself across scales: where its pair does not show it, stages are as
    long as the weights know."""

    factor_max: float = 2.0


@dataclass(frozen=True)
class GateSettings:
    """Spectral gate: where a slice's spectrum has died before the LR Nyquist limit, nothing is
    left to predict, and the residual shrinks with the square of the tail. ``tail`` is the tail's
    RMS in units of the slice's range above which the network is fully trusted."""

    enabled: bool = True
    tail: float = 4e-3
    band: float = 0.7
    """Lower edge of the tail's band, as a fraction of the LR Nyquist limit."""


@dataclass(frozen=True)
class TvSettings:
    """Total-variation reconstruction (``tv`` of the benchmark): FISTA with the known degradation.

    Chosen on four crops of BSDS399 (g_2.0, g_ani direct; none, g_1.3 bicubic; 8-bit LR): within
    0.1 dB of the best of weights 1e-5 to 1e-4 and of 60 to 120 iterations in each.
    """

    weight: float = 3e-5
    """Weight of the total variation beside half the squared misfit, in units of the LR slice's
    range."""
    iterations: int = 100
    """FISTA's iterations."""
    proximal_iterations: int = 10
    """Most iterations of Chambolle's denoising in one proximal step ..."""
    tolerance: float = 1e-5
    """... which stops where its cost changes by less than this share of the first cost."""


@dataclass(frozen=True)
class CalibrationSettings:
    """The short trial on which ``--dry-run`` bases its estimate of the time."""

    side: int = 192
    side_small: int = 128
    """Sides in LR pixels of the parts of a slice that are solved: the small one through one stage,
    the other through ``stages``, where there are so many."""
    stages: int = 3
    slices: int = 3
    """Slices that are solved, evenly spread."""
    byte: float = 3e-9
    """Seconds for a byte of the result: writing, making durable, reading back, hashing."""
    zssr_iterations: int = 1500
    """What a ZSSR run typically takes to its stop."""


@dataclass(frozen=True)
class LaneSettings:
    """How many slices are solved at once in one process (pipeline.lanes)."""

    samples: int = 2**20
    """Up to this many result samples (of both planes) a slice is small: solved by one thread."""
    memory: int = 768 * 2**20
    """Bytes for the slices that are solved beside the first one, on the processor."""
    cuda: int = 4
    """Slices at once on a GPU, each in a stream of its own (not measured)."""


@dataclass(frozen=True)
class AllocatorSettings:
    """What the C library's allocator keeps (pipeline.allocator), in bytes."""

    kept: int = 1 << 28
    """Freed memory at the end of the heap that is kept, and ..."""
    mapped: int = 1 << 25
    """... the size from which blocks are mapped, and so given back at once (glibc's limit)."""
    arenas: int = 1
    """Heaps that threads share."""


@dataclass(frozen=True)
class UpscaleSettings:
    """Everything that decides a result of ``mzsr upscale`` (hashed into the journal)."""

    scale: tuple[float, float] | None = None
    size: tuple[int, int] | None = None
    method: Method | None = None
    """None: mzsr when weights fit, else zssr (said so)."""
    weights: str | None = None
    kernel: str = "none"
    sampling: Sampling = Sampling.BICUBIC
    variable: str | None = None
    slices: str | None = None
    slice_axis: int = 2
    normalize: Normalize = Normalize.SLICE
    nan: NanPolicy = NanPolicy.ERROR
    clip: bool = False
    out_dtype: str | None = None
    precision: Precision = Precision.AUTO
    device: str = "auto"
    seed: int = 0
    adapt: AdaptSettings = field(default_factory=AdaptSettings)
    check: CheckSettings = field(default_factory=CheckSettings)
    zssr: ZssrSettings = field(default_factory=ZssrSettings)
    wiener: WienerSettings = field(default_factory=WienerSettings)
    gate: GateSettings = field(default_factory=GateSettings)
    network: NetworkSettings = field(default_factory=NetworkSettings)
    consistency: ConsistencySettings = field(default_factory=ConsistencySettings)
    bounds: BoundsSettings = field(default_factory=BoundsSettings)
    tiles: TileSettings = field(default_factory=TileSettings)
    stages: StageSettings = field(default_factory=StageSettings)
    calibration: CalibrationSettings = field(default_factory=CalibrationSettings)
    lanes: LaneSettings = field(default_factory=LaneSettings)

    def __post_init__(self) -> None:
        for factor in self.scale or ():
            alone = self.scale == (1.0, 1.0)
            if alone or not (factor == 1 or SCALE_MIN <= factor <= SCALE_MAX):
                raise UsageError(
                    f"--scale {factor:g}: outside {SCALE_MIN:g} to {SCALE_MAX:g}. "
                    "Type a factor per axis in that range, such as --scale 4 or --scale 4x1.5."
                )
        if self.adapt.steps < 0:
            raise UsageError(f"--steps {self.adapt.steps}: must be 0 or more.")


@dataclass(frozen=True)
class WorkerSettings:
    """How slices are spread over workers (pipeline.workers); decides no result. In seconds:
    ``connect`` until a scheduler answers, ``patience`` for a first worker or another one."""

    tasks: int = 2
    """Tasks in flight for each worker: one that it solves, one that waits for it."""
    run: int = 4
    """Most slices of a task ..."""
    run_bytes: int = 16 * 2**20
    """... and about as many bytes of results in it ..."""
    rounds: int = 4
    """... and at most one of this many equal tasks for each worker of what is left."""
    connect: float = 30.0
    patience: float = 60.0


class Extra(StrEnum):
    """Methods that only the benchmark has."""

    BICUBIC_PAPER = "bicubic-paper"
    NYQUIST = "nyquist"
    TV = "tv"
    MZSR_PAPER = "mzsr-paper"
    MZSR_ENSEMBLE = "mzsr+"


@dataclass(frozen=True)
class SpeedSettings:
    """What ``mzsr benchmark --speed`` measures."""

    matrix: int = 2048
    """Side of the square matrices whose product is the machine's limit, and ..."""
    matrix_cuda: int = 8192
    """... on a GPU, which has not begun before a smaller one is done (not measured)."""
    plane_side: int = 1024
    """Side of the plane that the network goes over in tiles."""
    pair_large: int = 256
    """Side of the larger of the pairs on which a gradient step is timed."""
    slice_side: int = 256
    """Side of the LR slice that is timed as a whole."""
    seconds: float = 1.0
    repeats: int = 5
    """Least time and least number of repetitions of each measurement."""


@dataclass(frozen=True)
class HistogramSettings:
    """What ``mzsr info --histograms`` draws."""

    bins: int = 128
    lines: int = 6
    """Most slices that are drawn as lines; more are rows of an image."""
    rows: int = 512
    """Most rows of the image: of more slices, neighbours share one (the mean)."""
    share_min: float = 1e-4
    """Share of the samples at which the colours and the lines begin."""


@dataclass(frozen=True)
class BenchmarkSettings:
    """What ``mzsr benchmark`` compares. Empty ``degradations``: those of the kind of data."""

    scale: tuple[float, float] = (2.0, 2.0)
    degradations: tuple[str, ...] = ()
    methods: tuple[str, ...] = (
        *("bicubic", "spline", "bandlimited", "wiener", "back-projection"),
        *("mzsr:0", "mzsr:10"),
    )
    weights: str | None = None
    self_ensemble: int | None = None
    """Views of ``mzsr:N``; None as in AdaptSettings."""
    variable: str | None = None
    slices: str | None = None
    slice_axis: int = 2
    precision: Precision = Precision.AUTO
    device: str = "auto"
    seed: int = 0
    tv: TvSettings = field(default_factory=TvSettings)
    speed: SpeedSettings = field(default_factory=SpeedSettings)


IMAGE_DEGRADATIONS = ("bicubic", "g0.2d", "g2.0d", "ganid", "g1.3b")
"""Degradations of the benchmark of images: the published ones."""

CUBE_DEGRADATIONS = ("bicubic", "direct")
"""Degradations of the benchmark of cubes."""

BACK_PROJECTIONS = 50
"""Iterations of the classical method ``back-projection``."""

PERCENTILES = (0.1, 99.9)
"""Low and high percentile of ``--normalize percentile``."""

MAT5_LIMIT = 2**31 - 1
"""Bytes that one variable of a MAT v5 file can hold."""


def as_dict(settings: Any) -> dict[str, Any]:
    """Plain nested dict of a settings dataclass, for JSON and hashing."""
    return asdict(settings)
