# Licensed under the Apache License, Version 2.0.
"""Give a trained network the class frequencies of the images, by the biases of its classifier.

Labels of which each class has as many, as one pixel of each (p0), make a network that finds small
classes everywhere. How often it finds each class is measured here on training images, without their
labels; the logarithm of the wanted frequency over that is added to the bias (prior correction:
Saerens et al., Neural Computation 2002). In a checkpoint of student and teacher both are adjusted.
"""

import argparse
import io
import pickle
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

import torch
import torch.nn as nn
from mmengine.utils import track_iter_progress
from prettytable import PrettyTable
from torch import Tensor

from mmseg_reco.engine.checkpoint import AtomicLocalBackend, load_local, to_plain
from mmseg_reco.engine.launch import add_override_arguments
from mmseg_reco.engine.offline import load_model, read_config, training_batches, training_loader
from mmseg_reco.models.segmentors.distribution_alignment import DistributionAlignment


def classifiers(model: nn.Module) -> dict[str, tuple[nn.Module, str]]:
    """The networks of a model, each with the name of its classifier's bias in the checkpoint.

    Raises:
        ValueError: A head has no classifier of pixels with a logit for each class.
    """
    found = {}
    keys = {id(value): key for key, value in model.named_parameters()}
    for name in ('student', 'teacher') if hasattr(model, 'teacher') else ('network', ):
        network = getattr(model, name, model)
        head = (getattr(network, 'heads', None) or [network.decode_head])[-1]
        if getattr(head, 'out_channels', 0) != head.num_classes or not hasattr(head, 'conv_seg'):
            raise ValueError(f'{type(head).__name__} has no classifier of pixels (conv_seg) with a '
                             'logit for each class, whose biases could be adjusted')
        found[name] = network, keys[id(head.conv_seg.bias)]
    return found


@torch.no_grad()
def measure(model: nn.Module, batches: Iterable[dict],
            wanted: Sequence[float]) -> dict[str, DistributionAlignment]:
    """How often each network of a model finds the classes.

    Args:
        model: In evaluation mode.
        batches: Of training; where they have unlabelled images, those.
        wanted: Frequency of each class, > 0, up to a common factor.

    Returns:
        Of each network, its frequencies beside the wanted ones.
    """
    networks = {name: network for name, (network, _) in classifiers(model).items()}
    device = next(model.parameters()).device
    align = {name: DistributionAlignment(network.num_classes, wanted, momentum=0.).to(device)
             for name, network in networks.items()}
    for batch in batches:
        images = model.data_preprocessor(batch, True)['inputs']
        images = images['unsup'] if isinstance(images, dict) else images
        size = tuple(images.shape[-2:])
        metas = [dict(img_shape=size, pad_shape=size)] * len(images)
        for name, network in networks.items():
            align[name].observe(network.encode_decode(images, metas).float().softmax(1))
    return align


def adjustment(align: DistributionAlignment) -> Tensor:
    """What is added to the logits (C,), of mean 0."""
    shift = align.target.log() - align.found.clamp_min(1e-6).log()
    return shift - shift.mean()


def table_of(classes: Sequence[str], align: DistributionAlignment) -> PrettyTable:
    """Frequencies in percent, and the adjustment."""
    table = PrettyTable(['class', 'found, %', 'wanted, %', 'added to the logit'], align='r')
    table.align['class'] = 'l'
    for row in zip(classes, align.found.tolist(), align.target.tolist(),
                   adjustment(align).tolist(), strict=True):
        table.add_row([row[0], f'{100 * row[1]:.2f}', f'{100 * row[2]:.2f}', f'{row[3]:+.2f}'])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example:\n  python tools/model_converters/adjust_frequencies.py my_p0.py '
        'work_dirs/my_p0/iter_1500.pth adjusted.pth \\\n      --frequencies 0.30 0.25 0.01 0.44\n'
        '  python tools/test.py my_p0.py adjusted.pth\n'
        'Rough figures do: of a few whole masks, or of a similar data set.',
    )
    parser.add_argument('config', help='of the training')
    parser.add_argument('checkpoint')
    parser.add_argument('out', type=Path, help='checkpoint to write, without the state of training')
    parser.add_argument('--frequencies', type=float, nargs='+', metavar='F',
                        help='of each class in the images, up to a common factor (default: '
                        'model.semi_train_cfg.class_frequencies of the config)')
    parser.add_argument('--batches', type=int, default=40,
                        help='batches of training images to look at (default: 40)')
    add_override_arguments(parser)
    args = parser.parse_args()
    if args.batches < 1:
        parser.error('--batches must be at least 1')
    if args.out.exists():
        parser.error(f'{args.out} exists already: remove it, or choose another OUT')

    try:
        cfg = read_config(args.config, args.cfg_options)
        wanted = args.frequencies or (cfg.model.get('semi_train_cfg') or {}).get(
            'class_frequencies')
        if wanted is None or isinstance(wanted, str):
            raise ValueError('the config has no list of frequencies: give --frequencies')
        model = load_model(cfg, args.checkpoint, args.trust_checkpoint).eval()
        biases = {name: key for name, (_, key) in classifiers(model).items()}
        loader = training_loader(cfg)
        classes = loader.dataset.metainfo['classes']
        if len(wanted) != len(classes) or min(wanted) <= 0:
            raise ValueError(f'there are {len(classes)} classes, and each needs a frequency > 0: '
                             f'got {wanted}')
        batches = islice(training_batches(cfg, loader), args.batches)
        align = measure(model, track_iter_progress((batches, args.batches)), wanted)
        checkpoint = load_local(args.checkpoint, 'cpu', args.trust_checkpoint)
    except (AssertionError, OSError, ValueError, pickle.UnpicklingError) as error:
        parser.error(str(error))

    state = dict(checkpoint['state_dict'])
    for name, key in biases.items():
        print(f'\n{name}\n{table_of(classes, align[name])}')
        state[key] = state[key] + adjustment(align[name]).to(state[key])
    meta = checkpoint.get('meta') or {}
    meta = {key: to_plain(meta[key], key) for key in ('dataset_meta', 'iter') if key in meta}
    buffer = io.BytesIO()
    torch.save(dict(meta=meta, state_dict=state), buffer)
    try:
        AtomicLocalBackend().put(buffer.getbuffer(), args.out)
    except OSError as error:
        parser.error(f'{args.out} could not be written: {(error.__cause__ or error).strerror}')
    print(f'Adjusted: {args.out}')


if __name__ == '__main__':
    main()
