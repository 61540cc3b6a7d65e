# Licensed under the Apache License, Version 2.0.
"""CamVid on two CPU cores: MobileNetV2, trained at half resolution, scored at the full one."""

from protocol import Ablation, Protocol, Setting, load_config
from rows import PARTIAL_LEVELS, ablation_rows, method_rows

# Regions of each class, unlike single pixels, keep the frequencies of the classes. Weights
# find the rare ones; on pseudo-labels, too, they cost roads and buildings.
SEMI = load_config('configs/reco/deeplabv3plus_m-v2_camvid_semi-20.py')
REGIONS = dict(
    network={'decode_head.loss_decode.class_weight': SEMI.class_weight},
    semi={'model.semi_train_cfg.class_frequencies': 'labeled'})
ROWS = method_rows('deeplabv3plus_m-v2_camvid', 20, 'deeplabv3plus_m-v2_camvid_semi-20')
MAIN_ROWS = {name: ROWS[name] for name in ('supervised', 'classmix', 'reco-classmix')}
SETTINGS = {
    'semi-20': Setting('20 images', labels=20),
    'p0': Setting('p0', level='p0'),
    'semi-5': Setting('5 images', labels=5),
    'semi-50': Setting('50 images', labels=50),
    **{level: Setting(level, level=level, **REGIONS) for level in PARTIAL_LEVELS[1:]},
}

PROTOCOL = Protocol(
    name='camvid-cpu',
    title='CamVid, DeepLabV3+ MobileNetV2, two CPU cores',
    settings=SETTINGS,
    rows=ROWS,
    iterations=1500,
    val_interval=500,
    mask_dir='trainannot',
    train_list='train.txt',
    split_rule=('--min-classes', '7', '--ignore-index', '11'),
    network={'backbone.init_cfg': dict(type='Pretrained', checkpoint='mmcls://mobilenet_v2')},
    ablation=Ablation('semi-20', 'reco-classmix', ablation_rows(ROWS['reco-classmix'])))
