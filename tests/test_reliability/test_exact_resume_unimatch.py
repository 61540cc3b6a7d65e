# Licensed under the Apache License, Version 2.0.
"""UniMatch's views and dropped channels are the same ones after a kill and a resume."""
from test_exact_resume import check, method, semi_config  # noqa: F401  two are fixtures


def test_killed_between_checkpoints(method, tmp_path):  # noqa: F811
    check(method, tmp_path / 'runs', ['iteration:5'], {
        'model.semi_train_cfg.strong_views': 2, 'model.semi_train_cfg.feature_dropout': 0.5})
