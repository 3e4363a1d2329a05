"""The networks are the paper's: parameters, operations, and which output depends on which input."""

from __future__ import annotations

import copy
import functools
from typing import TYPE_CHECKING, Any, Final

import pytest
import torch

from wbcpipe.classify.networks import (
    InputLayers,
    LateFusion,
    build_network,
    fused_copy,
    keep_channels_last,
)
from wbcpipe.classify.study.runner import count_flops

if TYPE_CHECKING:
    from wbcpipe.classify.models.classes import Backbone, Method, Stem

SHUFFLE: Final = "shufflenet_v2_x1_0"
HALF: Final = "shufflenet_v2_x0_5"
RESNET: Final = "resnet34"
#: The paper's Table 1: its four rows of single modalities are one network, distillation changes
#: none.
TABLE = [
    pytest.param("single", SHUFFLE, 1, 1_258_729, 147.79, id="single-shufflenet"),
    pytest.param("early-fusion", SHUFFLE, 4, 1_260_673, 172.175, id="early-shufflenet"),
    pytest.param("early-fusion-kd", SHUFFLE, 4, 1_260_673, 172.175, id="early-kd-shufflenet"),
    pytest.param("mm-mimo", SHUFFLE, 4, 1_276_048, 172.19, id="mimo-shufflenet"),
    pytest.param("mm-mimo-kd", SHUFFLE, 4, 1_276_048, 172.19, id="mimo-kd-shufflenet"),
    pytest.param("late-fusion", SHUFFLE, 4, 4 * 1_258_729, 591.16, id="late-shufflenet"),
    pytest.param("single", RESNET, 1, 21_287_237, 3670.75, id="single-resnet"),
    pytest.param("early-fusion", RESNET, 4, 21_315_461, 4024.795, id="early-resnet"),
    pytest.param("early-fusion-kd", RESNET, 4, 21_315_461, 4024.795, id="early-kd-resnet"),
    pytest.param("mm-mimo", RESNET, 4, 21_323_156, 4024.80, id="mimo-resnet"),
    pytest.param("mm-mimo-kd", RESNET, 4, 21_323_156, 4024.80, id="mimo-kd-resnet"),
    pytest.param("late-fusion", RESNET, 4, 4 * 21_287_237, 14683.02, id="late-resnet"),
]


@pytest.mark.filterwarnings(
    "ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning"
)
@pytest.mark.parametrize(("method", "backbone", "modalities", "parameters", "mflops"), TABLE)
def test_the_papers_table(
    method: Method, backbone: Backbone, modalities: int, parameters: int, mflops: float
) -> None:
    from fvcore.nn import FlopCountAnalysis  # warns when imported

    network = build_network(method, backbone, modalities, 3, 5).eval()
    assert sum(p.numel() for p in network.parameters()) == parameters
    count = FlopCountAnalysis(network, torch.zeros(1, modalities * 3, 224, 224))
    count.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    assert count.total() / 1e6 == pytest.approx(mflops, abs=max(0.006, 1e-6 * mflops))


@pytest.mark.parametrize("modalities", [3, 4])
def test_late_fusion_of_half_as_many_channels_costs_what_mm_mimo_costs(modalities: int) -> None:
    half = build_network("late-fusion", HALF, modalities, 1, 5)
    mimo = build_network("mm-mimo", SHUFFLE, modalities, 1, 5)
    flops = [count_flops(network, 64) for network in (half, mimo)]
    assert flops[0] is not None
    assert flops[1] is not None
    assert 0.7 < flops[0] / flops[1] < 1.01


@pytest.mark.parametrize("side", [32, 112, 100])
@pytest.mark.parametrize(
    ("method", "heads"),
    [("single", 1), ("early-fusion", 1), ("late-fusion", 3), ("mm-mimo", 3)],
    ids=str,
)
@pytest.mark.parametrize("backbone", [SHUFFLE, HALF])
def test_shapes(method: Method, heads: int, side: int, backbone: Backbone) -> None:
    modalities = 1 if method == "single" else 3
    network = build_network(method, backbone, modalities, 2, 7).eval()
    assert network(torch.zeros(2, modalities * 2, side, side)).shape == (2, heads, 7)
    assert network.heads == heads


def test_each_mimo_head_has_a_gradient_to_its_own_input() -> None:
    network = build_network("mm-mimo", SHUFFLE, 4, 1, 5).eval()
    images = torch.randn(2, 4, 64, 64, requires_grad=True)
    logits = network(images)
    for head in range(4):
        (gradient,) = torch.autograd.grad(logits[:, head].sum(), images, retain_graph=True)
        assert gradient[:, head].abs().sum() > 0


def test_late_fusion_heads_see_their_own_modality_alone() -> None:
    network = build_network("late-fusion", SHUFFLE, 3, 2, 5).eval()
    images = torch.randn(2, 6, 64, 64, requires_grad=True)
    for head in range(3):
        (gradient,) = torch.autograd.grad(network(images)[:, head].sum(), images)
        seen = gradient.abs().sum(dim=(0, 2, 3)).reshape(3, 2) > 0  # (M * c) -> (M, c)
        assert seen.all(dim=1).tolist() == [index == head for index in range(3)]
        assert seen.any(dim=1).tolist() == [index == head for index in range(3)]


def test_permuting_members_and_modalities_permutes_the_heads() -> None:
    network = build_network("late-fusion", SHUFFLE, 3, 1, 5).eval()
    assert isinstance(network, LateFusion)
    order = [2, 0, 1]
    twin = build_network("late-fusion", SHUFFLE, 3, 1, 5).eval()
    assert isinstance(twin, LateFusion)
    for slot, source in enumerate(order):
        twin.members[slot].load_state_dict(network.members[source].state_dict())
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(twin(images[:, order]), network(images)[:, order])


def test_permuting_a_mimo_networks_first_layer_with_its_input_changes_nothing() -> None:
    network = build_network("mm-mimo", SHUFFLE, 4, 1, 5).eval()
    twin = build_network("mm-mimo", SHUFFLE, 4, 1, 5).eval()
    order = [3, 1, 0, 2]
    state = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    state["backbone.conv1.0.weight"] = state["backbone.conv1.0.weight"][:, order]
    twin.load_state_dict(state)
    images = torch.randn(2, 4, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(twin(images[:, order]), network(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backbone", [SHUFFLE, RESNET])
def test_folding_batch_norm_keeps_the_answer(backbone: Backbone) -> None:
    torch.manual_seed(0)
    network = build_network("mm-mimo", backbone, 2, 1, 3)
    network.train()(torch.randn(8, 2, 48, 48))
    network.eval()
    fused = fused_copy(network)
    assert not [m for m in fused.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    images = torch.randn(3, 2, 48, 48)
    with torch.no_grad():
        torch.testing.assert_close(fused(images), network(images), rtol=1e-3, atol=1e-4)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="method 'middle' is not known; use 'single'"):
        build_network("middle", SHUFFLE, 4, 1, 5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="backbone 'vgg' is not known; use 'shufflenet_v2_x1_0'"):
        build_network("mm-mimo", "vgg", 4, 1, 5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="'single' reads 1 modality, got 4"):
        build_network("single", SHUFFLE, 4, 1, 5)


@pytest.mark.filterwarnings(
    "ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning"
)
@pytest.mark.parametrize("stem", ["split", "block"])
@pytest.mark.parametrize(
    ("backbone", "modalities", "planes"),
    [(SHUFFLE, 2, 1), (SHUFFLE, 3, 1), (SHUFFLE, 4, 1), (SHUFFLE, 4, 3), (RESNET, 4, 1)],
    ids=str,
)
def test_stems_of_their_own_cost_at_most_3_percent_more(
    backbone: Backbone, modalities: int, planes: int, stem: Stem
) -> None:
    from fvcore.nn import FlopCountAnalysis  # warns when imported

    def flops(layers: InputLayers) -> float:
        network = build_network("mm-mimo", backbone, modalities, planes, 5, layers).eval()
        count = FlopCountAnalysis(network, torch.zeros(1, modalities * planes, 224, 224))
        count.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
        return float(count.total())

    shared = flops(InputLayers())
    assert flops(InputLayers(stem, told_missing=True)) <= 1.03 * shared


@pytest.mark.parametrize(("backbone", "channels"), [(SHUFFLE, 24), (RESNET, 64)])
@pytest.mark.parametrize("stem", ["split", "block"])
def test_the_stem_of_a_modality_sees_it_alone(
    backbone: Backbone, channels: int, stem: Stem
) -> None:
    network = build_network("mm-mimo", backbone, 2, 2, 3, InputLayers(stem)).eval()
    net: Any = network.backbone
    images = torch.randn(1, 4, 64, 64, requires_grad=True)
    first = net.conv1(images) if backbone == SHUFFLE else net.relu(net.bn1(net.conv1(images)))
    features = net.maxpool(first)
    assert features.shape[1] == channels
    for modality in range(2):
        half = slice(modality * channels // 2, (modality + 1) * channels // 2)
        (gradient,) = torch.autograd.grad(features[:, half].sum(), images, retain_graph=True)
        seen = gradient.abs().sum(dim=(0, 2, 3)) > 0
        assert seen.tolist() == [index // 2 == modality for index in range(4)]
    fused = fused_copy(network)(images)
    torch.testing.assert_close(fused, network(images), rtol=1e-3, atol=1e-4)


def test_a_stem_that_cannot_be_divided_is_refused() -> None:
    with pytest.raises(ValueError, match="24 channels among the modalities, which 5"):
        build_network("mm-mimo", SHUFFLE, 5, 1, 3, InputLayers("split"))


def test_heads_are_told_which_inputs_are_missing() -> None:
    network = build_network("mm-mimo", SHUFFLE, 3, 1, 4, InputLayers(told_missing=True)).eval()
    images = torch.randn(2, 3, 32, 32)
    images[1, 2] = 0.0
    before = network(images)
    with torch.no_grad():
        network.get_parameter("missing.weight")[:, 2] = torch.arange(12.0)
    after = network(images)
    assert torch.equal(after[0], before[0])
    torch.testing.assert_close(after[1] - before[1], torch.arange(12.0).reshape(3, 4))


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("side", [32, 48, 64])
def test_channels_last_memory_changes_neither_logits_nor_gradients(
    side: int, training: bool
) -> None:
    torch.manual_seed(0)
    plain = build_network("mm-mimo", SHUFFLE, 3, 1, 4).double().train(training)
    converted = keep_channels_last(copy.deepcopy(plain))
    assert converted.state_dict().keys() == plain.state_dict().keys()
    images = torch.randn(4, 3, side, side).double().contiguous(memory_format=torch.channels_last)
    elsewhere = set()

    def note(values: torch.Tensor, name: str) -> None:
        if values.ndim == 4 and not values.is_contiguous(memory_format=torch.channels_last):
            elsewhere.add(name)

    def watch(name: str, _module: object, _images: object, found: torch.Tensor) -> None:
        note(found, f"values of {name}")
        found.register_hook(  # type: ignore[no-untyped-call]
            lambda gradient: note(gradient, f"gradient of {name}")
        )

    hooks = [
        module.register_forward_hook(functools.partial(watch, name))
        for name, module in converted.named_modules()
    ]
    found, expected = converted(images), plain(images)
    assert torch.allclose(found, expected, rtol=1e-9, atol=1e-12)
    for network, logits in ((converted, found), (plain, expected)):
        logits.square().sum().backward()
        assert all(one.grad is not None for one in network.parameters())
    for hook in hooks:
        hook.remove()
    # The mean over pixels, which follows them, spreads its gradient in the other order.
    assert elsewhere <= {"gradient of backbone.conv5", "gradient of backbone.conv5.2"}
    for one, other in zip(converted.parameters(), plain.parameters(), strict=True):
        assert one.grad is not None
        assert other.grad is not None
        assert one.grad.shape == one.shape
        assert torch.allclose(one.grad, other.grad, rtol=1e-6, atol=1e-9)
    expected = plain.eval()(images)
    assert torch.allclose(fused_copy(converted)(images), expected, rtol=1e-6, atol=1e-9)
