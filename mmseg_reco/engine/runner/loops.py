# Licensed under the Apache License, Version 2.0.

from mmengine.model import is_model_wrapper
from mmengine.runner import ValLoop
from mmseg.registry import LOOPS


@LOOPS.register_module()
class TeacherStudentValLoop(ValLoop):
    """Validates the teacher, then the student: ``teacher/mIoU``, ``student/mIoU`` and so on."""

    def run(self) -> dict[str, float]:
        """Validate both networks of the model.

        Returns:
            dict[str, float]: Metrics, the network's name before each.
        """
        runner = self.runner
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if not hasattr(model, 'semi_test_cfg'):
            raise TypeError('TeacherStudentValLoop needs a model with a teacher and a student; '
                            f'got {type(model).__name__}. Use val_cfg=dict(type="ValLoop").')
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
