"""Device, precision and threads: what the machine offers and what a run uses."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

import torch

from mzsr_cli.errors import DeviceError, UsageError
from mzsr_cli.settings import Precision


def pick_device(name: str) -> torch.device:
    """The device of ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.

    Raises DeviceError where there is no such device, UsageError for another name.
    """
    device = _named_device(name)
    if device.type == "cuda":
        # the same bytes from run to run, and fp32 that is not rounded to 11 bits
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.allow_tf32 = False
        torch.set_float32_matmul_precision("highest")  # some images' environments say otherwise
    return device


def check_name(name: str) -> None:
    """Raises UsageError where ``name`` names no device, whatever this machine has."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise UsageError(f"--device {name}: not understood. Type auto, cpu, cuda or cuda:N.")


def _named_device(name: str) -> torch.device:
    check_name(name)
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            f"--device {name}: this machine shows no CUDA device to torch {torch.__version__}. "
            "Type --device cpu, or install a CUDA build of torch."
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"--device {name}: there are {torch.cuda.device_count()} CUDA devices, "
            "counted from 0. Type a smaller N."
        )
    return device


def has_fast_bf16(device: torch.device) -> bool:
    """Whether bfloat16 convolutions are native on ``device``."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def pick_precision(precision: Precision, device: torch.device) -> Precision:
    """``auto`` resolved: bf16 where it is native, else fp32."""
    if precision is not Precision.AUTO:
        return precision
    return Precision.BF16 if has_fast_bf16(device) else Precision.FP32


def convolution_precision(
    device: torch.device, precision: Precision
) -> AbstractContextManager[object]:
    """Context in which convolutions run in ``precision``; weights and sums stay float32.

    Weights are rounded at each use: torch would keep them for the next one (and add up gradients in
    bfloat16) until any thread leaves such a context, so that slices side by side would change each
    other's rounding where blocks are gone through twice."""
    if precision is Precision.BF16:
        return torch.autocast(device.type, torch.bfloat16, cache_enabled=False)
    return nullcontext()


@contextmanager
def threads(count: int | None) -> Iterator[None]:
    """``count`` processor threads for every operation of this thread, and of new ones once they ask
    for torch.get_num_threads; as many as before after. None changes nothing."""
    before = torch.get_num_threads()
    if count is not None:
        torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def stream(device: torch.device) -> AbstractContextManager[object]:
    """A queue of its own for what a thread computes on ``device``, so that several share it; it
    begins after what was asked of the device before. To be entered again and again."""
    if device.type != "cuda":
        return nullcontext()
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    return torch.cuda.stream(stream)


_NO_MEMORY = (
    "allocate memory",
    "out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "GET was unable to find an engine",
)
"""What torch says where memory, or the working memory of a library, is not to be had."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that a tensor found no memory, on a GPU or on the processor."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _NO_MEMORY)


def own_backward(device: torch.device) -> AbstractContextManager[object]:
    """On a GPU, backward passes on the thread that asks for them: by default one thread of torch
    does those of all threads, one after the other."""
    if device.type != "cuda":
        return nullcontext()
    return torch.autograd.set_multithreading_enabled(False)


def describe_device(device: torch.device) -> str:
    """A line about the device for provenance and logs."""
    if device.type == "cuda":
        return f"{device} ({torch.cuda.get_device_name(device)})"
    return f"cpu ({torch.get_num_threads()} threads)"
