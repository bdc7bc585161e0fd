"""Blocks: their gradients are right with few channels, too."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap

import pytest
import torch

from hetero.models.blocks import Residual

# Without the blocks' own convolution oneDNN writes past a buffer here (of 12 channels with AVX-512 only), so each case
# has a process to itself.
SHORTCUT_GRADIENT = """
    import json, sys, torch
    from hetero.models.blocks import Residual
    inputs, threads = map(int, sys.argv[1:])
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    block = Residual(inputs, 12, hidden=8, kernel=3, stride=2, squeeze_excite=False)
    x = torch.randn(16, inputs, 64, 64)  # large enough for oneDNN to copy it in pieces
    errors = []
    block.double()(x.double()).square().sum().backward()
    exact = [parameter.grad.clone() for parameter in block.parameters()]
    block.float().zero_grad()
    block.to(memory_format=torch.channels_last)
    block(x.contiguous(memory_format=torch.channels_last)).square().sum().backward()
    for parameter, right in zip(block.parameters(), exact):
        errors.append(((parameter.grad.double() - right).norm() / right.norm()).item())
    print(json.dumps(errors), flush=True)
"""


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("inputs", [4, 6, 12])
def test_a_narrow_strided_blocks_gradient_is_right_in_channels_last(inputs, threads):
    run = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(SHORTCUT_GRADIENT), str(inputs), str(threads)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,  # it may also wait for ever
    )
    assert run.returncode == 0, run.stderr
    assert max(json.loads(run.stdout)) < 1e-3


def test_a_strided_shortcut_gives_the_same_with_and_without_gradients():
    torch.manual_seed(0)
    block = Residual(6, 12, hidden=8, kernel=3, stride=2, squeeze_excite=False).eval()
    x = torch.randn(5, 6, 15, 15)
    learning = block(x).detach()
    with torch.no_grad():
        torch.testing.assert_close(block(x), learning)
