"""What is dead in slim-320, what pruning takes, and what that changes.

    python docs/examples/published_detector.py version-slim-320.pth --photographs DIR --out out

Dead channels are found on the pictures that ship inside scikit-image and on five crowds of its
portraits; the photographs in DIR,
which had no say in it, are for the comparison alone. docs/published_detector.md has the results.
"""

import argparse
import time
from copy import deepcopy
from pathlib import Path
from statistics import median

import matplotlib
import torch
from slim320 import Slim320, faces, photographs, read_image

from mmpsbn.pruning import prune_dead_channels

ROUNDS = 200  # runs of each ONNX model, one after the other


def load(weights: Path) -> Slim320:
    model = Slim320()
    model.load_state_dict(torch.load(weights, map_location='cpu', weights_only=True))
    return model.double().eval()


def largest_change(before: Slim320, after: Slim320, images) -> tuple[float, bool, int]:
    """Of the raw outputs, over the largest of the tensor; whether decoding and NMS give the same
    faces; how many those are."""
    change, same, count = 0.0, True, 0
    for image in images:
        with torch.no_grad():
            pairs = list(zip(before(image), after(image)))
        change = max(change, *(float((a - b).abs().max() / a.abs().max()) for a, b in pairs))
        found, kept = (faces(*(out[0] for out in outs)) for outs in zip(*pairs))
        same &= all(a.shape == b.shape and torch.allclose(a, b) for a, b in zip(found, kept))
        count += len(found[0])
    return change, same, count


def compare_onnx(models: dict[str, Slim320], out: Path) -> None:
    """Size, outputs, and processor time of one thread, taken in turns; against the first."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    # the exporter that needs no onnxscript; torch 2.1 has no other
    how = dict(dynamo=False) if torch.__version__ >= '2.5' else {}
    image = photographs()[0][0]
    feed = dict(images=image.numpy())
    sessions, times = {}, {name: [] for name in models}
    for name, model in models.items():
        file = str(out / f'slim320_{name}.onnx')
        names = dict(input_names=['images'], output_names=['scores', 'offsets'])
        torch.onnx.export(deepcopy(model).float(), (image,), file, **names, **how)
        sessions[name] = onnxruntime.InferenceSession(file, options)
    for _ in range(ROUNDS):
        for name, session in sessions.items():
            start = time.process_time()
            session.run(None, feed)
            times[name].append(1000 * (time.process_time() - start))
    dense, *_ = models
    expected = sessions[dense].run(None, feed)
    for name, session in sessions.items():
        pairs = zip(expected, session.run(None, feed))
        change = max(float(abs(a - b).max() / abs(a).max()) for a, b in pairs)
        ratio = median(ours / first for ours, first in zip(times[name], times[dense]))
        size = (out / f'slim320_{name}.onnx').stat().st_size
        print(
            f'ONNX, {name}: {size:,} bytes, {median(times[name]):.2f} ms, {ratio:.3f} of the '
            f'time of {dense}; float32 outputs change by {change:.0e}'
        )


def draw(before: Slim320, after: Slim320, widths: dict[str, tuple[int, int]], path: Path) -> None:
    """The faces on a photograph, before and after, and what each layer lost."""
    matplotlib.use('agg')
    from matplotlib import pyplot as plt

    image = photographs()[0][0].double()
    figure = plt.figure(figsize=(11, 2.7), layout='constrained')
    axes = figure.subplots(1, 3, width_ratios=(4, 4, 5))
    for ax, model, when in ((axes[0], before, 'before'), (axes[1], after, 'after')):
        with torch.no_grad():
            boxes, probabilities = faces(*(out[0] for out in model(image)))
        ax.imshow((image[0].permute(1, 2, 0) * 128 + 127).byte().numpy())
        for (x1, y1, x2, y2), probability in zip(boxes.tolist(), probabilities):
            box = plt.Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color='#ffd23f', lw=2)
            ax.add_patch(box)
            ax.text(x2 + 4, y1 + 12, f'{probability:.6f}', color='#ffd23f', fontsize=9)
        parameters = sum(p.numel() for p in model.parameters())
        ax.set_title(f'{when}: {parameters:,} parameters', fontsize=10)
        ax.axis('off')
    names = list(widths)
    axes[2].barh(names, [dense for dense, _ in widths.values()], color='#c9ced6', label='kept')
    dead = [dense - left for dense, left in widths.values()]
    axes[2].barh(names, dead, color='#c0334b', label='dead on every picture')
    axes[2].set(xlabel='channels')
    axes[2].invert_yaxis()
    axes[2].tick_params('y', labelsize=7)
    axes[2].legend(frameon=False, fontsize=8)
    axes[2].spines[['top', 'right']].set_visible(False)
    figure.savefig(path, dpi=100)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('weights', type=Path)
    parser.add_argument('--photographs', type=Path, required=True, help='a folder of *.jpg')
    parser.add_argument('--out', type=Path, required=True, help='a folder for ONNX and picture')
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    before = load(args.weights)
    seen = [image.double() for image, _ in photographs()]
    unseen = [read_image(path).double() for path in sorted(args.photographs.glob('*.jpg'))]
    models = dict(dense=before)
    for round_to in (1, 8):
        after = models[f'multiples_of_{round_to}'] = deepcopy(before)
        result = prune_dead_channels(after, seen, round_to=round_to)
        removed = result.channels_removed
        print(f'widths in multiples of {round_to}: {sum(removed.values())} channels go, {removed}')
        for what, dense, left in (
            ('MACs', result.macs_before, result.macs_after),
            ('parameters', result.params_before, result.params_after),
        ):
            print(f'  {what}: {dense:,} -> {left:,}, {1 - left / dense:.2%} less')
        for what, images in (('seen', seen), ('unseen', unseen)):
            change, same, count = largest_change(before, after, images)
            print(
                f'  {len(images)} {what} images: outputs change by {change:.1e} of their maximum; '
                f'{count} faces, {"the same" if same else "NOT the same"}'
            )
    compare_onnx(models, args.out)
    after = models['multiples_of_1']
    convs = {n: m for n, m in before.named_modules() if isinstance(m, torch.nn.Conv2d)}
    widths = {
        name: (conv.out_channels, after.get_submodule(name).out_channels)
        for name, conv in convs.items()
        if conv.groups == 1 and 'headers' not in name
    }
    draw(before, after, widths, args.out / 'published_detector.jpg')


if __name__ == '__main__':
    main()
