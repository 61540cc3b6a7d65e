# Licensed under the Apache License, Version 2.0.
"""The experiment runner on a little protocol: with real trainings once, else with a stand-in."""

import fcntl
import hashlib
import json
import math
import os
import re
import shlex
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from mmseg.registry import MODELS
from scripts import load_script

ROOT = Path(__file__).parents[2]
TEACHER = """
_base_ = './tiny.py'
custom_imports = dict(imports=['mmseg_reco'])
model = dict(_delete_=True, type='MeanTeacherReCo', segmentor=_base_.model, losses=[])
train_dataloader = dict(
    batch_size=4,
    sampler=dict(_delete_=True, type='MultiSourceSampler', batch_size=4, source_ratio=[1, 1]),
    dataset=dict(_delete_=True, type='LabeledUnlabeledDataset', dataset=_base_.dataset,
                 labeled='none.txt', unlabeled='none.txt'))
custom_hooks = [dict(type='MeanTeacherHook'), dict(type='SamplingHook')]
val_cfg = dict(type='TeacherStudentValLoop')
default_hooks = dict(checkpoint=dict(save_best='teacher/mIoU', rule='greater'))
"""
PARTIAL = """
_base_ = './tiny.py'
train_dataloader = dict(dataset=dict(
    _delete_=True, type='PartialLabelDataset', level='p25', seed=0, dataset=_base_.dataset))
"""
PROTOCOL = """
from protocol import Protocol, Row, Setting

PROTOCOL = Protocol(
    name='little', title='Little', iterations=2, val_interval=1,
    settings={{'semi-2': Setting('2 images', labels=2), 'p0': Setting('p0', level='p0')}},
    rows={{'supervised': Row('Supervised', '{here}/tiny.py', '{here}/partial.py'),
           'teacher': Row('Teacher', '{here}/teacher.py',
                          changes=lambda cfg: {{'custom_hooks.0.momentum': 0.5}})}},
    mask_dir='masks', train_list='train.txt', baselines=('supervised', ))
"""
# Does what tools/train.py does, as far as the runner sees it.
STAND_IN = """
import json, os, pathlib, signal, sys, time
config, work_dir = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[3])
cfg = dict()
exec(config.read_text(), cfg)
orders = pathlib.Path(__file__).parent
name = work_dir.parent.name
state = work_dir / 'state'
step, last = int(state.read_text()) if state.exists() else 0, cfg['train_cfg']['max_iters']
(orders / 'started').open('a').write(f'{name} {step}\\n')
if (orders / f'fail-{name}').exists():
    sys.exit('Something is wrong.')
def leave(*_):
    if not (orders / 'deaf').exists():
        state.write_text(str(step))
        os._exit(75)
signal.signal(signal.SIGTERM, leave)
folder = work_dir / str(time.time_ns()) / 'vis_data'
folder.mkdir(parents=True)
networks = ['teacher/', 'student/'] if 'segmentor' in cfg['model'] else ['']
while step < last:
    step += 1
    print(f'Iter(train) [ {step}/{last}]  lr: 1.0e-02  eta: 0:00:01  time: 1', flush=True)
    if step == 1 and (orders / f'wait-{name}').exists():
        (orders / 'waiting').touch()
        while True:
            time.sleep(0.05)
    entry = dict(step=step)
    for index, network in enumerate(networks):
        a, b = 10 * step + index, 30 * step + cfg['randomness']['seed']
        entry.update({network + 'mIoU': (a + b) / 2, network + 'aAcc': 1., network + 'mAcc': 2.})
        print('x - INFO - per class results:\\nx - INFO - ')
        print('| Class | IoU | Acc |\\n+---+---+---+')
        print(f'|  a  | {a} | 1.0 |\\n|  b c  | {b} | 1.0 |\\n+---+---+---+')
    with (folder / 'scalars.json').open('a') as file:
        file.write(json.dumps(entry) + '\\n')
"""


@pytest.fixture
def experiments(tiny_config, monkeypatch):
    """Calls ``run.py``, on a protocol in whose folder the data are."""
    monkeypatch.syspath_prepend(ROOT / 'tools/experiments')
    import run
    here = tiny_config.parent
    (here / 'train.txt').write_text('0\n1\n2\n3\n4\n')
    (here / 'val.txt').write_text('5\n')
    tiny_config.write_text(tiny_config.read_text().replace(
        'shuffle=False),\n    dataset=dataset)',
        "shuffle=False),\n    dataset=dict(dataset, ann_file='val.txt'))"))
    (here / 'teacher.py').write_text(TEACHER)
    (here / 'partial.py').write_text(PARTIAL)
    (here / 'little.py').write_text(PROTOCOL.format(here=here))

    def call(*arguments):
        return run.main([str(here / 'little.py'), '--out', str(here / 'out'),
                         *map(str, arguments)])

    call.here, call.out = here, here / 'out'
    call.lines = lambda: [json.loads(line) for line in
                          (call.out / 'results.jsonl').read_text().splitlines()]
    return call


@pytest.fixture
def stand_in(experiments, monkeypatch):
    """The same with the stand-in for ``tools/train.py``; returns a call and its orders' folder."""
    import trainings
    script = experiments.here / 'train.py'
    script.write_text(STAND_IN)
    monkeypatch.setattr(trainings, 'TRAIN', script)
    monkeypatch.setattr(trainings, 'SECONDS_BETWEEN_LOOKS', 0.02)
    for seed in range(3):  # there are some, so none are chosen
        folder = experiments.out / f'splits/any/2/{seed}'
        folder.mkdir(parents=True)
        (folder / 'unlabeled.txt').touch()
    return experiments


def started(stand_in):
    return [line.split() for line in (stand_in.here / 'started').read_text().splitlines()]


def test_real_runs_of_each_kind(experiments, capsys):
    semi = '--only', 'semi-2', '--seeds', 1
    assert experiments(*semi, '--jobs', 2) == 0, capsys.readouterr().err
    lines = {line['row']: line for line in experiments.lines()}
    assert set(lines) == {'supervised', 'teacher'}
    teacher = lines['teacher']
    assert teacher['network'] == 'teacher' and teacher['iteration'] == 2
    assert lines['supervised']['network'] == 'model'
    for line in lines.values():
        assert line['seed'] == 1 and line['starts'] == 1 and line['threads'] == 1
        assert set(line['IoU']) == {'a', 'b', 'c'}
        assert [point[0] for point in line['curve']] == [1, 2]
        assert line['curve'][-1][1] == line['mIoU']
        assert abs(np.nanmean([x for x in line['IoU'].values()]) - line['mIoU']) < 0.02
        assert line['seconds'] > line['cpu_seconds'] / 4 > 0
    assert teacher['curve'][-1][2] == teacher['student']['mIoU']

    work_dir = next(experiments.out.glob('runs/semi-2/teacher/1-*'))
    assert [file.name for file in work_dir.glob('*.pth')] == ['iter_2.pth']
    written = dict()
    exec((work_dir / 'config.py').read_text(), written)  # plain values
    assert written['custom_hooks'][0]['momentum'] == 0.5 and written['randomness']['seed'] == 1
    labeled = Path(written['train_dataloader']['dataset']['labeled'])
    unlabeled = Path(written['train_dataloader']['dataset']['unlabeled'])
    names = [set(file.read_text().split()) for file in (labeled, unlabeled)]
    assert list(map(len, names)) == [2, 3] and names[0] | names[1] == set('01234')

    before = (experiments.out / 'results.jsonl').read_bytes()
    assert experiments(*semi) == 0
    assert (experiments.out / 'results.jsonl').read_bytes() == before


def test_finished_runs_are_not_repeated_and_changed_ones_are(stand_in, capsys):
    assert stand_in('--only', 'semi-2') == 0
    assert len(started(stand_in)) == 6 and len(stand_in.lines()) == 6
    assert '| Supervised | 40.5 ± 0.5 (3) |' in (stand_in.out / 'table.md').read_text()
    assert stand_in('--only', 'semi-2') == 0
    assert len(started(stand_in)) == 6

    protocol = stand_in.here / 'little.py'
    protocol.write_text(protocol.read_text().replace("momentum': 0.5", "momentum': 0.4"))
    assert stand_in('--dry-run') == 0
    printed = capsys.readouterr().out
    assert 'done         semi-2/supervised/2' in printed
    assert 'to do        semi-2/teacher/2' in printed and 'momentum=0.4' in printed
    assert '9 runs: 3 done, 6 to do; 3 results are of other configs' in printed
    assert '| Teacher |' not in table(stand_in)
    assert stand_in('--only', 'semi-2') == 0
    assert [name for name, _ in started(stand_in)][6:] == ['teacher'] * 3
    assert len(stand_in.lines()) == 9  # the old ones are kept
    protocol.write_text(protocol.read_text().replace("momentum': 0.4", "momentum': 0.5"))
    assert stand_in('--only', 'semi-2') == 0  # and count again with their config
    assert len(stand_in.lines()) == 9


def table(stand_in):
    assert stand_in('--table') == 0
    return (stand_in.out / 'table.md').read_text()


def test_digest_counts_what_matters_only(experiments, monkeypatch):
    import protocol
    little = protocol.load_protocol(str(experiments.here / 'little.py'))
    run = protocol.Run('semi-2', 'teacher', 0)

    def digest(changes=(), seed=0, **places):
        cfg, _ = protocol.resolve(little, protocol.Run('semi-2', 'teacher', seed),
                                  protocol.Places('splits', **places))
        cfg.merge_from_dict(dict(changes))
        return protocol.digest(cfg)

    assert run.name == 'semi-2/teacher/0'
    expected = digest()
    assert digest() == digest({'train_dataloader.num_workers': 3, 'work_dir': 'x',
                               'custom_hooks.1.type': 'ClassRelationHook',
                               'default_hooks.logger.interval': 7})
    others = [digest(seed=1), digest(weights='x'), digest({'optim_wrapper.optimizer.lr': 0.02}),
              digest({'train_dataloader.batch_size': 2}), digest({'custom_hooks.0.interval': 2}),
              digest({'custom_hooks': [dict(type='SamplingHook', schedules=dict(
                  num_queries=[(0, 8)]))]})]
    assert len({digest(), *others}) == 7
    # a default of the model counts as if it were written; one that is off may be new
    assert digest() == digest({'model.semi_train_cfg': dict(joint_forward=True, burn_in=0)})
    # 0 is a threshold, and no threshold is none
    assert digest({'model.semi_train_cfg': dict(self_label_threshold=0)}) != expected
    defaults = MODELS.get('MeanTeacherReCo').train_defaults
    with monkeypatch.context() as patch:
        patch.setitem(defaults, 'new', False)
        assert digest() == expected
        patch.setitem(defaults, 'joint_forward', False)
        assert digest() != expected
    hooks = [dict(type=name) for name in (
        'SamplingHook', 'ChannelsLastHook', 'PseudoLabelQualityHook', 'PredictionPanelHook')]
    assert digest({'custom_hooks': hooks}) == digest({'custom_hooks': []})


def interrupt(ready, times=1, number=signal.SIGINT):
    """Send the signal to this process once it is time."""

    def send():
        deadline = time.monotonic() + 300
        while not ready() and time.monotonic() < deadline:
            time.sleep(0.02)
        for _ in range(times):
            os.kill(os.getpid(), number)
            time.sleep(0.3)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_goes_on_where_it_was(stand_in, capsys, number):
    (stand_in.here / 'wait-supervised').touch()
    handler = signal.getsignal(signal.SIGINT)
    thread = interrupt((stand_in.here / 'waiting').exists, number=number)
    assert stand_in('--only', 'semi-2/.*/0') == 75
    thread.join()
    assert signal.getsignal(signal.SIGINT) is handler
    assert started(stand_in) == [['supervised', '0']]  # nothing was started after the signal
    assert not (stand_in.out / 'results.jsonl').exists()
    assert 'the same command goes on' in capsys.readouterr().out

    (stand_in.here / 'wait-supervised').unlink()
    assert stand_in('--only', 'semi-2/.*/0') == 0
    assert started(stand_in)[1:] == [['supervised', '1'], ['teacher', '0']]
    first, second = stand_in.lines()
    assert (first['starts'], second['starts']) == (2, 1)
    assert first['seconds'] is not None and first['mIoU'] == 40


def test_second_signal_kills(stand_in):
    for order in ('wait-supervised', 'deaf'):
        (stand_in.here / order).touch()
    thread = interrupt((stand_in.here / 'waiting').exists, times=2)
    assert stand_in('--only', 'semi-2/.*/0') == 75
    thread.join()
    assert not list(stand_in.out.glob('runs/*/*/*/state'))


@pytest.mark.slow
def test_a_real_interrupted_run_ends_like_an_uninterrupted_one(experiments):
    protocol = experiments.here / 'little.py'
    protocol.write_text(protocol.read_text().replace(
        'iterations=2, val_interval=1', 'iterations=300, val_interval=300'))
    only = '--only', 'semi-2/teacher/0'
    assert experiments(*only) == 0

    def ready():
        log = ''.join(file.read_text() for file in second.glob('runs/*/*/*/output.log'))
        return re.search(r'Iter\(train\) \[ *20/300\]', log)

    second = experiments.here / 'second'
    thread = interrupt(ready)
    assert experiments(*only, '--out', second) == 75
    thread.join()
    work_dir = next(second.glob('runs/semi-2/teacher/0-*'))
    stopped, = work_dir.glob('*.pth')
    step = int(stopped.stem.split('_')[1])
    assert 20 <= step < 300
    assert experiments(*only, '--out', second) == 0
    assert re.search(rf'Iter\(train\) \[ *{step + 1}/300\]', (work_dir / 'output.log').read_text())
    whole, = experiments.lines()
    resumed, = [json.loads(line) for line in (second / 'results.jsonl').read_text().splitlines()]
    assert resumed['starts'] == 2
    for key in ('mIoU', 'IoU', 'aAcc', 'student', 'curve', 'digest', 'overrides'):
        assert resumed[key] == whole[key]


def test_failed_run_is_named_and_the_others_go_on(stand_in, capsys):
    (stand_in.here / 'fail-supervised').touch()
    assert stand_in('--only', 'semi-2/.*/[01]', '--jobs', 2) == 1
    error = capsys.readouterr().err
    for seed in (0, 1):
        found = re.search(rf'FAILED semi-2/supervised/{seed}: Something is wrong.; see (.+)', error)
        assert 'Something is wrong.' in Path(found[1]).read_text()
    assert [line['row'] for line in stand_in.lines()] == ['teacher', 'teacher']
    (stand_in.here / 'fail-supervised').unlink()
    assert stand_in('--only', 'semi-2/.*/[01]') == 0
    assert len(stand_in.lines()) == 4


def test_run_of_another_process_is_left_alone_and_its_result_kept(stand_in, capsys):
    assert stand_in('--only', 'semi-2/supervised/0') == 0
    work_dir = next(stand_in.out.glob('runs/semi-2/supervised/0-*'))
    (stand_in.out / 'results.jsonl').write_text('{"protocol": "lit')  # cut off
    with open(work_dir / 'lock') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert stand_in('--only', 'semi-2/supervised/0') == 0
        assert 'left to the process' in capsys.readouterr().out
    assert stand_in('--only', 'semi-2/supervised/0') == 0
    assert len(started(stand_in)) == 1  # its result was in its folder
    import results
    assert [line['mIoU'] for line in results.read(stand_in.out / 'results.jsonl')] == [40]


def test_wrong_use_is_one_sentence(stand_in, capsys):
    import run
    shutil.rmtree(stand_in.out)
    assert run.main(['nonsense']) == 2
    assert ("no protocol 'nonsense'. There are: camvid-cpu, camvid-cpu-16, camvid-cpu-long"
            in capsys.readouterr().err)
    assert stand_in('--only', 'nothing') == 2
    assert stand_in('--weights', 'nothing.pth') == 2
    assert 'no file nothing.pth' in capsys.readouterr().err
    assert stand_in('--data-root', stand_in.here / 'nowhere') == 2
    assert 'no folder' in capsys.readouterr().err
    for option in ('--jobs', '--threads'):
        with pytest.raises(SystemExit) as stop:
            stand_in(option, 0)
        assert stop.value.code == 2
        assert f'{option}: must be an integer, at least 1, got 0' in capsys.readouterr().err
    assert not (stand_in.here / 'started').exists()


@pytest.mark.parametrize(
    'name', [file.stem for file in sorted((ROOT / 'tools/experiments').glob('*.py'))
             if '\nPROTOCOL = ' in file.read_text()])
def test_every_protocol_resolves(experiments, monkeypatch, tmp_path, capsys, name):
    import run
    from protocol import load_protocol, resolve
    name = name.replace('_', '-')
    assert load_protocol(name).name == name
    assert run.main([name, '--dry-run', '--seeds', '2', '--out', str(tmp_path / 'none')]) == 0
    assert not (tmp_path / 'none').exists()
    lines = capsys.readouterr().out.splitlines()
    assert f'{(len(lines) - 1) // 2} runs: 0 done' in lines[-1]
    assert len([line for line in lines if 'randomness.seed=2' in line]) == (len(lines) - 1) // 2

    protocol = load_protocol(name)
    places = run.Places('SPLITS', 'DATA', 'WEIGHTS')
    for experiment in run.runs_of(protocol, [2]):
        cfg, _ = resolve(protocol, experiment, places)
        setting = protocol.settings[experiment.setting]
        text = str(cfg.train_dataloader)
        if setting.labels is None:
            assert f"'level': '{setting.level}'" in text and "'seed': 2" in text
            assert 'splits' not in text
        else:
            assert f'SPLITS/{setting.labels}/2/labeled.txt' in text and 'level' not in text
        assert text.count("'data_root': 'DATA'") == text.count("'data_root'") == 1
        assert cfg.val_dataloader.dataset.data_root == 'DATA'
        segmentor = cfg.model.get('segmentor', cfg.model)
        assert segmentor.backbone.init_cfg.checkpoint == 'WEIGHTS'
        assert cfg.train_cfg.max_iters == cfg.param_scheduler[-1].end == protocol.iterations


def test_labelled_images_are_chosen_as_the_paper_and_the_docs_do(experiments, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / 'tools/dataset_converters')
    make_splits = load_script(ROOT / 'tools/dataset_converters/make_splits.py')
    from protocol import data_root_of, load_protocol, protocol_names

    def parse(arguments):
        monkeypatch.setattr('sys.argv', ['make_splits.py', *arguments])
        args = make_splits.parse_args()
        return args, (args.strategy, args.min_classes, args.ignore_index, args.reduce_zero_label,
                      args.suffix)

    page = (ROOT / 'docs/datasets.md').read_text().replace('\\\n', ' ')
    commands = [parse(shlex.split(command)) for command in re.findall(
        r'^python tools/dataset_converters/make_splits.py (data/.+)$', page, re.M)]
    documented = {args.mask_dir: (args, rule) for args, rule in commands}
    paper = dict(
        voc=(3, [60, 200, 600]), cityscapes=(12, [20, 50, 150]), sunrgbd=(1, [50, 150, 500]))
    for name in protocol_names():
        protocol = load_protocol(name)
        root = data_root_of(protocol)
        args, rule = documented[f'{root}/{protocol.mask_dir}']
        assert args.list == f'{root}/{protocol.train_list}'
        assert parse(['x', '--list', 'x', '--num-labeled', '1', '--out', 'x',
                      *protocol.split_rule])[1] == rule
        if name in paper:
            min_classes, numbers = paper[name]
            assert rule == ('per-class' if name == 'sunrgbd' else 'class-balanced', min_classes,
                            255, name == 'sunrgbd', '.png')
            assert args.num_labeled == numbers == [
                setting.labels for setting in protocol.settings.values() if setting.labels]
        else:
            assert rule == ('class-balanced', 7, 11, False, '.png')


def leaves(node, key=''):
    """The plain values of a config by their keys."""
    if not isinstance(node, dict | list | tuple) or not node:
        return {key: node}
    items = node.items() if isinstance(node, dict) else enumerate(node)
    return {name: leaf for part, value in items
            for name, leaf in leaves(value, f'{key}.{part}'.lstrip('.')).items()}


@pytest.mark.parametrize('name', ['camvid-cpu', 'camvid-gpu'])
def test_a_row_of_the_ablation_changes_what_its_name_says(experiments, name):
    from protocol import Places, Run, load_protocol, resolve
    protocol = load_protocol(name)
    ablation = protocol.ablation

    def config(row):
        cfg, _ = resolve(protocol, Run(ablation.setting, row, 0), Places('splits'))
        return leaves(cfg.to_dict())

    base = config(ablation.base)
    hook = next(key for key, value in base.items() if value == 'MeanTeacherHook')[:-len('.type')]
    queries, keys = ({f'model.losses.0.{sampler}_sampler.type': f'Random{sampler.title()}Sampler'}
                     for sampler in ('query', 'key'))
    words = {'random-queries': queries, 'random-keys': keys, 'random-both': {**queries, **keys}}
    places = dict(
        queries='model.losses.0.num_queries', negatives='model.losses.0.num_negatives',
        temperature='model.losses.0.temperature', dims='model.projector.embed_dims',
        strong='model.losses.0.strong_threshold', weak='model.semi_train_cfg.weak_threshold')
    for row, entry in ablation.rows.items():
        kind, value = row.split('-')
        if kind == 'buffers':
            expected = {f'{hook}.buffers': value, 'model.semi_train_cfg.teacher_batch_stats': False}
        elif kind in places:
            expected = {places[kind]: float(value)}
            assert float(re.search(r'[\d.,]+', entry.title)[0].replace(',', '')) == float(value)
        else:
            expected = words[row]
        changed = config(row)
        assert {key: leaf for key, leaf in changed.items()
                if key not in base or base[key] != leaf} == expected != {}
        assert set(base) <= set(changed)


def test_methods_share_what_must_be_equal():
    """Batch, schedule and augmentation of all rows; and each has the losses that it is named by."""
    sys.path.insert(0, str(ROOT / 'tools/experiments'))
    from protocol import Places, Run, load_protocol, resolve
    protocol = load_protocol('camvid-cpu')
    losses, weights, pseudo_labels = {}, {}, {}
    for setting in ('semi-20', 'p0', 'p25'):
        common = set()
        for row in protocol.rows:
            cfg, _ = resolve(protocol, Run(setting, row, 0), Places('splits'))
            node = cfg.train_dataloader.dataset
            pipeline = node.get('dataset', node).pipeline
            common.add(str((cfg.train_dataloader.batch_size, cfg.optim_wrapper, cfg.param_scheduler,
                            cfg.train_cfg, pipeline, cfg.val_dataloader)))
            losses[setting, row] = [loss.type for loss in cfg.model.get('losses', [])]
            head = cfg.model.get('segmentor', cfg.model).decode_head
            assert head.loss_decode == weights.setdefault(setting, head.loss_decode)
            if 'semi_train_cfg' in cfg.model:
                known = MODELS.get(cfg.model.type).train_defaults
                assert set(cfg.model.semi_train_cfg) <= set(known)
            if 'loss_unsup' in cfg.model:
                loss = cfg.model.loss_unsup
                assert loss == pseudo_labels.setdefault(setting, loss)
        assert len(common) == 1, common
    # Regions have the frequencies of the images; one pixel of each class has not.
    assert weights['p25'] == weights['semi-20']
    assert weights['p0'].class_weight is None
    assert pseudo_labels['semi-20'].class_weight == weights['semi-20'].class_weight
    assert pseudo_labels['p0'] == pseudo_labels['p25']
    assert pseudo_labels['p0'].class_weight is None
    for setting in ('semi-20', 'p0'):
        assert losses[setting, 'supervised'] == losses[setting, 'classmix'] == []
        assert losses[setting, 'supervised-reco'] == ['ReCoLoss']
        assert losses[setting, 'reco-classmix'] == ['ReCoLoss']
        assert losses[setting, 'rc2l'] == [
            'RegionMaskContrastiveLoss', 'RegionFeatureContrastiveLoss',
            'SemanticMaskConsistencyLoss']
        assert losses[setting, 'reco-rfc-smc'] == [
            'ReCoLoss', 'RegionFeatureContrastiveLoss', 'SemanticMaskConsistencyLoss']


def test_batches_of_16_are_all_that_the_short_protocol_has_not(experiments):
    from protocol import Places, load_protocol, resolve, runs_of
    short, larger = map(load_protocol, ('camvid-cpu', 'camvid-cpu-16'))
    runs = list(runs_of(larger, [0]))
    assert {run.row for run in runs} == {'supervised', 'classmix', 'reco-classmix'}
    for run in runs:
        plain, cfg = (leaves(resolve(protocol, run, Places('splits'))[0].to_dict())
                      for protocol in (short, larger))
        keys = ['train_dataloader.batch_size']
        if run.row != 'supervised':
            keys.append('train_dataloader.sampler.batch_size')
        assert {key: plain.pop(key) for key in keys} == dict.fromkeys(keys, 8), run.name
        assert {key: cfg.pop(key) for key in keys} == dict.fromkeys(keys, 16), run.name
        assert plain == cfg, run.name


def test_no_level_of_the_papers_settings_has_weights_of_its_own(experiments):
    from protocol import Places, Run, load_protocol, resolve
    protocol = load_protocol('camvid-gpu')

    def settings_of(setting):
        model = resolve(protocol, Run(setting, 'reco-classmix', 0), Places('splits'))[0].model
        head = model.segmentor.decode_head
        return head.loss_decode, model.get('loss_unsup'), model.get('semi_train_cfg')

    assert settings_of('p25') == settings_of('p0')
    assert settings_of('p0')[:2] == settings_of('semi-20')[:2]


def cells(text, heading):
    """A table as a dict of rows, each a dict of its cells."""
    lines = text.split(f'### {heading}\n\n')[1].split('\n\n')[0].splitlines()
    split = [[cell.strip() for cell in line.strip('|').split('|')] for line in lines]
    return {row[0]: dict(zip(split[0][1:], row[1:], strict=True)) for row in split[2:]}


def test_tables_against_a_plain_loop(experiments):
    import tables
    from protocol import Ablation, Protocol, Row, Setting
    protocol = Protocol(
        'x', 'X', {'one': Setting('One'), 'two': Setting('Two')},
        {name: Row(name.upper(), 'x.py') for name in ('base', 'good', 'bad', 'never')}, 7, 7,
        'm', 'l', ablation=Ablation('one', 'good', {'less': Row('LESS', 'x.py')}),
        baselines=('base', ))
    generator = np.random.default_rng(0)
    results = {}
    for setting in ('one', 'two'):
        for row in ('base', 'good', 'bad', 'less'):
            for seed in range(4):
                if (setting, row) in (('two', 'less'), ('two', 'bad')) or (row, seed) in (
                        ('bad', 1), ('less', 2)):
                    continue
                if (setting, row) == ('two', 'good') and seed:
                    continue
                iou = generator.uniform(0, 100, 2).tolist()
                results[setting, row, seed] = dict(
                    mIoU=sum(iou) / 2, IoU=dict(sky=iou[0], sea=None if seed == 3 else iou[1]),
                    seconds=60 * seed, cpu_seconds=6.0, commits=['abc'], torch='2', threads=1,
                    machine='M', **(dict(student=dict(mIoU=iou[0])) if row == 'good' else {}))
    text = tables.report(protocol, results)

    def expected(values, sign=''):
        mean = sum(values) / len(values)
        if len(values) == 1:
            return f'{mean:{sign}.1f} (1)'
        deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (len(values) - 1))
        return f'{mean:{sign}.1f} ± {deviation:.1f} ({len(values)})'

    def values(setting, row, key='mIoU'):
        return {seed: results[setting, row, seed][key] for seed in range(4)
                if (setting, row, seed) in results}

    scores, gains = cells(text, 'mIoU'), cells(text, 'Difference to BASE, seed by seed')
    assert set(scores) == {'BASE', 'GOOD', 'BAD'} and set(gains) == {'GOOD', 'BAD'}
    for setting, title in (('one', 'One'), ('two', 'Two')):
        for row in ('base', 'good', 'bad'):
            own, base = values(setting, row), values(setting, 'base')
            assert scores[row.upper()][title] == (expected(list(own.values())) if own else '–')
            if row != 'base':
                differences = [own[seed] - base[seed] for seed in own]
                assert gains[row.upper()][title] == (
                    expected(differences, '+') if differences else '–')
    students = [result['mIoU'] for result in values('one', 'good', 'student').values()]
    assert cells(text, 'mIoU of the student') == {
        'GOOD': {'One': expected(students),
                 'Two': expected([results['two', 'good', 0]['student']['mIoU']])}}
    ablation = cells(text, 'Ablation, One')
    seeds = 0, 1, 3
    less = [values('one', 'less')[seed] - values('one', 'good')[seed] for seed in seeds]
    assert list(ablation) == ['GOOD', 'LESS']
    assert list(ablation['GOOD'].values()) == [
        expected([values('one', 'good')[seed] for seed in seeds]), '']
    assert list(ablation['LESS'].values()) == [
        expected(list(values('one', 'less').values())), expected(less, '+')]
    classes = cells(text, 'IoU by class, One, mean over seeds')
    seen = [iou['sea'] for iou in values('one', 'good', 'IoU').values() if iou['sea'] is not None]
    assert len(seen) == 3 and classes['GOOD']['sea'] == f'{sum(seen) / 3:.1f}'
    assert cells(text, 'Time')['BAD'] == {
        'Minutes of a run': f'{5 / 3:.1f}', 'of the CPU': '0.1', 'Runs': '3'}
    assert tables.report(protocol, {}).endswith('No results yet.\n')


def test_the_later_of_two_validations_counts_and_tables_must_fit(experiments):
    import results
    work_dir = experiments.here / 'run'
    for start, scores in (('1', (10, 20, 99)), ('2', (30, 40))):
        (work_dir / start / 'vis_data').mkdir(parents=True)
        (work_dir / start / 'vis_data/scalars.json').write_text(''.join(
            json.dumps(dict(step=100 * (int(start) + i), mIoU=score, aAcc=1, mAcc=2)) + '\n'
            + json.dumps(dict(step=100, loss=1.0)) + '\n' for i, score in enumerate(scores))
            + '{"step": 40')
    log = work_dir / 'output.log'
    log.write_text('per class results:\n\n|  x  | 99 | 1 |\n|  y  | 99 | 1 |\n'
                   'per class results:\n\n|  x  | 40 | 1 |\n|  y  | nan | nan |\n\nIter')
    results.note_start(work_dir, 'a')
    results.note_end(work_dir, 3, 2)
    results.note_start(work_dir, 'b')
    assert results.harvest(work_dir, 400) is None
    found = results.harvest(work_dir, 300)
    assert found['curve'] == [[100, 10], [200, 30], [300, 40]]
    assert found['IoU'] == {'x': 40, 'y': None} and found['mIoU'] == 40
    assert (found['starts'], found['seconds'], found['commits']) == (2, None, ['a', 'b'])
    results.note_end(work_dir, 0.5, 0.25)
    found = results.harvest(work_dir, 300)
    assert (found['seconds'], found['cpu_seconds']) == (3.5, 2.2)
    log.write_text(log.read_text().replace('40', '41'))
    with pytest.raises(ValueError, match='do not have the mean'):
        results.harvest(work_dir, 300)


def test_weights_count_by_their_content(stand_in):
    for name, content in (('one', b'a'), ('copy', b'a'), ('other', b'b')):
        (stand_in.here / f'{name}.pth').write_bytes(content)
        assert stand_in('--only', 'p0/supervised/0', '--seeds', 0, '--weights',
                        stand_in.here / f'{name}.pth') == 0
    assert len(started(stand_in)) == 2
    one, other = stand_in.lines()
    assert one['digest'] != other['digest']
    for line, content, name in ((one, b'a', 'one'), (other, b'b', 'other')):
        assert line['weights'] == f'sha256:{hashlib.sha256(content).hexdigest()[:16]}'
        work_dir = next(stand_in.out.glob(f'runs/p0/supervised/0-{line["digest"]}'))
        assert f"'{stand_in.here / name}.pth'" in (work_dir / 'config.py').read_text()
    assert stand_in('--publish', stand_in.here / 'docs/results', '--seeds', 0, '--weights',
                    stand_in.here / 'copy.pth') == 0
    published = (stand_in.here / 'docs/results/little.jsonl').read_text()
    assert [json.loads(line) for line in published.splitlines()] == [one]
    assert '.pth' not in published and '.pth' not in json.dumps(other)


def test_publish_keeps_what_others_wrote(stand_in):
    page = stand_in.here / 'docs/results.md'
    page.parent.mkdir()
    page.write_text('# Results\n\nBefore.\n')
    assert stand_in('--only', 'p0') == 0
    for _ in range(2):
        assert stand_in('--publish', stand_in.here / 'docs/results') == 0
        page.write_text(page.read_text().replace('Before', 'Before all') + 'After.\n')
    text = page.read_text()
    assert text.startswith('# Results\n\nBefore all all.\n\n<!-- begin of little')
    assert text.count('| Supervised | 40.5 ± 0.5 (3) |') == 1
    assert text.endswith('<!-- end of little, written by tools/experiments/run.py -->\n'
                         'After.\nAfter.\n')
    published = (stand_in.here / 'docs/results/little.jsonl').read_text().splitlines()
    assert [json.loads(line)['mIoU'] for line in published] == [40, 40.5, 41]
    assert str(stand_in.out) not in ''.join(published)


def test_publish_refuses_a_page_that_has_lost_a_mark(stand_in, capsys):
    page = stand_in.here / 'docs/results.md'
    assert stand_in('--only', 'p0') == 0
    assert stand_in('--publish', page.with_suffix('')) == 0
    text = page.read_text()
    begin, end = (line for line in text.splitlines() if line.startswith('<!-- '))
    for damaged in (text.replace(begin, ''), text.replace(end, ''), f'{end}\n{begin}\n'):
        page.write_text(damaged)
        assert stand_in('--publish', page.with_suffix('')) == 2
        assert f'needs both lines, in this order: {begin} and {end}' in capsys.readouterr().err
        assert page.read_text() == damaged


def test_publish_loses_no_published_result(stand_in, capsys):
    folder = stand_in.here / 'docs/results-v0.2'
    file, page = folder / 'little.jsonl', stand_in.here / 'docs/results-v0.2.md'
    assert stand_in('--publish', folder) == 2
    assert 'results.jsonl holds no result' in capsys.readouterr().err
    assert not folder.exists()
    assert stand_in('--only', 'p0/.*/[01]', '--seeds', 0, 1, '--amp') == 0
    assert stand_in('--publish', folder, '--amp') == 0
    published = file.read_bytes(), page.read_bytes()
    assert [path.name for path in page.parent.iterdir() if path.is_file()] == [page.name]

    assert stand_in('--publish', folder) == 2
    assert ('no result of these configs and options: give those that the runs had. They have '
            '--weights: None; --amp: True; --seeds: 0 1.') in capsys.readouterr().err
    assert stand_in('--only', 'p0/.*/0', '--seeds', 0) == 0
    assert stand_in('--publish', folder) == 2
    assert '2 results' in capsys.readouterr().err
    assert stand_in('--publish', folder, '--amp', '--seeds', 0) == 2
    assert f'1 results in {file} would be lost' in capsys.readouterr().err
    assert (file.read_bytes(), page.read_bytes()) == published

    protocol = stand_in.here / 'little.py'  # results of changed configs take the place of old ones
    protocol.write_text(protocol.read_text().replace('iterations=2', 'iterations=3'))
    assert stand_in('--only', 'p0/.*/[01]', '--seeds', 0, 1, '--amp') == 0
    assert stand_in('--publish', folder, '--amp') == 0
    assert [json.loads(line)['iteration'] for line in file.read_text().splitlines()] == [3, 3]
