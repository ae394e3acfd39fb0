"""The partial engine gives the logits of the full engine, on every kind of network and mode."""

import networks
import numpy as np
import pytest
import timm
import torch
from conftest import make_stimuli
from timm.models.mlp_mixer import MlpMixer
from timm.models.resnet import BasicBlock, ResNet
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import DenseNet

import unitprobe as up
from unitprobe.ablation.engine import FullEngine
from unitprobe.ablation.forward_passes import Batch
from unitprobe.ablation.partial_forward.network_graph import capture_graph
from unitprobe.ablation.partial_forward.partial_engine import PartialForwardEngine
from unitprobe.ablation.replacements import Constant, make_replacement
from unitprobe.ablation.settings import SweepOptions
from unitprobe.ablation.targets import Targets
from unitprobe.errors import ModelError, OptionError, UnitprobeWarning
from unitprobe.layers import evaluating, list_layers, select_layers
from unitprobe.models import as_network

SIZE = (3, 32, 32)
SMALL = {"img_size": 32, "patch_size": 8, "num_classes": 4}


class Plain(nn.Sequential):
    """Maps of 8, 4, 2 and 1 positions with enough units for convolutions of small maps."""

    def __init__(self):
        layers = [nn.Conv2d(3, 48, 3, 4, 1), nn.ReLU()]
        for _ in range(3):
            layers += [nn.Conv2d(48, 48, 3, 1, 1), nn.BatchNorm2d(48), nn.ReLU(inplace=True)]
            layers += [nn.Conv2d(48, 48, 3, 1, 1, bias=False), nn.ReLU(), nn.MaxPool2d(2)]
        super().__init__(*layers, nn.Conv2d(48, 48, 3, 1, 1), nn.ReLU(), nn.Flatten())
        self.append(nn.Linear(48, 4))


class Shortcuts(nn.Module):
    """Maps of 12 and 7 positions: shortcuts, and ReLUs that other operations read too."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 32, 5, 3, 3)
        self.convs = nn.ModuleList(nn.Conv2d(32, 32, 3, 1, 1, bias=n > 2) for n in range(8))
        self.down = nn.Conv2d(32, 48, 1, 2, 1)
        self.late = nn.ModuleList(nn.Conv2d(48, 48, 3, 1, 1) for _ in range(2))
        self.head = nn.Linear(48, 4)

    def forward(self, x):
        relu = nn.functional.relu
        x = relu(self.stem(x))
        for first, second in zip(self.convs[:4:2], self.convs[1:4:2], strict=True):
            x = relu(second(relu(first(x))) + x)
        y = self.convs[4](x)
        x = relu(x - y) + self.convs[5](relu(y))
        x = relu(self.convs[6](x) + self.convs[7](x))
        x = self.down(x)
        x = torch.tanh(x + self.late[0](x))
        y = self.late[1](x)
        return self.head(relu(y + y).mean((2, 3)))


class Gated(nn.Module):
    """A residual block of a depthwise convolution, a squeeze-excite gate and a grouped one."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 3, 2, 1)
        self.depthwise = nn.Conv2d(24, 24, 5, 1, 2, groups=24)
        self.norm = nn.BatchNorm2d(24)
        self.squeeze, self.excite = nn.Conv2d(24, 6, 1), nn.Conv2d(6, 24, 1)
        self.grouped = nn.Conv2d(24, 24, 3, 1, 1, groups=4)
        self.head = nn.Linear(48, 4)

    def forward(self, x):
        functional = nn.functional
        x = functional.silu(self.stem(x), inplace=True)
        y = functional.hardswish(self.norm(self.depthwise(x)))
        gate = functional.relu(self.squeeze(functional.adaptive_avg_pool2d(y, 1)))
        y = y * torch.sigmoid(self.excite(gate))
        z = functional.gelu(self.grouped(y) + x)
        return self.head(torch.cat([z, y - x], dim=1).mean((2, 3)))


NETWORKS = {
    "plain": Plain,
    "shortcuts": Shortcuts,
    "in place and reused": networks.ReusedInPlace,
    "residual": lambda: ResNet(
        BasicBlock, (1, 1, 1, 1), channels=(8, 16, 48, 64), num_classes=4, stem_width=8
    ),
    "dense": lambda: DenseNet(8, (2, 2), 16, num_classes=4),
    "squeeze-excite, depthwise, grouped": lambda: Gated(),
    "vision transformer": lambda: timm.create_model(
        "vit_tiny_patch16_224", depth=2, embed_dim=32, num_heads=2, **SMALL
    ),
    "mixer": lambda: MlpMixer(num_blocks=2, embed_dim=24, **SMALL),
    "windows": lambda: timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=32,
        num_classes=4,
        embed_dim=24,
        depths=(2, 2),
        num_heads=(2, 2),
        window_size=4,
    ),
}
MODES = ["zero", "mean", "class_mean", "resample", "noise", "value"]


def with_lively_weights(module):
    """Give norms and layer scales random weights: as they are made, many pass nothing on."""
    generator = torch.Generator().manual_seed(1)
    for parameter in module.parameters():
        if parameter.ndim == 4 and parameter.dtype == torch.float32:
            nn.init.kaiming_normal_(parameter.data, nonlinearity="relu", generator=generator)
        elif parameter.ndim == 1:
            parameter.data.add_(torch.rand(parameter.shape, generator=generator) * 0.6 - 0.1)
        elif parameter.ndim == 2:
            parameter.data.normal_(0, parameter.shape[1] ** -0.5, generator=generator)
    for module_ in module.modules():
        if isinstance(module_, nn.BatchNorm2d):
            module_.running_mean.normal_(0, 0.1, generator=generator)
            module_.running_var.uniform_(0.5, 1.5, generator=generator)
    return module


class Pair:
    """Both engines for one network, and some stimuli."""

    def __init__(self, module, layers="activations", memory=2**28, few=5):
        torch.manual_seed(0)
        self.network = as_network(with_lively_weights(module).eval())
        size = getattr(module, "input_size", SIZE)
        self.stimuli = make_stimuli(6, classes=3, size=size)
        images = torch.stack([self.stimuli[i][0] for i in range(6)])
        self.images = images.to(next(module.parameters()).dtype)
        listed = list_layers(self.network, example=self.images[:2])
        chosen = select_layers(module, listed, layers)
        self.swept = [
            Targets(layer, tuple((unit,) for unit in range(min(few, layer.units))))
            for layer in chosen
        ]
        graph = capture_graph(self.network, chosen, self.images[:2])
        self.full = FullEngine(self.network)
        self.partial = PartialForwardEngine(graph, self.swept, memory)
        self.batch = Batch(self.images, torch.from_numpy(self.stimuli.labels), range(6))
        with torch.no_grad():
            two = Batch(self.images[:2], self.batch.labels[:2], range(2))
            self.partial.check(two, self.swept, self.full)

    def logits(self, swept, replacement):
        """Return the ablated logits of both engines, (target, stimulus, output)."""
        found = []
        with evaluating(self.network.module), torch.no_grad():
            for engine in (self.partial, self.full):
                engine.begin(self.batch)
                rows = [row for targets in swept for row in engine.ablated(targets, replacement)]
                found.append(torch.cat(rows))
        return found


@pytest.fixture(scope="module")
def pairs():
    made = {}

    def get(name):
        if name not in made:
            made[name] = Pair(NETWORKS[name]())
        return made[name]

    return get


def assert_same_answers(found, expected, tolerance=1e-4):
    """Logits differ by less than the tolerance, answers only where the top two do too."""
    assert float((found - expected).abs().max()) < tolerance * max(1, float(expected.abs().max()))
    top = expected.topk(2).values
    clear = (top[..., 0] - top[..., 1]) > 2 * tolerance
    assert bool((found.argmax(-1) == expected.argmax(-1))[clear].all())


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_those_of_the_full_engine(pairs, name, mode):
    pair = pairs(name)
    options = SweepOptions(mode=up.Value(0.3) if mode == "value" else mode, progress=False)
    swept = pair.swept
    with evaluating(pair.network.module), torch.no_grad():
        replacement = make_replacement(pair.network, pair.stimuli, swept, options)
    found, expected = pair.logits(swept, replacement)
    assert_same_answers(found, expected)
    with torch.no_grad():
        intact = pair.full.begin(pair.batch)
    assert float((expected - intact).abs().max()) > 1e-3, "the test needs ablations that matter"


@pytest.mark.parametrize("name", ["residual", "shortcuts", "vision transformer", "windows"])
def test_groups_and_directions_are_those_of_the_full_engine(pairs, name):
    pair = pairs(name)
    generator = torch.Generator().manual_seed(0)
    for targets in pair.swept[:3]:
        units = targets.layer.units
        rows = torch.nn.functional.normalize(torch.randn(3, units, generator=generator), dim=1)
        groups = Targets(targets.layer, ((0, 1), (2,), tuple(range(4))))
        for some in (groups, Targets(targets.layer, ((0,), (2,)), rows)):
            found, expected = pair.logits([some], Constant(0.2))
            assert_same_answers(found, expected)


@pytest.mark.parametrize("name", ["plain", "vision transformer"])
def test_half_precision_differs_by_its_rounding_alone(name):
    pair = Pair(NETWORKS[name]().bfloat16(), few=2)
    found, expected = pair.logits(pair.swept, Constant())
    assert_same_answers(found.float(), expected.float(), tolerance=2**-6)


def test_any_convolution_or_norm_can_be_ablated():
    pair = Pair(NETWORKS["residual"](), layers=["kind:conv", "kind:norm", "kind:linear"], few=2)
    found, expected = pair.logits(pair.swept[:-1], Constant())
    assert_same_answers(found, expected)


def test_a_unit_that_is_silent_already_leaves_the_logits_as_they_are(pairs):
    pair = pairs("residual")
    unit = pair.swept[3]

    def nothing(targets, which, intact, batch):
        return intact

    with torch.no_grad():
        intact = pair.partial.begin(pair.batch)
        logits = torch.cat(list(pair.partial.ablated(unit, nothing)))
    assert torch.equal(logits, intact.expand_as(logits))


def silent_here_and_there(targets, which, intact, batch):
    """Replace values by others, but on stimuli that are drawn for each unit by none."""
    changed = 1.25 * intact + 1
    for place, unit in enumerate(which):
        kept = silent_stimuli(unit, len(batch.numbers))
        changed[kept, place] = intact[kept, place]
    return changed


def silent_stimuli(unit, stimuli):
    return torch.randperm(stimuli, generator=torch.Generator().manual_seed(unit))[: 1 + unit % 4]


@pytest.mark.parametrize("name", NETWORKS)
def test_stimuli_on_which_a_unit_is_silent_already_keep_their_logits(pairs, name):
    pair = pairs(name)
    found, expected = pair.logits(pair.swept, silent_here_and_there)
    assert_same_answers(found, expected)
    with torch.no_grad():
        intact = pair.partial.begin(pair.batch)
    units = [unit for targets in pair.swept for (unit,) in targets.groups]
    for unit, logits in zip(units, found, strict=True):
        silent = silent_stimuli(unit, 6)
        assert torch.equal(logits[silent], intact[silent])


def test_a_unit_that_no_stimulus_drives_is_not_computed(pairs):
    pair = pairs("residual")
    unit = Targets(pair.swept[3].layer, ((0,),))

    def nothing(targets, which, intact, batch):
        return intact

    with torch.no_grad():
        pair.partial.begin(pair.batch)
        with FlopCounterMode(display=False) as counter:
            list(pair.partial._ablated(unit, nothing, pair.partial._intact, workers=1))
    assert counter.get_total_flops() == 0


def test_little_memory_recomputes_what_it_cannot_keep(pairs):
    pair = pairs("plain")
    whole = sum(map(pair.partial._graph.bytes_of_stimulus, pair.partial._graph.nodes))
    little = Pair(NETWORKS["plain"](), memory=whole)
    size = little.partial.fit(64)
    assert 1 <= size < 64
    assert not little.partial._keeps_all
    found, expected = little.logits(little.swept, Constant())
    assert_same_answers(found, expected)
    with pytest.raises(OptionError, match="does not hold two stimuli"):
        Pair(NETWORKS["plain"](), memory=1000).partial.fit(64)


def test_threads_give_what_one_gives_and_are_put_back(pairs):
    pair = pairs("residual")
    before = torch.get_num_threads()
    with torch.no_grad():
        pair.partial.begin(pair.batch)
    try:
        torch.set_num_threads(3)
        found = [
            torch.cat(
                list(
                    pair.partial._ablated(pair.swept[0], Constant(), pair.partial._intact, workers)
                )
            )
            for workers in (1, 3)
        ]
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-5)


def test_the_tree_is_that_of_the_full_sweep():
    module = with_lively_weights(NETWORKS["residual"]().eval())
    stimuli = make_stimuli(20, classes=4, size=SIZE)
    state = {key: value.clone() for key, value in module.state_dict().items()}
    trees = [
        up.ablate(module, stimuli, layers="late", units=range(6), method=method, batch_size=8)
        for method in ("partial_forward", "full")
    ]
    assert [tree.attrs["method"] for tree in trees] == ["partial_forward", "full"]
    for node in trees[0].children:
        for name, values in trees[0][node].data_vars.items():
            np.testing.assert_allclose(values, trees[1][node][name], atol=1e-4, err_msg=name)
    assert all(torch.equal(state[key], value) for key, value in module.state_dict().items())
    assert networks.count_hooks(module) == 0


@pytest.mark.parametrize(
    "wrap",
    [nn.DataParallel, torch.compile, lambda m: nn.Sequential(m, nn.Identity())],
    ids=["DataParallel", "compiled", "nested"],
)
def test_wrappers_change_nothing(wrap, reused, stimuli):
    expected = up.ablate(reused, stimuli, method="full")
    tree = up.ablate(wrap(reused), stimuli, method="partial_forward")
    for before, after in zip(expected.children, tree.children, strict=True):
        losses = [one["loss_increase"] for one in (expected[before], tree[after])]
        np.testing.assert_allclose(*losses, atol=1e-5)


class Undecided(nn.Module):
    """Its path depends on the stimuli: there is no graph of it."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(8, 4)

    def forward(self, x):
        x = torch.relu(self.first(x))
        return self.head(x.mean((2, 3)) if float(x.sum()) > 0 else x.amax((2, 3)))


def test_a_network_without_a_graph_is_swept_in_full_and_said_so():
    stimuli = make_stimuli(20, classes=4)
    with pytest.warns(UnitprobeWarning, match="cannot be captured as a graph"):
        tree = up.ablate(Undecided().eval(), stimuli, batch_size=4)
    assert tree.attrs["method"] == "full"
    with pytest.raises(ModelError, match="cannot be captured as a graph"):
        up.ablate(Undecided().eval(), stimuli, method="partial_forward")


class Counting(nn.Module):
    """Asks for the number of stimuli in a way that a graph takes for a constant."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(8 * 36, 4)

    def forward(self, x):
        return self.head(torch.relu(self.first(x)).reshape(len(x), -1))


def test_a_number_of_stimuli_that_becomes_a_constant_is_named():
    with pytest.raises(ModelError, match=r"constant of the number of stimuli, as len\(x\)"):
        up.ablate(Counting().eval(), make_stimuli(6), method="partial_forward")
