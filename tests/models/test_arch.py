"""The family: valid members, refusals with reasons, JSON, and exact costs against counts by hooks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from hetero.errors import ConfigError
from hetero.models import blocks, cost
from hetero.models.arch import ArchSpec, Stage, load_arch, parse_arch, require_fitting
from hetero.models.network import EmbeddingNetwork, build_network

TINY = ArchSpec(size=16, channels=1, dim=8, stem_width=4, stages=(Stage(width=6), Stage(width=8, depth=2)))

stages = st.builds(
    Stage,
    width=st.integers(1, 12),
    depth=st.integers(1, 3),
    stride=st.sampled_from([1, 2]),
    kernel=st.sampled_from([1, 3, 5]),
    expansion=st.sampled_from([0.5, 1.0, 1.5, 3.0]),
    squeeze_excite=st.booleans(),
)
archs = st.builds(
    ArchSpec,
    size=st.integers(8, 17),
    channels=st.sampled_from([1, 3]),
    dim=st.integers(2, 9),
    block=st.sampled_from(["residual", "bottleneck", "inverted_residual"]),
    stem_width=st.integers(1, 6),
    stem_stride=st.sampled_from([1, 2]),
    stages=st.lists(stages, min_size=1, max_size=2).map(tuple),
    head=st.sampled_from(["depthwise", "average", "flatten"]),
)


grouped = archs.map(lambda a: a.model_copy(update={"block": "bottleneck"})).flatmap(
    lambda a: st.lists(st.sampled_from([None, 1, 2, 3]), min_size=len(a.stages), max_size=len(a.stages)).map(
        lambda groups: a.model_copy(
            update={
                "stages": tuple(s.model_copy(update={"group_width": g}) for s, g in zip(a.stages, groups, strict=True))
            }
        )
    )
)


def counted_by_hooks(arch: ArchSpec) -> tuple[int, int]:
    network, macs = EmbeddingNetwork(arch).eval(), 0

    def count(module: nn.Module, inputs, output) -> None:
        nonlocal macs
        if isinstance(module, nn.Conv2d):
            macs += output.numel() * module.weight[0].numel()
        else:
            macs += module.weight.numel()

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        output = network(torch.zeros(1, arch.channels, arch.size, arch.size))
    assert output.shape == (1, arch.dim)
    return macs, sum(p.numel() for p in network.parameters())


@settings(max_examples=60, deadline=None)
@given(archs | grouped)
def test_cost_equals_counts_by_hooks(arch):
    assert (cost.cost(arch).macs, cost.cost(arch).params) == counted_by_hooks(arch)


def test_cost_uses_the_constants_of_the_blocks():
    assert (cost.SQUEEZE_RATIO, cost.MIN_SQUEEZE) == (blocks.SQUEEZE_RATIO, blocks.MIN_SQUEEZE)


@settings(max_examples=30, deadline=None)
@given(archs)
def test_json_goes_both_ways(arch):
    assert parse_arch(arch.to_json()) == arch


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"stages": []}, "stages"),
        ({"size": 8, "stages": [{"width": 4}] * 4}, "the strides multiply to 16"),
        ({"stages": [{"width": 0}]}, "stages.0.width"),
        ({"stages": [{"width": 4, "kernel": 4}]}, "stages.0.kernel"),
        ({"stages": [{"width": 4, "stride": 3}]}, "stages.0.stride"),
        ({"block": "transformer"}, "block"),
        ({"colour": True}, "colour"),
        ({"channels": 2}, "channels"),
    ],
)
def test_an_invalid_arch_is_refused_with_the_reason(change, reason):
    import json

    tree = json.loads(TINY.to_json()) | change
    with pytest.raises(ConfigError, match=reason):
        parse_arch(json.dumps(tree))


def test_a_missing_arch_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no architecture file"):
        load_arch(tmp_path / "none.json")
    (tmp_path / "arch.json").write_text(TINY.to_json())
    assert load_arch(tmp_path / "arch.json") == TINY


def test_width_depth_kernel_expansion_attention_and_head_may_differ_within_a_family():
    other = TINY.model_copy(
        update={
            "stem_width": 9,
            "head": "flatten",
            "stages": (
                Stage(width=3, depth=3, kernel=5, expansion=2, squeeze_excite=True),
                Stage(width=4),
            ),
        }
    )
    require_fitting(other, TINY, name="tiny", matched=True)


@pytest.mark.parametrize(
    ("change", "trait"),
    [
        ({"block": "inverted_residual"}, "block"),
        ({"dim": 4}, "dim"),
        ({"stages": (Stage(width=6), Stage(width=8, stride=1))}, "strides"),
    ],
)
def test_another_family_is_refused_naming_the_trait(change, trait):
    with pytest.raises(ConfigError, match=rf"'tiny'.*{trait}"):
        require_fitting(TINY.model_copy(update=change), TINY, name="tiny", matched=True)


@pytest.mark.parametrize(("change", "fits"), [({"block": "inverted_residual"}, True), ({"head": "average"}, True),
                                              ({"dim": 4}, False), ({"channels": 3}, False)])  # fmt: skip
def test_a_mismatched_family_may_share_a_space_of_its_dimension_and_pictures(change, fits):
    other = TINY.model_copy(update=change)
    if fits:
        require_fitting(other, TINY, name="tiny", matched=False)
    else:
        with pytest.raises(ConfigError, match=rf"'tiny' does not fit.*{next(iter(change))}"):
            require_fitting(other, TINY, name="tiny", matched=False)


@pytest.mark.parametrize("matched", [True, False])
def test_a_student_may_take_smaller_pictures_but_not_larger_ones(matched):
    require_fitting(TINY.model_copy(update={"size": 12}), TINY, name="tiny", matched=matched)
    with pytest.raises(ConfigError, match=r"takes larger pictures.*17 pixels; expected at most 16"):
        require_fitting(TINY.model_copy(update={"size": 17}), TINY, name="tiny", matched=matched)


def test_groups_are_for_bottlenecks_and_round_the_hidden_width():
    stage = Stage(width=10, expansion=1.0, group_width=4)
    assert ArchSpec(size=8, block="bottleneck", stages=(stage,)).stages[0].hidden(3, "bottleneck") == 8
    assert Stage(width=2, expansion=0.5, group_width=4).hidden(3, "bottleneck") == 4
    with pytest.raises(ValueError, match="group_width is for bottleneck blocks, not for residual"):
        ArchSpec(size=8, stages=(stage,))


def test_bottleneck_block_adds_its_input_and_a_depthwise_one_keeps_channels_apart():
    block = blocks.Bottleneck(4, 4, hidden=6, kernel=3, stride=1, squeeze_excite=False, groups=6).eval()
    assert block.body[3].weight.shape == (6, 1, 3, 3)
    with torch.no_grad():
        block.body[-1].weight.zero_()
        x = torch.rand(2, 4, 5, 5)
        assert torch.allclose(block(x), x)


def test_build_network_is_a_function_of_the_seed_and_leaves_the_global_state_alone():
    torch.manual_seed(7)
    before = torch.get_rng_state()
    first, same, other = (build_network(TINY, seed=s) for s in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.stem[0].weight, same.stem[0].weight)
    assert not torch.equal(first.stem[0].weight, other.stem[0].weight)


def test_residual_block_adds_its_input():
    block = blocks.Residual(4, 4, hidden=4, kernel=3, stride=1, squeeze_excite=False).eval()
    with torch.no_grad():
        block.body[-2].weight.zero_()
        x = torch.rand(2, 4, 5, 5)
        assert torch.allclose(block(x), x)


def test_inverted_residual_block_adds_its_input_only_where_shapes_agree():
    same = blocks.InvertedResidual(4, 4, hidden=8, kernel=3, stride=1, squeeze_excite=True).eval()
    with torch.no_grad():
        same.body[-2].weight.zero_()
        x = torch.rand(2, 4, 5, 5)
        assert torch.allclose(same(x), x)
    assert not blocks.InvertedResidual(4, 4, hidden=8, kernel=3, stride=2, squeeze_excite=False).has_shortcut
