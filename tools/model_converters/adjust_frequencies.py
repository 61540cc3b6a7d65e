# Licensed under the Apache License, Version 2.0.
"""Give a trained network the class frequencies of the images, by the biases of its classifier.

Labels with equally many pixels of each class, such as one each (p0), make a network predict small
classes far too often. How often it finds each class is measured here on training images, without
their labels; the logarithm of the wanted frequency over that is added to the bias (prior
correction: Saerens et al., Neural Computation 2002). In a checkpoint of student and teacher both
are adjusted.
"""

import argparse
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from pathlib import Path

import torch
import torch.nn as nn
from mmengine.utils import track_iter_progress
from prettytable import PrettyTable
from torch import Tensor

from mmseg_reco.engine.checkpoint import save_atomically, to_plain
from mmseg_reco.engine.command_line import (
    add_cfg_options,
    add_trust_checkpoint,
    positive_int,
    usage_errors,
)
from mmseg_reco.engine.offline import load_model, read_config, training_batches, training_loader
from mmseg_reco.models.segmentors.distribution_alignment import DistributionAlignment

#: A network, and its classifier of pixels.
Network = tuple[nn.Module, nn.Module]


def networks_of(model: nn.Module) -> dict[str, Network]:
    """The networks of a model by name, each with its classifier of pixels.

    Raises:
        ValueError: A head has none.
    """
    found = {}
    for name in ('student', 'teacher') if hasattr(model, 'teacher') else ('network', ):
        network = getattr(model, name, model)
        heads = getattr(network, 'heads', network.decode_head)
        head = heads[-1] if isinstance(heads, (list, nn.ModuleList)) else heads
        classifier = getattr(head, 'conv_seg', None)
        bias = getattr(classifier, 'bias', None)
        if bias is None or len(bias) != head.num_classes:
            raise ValueError(f'{type(head).__name__} has no classifier of pixels (conv_seg) with a '
                             'bias for each class')
        found[name] = network, classifier
    return found


def images_of(model: nn.Module, batch: dict) -> Tensor:
    """Images (B, 3, H, W) of a training batch: where it has unlabelled ones, those."""
    images = model.data_preprocessor(batch, True)['inputs']
    return images['unsup'] if isinstance(images, dict) else images


def logits_of(network: nn.Module, images: Tensor) -> Tensor:
    """The stock prediction, (B, C, H, W), float32."""
    size = tuple(images.shape[-2:])
    metas = [dict(img_shape=size, pad_shape=size)] * len(images)
    return network.encode_decode(images, metas).float()


@torch.no_grad()
def measure(networks: dict[str, Network], batches: Iterable[Tensor],
            wanted: Sequence[float]) -> dict[str, DistributionAlignment]:
    """How often each network finds the classes.

    Args:
        networks: In evaluation mode, by name.
        batches: Images, as the model takes them. Shape (B, 3, H, W) each.
        wanted: Frequency of each class, > 0, up to a common factor.

    Returns:
        Of each network, its frequencies beside the wanted ones.
    """
    align = {name: DistributionAlignment(network.num_classes, wanted, momentum=0.).to(
        classifier.bias.device) for name, (network, classifier) in networks.items()}
    for images in batches:
        for name, (network, _) in networks.items():
            align[name].observe(logits_of(network, images).softmax(1))
    return align


def adjustment(align: DistributionAlignment) -> Tensor:
    """What is added to the logits (C,), of mean 0."""
    shift = align.target.log() - align.found.clamp_min(1e-6).log()
    return shift - shift.mean()


@torch.no_grad()
def adjust(networks: dict[str, Network], align: dict[str, DistributionAlignment],
           images: Tensor) -> None:
    """Add the adjustment to the biases of each network.

    Args:
        networks: In evaluation mode, by name.
        align: Of each network, from :func:`measure`.
        images: For a check that its predictions follow. Shape (B, 3, H, W).

    Raises:
        ValueError: They do not: the head predicts by something else.
    """
    for name, (network, classifier) in networks.items():
        shift = adjustment(align[name])
        expected = logits_of(network, images) + shift[:, None, None]
        classifier.bias += shift
        if not torch.allclose(logits_of(network, images), expected, rtol=1e-3, atol=1e-3):
            raise ValueError(f'{type(network.decode_head).__name__} predicts by more than its '
                             'classifier of pixels (conv_seg), whose biases cannot adjust it')


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
    parser.add_argument('--batches', type=positive_int, default=40,
                        help='batches of training images to look at (default: 40)')
    add_cfg_options(parser)
    add_trust_checkpoint(parser)
    args = parser.parse_args()
    if args.out.exists():
        parser.error(f'{args.out} exists already: remove it, or choose another OUT')

    with usage_errors(parser):
        cfg = read_config(args.config, args.cfg_options)
        wanted = args.frequencies or (cfg.model.get('semi_train_cfg') or {}).get(
            'class_frequencies')
        if wanted is None or isinstance(wanted, str):
            raise ValueError('the config has no list of frequencies: give --frequencies')
        model = load_model(cfg, args.checkpoint, args.trust_checkpoint).eval()
        networks = networks_of(model)
        loader = training_loader(cfg)
        classes = loader.dataset.metainfo['classes']
        if len(wanted) != len(classes) or min(wanted) <= 0:
            raise ValueError(f'there are {len(classes)} classes, and each needs a frequency > 0: '
                             f'got {wanted}')
        batches = (images_of(model, batch) for batch in training_batches(cfg, loader))
        first = next(batches)
        looked_at = chain([first], islice(batches, args.batches - 1))
        align = measure(networks, track_iter_progress((looked_at, args.batches)), wanted)
        adjust(networks, align, first)

    for name, found in align.items():
        print(f'\n{name}\n{table_of(classes, found)}')
    checkpoint = dict(meta=dict(dataset_meta=to_plain(loader.dataset.metainfo, 'dataset_meta')),
                      state_dict=model.state_dict())
    with usage_errors(parser):
        save_atomically(checkpoint, args.out)
    print(f'Adjusted: {args.out}')


if __name__ == '__main__':
    main()
