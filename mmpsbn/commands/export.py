"""A trained model as files that need none of our hooks: checkpoint, config, ONNX."""

import os
import os.path as osp
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from mmengine.config import Config
from torch import nn

from ..engine.input_size import noise_images, pipeline_size
from ..engine.onnx_file import check_one_stage, check_onnx_installed, write_onnx
from ..engine.openmmlab import forward_tensors, trace_at_any_size
from ..engine.sparsity.growth import GROWTH_KEY
from ..layers import PostShift, convert_from_psbn
from ..models import fuse_norms
from ..pruning.graph import ChannelGraph
from ..pruning.verification import output_errors, probe_outputs
from ..upstream import BatchNormBase
from .launch import type_name
from .model_files import LoadedModel, file_name, load_model, refuse_to_overwrite, save_weights

# Largest change of the outputs relative to their maximum that passes for rounding.
_TOLERANCE = 1e-4
# What a config needs for inference and for mmpsbn test.
_KEPT_KEYS = (
    'default_scope model data_preprocessor test_dataloader test_evaluator test_cfg test_pipeline '
    'val_dataloader val_evaluator val_cfg tta_model tta_pipeline default_hooks env_cfg '
    'vis_backends visualizer log_processor log_level'
).split()
_PLAIN_NORMS = dict(
    psBN='BN', psBN1d='BN1d', psBN2d='BN2d', psBN3d='BN3d', psSyncBN='SyncBN', psIN='IN', psGN='GN'
)


@dataclass(frozen=True)
class ExportResult:
    """The files written, and how far their outputs are from the original model's."""

    config: str
    checkpoint: str
    onnx: str | None  # None if it was not asked for
    needs_mmpsbn: bool  # whether the config imports mmpsbn to build the model
    fused: int  # number of BatchNorms folded into convolutions
    params: int  # number of parameters
    error: float  # of the rebuilt model's outputs, relative to their maximum
    onnx_error: float | None  # of onnxruntime's against PyTorch's, relative to their maximum
    image: tuple[int, int, int]  # channels, height and width of those compared, and of ONNX's


def export_model(
    cfg: Config,
    checkpoint_path: str,
    *,
    out_dir: str,
    fuse: bool,
    onnx: bool,
    input_size: tuple[int, int] | None,
    force: bool,
) -> ExportResult:
    """Write ``out_dir/<config name>.py``, ``.pth`` and, if asked, ``.onnx``.

    psBN becomes BN with the effective bias. A pruned model's config builds it through
    ``PrunedModel``; any other needs no mmpsbn. The model is built once more from the two
    files and its outputs are compared with the original's before they are put in place.

    Args:
        fuse: fold each BatchNorm into the convolution before it.
        input_size: height and width for ONNX and the comparison; None takes them from
            the config's test pipeline.

    Raises:
        ValueError: the checkpoint does not fit the config, no input size is known, or ONNX is
            asked for of a detector with a second stage.
        FileExistsError: there is such a file, and not ``force``.
        RuntimeError: the outputs differ, the model does not run on images alone, or PyTorch
            or onnxruntime cannot make ONNX of it.
    """
    if onnx:
        check_onnx_installed()
    name = file_name(cfg.filename)
    suffixes = ('.py', '.pth', '.onnx') if onnx else ('.py', '.pth')
    if not force:
        refuse_to_overwrite(*(osp.join(out_dir, name + suffix) for suffix in suffixes))
    size = input_size or pipeline_size(cfg)
    loaded = load_model(cfg, checkpoint_path)
    model = loaded.model
    inputs = noise_images(model, 2, size)
    if onnx:
        with _or_without_onnx():
            check_one_stage(model)
    graph, probe = trace_at_any_size(model, inputs)
    before = probe_outputs(model, probe, forward_tensors)
    if any(isinstance(module, PostShift) for module in model.modules()):
        model = convert_from_psbn(model)
    pairs = fusible_pairs(model, graph) if fuse else {}
    fuse_norms(model, pairs)
    exported = export_config(cfg, loaded, pairs)
    exported_cfg = Config(exported)
    os.makedirs(out_dir, exist_ok=True)
    # Beside their place: what fails verification never appears there.
    with tempfile.TemporaryDirectory(dir=out_dir) as folder:
        paths = [osp.join(folder, name + suffix) for suffix in suffixes]
        exported_cfg.dump(paths[0])
        marks = loaded.marks
        if loaded.plan:  # growth goes by the channels of the dense model
            marks = {key: mark for key, mark in marks.items() if key != GROWTH_KEY}
        save_weights(model, paths[1], cfg=exported_cfg.pretty_text, **marks)
        rebuilt = load_model(Config.fromfile(paths[0]), paths[1]).model
        error = output_errors(before, probe_outputs(rebuilt, probe, forward_tensors))[1]
        _check('the exported model', error, 'leave out --fuse' if pairs else 'nothing was written')
        onnx_error = None
        if onnx:
            with _or_without_onnx():
                onnx_error = write_onnx(rebuilt, inputs, paths[2])
            _check('onnxruntime', onnx_error, 'leave out --onnx')
        places = [osp.join(out_dir, osp.basename(path)) for path in paths]
        for path, place in zip(paths, places):
            os.replace(path, place)
    return ExportResult(
        config=places[0],
        checkpoint=places[1],
        onnx=places[2] if onnx else None,
        needs_mmpsbn='mmpsbn' in exported.get('custom_imports', {}).get('imports', ()),
        fused=len(pairs),
        params=sum(p.numel() for p in rebuilt.parameters()),
        error=error,
        onnx_error=onnx_error,
        image=tuple(inputs.shape[1:]),
    )


@contextmanager
def _or_without_onnx() -> Iterator[None]:
    try:
        yield
    except (ValueError, RuntimeError) as error:
        raise type(error)(f'{error}; leave out --onnx') from error


def _check(who: str, error: float, way_out: str) -> None:
    if not error <= _TOLERANCE:
        raise RuntimeError(
            f'the outputs of {who} differ from the original by {error:.1e} relative to their '
            f'maximum (tolerance {_TOLERANCE:.0e}); {way_out}'
        )


def fusible_pairs(model: nn.Module, graph: ChannelGraph) -> dict[str, str]:
    """Convolution -> the BatchNorm that alone reads it and reads it alone."""
    readers = Counter(norm for norms in graph.norm_of.values() for norm in norms)
    modules = dict(model.named_modules())
    return {
        conv: norms[0]
        for conv, norms in graph.norm_of.items()
        if len(norms) == 1
        and readers[norms[0]] == 1
        and isinstance(modules[conv], (nn.Conv1d, nn.Conv2d, nn.Conv3d))
        and isinstance(modules[norms[0]], BatchNormBase)
        and modules[norms[0]].track_running_stats
    }


def export_config(cfg: Config, loaded: LoadedModel, fused: Mapping[str, str]) -> dict[str, Any]:
    """The config, as plain data, that builds the exported model by itself."""
    whole = cfg.to_dict()
    exported = _without_ours_and_pretrained({k: whole[k] for k in _KEPT_KEYS if k in whole})
    if loaded.plan or fused:
        exported['model'] = _pruned_model(exported, loaded, fused)
    imports = whole.get('custom_imports') or {}
    names = imports.get('imports', [])
    names = [name for name in ([names] if isinstance(names, str) else names) if name != 'mmpsbn']
    if any(type(module).__module__.startswith('mmpsbn.') for module in loaded.model.modules()) or (
        exported['model']['type'] == 'PrunedModel'
    ):
        names.append('mmpsbn')
    if names:
        exported['custom_imports'] = dict(imports, imports=names)
    return exported


def _pruned_model(
    exported: dict[str, Any], loaded: LoadedModel, fused: Mapping[str, str]
) -> dict[str, Any]:
    """The model's config with PrunedModel in place of its type and all other keys kept."""
    model = dict(exported['model'])
    dense_type = model.pop('type')
    shapes = {name: list(shape) for name, shape in loaded.plan.shapes_after().items()}
    if dense_type == 'PrunedModel':  # an exported model, pruned or fused further
        dense_type = model.pop('dense_type')
        shapes = {**model.pop('shapes'), **shapes}
        fused = {**(model.pop('fused', None) or {}), **fused}
    elif '.' not in dense_type and exported.get('default_scope'):
        dense_type = f'{exported["default_scope"]}.{dense_type}'
    model.update(type='PrunedModel', dense_type=dense_type, shapes=shapes)
    if fused:
        model['fused'] = dict(fused)
    return model


def _without_ours_and_pretrained(node: Any) -> Any:
    """psBN types as their plain forms, no scope of ours, and no weights to fetch: the
    checkpoint has all."""
    if isinstance(node, (list, tuple)):
        return type(node)(map(_without_ours_and_pretrained, node))
    if not isinstance(node, dict):
        return node
    kind = type_name(node.get('type'))
    if kind in ('Pretrained', 'PretrainedInit'):
        return None
    plain = _PLAIN_NORMS.get(kind)
    if plain is not None:
        node = {k: v for k, v in node.items() if k != 'alpha'} | dict(type=plain)
    return {
        key: _without_ours_and_pretrained(value)
        for key, value in node.items()
        if (key, value) != ('_scope_', 'mmpsbn')
    }
