"""README, docs and cards: links lead somewhere, commands and config lines exist."""

import re
import shlex
from importlib import import_module
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import HOOKS, init_default_scope

import mmpsbn  # noqa: F401
from mmpsbn.cli import COMMANDS

ROOT = Path(__file__).parents[2]
README = (ROOT / 'README.md').read_text()
PAGES = sorted([*ROOT.glob('*.md'), *ROOT.glob('docs/*.md'), *ROOT.glob('configs/*/README.md')])


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives the headings of a page."""
    text = re.sub(r'```.*?```', '', page.read_text(), flags=re.S)
    headings = re.findall(r'^#+ (.+)$', text, re.M)
    return {re.sub(r'[^\w\- ]', '', heading.lower()).replace(' ', '-') for heading in headings}


def commands(page: Path) -> list[list[str]]:
    """The words of each ``mmpsbn ...`` line in the page's code blocks; a line that ends in a
    backslash goes on in the next."""
    code = '\n'.join(re.findall(r'```\w*\n(.*?)```', page.read_text(), re.S))
    lines = code.replace('\\\n', ' ').splitlines()
    found = [
        shlex.split(line.strip().removeprefix('$ '), comments=True)
        for line in lines
        if line.strip().removeprefix('$ ').startswith('mmpsbn ')
    ]
    return [words[1:] for words in found]


def test_the_first_page_is_short():
    assert len(README.splitlines()) <= 130


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r'\]\(([^)\s]+)\)', page.read_text()):
        if target.startswith(('http:', 'https:')):
            continue
        path, _, anchor = target.partition('#')
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_and_headings_stand_on_lines_of_their_own(page):
    text = page.read_text()
    assert len(re.findall(r'^\s*```\w*$', text, re.M)) == text.count('```')
    prose = re.sub(r'```.*?```', '', text, flags=re.S)
    assert not re.search(r'\S ##+ ', prose)


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist(page, capsys):
    for command, *words in commands(page):
        if command.startswith('-') or command == 'COMMAND':
            continue
        assert command in COMMANDS
        with pytest.raises(SystemExit):
            import_module(f'mmpsbn.cli.{command}').main(['--help'])
        known = re.findall(r'--[\w-]+', capsys.readouterr().out)
        assert {word for word in words if word.startswith('--')} <= set(known)


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_that_are_named_exist(page):
    named = re.findall(r'`((?:mmpsbn|tools|tests|docs|configs)/[\w/.-]+\.\w+)`', page.read_text())
    assert [path for path in named if not (ROOT / path).exists()] == []


WATCH, KEEP, PRUNE = re.findall('```python\n(.*?)```', README, re.S)


@pytest.mark.parametrize(
    'lines, norm, hooks',
    [
        ('', 'BN', ['SparsityHook']),
        (KEEP, 'psBN', ['SparsityHook']),
        (PRUNE, 'BN', ['SparsityHook', 'DemPHook']),
    ],
    ids=['watch', 'keep', 'prune'],
)
def test_the_first_page_shows_config_lines_that_build(tmp_path, lines, norm, hooks):
    (tmp_path / 'my_config.py').write_text(WATCH + lines)
    cfg = Config.fromfile(str(tmp_path / 'my_config.py'))
    init_default_scope('mmdet')
    assert cfg.model.backbone.norm_cfg.type == norm
    assert [type(HOOKS.build(hook)).__name__ for hook in cfg.custom_hooks] == hooks
