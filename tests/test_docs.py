# Licensed under the Apache License, Version 2.0.
"""What the Markdown pages say: commands, options, settings, examples, paths and links are real.

A fenced ``bash`` block, and inline code that begins as a command of this repository does, is read
as a shell would: tools exist and take these options, ``--cfg-options`` fit the config, make has the
target, tests exist. A ``python`` block of assignments alone is a config: it is loaded, its settings
are checked and its model is built. Other Python is executed, page by page and top to bottom. A
block that can be neither stands below a line ``<!-- not run: reason -->``.
"""
import argparse
import ast
import copy
import os
import re
import runpy
import shlex
import string
import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from markdown_it import MarkdownIt
from markdown_it.token import Token
from mmengine.config import Config, DictAction
from mmseg.registry import HOOKS, MODELS
from test_configs import STOCK, expand, load
from tiny_segmentor import make_batch, segmentor_config

from mmseg_reco.datasets.demo_scenes import prepare
from mmseg_reco.engine.config_check import (
    _own,
    _registered,
    accepted_arguments,
    check_config,
    check_options,
)
from mmseg_reco.models import MeanTeacherReCo
from mmseg_reco.version import __version__

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in [*ROOT.glob('*.md'), *ROOT.glob('docs/**/*.md'), *ROOT.glob('configs/*/README.md')])
#: Pages whose Python is executed by a test of its own, with what it needs around it.
EXECUTED_BY = {
    'README.md': 'tests/test_readme.py',
    'docs/add_a_loss.md': 'tests/test_docs.py',
    'docs/deployment.md': 'tests/test_tools/test_export_teacher.py',
    'docs/your_data.md': 'tests/test_five_lines.py',
}
#: Where a launcher's own arguments stand; the others are those of the tool that it starts.
LAUNCHERS = {
    'tools/dist_train.sh': ('tools/train.py', [1]),
    'tools/dist_test.sh': ('tools/test.py', [2]),
    'tools/slurm_train.sh': ('tools/train.py', [0, 1]),
    'tools/slurm_test.sh': ('tools/test.py', [0, 1]),
}
OPERATORS = set('();<>|&')


class Block(NamedTuple):
    """A fenced block: its language, its text, and whether it is marked as not run."""

    language: str
    text: str
    skipped: bool

    @property
    def is_config(self) -> bool:
        return all(isinstance(node, ast.Assign) for node in ast.parse(self.text).body)

    @property
    def file_name(self) -> str | None:
        """Of an example that begins with a comment such as ``# my_config.py``."""
        match = re.match(r'# ([\w/]+\.py)\b', self.text)
        return match and match[1]


def tokens_of(page: str) -> list[Token]:
    return MarkdownIt('commonmark').enable('table').parse((ROOT / page).read_text())


def blocks_of(page: str) -> list[Block]:
    blocks, before = [], None
    for token in tokens_of(page):
        if token.type == 'fence':
            comment = before.content if before is not None and before.type == 'html_block' else ''
            blocks.append(Block(token.info.strip(), token.content,
                                bool(re.search(r'<!-- not run: \w.+-->', comment))))
        before = token
    return blocks


def inline_of(page: str) -> Iterator[Token]:
    for token in tokens_of(page):
        yield from token.children or []


# Links and paths


def anchors(page: str) -> set[str]:
    """Ids that GitHub gives to the headings of a page."""
    found: dict[str, int] = {}
    tokens = tokens_of(page)
    for heading, content in zip(tokens, tokens[1:], strict=False):
        if heading.type != 'heading_open':
            continue
        words = ''.join(part.content for part in content.children).lower()
        slug = ''.join(
            '-' if char == ' ' else char for char in words
            if char in ' -' or unicodedata.category(char) in ('Nd', 'Pc')
            or unicodedata.category(char)[0] in 'LM')
        found[slug] = found.get(slug, -1) + 1
        if found[slug]:
            found[f'{slug}-{found[slug]}'] = 0
    return set(found)


@pytest.mark.parametrize('page', PAGES)
def test_links_lead_somewhere(page: str) -> None:
    for token in inline_of(page):
        target = token.attrGet('href') or token.attrGet('src')
        if not target or re.match(r'\w+:', target):
            continue
        path, _, anchor = target.partition('#')
        linked = (ROOT / page).parent / path if path else ROOT / page
        assert linked.exists(), f'{page} links to {target}'
        if anchor:
            assert anchor in anchors(str(linked.resolve().relative_to(ROOT))), (
                f'{page} links to {target}, which has no such heading')


@pytest.mark.parametrize('page', PAGES)
def test_named_paths_exist(page: str) -> None:
    text = (ROOT / page).read_text()
    named = re.findall(r'(?<![\w./{}-])(?:tools|configs|docs|tests)/[\w./{},-]*[\w}/]', text)
    for path in {path for pattern in named for path in expand(pattern)}:
        assert (ROOT / path).exists(), f'{page} names {path}'


@pytest.mark.parametrize('page', ['docs/methods/reco.md', 'docs/methods/rc2l.md'])
def test_lines_of_the_algorithm_name_code_that_is_there(page: str) -> None:
    text = (ROOT / page).read_text()
    lines = re.findall(r'\]\(([\w./]+\.py)\): (`[\w.]+`(?:, `[\w.]+`)*)', text)
    assert len(lines) > 15
    for path, names in lines:
        tree = ast.parse(((ROOT / page).parent / path).read_text())
        defined = {node.name for node in ast.walk(tree)
                   if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
        for name in re.findall(r'\w+', names):
            assert name in defined, f'{page}: {path} has no {name}'


def test_every_benchmark_is_listed() -> None:
    page = (ROOT / 'docs/benchmark.md').read_text()
    for tool in ROOT.glob('tools/benchmarks/*.py'):
        if 'ArgumentParser' in tool.read_text():
            assert f'tools/benchmarks/{tool.name}' in page


def test_index_lists_every_page() -> None:
    linked = {token.attrGet('href') for token in inline_of('docs/README.md')}
    pages = {page.removeprefix('docs/') for page in PAGES if page.startswith('docs/')}
    assert pages - {'README.md'} <= linked


# Commands


def shell_commands(text: str) -> Iterator[list[str]]:
    """The simple commands of a shell script, as words; earlier assignments are filled in."""
    variables: dict[str, str] = {}
    for line in text.replace('\\\n', ' ').splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars=''.join(OPERATORS))
        lexer.whitespace_split = True
        command: list[str] = []
        for word in [*lexer, ';']:
            if OPERATORS.issuperset(word):
                if command:
                    yield command
                command = []
            elif not command and re.match(r'\w+=', word):
                name, _, variables[name] = word.partition('=')
            else:
                command.append(string.Template(word).safe_substitute(variables))


def commands_of(page: str) -> list[list[str]]:
    scripts = [block.text for block in blocks_of(page)
               if block.language == 'bash' and not block.skipped]
    scripts += [token.content for token in inline_of(page) if token.type == 'code_inline'
                and re.match(r'(\w+=\S+ )*((python|bash) tools/|make |pytest )', token.content)]
    return [command for script in scripts for command in shell_commands(script)]


class Parsed(BaseException):
    """Ends a tool as soon as it has read its command line; no handler of a tool catches it."""


def parse_with(tool: str, words: list[str]) -> argparse.Namespace:
    """Let a tool parse its arguments, and do nothing else."""
    parse_args = argparse.ArgumentParser.parse_args

    def parse(parser, args=None, namespace=None):
        known = parser._option_string_actions
        for word in words:  # argparse would take abbreviations, too
            if re.match(r'--\w', word) and word.partition('=')[0] not in known:
                parser.error(f'no such option: {word}')
        raise Parsed(parse_args(parser, args, namespace))

    modules, environment = set(sys.modules), dict(os.environ)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, 'parse_args', parse)
        patch.setattr(sys, 'argv', [tool, *words])
        patch.syspath_prepend(str((ROOT / tool).parent))
        try:
            runpy.run_path(str(ROOT / tool), run_name='__main__')
        except Parsed as parsed:
            return parsed.args[0]
        except SystemExit:
            pytest.fail(f'{tool} does not take: {shlex.join(words)}')
        finally:  # what the tool set for itself, and its siblings, end with it
            os.environ.clear()
            os.environ.update(environment)
            for name in set(sys.modules) - modules:
                if str(ROOT / 'tools') in str(getattr(sys.modules[name], '__file__', '')):
                    del sys.modules[name]
    raise AssertionError(f'{tool} parsed no command line')


def check_tool(tool: str, words: list[str], examples: Path) -> None:
    words = ['0' if word == 'N' else word for word in words]
    args = parse_with(tool, words)
    options = getattr(args, 'cfg_options', None)
    config = next((path for path in (ROOT / str(getattr(args, 'config', '')),
                                     examples / str(getattr(args, 'config', '')))
                   if path.is_file()), None)
    if options and config:
        cfg = Config.fromfile(config)
        check_options(options, cfg)
        cfg.merge_from_dict(options)
        check_built(cfg)


def check_built(cfg: Config) -> None:
    """Check the settings of a config, and build what they are of."""
    check_config(cfg)
    if 'Mask' in str(cfg.model):
        pytest.importorskip('mmdet', reason='query heads need mmdet')
    with torch.device('meta'):
        MODELS.build(cfg.model)
    for hook in cfg.get('custom_hooks') or ():
        HOOKS.build(hook)


def check_command(command: list[str], examples: Path) -> None:
    program, *words = command
    if program in ('python', 'python3') and words[0] == '-m':
        program, *words = words[1:]
    if program in ('python', 'python3', 'bash') and words[0].startswith('tools/'):
        tool, *words = words
        if tool in LAUNCHERS:
            tool, own = LAUNCHERS[tool]
            words = [word for place, word in enumerate(words) if place not in own]
        if '--' in words:  # of setup_env.py, before a command for the environment
            words = words[:words.index('--')]
        check_tool(tool, words, examples)
    elif program == 'make':
        targets = re.findall(r'^([\w-]+):', (ROOT / 'Makefile').read_text(), re.M)
        assert words[0] in targets, f'make has no target {words[0]}'
        for word in words[1:]:
            if word.startswith('DEMO_ARGS='):
                check_tool('tools/demo.py', shlex.split(word.partition('=')[2]), examples)
    elif program == 'pytest':
        for word in words:
            if word.startswith('tests/'):
                path, _, name = word.partition('::')
                assert f'def {name.partition("[")[0]}' in (ROOT / path).read_text(), word


@pytest.fixture(scope='module')
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all Python of the pages that begins with its file name; the README's last."""
    folder = tmp_path_factory.mktemp('examples')
    (folder / 'configs').symlink_to(ROOT / 'configs')
    for page in sorted(PAGES, key='README.md'.__eq__):
        for block in blocks_of(page):
            if block.language == 'python' and block.file_name:
                (folder / block.file_name).parent.mkdir(parents=True, exist_ok=True)
                (folder / block.file_name).write_text(block.text)
    return folder


@pytest.mark.parametrize('page', PAGES)
def test_commands_are_what_the_tools_take(page: str, examples: Path) -> None:
    for command in commands_of(page):
        check_command(command, examples)


@pytest.mark.parametrize('command', [
    'python tools/train.py', 'python tools/train.py a.py --resum', 'python tools/none.py',
    'make sandwich', 'pytest tests/test_docs.py::test_nothing',
    'A=1 bash tools/dist_train.sh a.py 4 --resume --colour',
    'python tools/train.py configs/reco/mix_into_stock_cityscapes.py --cfg-options modle.mix=1',
])
def test_wrong_commands_are_found(command: str, tmp_path: Path) -> None:
    with pytest.raises((AssertionError, OSError, ValueError, pytest.fail.Exception)):
        for words in shell_commands(command):
            check_command(words, tmp_path)


# Settings in the text


def calls_of(code: str) -> Iterator[tuple[str, set[str]]]:
    """Classes that a piece of config builds, with the arguments that it names."""
    try:
        tree = ast.parse(code.replace('…', '...'))
    except SyntaxError:
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            given = {keyword.arg: keyword.value for keyword in node.keywords if keyword.arg}
            kind = given.pop('type', None)
            name = kind.value if isinstance(kind, ast.Constant) else node.func.id
            yield name, set(given) - {'_delete_'}


@pytest.mark.parametrize('page', PAGES)
def test_settings_in_the_text_are_arguments(page: str) -> None:
    """Inline code such as ``MeanTeacherHook(momentum=0.05)`` or ``dict(type='CutMix')``."""
    ours = _own(_registered())
    for token in inline_of(page):
        if token.type == 'code_inline':
            for name, given in calls_of(token.content):
                known = accepted_arguments(ours[name]) if name in ours else None
                assert known is None or given <= known, f'{page}: {token.content}'
            for keys in re.findall(r'semi_train_cfg=dict\(([^()]*)\)', token.content):
                given = set(re.findall(r'(\w+)=', keys))
                assert given <= set(MeanTeacherReCo.train_defaults), f'{page}: {token.content}'


@pytest.mark.parametrize('page', ['docs/benchmark.md', 'docs/configs.md', 'docs/faq.md'])
def test_keys_in_the_text_are_settings(page: str) -> None:
    """Inline code such as ``model.losses.0.loss_weight``, tried on a config that has them all.

    With values, such as ``model.mix.type=CutMix``, they are built, on the five lines, too.
    """
    base, five_lines = load('deeplabv3plus_r101_voc_semi-60'), load(STOCK)
    found = 0
    for token in inline_of(page):
        settings = re.findall(
            r'(?<!\S)((?:model|\w+_dataloader|custom_hooks|train_cfg|param_scheduler)[\w.]+)(=\S+)?',
            token.content if token.type == 'code_inline' else '')
        for key, _ in settings:
            *parents, last = key.split('.')
            if parents[-1:] == ['semi_train_cfg']:
                assert last in MeanTeacherReCo.train_defaults, f'{page}: {key}'
        complete = all(value for _, value in settings)
        for config in [base, five_lines] if complete else [base]:
            if settings:
                cfg, found = copy.deepcopy(config), found + 1
                cfg.merge_from_dict({
                    key: DictAction._parse_iterable(value[1:]) if value else 1
                    for key, value in settings})
                (check_built if complete else check_config)(cfg)
    assert found


# Python


def load_example(block: Block, folder: Path) -> Config:
    """Load a config; one without a base goes on top of the README's examples."""
    text, name = block.text, block.file_name or 'fragment.py'
    if '_base_ =' not in text:
        base = './my_data.py' if '_base_.' in text else './my_reco.py'
        text = f'_base_ = {base!r}\n{text}'
    (folder / name).write_text(text)
    return Config.fromfile(folder / name)


@pytest.mark.parametrize('page', [
    page for page in PAGES if any(block.language == 'python' for block in blocks_of(page))])
def test_python(page: str, examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if page in EXECUTED_BY:
        assert Path(page).name in (ROOT / EXECUTED_BY[page]).read_text()
        return
    monkeypatch.chdir(examples)
    monkeypatch.syspath_prepend(str(examples))
    namespace = dict(__name__='__main__')
    for block in blocks_of(page):
        if block.language != 'python':
            continue
        compiled = compile(block.text, page, 'exec')
        if block.skipped:
            continue
        if block.is_config:
            cfg = load_example(block, examples)
            check_built(cfg)
        else:
            exec(compiled, namespace)


def test_short_schedule_is_that_of_the_results(
        examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of docs/your_model.md has the figures of the config that it names."""
    monkeypatch.chdir(examples)
    figures = []
    for cfg in Config.fromfile('my_short_reco.py'), load('deeplabv3plus_m-v2_camvid_semi-20'):
        teacher, = (hook for hook in cfg.custom_hooks if hook.type == 'MeanTeacherHook')
        figures.append((
            cfg.model.semi_train_cfg, cfg.model.losses[0].loss_weight,
            cfg.model.loss_unsup.loss_weight, cfg.train_dataloader.sampler.burn_in,
            teacher.momentum, cfg.train_cfg.max_iters, cfg.train_cfg.val_interval,
            cfg.param_scheduler))
    assert figures[0] == figures[1]


def test_losses_of_add_a_loss(examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The code of docs/add_a_loss.md: its own tests, and a step of a model with its config."""
    monkeypatch.chdir(examples)
    monkeypatch.syspath_prepend(str(examples))
    losses = Config.fromfile('my_losses_reco.py').model.losses
    tests = runpy.run_path('test_my_losses.py')
    names = [name for name in tests if name.startswith('test_')]
    assert len(names) == 3
    for name in names:
        tests[name]()

    torch.manual_seed(0)
    model = MODELS.build(dict(
        type='MeanTeacherReCo', segmentor=segmentor_config(), losses=losses,
        projector=dict(channels=4, embed_dims=8), semi_train_cfg=dict(weak_threshold=0.2)))
    logs = model.train().loss(*make_batch())
    for name in ('loss_compact', 'loss_area'):
        assert logs[name] > 0
        layer = model.student.projector if name == 'loss_compact' else model.student.decode_head
        gradient, = torch.autograd.grad(
            logs[name], next(layer.parameters()), retain_graph=True)
        assert gradient.abs().sum() > 0


@pytest.mark.slow
def test_getting_started_from_top_to_bottom(examples: Path, tmp_path: Path) -> None:
    """Its commands, as a user types them, in a world of fewer scenes and a shorter schedule."""
    prepare(str(tmp_path / 'demo_output/data'), num_train=12, num_val=2, num_labeled=6)
    for name in ('configs', 'tools'):
        (tmp_path / name).symlink_to(ROOT / name)
    config = (examples / 'scenes_reco.py').read_text()
    (tmp_path / 'scenes_reco.py').write_text(
        f'{config}train_cfg = dict(max_iters=6)\n'
        'default_hooks = dict(checkpoint=dict(interval=6))\n')
    environment = dict(os.environ, PYTHONPATH=str(ROOT), CUDA_VISIBLE_DEVICES='')
    lines = [shlex.join(words) for words in commands_of('docs/getting_started.md')
             if words[0] == 'python']
    assert len(lines) == 7
    for line in lines:
        line = line.replace('=200', '=4').replace('iter_1500', 'iter_6')
        line = line.replace('python', sys.executable, 1)
        done = subprocess.run(line, shell=True, cwd=tmp_path, env=environment, text=True,
                              capture_output=True)
        assert done.returncode == 0, line + done.stdout[-2000:] + done.stderr[-2000:]
    assert (tmp_path / 'teacher.py').is_file()
    assert list((tmp_path / 'predictions').rglob('*.png'))


# Pages and files that are made from others


def test_api_is_up_to_date(monkeypatch: pytest.MonkeyPatch) -> None:
    written: dict[Path, str] = {}
    monkeypatch.setattr(Path, 'write_text', lambda path, text: written.update({path: text}))
    monkeypatch.setattr(sys, 'argv', ['make_api.py'])
    runpy.run_path(str(ROOT / 'tools/docs/make_api.py'), run_name='__main__')
    page = ROOT / 'docs/api.md'
    assert written == {page: page.read_text()}, f'{page} is out of date: run make_api.py'


def test_citation() -> None:
    citation = yaml.safe_load((ROOT / 'CITATION.cff').read_text())
    assert citation['cff-version'] == '1.2.0'
    assert {'message', 'title', 'authors', 'references'} <= set(citation)
    assert citation['version'] == __version__
    for work in [citation, *citation['references']]:
        assert work['title'] and all(
            'name' in author or {'family-names', 'given-names'} <= set(author)
            for author in work['authors'])
    assert all(reference['type'] == 'conference-paper' and reference['year'] == 2022
               for reference in citation['references'])


def test_changelog_knows_this_version() -> None:
    headings = re.findall(r'^## \[?([\w.]+)', (ROOT / 'CHANGELOG.md').read_text(), re.M)
    assert headings[0] == 'Unreleased' or headings[0] == __version__
    assert __version__ in headings or headings == ['Unreleased']


def test_model_index_has_no_results_that_nobody_measured() -> None:
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    files = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob('configs/*/metafile.yml'))
    assert sorted(index['Import']) == files
    for file in files:
        metafile = yaml.safe_load((ROOT / file).read_text())
        assert (ROOT / metafile['Collections'][0]['README']).is_file()
        names = [collection['Name'] for collection in metafile['Collections']]
        for model in metafile['Models']:
            assert model['In Collection'] in names
            assert (ROOT / model['Config']).is_file()
            assert not {'Results', 'Weights'} & set(model)
