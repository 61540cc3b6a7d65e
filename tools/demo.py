# Licensed under the Apache License, Version 2.0.
"""ReCo against its baseline on a drawn little world, on any machine, in minutes.

Draws 300 scenes and trains two ordinary configs through ``tools/train.py`` with one labelled pixel
per class in 40 of them; scores both on the 60 that are kept for validation, and leaves pictures.

    python tools/demo.py --seed 1
"""

import argparse
import os
import re
import subprocess
import sys
import time
import warnings
from pathlib import Path

import mmengine
import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import init_default_scope
from mmengine.runner import Runner
from mmseg.evaluation import IoUMetric
from mmseg.registry import DATASETS

from mmseg_reco.datasets.demo_scenes import CLASSES, PALETTE, prepare
from mmseg_reco.engine.checkpoint import latest_checkpoint
from mmseg_reco.engine.command_line import positive_int
from mmseg_reco.engine.hooks import ClassHistory
from mmseg_reco.engine.offline import load_model, read_config
from mmseg_reco.visualization import (
    bgr_to_rgb,
    draw_class_relations,
    draw_panel,
    save_picture,
)

ROOT = Path(__file__).resolve().parent.parent
METHODS = {
    'supervised': 'deeplabv3plus_r18-d16_demo-p0_supervised.py',
    'ReCo + ClassMix': 'deeplabv3plus_r18-d16_demo-p0_reco-classmix.py',
}
PROGRESS = re.compile(r'Iter\(train\)\s*\[\s*(\d+)/(\d+)\].*?eta: (\S+).*?\bloss: (\S+)')
SECONDS_BETWEEN_LINES = 8


def train(method: str, work_dir: Path, seed: int, iters: int | None) -> None:
    """Train a config in a process of its own and show how it goes.

    Raises:
        SystemExit: If training fails; the end of its output is shown.
    """
    options = [f'randomness.seed={seed}']
    if iters is not None:
        options += [
            f'train_cfg.max_iters={iters}',
            f'train_cfg.val_interval={iters}',
            f'param_scheduler.1.end={iters}',
            f'default_hooks.checkpoint.interval={iters}',
        ]
    config = ROOT / 'configs' / 'demo' / METHODS[method]
    command = [sys.executable, ROOT / 'tools' / 'train.py', config, '--work-dir', work_dir]
    mmengine.mkdir_or_exist(work_dir)
    lines, shown = [], 0.0
    with subprocess.Popen(
        [str(word) for word in command] + ['--cfg-options', *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        for line in process.stdout:
            lines.append(line)
            found = PROGRESS.search(line)
            if found and (time.time() - shown > SECONDS_BETWEEN_LINES or found[1] == found[2]):
                shown = time.time()
                step, last, eta, loss = found.groups()
                print(f'  iteration {step:>4}/{last}   loss {loss}   {eta} left', flush=True)
    (work_dir / 'output.txt').write_text(''.join(lines))
    if process.returncode:
        sys.exit(''.join(lines[-25:]) + f'\nTraining failed; see {work_dir / "output.txt"}.')


def predict(work_dir: Path, dataset: dict, network: str) -> list[np.ndarray]:
    """Label the images of a dataset with the last checkpoint of a run.

    Args:
        work_dir: Of the run.
        dataset: Config of the dataset.
        network: 'teacher' or 'student', where the model has both.
    """
    cfg = read_config(str(next(work_dir.glob('*.py'))))
    if cfg.model.type == 'MeanTeacherReCo':
        cfg.model.semi_test_cfg = dict(predict_on=network)
    model = load_model(cfg, latest_checkpoint(work_dir)).eval()
    loader = Runner.build_dataloader({**cfg.test_dataloader, 'dataset': dataset})
    with torch.no_grad():
        samples = [sample for batch in loader for sample in model.test_step(batch)]
    return [sample.pred_sem_seg.data[0].cpu().numpy().astype(np.uint8) for sample in samples]


def class_iou(predictions: list[np.ndarray], truth: list[np.ndarray]) -> np.ndarray:
    """IoU of every class in percent, as mmseg's IoUMetric counts it."""
    areas = [
        IoUMetric.intersect_and_union(
            torch.from_numpy(prediction), torch.from_numpy(label), len(CLASSES), 255
        )
        for prediction, label in zip(predictions, truth, strict=True)
    ]
    totals = (sum(area) for area in zip(*areas, strict=True))
    return 100 * IoUMetric.total_area_to_metrics(*totals)['IoU']


def load(dataset: dict) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """RGB images and label maps of a dataset."""
    samples = list(DATASETS.build(dataset))
    images = [bgr_to_rgb(sample['inputs']) for sample in samples]
    return images, [
        sample['data_samples'].gt_sem_seg.data[0].numpy().astype(np.uint8) for sample in samples
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=Path('demo_output'), help='where results go')
    parser.add_argument('--seed', type=int, default=0, help='of the world and of training')
    parser.add_argument('--iters', type=positive_int, help='training iterations of both runs')
    args = parser.parse_args()
    start = time.time()

    data_root = args.out / 'data'
    os.environ['DEMO_DATA_ROOT'] = str(data_root)  # read by configs/_base_/datasets/demo.py
    print(f'Drawing scenes into {data_root}', flush=True)
    prepare(str(data_root), seed=args.seed)
    work_dirs = {method: args.out / Path(config).stem for method, config in METHODS.items()}
    for method, work_dir in work_dirs.items():
        print(f'Training: {method} (log and checkpoint in {work_dir})', flush=True)
        train(method, work_dir, args.seed, args.iters)

    init_default_scope('mmseg')
    MMLogger.get_instance('demo', log_level='WARNING')
    warnings.filterwarnings('ignore', module='mmseg')
    cfg = Config.fromfile(ROOT / 'configs' / 'demo' / METHODS['supervised'])
    validation = cfg.test_dataloader.dataset
    labeled = cfg.train_dataloader.dataset.dataset
    training = dict(validation, data_prefix=labeled.data_prefix, ann_file=labeled.ann_file)
    given = dict(cfg.train_dataloader.dataset, dataset=training)

    for name, dataset in dict(training=training, validation=validation).items():
        images, truth = load(dataset)
        predictions = {
            method: predict(path, dataset, 'teacher') for method, path in work_dirs.items()
        }
        columns = {'image': images, 'ground truth': truth}
        if name == 'training':
            columns['given labels'] = load(given)[1]
        rows = np.linspace(0, len(truth) - 1, 4).astype(int)  # evenly spaced: no picking
        columns = {
            title: [pictures[row] for row in rows]
            for title, pictures in {**columns, **predictions}.items()
        }
        panel = draw_panel(columns, CLASSES, PALETTE)
        save_picture(panel, args.out / f'{name}_scenes.png')

    history = ClassHistory.load(str(work_dirs['ReCo + ClassMix']))
    figure = draw_class_relations(history.mean(), history.classes)
    figure.savefig(args.out / 'class_relation.png')

    predictions['its student'] = predict(work_dirs['ReCo + ClassMix'], validation, 'student')
    scores = {method: class_iou(labels, truth) for method, labels in predictions.items()}
    print('\nIoU (%) on validation scenes, which training has not seen; of ReCo + ClassMix the')
    print('teacher, the moving average of the student that is trained')
    print(f'{"":10}' + ''.join(f'{method:>18}' for method in scores))
    for index, name in [(slice(None), 'mean'), *enumerate(CLASSES)]:
        values = (f'{score[index].mean():18.1f}' for score in scores.values())
        print(f'{name:10}' + ''.join(values))
    print(f'\nDone in {(time.time() - start) / 60:.1f} minutes. Pictures:')
    for picture in sorted(args.out.glob('*.png')):
        print(f'  {picture}')


if __name__ == '__main__':
    main()
