# Licensed under the Apache License, Version 2.0.
from pathlib import Path

import pytest
from scripts import load_script
from tiny_semi import write_semi_config

from mmseg_reco.engine.offline import load_model, read_config, training_batches, training_loader

SCRIPT = Path(__file__).parents[2] / 'tools' / 'analysis_tools' / 'loss_balance.py'


@pytest.fixture
def tool():
    return load_script(SCRIPT)


def make(path, **changes):
    """A model and its first batch, with the generators as the first step finds them."""
    cfg = read_config(str(path))
    cfg.merge_from_dict(changes)
    model = load_model(cfg).train()
    return model, next(training_batches(cfg, training_loader(cfg)))


def test_norms_are_those_of_a_backward_pass_from_one_loss(tool, tiny_config):
    path = write_semi_config(tiny_config)
    norms = tool.gradient_norms(*make(path, **{'model.semi_train_cfg.burn_in': 99}))
    assert len(norms) == 3 and 'loss_reco' in norms and 'loss_unsup' in norms
    for name, found in norms.items():
        model, batch = make(path)
        loss = model.loss(**model.data_preprocessor(batch, True))[name]
        loss.backward()
        assert found['value'] == pytest.approx(loss.item(), rel=1e-5)
        for part, module in model.student.named_children():
            if part in found:
                squares = [float(weight.grad.square().sum()) for weight in module.parameters()
                           if weight.grad is not None]
                assert found[part] == pytest.approx(sum(squares)**0.5, rel=1e-4, abs=1e-9)
    assert norms['loss_reco']['projector'] > 0 == norms['loss_unsup']['projector']


def test_table_has_medians_and_ratios_to_the_first_loss(tool):
    batches = [dict(first=dict(value=1., backbone=2.), other=dict(value=value, backbone=norm))
               for value, norm in ((3., 1.), (4., 5.), (9., 3.))]
    rows = {cells[0]: cells[1:] for cells in (
        [cell.strip() for cell in line.split('|')[1:-1]]
        for line in str(tool.table_of(batches)).splitlines()) if cells}
    assert rows['other'] == ['4', '3', '1.50'] and rows['first'] == ['1', '2', '1.00']


def run(tool, monkeypatch, *arguments):
    monkeypatch.setattr('sys.argv', ['loss_balance.py', *map(str, arguments)])
    tool.main()


def test_a_supervised_model_works_too(tool, tiny_config, monkeypatch, capsys):
    run(tool, monkeypatch, tiny_config, '--batches', 2)
    printed = capsys.readouterr().out
    assert 'decode.loss_ce' in printed and 'backbone, of the first' in printed


def test_wrong_use_is_refused(tool, tiny_config, monkeypatch, capsys):
    for arguments, message in (((tiny_config, '--batches', 0), 'at least 1'),
                               (('missing.py', ), 'missing.py')):
        with pytest.raises(SystemExit) as stop:
            run(tool, monkeypatch, *arguments)
        assert stop.value.code == 2 and message in capsys.readouterr().err
