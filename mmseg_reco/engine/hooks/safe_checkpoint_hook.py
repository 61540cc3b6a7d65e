# Licensed under the Apache License, Version 2.0.
from mmengine.hooks import CheckpointHook
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import BaseLoop, Runner
from mmseg.registry import HOOKS

from mmseg_reco.engine.checkpoint import (
    check_fits,
    drop_config,
    pack_history,
    to_plain,
    unpack_history,
)


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """mmengine's CheckpointHook, with checkpoints that any torch reads and resumes from.

    The message hub (log history, best score, names of kept files) and the meta data are stored as
    plain numbers, lists and tensors, so that ``torch.load(weights_only=True)``, the default since
    torch 2.6, accepts the file, and are rebuilt on load. Local checkpoints are written atomically.

    Args: as :class:`mmengine.hooks.CheckpointHook`.
    """

    def before_train(self, runner: Runner) -> None:
        """Choose the atomic file backend where checkpoints go to a local directory."""
        if self.backend_args is None and '://' not in str(self.out_dir or runner.work_dir):
            self.backend_args = dict(backend='atomic_local')
        super().before_train(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Replace everything but the weights by plain values, in place."""
        hub = checkpoint['message_hub']
        hub['log_scalars'] = {name: pack_history(b) for name, b in hub['log_scalars'].items()}
        for key, value in checkpoint.items():
            if key != 'state_dict':
                checkpoint[key] = to_plain(value, key)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Refuse what does not fit, and rebuild the log history.

        A stock checkpoint, or bare weights, passes unchanged but for the text of its config.

        Raises:
            ValueError: The checkpoint is of another method or number of classes.
        """
        model = runner.model
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        # weights that only start a training may fit in part
        partly = isinstance(runner._train_loop, BaseLoop) and not runner._resume
        check_fits(checkpoint, model, f'The checkpoint {runner._load_from or ""}'.rstrip(), partly)
        drop_config(checkpoint)
        scalars = checkpoint.get('message_hub', {}).get('log_scalars', {})
        for name, value in scalars.items():
            if not isinstance(value, HistoryBuffer):
                scalars[name] = unpack_history(value)
