# Licensed under the Apache License, Version 2.0.
import torch.nn as nn
from mmengine.dist import get_rank
from mmengine.runner import IterBasedTrainLoop, Runner, ValLoop
from mmseg.registry import LOOPS
from torch.utils.data import DataLoader

from mmseg_reco.datasets.samplers import seed_generators
from mmseg_reco.utils import unwrap


@LOOPS.register_module()
class ResumableTrainLoop(IterBasedTrainLoop):
    """mmengine's loop over iterations, in which a resumed run does what one without a stop does.

    Nothing random is carried from one iteration to the next, so nothing has to be saved: what an
    iteration loads and draws follows from the seed, the rank and the number of the iteration, see
    :class:`~mmseg_reco.datasets.samplers.SeededBatchSampler`. Resuming loads no image twice. A
    validation that the checkpoint does not know is made up for. Ranks draw different numbers.

    Args:
        runner (Runner): The runner.
        dataloader (dict): Config of the dataloader.
        max_iters (int): Iterations.
        **kwargs: Of :class:`mmengine.runner.IterBasedTrainLoop`.

    Raises:
        TypeError: If the dataloader is built already.
    """

    def __init__(self, runner: Runner, dataloader: dict, max_iters: int, **kwargs) -> None:
        if not isinstance(dataloader, dict):
            raise TypeError('ResumableTrainLoop builds the dataloader itself: give it as a config, '
                            'or take IterBasedTrainLoop.')
        config = dataloader.copy()
        config['batch_sampler'] = dict(
            type='SeededBatchSampler', batch_sampler=dataloader.get('batch_sampler'),
            drop_last=config.pop('drop_last', False))
        loader = runner.build_dataloader(
            config, seed=runner.seed,
            diff_rank_seed=runner._randomness_cfg.get('diff_rank_seed', False))
        # mmengine's loop starts an iterator now, before it is known from where: not on this loader
        super().__init__(runner, DataLoader(loader.dataset), max_iters, **kwargs)
        self.dataloader = loader

    def run(self) -> nn.Module:
        """Train up to ``max_iters``, or until a hook sets ``stop_training``.

        Returns:
            nn.Module: The model.
        """
        runner = self.runner
        runner.call_hook('before_train')
        runner.call_hook('before_train_epoch')
        self._start_data()
        self._decide_current_val_interval()
        # a checkpoint is written before the validation that is due with it
        if self._iter > 0 and runner.message_hub.get_info('last_validation') != self._iter:
            self._validate_if_due()
        runner.model.train()
        while self._iter < self._max_iters and not self.stop_training:
            if not runner.model.training:  # after a validation; it is a walk over all modules
                runner.model.train()
            data_batch = next(self.dataloader_iterator)
            seed_generators(runner.seed, get_rank(), self._iter, 1)  # the data's has no 1
            self.run_iter(data_batch)
            self._decide_current_val_interval()
            self._validate_if_due()
        runner.call_hook('after_train_epoch')
        runner.call_hook('after_train')
        return runner.model

    def _start_data(self) -> None:
        """Start loading at the current iteration, in the order of the resumed run."""
        hub, batches = self.runner.message_hub, self.dataloader.batch_sampler
        if hasattr(batches.sampler, 'seed'):
            if self._iter > 0:
                batches.sampler.seed = hub.get_info('sampler_seed', batches.sampler.seed)
            hub.update_info('sampler_seed', batches.sampler.seed)
        batches.start(self._iter, self.runner.seed)
        self.dataloader_iterator = iter(self.dataloader)

    def _validate_if_due(self) -> None:
        if (self.runner.val_loop is not None and self._iter >= self.val_begin
                and (self._iter % self.val_interval == 0 or self._iter == self._max_iters)):
            self.runner.val_loop.run()


@LOOPS.register_module()
class TeacherStudentValLoop(ValLoop):
    """Validates the teacher, then the student: ``teacher/mIoU``, ``student/mIoU`` and so on.

    Args:
        runner (Runner): The runner.
        *args: Of :class:`mmengine.runner.ValLoop`.
        **kwargs: The same.

    Raises:
        TypeError: If the model is not of a teacher and a student.
        ValueError: If the best checkpoint goes by a score that is not reported.
    """

    def __init__(self, runner: Runner, *args, **kwargs) -> None:
        super().__init__(runner, *args, **kwargs)
        model = self._model()
        if not hasattr(model, 'semi_test_cfg'):
            raise TypeError('TeacherStudentValLoop needs a model with a teacher and a student; '
                            f'got {type(model).__name__}. Use val_cfg=dict(type="ValLoop").')
        for hook in runner.hooks:
            best = getattr(hook, 'save_best', None) or []
            for score in [best] if isinstance(best, str) else best:
                if score != 'auto' and not score.startswith(('teacher/', 'student/')):
                    raise ValueError(
                        f"default_hooks.checkpoint.save_best is '{score}', but "
                        f"TeacherStudentValLoop reports 'teacher/{score}' and 'student/{score}': "
                        'choose one of them.')

    def _model(self) -> nn.Module:
        return unwrap(self.runner.model)

    def run(self) -> dict[str, float]:
        """Validate both networks of the model.

        Returns:
            dict[str, float]: Metrics, the network's name before each.
        """
        runner, model = self.runner, self._model()
        runner.call_hook('before_val')
        runner.call_hook('before_val_epoch')
        runner.model.eval()
        predict_on = model.semi_test_cfg['predict_on']
        metrics = dict()
        for name in ('teacher', 'student'):
            model.semi_test_cfg['predict_on'] = name
            for idx, data_batch in enumerate(self.dataloader):
                self.run_iter(idx, data_batch)
            for key, value in self.evaluator.evaluate(len(self.dataloader.dataset)).items():
                metrics[f'{name}/{key}'] = value
        model.semi_test_cfg['predict_on'] = predict_on
        runner.call_hook('after_val_epoch', metrics=metrics)
        runner.call_hook('after_val')
        return metrics
