# Licensed under the Apache License, Version 2.0.
import pytest
from mmengine.config import Config


@pytest.fixture
def cost(load_benchmark):
    return load_benchmark('step_cost')


def small(name):
    cfg = Config.fromfile(f'configs/reco/deeplabv3plus_m-v2_camvid_{name}.py')
    (cfg.model.get('segmentor') or cfg.model).data_preprocessor.size = (33, 49)
    return cfg


def test_batches_are_the_configs(cost):
    batch = cost.make_batch(small('supervised-20'))
    assert len(batch['inputs']) == 8 and batch['inputs'][0].shape == (3, 33, 49)
    labels = batch['data_samples'][0].gt_sem_seg.data
    assert labels.shape == (1, 33, 49) and labels.unique().tolist() == list(range(11))
    batch = cost.make_batch(small('semi-20'))
    assert {name: len(images) for name, images in batch['inputs'].items()} == dict(sup=4, unsup=4)


def test_the_table_has_a_row_for_each_step(cost, run_benchmark, tmp_path):
    paths = []
    for name in ('supervised-20', 'semi-20'):
        paths.append(str(tmp_path / f'{name}.py'))
        small(name).dump(paths[-1])
    steps = []
    printed = run_benchmark(
        'step_cost', *paths, '--rounds', 2, '--amp', 'bfloat16',
        make_step=lambda *args: steps.append(cost.make_step(*args)) or steps[-1])
    rows = [line.split('|')[1:-1] for line in printed.splitlines()[3:]]
    assert [row[0].strip() for row in rows] == ['supervised-20', 'semi-20']
    assert float(rows[0][2]) == 1 and float(rows[1][2]) > 0
    logs = steps[1]()
    assert logs['loss_reco'] > 0 and logs['loss_unsup'] > 0
