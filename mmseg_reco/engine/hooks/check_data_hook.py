# Licensed under the Apache License, Version 2.0.
from mmengine.dataset import DefaultSampler, InfiniteSampler
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmseg.registry import HOOKS
from mmseg.utils import ConfigType
from torch.utils.data import DataLoader

from mmseg_reco.datasets import LoadCheckedImage
from mmseg_reco.datasets.checks import Problem, branches, leaf_datasets, quick_check
from mmseg_reco.datasets.samplers import MultiSourceSampler
from mmseg_reco.engine.config_check import check_training


@HOOKS.register_module()
class CheckDataHook(Hook):
    """Refuse bad data before the first iteration, naming the files.

    Checks what takes seconds: lists, missing files, images that are in training and validation,
    the number of classes, some images and masks of each dataset, the size of the batch, the
    burn-in. ``tools/check_data.py`` checks all of them. All ranks check, so that all of them stop.

    At the end it says how many damaged images were skipped, where they are
    (``LoadCheckedImage(damaged='skip')``).
    """

    def before_train(self, runner: Runner) -> None:
        """Check the data of training and validation.

        Raises:
            ValueError: If anything is wrong with them, or :func:`check_training` refuses.
        """
        check_training(runner)
        loader = runner.train_dataloader
        val_loop = runner.val_loop
        problems, remarks = quick_check(
            loader.dataset,
            None if val_loop is None else val_loop.dataloader.dataset,
            runner.cfg.get('model'))
        problems += _batch_problems(loader, runner.cfg.get('model') or {})
        for remark in remarks:
            runner.logger.warning(remark)
        if problems:
            raise ValueError(describe(problems))

    def after_train(self, runner: Runner) -> None:
        """Report the images that were skipped, of this rank's workers."""
        skipped = sum(
            int(step.skipped)
            for part in leaf_datasets(runner.train_dataloader.dataset, 'train').values()
            for step in part.pipeline.transforms if isinstance(step, LoadCheckedImage))
        if skipped:
            runner.logger.warning(f'{skipped} times a damaged image was skipped and another drawn.')


def _batch_problems(loader: DataLoader, model: ConfigType) -> list[Problem]:
    sampler = getattr(loader.batch_sampler, 'sampler', None)
    if 'segmentor' in model and isinstance(sampler, (DefaultSampler, InfiniteSampler)) and any(
            len(branches(part)) == 1 for part in leaf_datasets(loader.dataset, 'train').values()):
        return [Problem(
            'train_dataloader.sampler', f'is {type(sampler).__name__}, whose batches may lack '
            'labelled or unlabelled images: give train_dataloader a MultiSourceSampler over a '
            'LabeledUnlabeledDataset')]
    if not isinstance(sampler, MultiSourceSampler):
        return []
    problems = []
    batch_size = getattr(loader.batch_sampler, 'batch_size', None)
    if sampler.batch_size != batch_size:
        problems.append(Problem(
            'train_dataloader', f'batch_size is {batch_size}, but that of its MultiSourceSampler '
            f'{sampler.batch_size}: make them equal'))
    burn_in = (model.get('semi_train_cfg') or {}).get('burn_in', 0)
    if sampler.burn_in > burn_in:
        problems.append(Problem(
            'train_dataloader', f'burn_in of its MultiSourceSampler is {sampler.burn_in}, and '
            f'model.semi_train_cfg.burn_in {burn_in}: make them equal, for unlabelled images are '
            'missing in between'))
    return problems


def describe(problems: list[Problem], shown: int = 10) -> str:
    """The message for a list of problems, cut after the first few."""
    lines = [f'  {file}: {text}' for file, text in problems[:shown]]
    if len(problems) > shown:
        lines.append(f'  and {len(problems) - shown} more')
    return '\n'.join([
        f'The data have {len(problems)} problems:' if len(problems) > 1 else
        'The data have a problem:', *lines,
        'tools/check_data.py CONFIG checks every image and mask and lists all of them.'])
