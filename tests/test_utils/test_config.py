# Licensed under the Apache License, Version 2.0.
from mmengine.config import ConfigDict

from mmseg_reco.utils import as_list, type_name


class Thing:
    pass


def test_type_name():
    for kind in ('Thing', 'mmseg.Thing', Thing):
        assert type_name(dict(type=kind)) == type_name(ConfigDict(type=kind)) == 'Thing'
    assert type_name(Thing()) == 'Thing'


def test_as_list():
    one = ConfigDict(type='Thing')
    assert as_list(one) == as_list([one]) == [one] and as_list(()) == ()
