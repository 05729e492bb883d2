"""The shell launchers, with a stub in Python's (or srun's) place that prints how it was called."""

import os
import subprocess

import pytest
from small_detector import ROOT

TOOLS = ROOT / 'tools'
READ_BY_THE_SCRIPTS = set(
    'NNODES NODE_RANK MASTER_ADDR PORT OMP_NUM_THREADS MKL_NUM_THREADS'.split()
)


@pytest.fixture
def call(tmp_path):
    """call('script arguments', **env) -> (the command line it ran, its OMP_NUM_THREADS).

    Where that failed, it returns what was printed as an error.
    """
    stub = tmp_path / 'srun'
    stub.write_text('#!/bin/bash\necho "$*"\necho "$OMP_NUM_THREADS"\n')
    stub.chmod(0o755)

    def run(command, *args, **env):
        script, *first = command.split()
        clean = {k: v for k, v in os.environ.items() if k not in READ_BY_THE_SCRIPTS}
        clean.update(
            PYTHON=str(stub), PATH=f'{tmp_path}:{os.environ["PATH"]}', CUDA_VISIBLE_DEVICES=''
        )
        done = subprocess.run(
            ['bash', TOOLS / script, *first, *args],
            env={**clean, **env},
            capture_output=True,
            text=True,
            timeout=20,
        )
        return done.stdout.splitlines() if done.returncode == 0 else done.stderr

    return run


def test_one_machine_takes_a_free_port_or_the_one_that_is_named(call):
    line, _ = call('dist_train.sh', 'a config.py', '2', '--amp', '--cfg-options', 'x="[1, 2]"')
    assert line == (
        '-m torch.distributed.run --nproc-per-node=2 --nnodes=1 --standalone '
        f'--local-addr=127.0.0.1 {TOOLS}/train.py a config.py --amp '
        '--cfg-options x="[1, 2]" --launcher pytorch'
    )
    line, _ = call('dist_train.sh c.py 2', PORT='29511')
    assert '--master-addr=127.0.0.1 --master-port=29511' in line and '--standalone' not in line


def test_several_machines(call):
    line, _ = call('dist_train.sh c.py 8', NNODES='2', NODE_RANK='1', MASTER_ADDR='host0')
    place = '--nnodes=2 --node-rank=1 --master-addr=host0 --master-port=29500'
    assert f'--nproc-per-node=8 {place}' in line
    assert 'NNODES=2 needs MASTER_ADDR' in call('dist_train.sh c.py 8', NNODES='2')


def test_cpu_ranks_share_the_cores(call):
    cores = len(os.sched_getaffinity(0))
    assert call('dist_train.sh c.py 2')[1] == str(max(1, cores // 2))
    assert call('dist_train.sh c.py 999')[1] == '1'
    assert call('dist_train.sh c.py 2', OMP_NUM_THREADS='7')[1] == '7'


def test_dist_test(call):
    line, _ = call('dist_test.sh c.py last.pth 2 --out o.pkl')
    assert line.endswith(f'{TOOLS}/test.py c.py last.pth --out o.pkl --launcher pytorch')


@pytest.mark.parametrize(
    'command, message',
    [
        ('dist_train.sh c.py', 'usage: '),
        ('dist_train.sh c.py two', "must be a positive integer, got 'two'"),
        ('dist_train.sh c.py 0', "must be a positive integer, got '0'"),
        ('dist_test.sh c.py 2', 'usage: '),
        ('slurm_train.sh partition job c.py', 'usage: '),
    ],
)
def test_wrong_arguments(call, command, message):
    said = call(command)
    assert said.startswith('error: ') and message in said


def test_slurm(call):
    options = dict(GPUS='4', SRUN_ARGS='--mem=9G --qos=q')
    line, _ = call('slurm_train.sh gpu job c.py work --resume', **options)
    assert line.startswith(
        '-p gpu --job-name=job --ntasks=4 --ntasks-per-node=4 --cpus-per-task=5 --gres=gpu:4 '
        '--kill-on-bad-exit=1 --mem=9G --qos=q'
    )
    assert line.endswith(f'-u {TOOLS}/train.py c.py --work-dir=work --launcher=slurm --resume')
    assert '--gres' not in call('slurm_train.sh cpu job c.py work', NO_GPU='1')[0]
