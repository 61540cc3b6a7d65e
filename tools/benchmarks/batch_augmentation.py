# Licensed under the Apache License, Version 2.0.
"""Time the augmentation of a pseudo-labelled batch: on tensors, and image by image with PIL.

Both ways do rescale-crop, ClassMix, colour jitter, blur and flip, from and to normalised tensors,
in turns in one process. The PIL way makes two trips (before and after mixing), as the published
code does: the tensors become 8-bit images, are transformed one by one, and become tensors again.
With more than one thread, PIL works on as many images at once, and PyTorch on parts of a tensor.

    python tools/benchmarks/batch_augmentation.py --threads 1
"""

import argparse
from collections.abc import Callable
from multiprocessing.pool import ThreadPool

import numpy as np
import torch
import torch.nn.functional as F
from measure import Seconds, bar, machine, spread, timed
from PIL import Image, ImageEnhance, ImageFilter, ImageOps
from torch import Tensor

from mmseg_reco.engine.command_line import positive_int
from mmseg_reco.models.preprocess import (
    BatchColorJitter,
    BatchFlip,
    BatchGaussianBlur,
    BatchRescaleCrop,
    ClassMix,
    PseudoBatch,
)

MEAN = torch.tensor([0.485, 0.456, 0.406])[:, None, None]
STD = torch.tensor([0.229, 0.224, 0.225])[:, None, None]

Sample = tuple[Image.Image, Image.Image, Image.Image]


def to_pil(image: Tensor, label: Tensor, confidence: Tensor) -> Sample:
    """Normalised image (3, H, W), label (H, W), confidence (H, W) to 8-bit images."""
    image = ((image.cpu() * STD + MEAN) * 255).round().clamp(0, 255).byte()
    return (
        Image.fromarray(image.permute(1, 2, 0).numpy()),
        Image.fromarray(label.cpu().byte().numpy()),
        Image.fromarray((confidence.cpu() * 255).byte().numpy()),
    )


def from_pil(samples: list[Sample], device: torch.device) -> PseudoBatch:
    """The inverse of :func:`to_pil`, for a whole batch."""
    images, labels, confidence = (
        torch.stack([torch.from_numpy(np.array(x)) for x in part])
        for part in zip(*samples, strict=True)
    )
    images = (images.permute(0, 3, 1, 2).float() / 255 - MEAN) / STD
    return PseudoBatch(
        images.contiguous().to(device), labels.long().to(device), (confidence / 255).to(device)
    )


def pil_rescale_crop(sample: Sample, crop: int, rng: np.random.Generator) -> Sample:
    ratio = rng.uniform(0.5, 1.5)
    size = tuple(int(side * ratio) for side in sample[0].size)
    modes = (Image.BILINEAR, Image.NEAREST, Image.NEAREST)
    image, label, confidence = (x.resize(size, m) for x, m in zip(sample, modes, strict=True))
    right, bottom = max(crop - size[0], 0), max(crop - size[1], 0)
    if right or bottom:
        padding = ((0, bottom), (0, right), (0, 0))
        image = Image.fromarray(np.pad(np.asarray(image), padding, mode='reflect'))
        label = ImageOps.expand(label, (0, 0, right, bottom), fill=255)
        confidence = ImageOps.expand(confidence, (0, 0, right, bottom), fill=0)
    left = int(rng.integers(label.width - crop + 1))
    top = int(rng.integers(label.height - crop + 1))
    box = (left, top, left + crop, top + crop)
    return image.crop(box), label.crop(box), confidence.crop(box)


def pil_hue(image: Image.Image, shift: float) -> Image.Image:
    hue, saturation, value = image.convert('HSV').split()
    hue = Image.fromarray(np.asarray(hue) + np.uint8(int(shift * 255) % 256))
    return Image.merge('HSV', (hue, saturation, value)).convert('RGB')


def pil_color(sample: Sample, rng: np.random.Generator) -> Sample:
    image, label, confidence = sample
    if rng.random() < 0.8:
        for k in rng.permutation(4):
            if k == 3:
                image = pil_hue(image, rng.uniform(-0.25, 0.25))
            else:
                enhance = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[k]
                image = enhance(image).enhance(rng.uniform(0.75, 1.25))
    if rng.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0.15, 1.15)))
    if rng.random() < 0.5:
        image, label, confidence = (
            x.transpose(Image.FLIP_LEFT_RIGHT) for x in (image, label, confidence)
        )
    return image, label, confidence


def loop_class_mix(batch: PseudoBatch) -> PseudoBatch:
    mixed = []
    for i, labels in enumerate(batch.labels):
        classes = labels.unique()
        classes = classes[classes != 255]
        kept = classes[torch.randperm(len(classes))[: len(classes) // 2]]
        mask = (labels[:, :, None] == kept).any(dim=2)
        mixed.append([torch.where(mask, x[i], x[(i + 1) % len(x)]) for x in batch[:3]])
    return PseudoBatch(*(torch.stack(part) for part in zip(*mixed, strict=True)))


def pil_way(batch: PseudoBatch, rngs: list[np.random.Generator], pool: ThreadPool) -> PseudoBatch:
    device, crop = batch.labels.device, batch.labels.shape[-1]

    def before(sample: tuple[Tensor, Tensor, Tensor], rng: np.random.Generator) -> Sample:
        return pil_rescale_crop(to_pil(*sample), crop, rng)

    def after(sample: tuple[Tensor, Tensor, Tensor], rng: np.random.Generator) -> Sample:
        return pil_color(to_pil(*sample), rng)

    for step in (before, after):
        samples = zip(zip(*batch[:3], strict=True), rngs, strict=True)
        batch = from_pil(pool.starmap(step, samples), device)
        if step is before:
            batch = loop_class_mix(batch)
    return batch


def tensor_way(device: torch.device) -> Callable[[PseudoBatch], PseudoBatch]:
    rescale, mix, flip = BatchRescaleCrop(), ClassMix(), BatchFlip()
    color, blur = BatchColorJitter(), BatchGaussianBlur()
    mean, std = MEAN.to(device), STD.to(device)

    def augment(batch: PseudoBatch) -> PseudoBatch:
        batch = mix(rescale(batch._replace(labels=batch.labels.byte())))
        batch = batch._replace(images=torch.addcmul(mean, batch.images, std).clamp_(0, 1))
        batch = flip(blur(color(batch)))
        images = torch.addcmul(-mean / std, batch.images, 1 / std)
        return batch._replace(images=images, labels=batch.labels.long())

    return augment


def make_batch(num: int, side: int, device: torch.device) -> PseudoBatch:
    """Smooth random images with blocks of 21 classes."""
    images = F.interpolate(torch.randn(num, 3, side // 8, side // 8), (side, side), mode='bicubic')
    labels = torch.randint(21, (num, 1, 6, 6)).float()
    labels = F.interpolate(labels, (side, side), mode='nearest')[:, 0].long()
    batch = PseudoBatch(images.clamp(-2, 2), labels, torch.rand(num, side, side))
    return batch.map(lambda x: x.to(device))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--batch-size', type=positive_int, default=10)
    parser.add_argument('--crop', type=positive_int, default=321)
    parser.add_argument('--threads', type=positive_int, default=2)
    parser.add_argument('--rounds', type=positive_int, default=20)
    parser.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    device = torch.device(args.device)
    # Large tensors that come and go, as in training, after which the allocator keeps its memory.
    ballast = [torch.ones(2**23) for _ in range(8)]
    del ballast
    batch = make_batch(args.batch_size, args.crop, device)
    rngs = [np.random.default_rng(i) for i in range(args.batch_size)]
    pool = ThreadPool(args.threads)
    augment = tensor_way(device)
    ways = {'per image, PIL': lambda: pil_way(batch, rngs, pool), 'tensors': lambda: augment(batch)}
    seconds: dict[str, list[Seconds]] = {name: [] for name in ways}
    for _ in bar(range(args.rounds + 2)):
        for name, way in ways.items():
            seconds[name].append(timed(way, device))

    shape = f'{args.batch_size} x 3 x {args.crop} x {args.crop}'
    print(f'batch {shape}, {machine(device)}; median [quartiles]')
    # the first two rounds warm up
    times = {name: 1e3 * np.array(rows[2:]).T for name, rows in seconds.items()}
    for column, measure in enumerate(('wall ms', 'CPU ms')):
        slow, fast = (times[name][column] for name in ways)
        for name in ways:
            print(f'{measure:10}{name:16}{spread(times[name][column]):>26}')
        print(f'{measure:10}{"ratio":16}{spread(slow / fast):>26}')


if __name__ == '__main__':
    main()
