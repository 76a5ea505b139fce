"""A pretended accelerator: a device of torch whose tensors lie apart from the processor's, as
those of a GPU do, and whose arithmetic is the processor's. What mixes tensors of both, or asks one
that lies apart for its numpy array, fails as on a GPU; what runs gives the processor's results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any

import torch
from torch.utils import _pytree as pytree
from torch.utils import backend_registration

NAME = "pretend"
SUPPORTED = hasattr(backend_registration, "_setup_privateuseone_for_python_backend")
"""Whether this torch lets Python be a backend."""

_CPU = torch.device("cpu")
_CROSSING = ("aten::_to_copy", "aten::copy_")
"""Operations that take tensors of both devices."""
_INDEXING = ("aten::index", "aten::index_put_")
"""Operations that take indices from the processor."""
_JOINING = ("aten::cat", "aten::stack")
"""Operations that take no single number from there."""
_SHAPES: dict[str, Any] = {
    "size": torch.Tensor.size,
    "stride": torch.Tensor.stride,
    "dim": torch.Tensor.dim,
    "numel": torch.Tensor.numel,
    "storage_offset": torch.Tensor.storage_offset,
    "is_contiguous": lambda x, how=torch.contiguous_format: x.is_contiguous(memory_format=how),
}
"""What is asked of a tensor's shape, which operations in place may change."""
_kept: list[torch.library.Library] = []


class Away(torch.Tensor):
    """A tensor on the pretended device; ``held`` is the processor's, with its values."""

    held: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: torch.Tensor) -> Away:
        """The tensor ``held``, apart."""
        made: Away = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(),
            dtype=held.dtype, layout=held.layout, device=torch.device(NAME, 0),
            dispatch_sizes_strides_policy="sizes",
        )  # fmt: skip
        made.held = held
        return made

    def __repr__(self, **_: Any) -> str:
        """The values, and that they lie apart."""
        return f"Away({self.held!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """What torch asks where a tensor lies apart."""
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation ``func`` on the processor: tensors are fetched, and results put back."""
    name = func._schema.name
    asked = name.removeprefix("aten::").removeprefix("sym_")
    if asked in _SHAPES:
        return _SHAPES[asked](_fetched(args[0]), *args[1:])
    tensors = [x for x in pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    _check_together(name, args, tensors)
    wanted = kwargs.pop("device", None)
    kwargs = kwargs | ({"device": _CPU} if wanted is not None else {})
    kwargs.pop("pin_memory", None)
    made = func(*pytree.tree_map(_fetched, args), **pytree.tree_map(_fetched, kwargs))
    changed = {id(_fetched(x)): x for x in tensors}
    if wanted is not None and torch.device(wanted).type != NAME:
        return made
    return pytree.tree_map(
        lambda x: changed.get(id(x), Away(x)) if isinstance(x, torch.Tensor) else x, made
    )


def _check_together(name: str, args: Any, tensors: list[torch.Tensor]) -> None:
    """Raise RuntimeError where tensors of both devices meet; the processor's single numbers and
    indices may, but nothing of the processor is changed, indexed or joined with what lies apart."""
    here = [x for x in tensors if not isinstance(x, Away)]
    if name in _CROSSING or not here or len(here) == len(tensors):
        return
    target = args[0] if args and isinstance(args[0], torch.Tensor) else None
    changed = name in _INDEXING or name.endswith("_")
    refused = [x for x in here if x.dim() > 0 and not (name in _INDEXING and x is not target)]
    if refused or name in _JOINING or (changed and any(x is target for x in here)):
        shapes = [tuple(x.shape) for x in here]
        raise RuntimeError(f"{name}: tensors {shapes} are on the processor, others are not")


def _fetched(x: Any) -> Any:
    return x.held if isinstance(x, Away) else x


class _Module:
    """What torch asks of a backend."""

    is_initialized = is_available = staticmethod(lambda: True)
    current_device = staticmethod(lambda: 0)
    device_count = staticmethod(lambda: 1)
    _is_in_bad_fork = staticmethod(lambda: False)
    manual_seed_all = staticmethod(lambda seed: None)
    get_amp_supported_dtype = staticmethod(lambda: [torch.bfloat16])


@cache
def device() -> torch.device:
    """The pretended device, which torch knows from the first call on."""
    backend_registration._setup_privateuseone_for_python_backend(NAME, _Module())
    library = torch.library.Library("_", "IMPL")
    library.fallback(lambda func, *args, **kwargs: _run(func, args, kwargs), "PrivateUse1")
    _kept.append(library)
    return torch.device(NAME, 0)


@contextmanager
def named_cuda(monkeypatch: Any) -> Iterator[torch.device]:
    """The pretended device in the place of ``cuda``, wherever mzsr asks for that."""
    from mzsr_cli.learning import ranks, runtime

    made = torch.tensor
    with monkeypatch.context() as patch, _on_this_thread():
        # torch.tensor puts new values on a device where Python cannot follow
        patch.setattr(torch, "tensor", lambda *a, device=None, **k: made(*a, **k).to(device=device))
        for module in (runtime, ranks):
            patch.setattr(module, "pick_device", lambda name: device() if name == "cuda" else _CPU)
        patch.setattr(runtime, "describe_device", str)
        patch.setattr(runtime, "own_backward", _on_this_thread)
        yield device()


def _on_this_thread(_: Any = None) -> AbstractContextManager[object]:
    """Backward passes on the thread that asks for them: torch starts those of devices once, and may
    have done so before it knew this one."""
    return torch.autograd.set_multithreading_enabled(False)
