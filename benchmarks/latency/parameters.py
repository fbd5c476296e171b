"""Counts parameters, FLOPs and bytes of each component of a model, on the exact architecture.

Image encoders can be on torch's meta device, which needs no memory: the 2.5 GB of SAM ViT-H
are counted in a second. None of these numbers depends on the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from baselines.boundary import adapter_call
from baselines.interface import ModelInfo, Segmenter
from baselines.registry import build, derive
from benchmarks.config.model_resolution import ResolvedModel
from benchmarks.config.run_config import RunConfig
from benchmarks.debugging import format_error
from benchmarks.records.progress import Reporter
from benchmarks.records.record import ModelRow, ParamsRow, RecordBuilder, WeightsRow
from mobilesam.errors import BenchError

if TYPE_CHECKING:
    from torch import nn

MILLION = 10**6
MEBI = 2**20
# Operators that move or describe data; all others without a formula are reported.
_NO_ARITHMETIC = frozenset(
    "alias arange as_strided cat clone copy copy_ detach empty empty_like expand fill_ full "
    "full_like index index_put_ lift_fresh masked_fill_ new_zeros ones ones_like permute "
    "constant_pad_nd repeat reshape select slice split stack squeeze t transpose unbind "
    "unsqueeze unsqueeze_ view zero_ zeros zeros_like _reshape_alias _to_copy _unsafe_view "
    "_local_scalar_dense native_batch_norm_inference is_nonzero max_pool2d_with_indices "
    "pixel_unshuffle split_with_sizes chunk unfold roll scalar_tensor".split()
)


def count(model: Segmenter) -> list[ParamsRow]:
    """Counts the components of a model, then their total (`all`)."""
    with adapter_call("modules and probes"):
        modules, given = model.modules(), model.probes()
        for module in modules.values():
            module.requires_grad_(False)  # torch's FLOP counter fails on views of trainable leaves
        probes = {component: given[component] for component in modules}
    name = model.info.name
    if not modules:
        return [_row(name, "all", total=0, used=0, weight_bytes=0)]
    parts: list[ParamsRow] = []
    for component, module in modules.items():
        with adapter_call("probes"):  # the probes run once for each of the two counts
            flops, skipped = count_flops(probes[component][0])
            used = count_used(module, probes[component])
        tensors = (*module.parameters(), *module.buffers())
        total = sum(parameter.numel() for parameter in module.parameters())
        weight_bytes = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        parts.append(_row(name, component, total, used, weight_bytes, flops, skipped))
    if [part.component for part in parts] == ["all"]:
        return parts
    sums = {
        field: sum(getattr(part, field) or 0 for part in parts)
        for field in ("total", "used", "flops", "weight_bytes")
    }
    skipped = sorted({op for part in parts for op in part.flops_not_counted})
    return [*parts, _row(name, "all", skipped=skipped, **sums)]


def _row(
    model: str,
    component: str,
    total: int,
    used: int,
    weight_bytes: int,
    flops: int | None = None,
    skipped: Sequence[str] = (),
) -> ParamsRow:
    return ParamsRow(
        model=model,
        component=component,
        total=total,
        used=used,
        total_1e6=total / MILLION,
        total_2_20=total / MEBI,
        used_1e6=used / MILLION,
        used_2_20=used / MEBI,
        flops=flops,
        flops_not_counted=tuple(skipped),
        weight_bytes=weight_bytes,
    )


def count_used(module: nn.Module, probes: Sequence[Callable[[], object]]) -> int:
    """Counts the parameters that any of the calls passes to a torch function.

    An unused ImageNet head is part of its module and of every published count, but is not used.
    """
    import torch
    from torch.overrides import TorchFunctionMode
    from torch.utils._pytree import tree_leaves

    sizes = {id(parameter): parameter.numel() for parameter in module.parameters()}
    seen: set[int] = set()

    class Watch(TorchFunctionMode):
        def __torch_function__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            del types
            seen.update(id(leaf) for leaf in tree_leaves((args, kwargs)) if id(leaf) in sizes)
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), Watch():
        for probe in probes:
            probe()
    return sum(sizes[each] for each in seen)


def count_flops(probe: Callable[[], object]) -> tuple[int, list[str]]:
    """Floating-point operations of one call, a multiply-add is two; and operators not counted."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils.flop_counter import FlopCounterMode, flop_registry

    ran: set[Any] = set()

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            del types
            ran.add(func)
            return func(*args, **(kwargs or {}))

    with torch.no_grad(), FlopCounterMode(display=False) as counter, Watch():  # type: ignore[no-untyped-call]
        probe()
    names = {
        func.overloadpacket.__name__
        for func in ran
        if func.overloadpacket not in flop_registry and not func.is_view
    }
    return int(counter.get_total_flops()), sorted(names - _NO_ARITHMETIC)


def build_and_count(
    config: RunConfig, models: Sequence[ResolvedModel], record: RecordBuilder, reporter: Reporter
) -> tuple[dict[str, ModelInfo], list[ResolvedModel]]:
    """Builds each architecture without memory for its weights, and counts it if requested.

    Returns information on each model that can be built, by name; and all models, updated: one with
    networks but no given weights runs with random ones, and one whose exported files cannot be made
    has an error.
    """
    infos: dict[str, ModelInfo] = {}
    updated: list[ResolvedModel] = []
    with reporter.bar("parameters", len(models), "parameters") as bar:
        for model in models:
            name = model.entry.name
            bar.note(name)
            try:
                shape = build(model.entry, model.entry.options(device="meta"))
                rows = count(shape) if config.count_parameters else []
            except BenchError as error:
                reason = format_error(error)
                record.add_failure("build", name, reason)
                if config.count_parameters:
                    failed = ParamsRow(model=name, component="all", status="error", why=reason)
                    record.add(params=[failed])
                updated.append(model)
                continue
            info = infos[name] = shape.info
            if model.weights.kind == "none" and info.weights.kind == "random":
                hint = f"give them with --weights {name}=PATH" if config.needs_weights else None
                model = replace(model, weights=WeightsRow(kind="random", why=hint))
            is_run = model.deferred is None and (model.trained or config.profile is not None)
            if is_run and model.error is None:
                try:  # the exported files that it runs, if any, are made
                    derive(model.entry, model.options)
                except BenchError as error:
                    model = replace(model, error=format_error(error))
                    record.add_failure("build", name, model.error or "")
            updated.append(model)
            row = ModelRow(
                model=info.name,
                family=info.family,
                input_size_px=info.input_size_px,
                licence=info.licence,
                decode_kind=info.decode_kind,
                weights=model.weights,
                status="ok" if model.deferred is None else "skipped",
                why=model.deferred,
                note=info.note,
            )
            if not model.entry.third_party and model.entry.factory is None:
                terms = {
                    "weights_licence": model.entry.weights_licence,
                    "commercial_use": model.entry.commercial,
                    "weights_note": model.entry.note,
                }
                row = row.model_copy(update=terms)
            if model.error is not None:
                row = row.model_copy(update={"status": "error", "why": model.error})
            record.add(params=rows, models=[row])
            bar.step(name)
    return infos, updated
