"""What --help shows."""

import importlib
import sys

import pytest

import train
from excluders import EXCLUDER_CHOICES
from heads import HEAD_CHOICES
from nets import NET_CHOICES


@pytest.mark.parametrize(
    'command',
    [
        *('train.py', 'embed.py', 'evaluate.py', 'trinet_embed.py', 'plot.py'),
        *('make_csv.py', 'make_csv.py split', 'make_csv.py table'),
        *('visualize.py', 'visualize.py curves', 'visualize.py projector'),
    ],
)
def test_help_fits_a_terminal(monkeypatch, capsys, command):
    monkeypatch.setenv('COLUMNS', '80')
    name, *words = command.split()
    monkeypatch.setattr(sys, 'argv', [name])
    with pytest.raises(SystemExit, match='0'):
        importlib.import_module(name.removesuffix('.py')).main([*words, '--help'])
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) >= 80] == []


def test_help_lists_long_choices_once_and_has_every_default():
    text = ' '.join(train.build_parser().format_help().split())
    for choices in (NET_CHOICES, HEAD_CHOICES, EXCLUDER_CHOICES):
        assert text.count(f'One of {", ".join(choices)}.') == 1
        assert '{' + ','.join(choices) + '}' not in text
    for flag, default in (
        ('--batch_p BATCH_P P, identities per batch.', '32'),
        ('--last_stride {1,2} ResNets only', '2'),
        ('--pad_crop PIXELS Pad images', '0'),
        ('--model_name MODEL_NAME The net', 'resnet_v1_50'),
    ):
        (_, after) = text.split(flag)
        assert after.partition(' (default: ')[2].startswith(f'{default})')
