"""Hand-written networks with the corners that real ones have."""

import torch
from torch import nn
from torch.nn import functional


class FunctionalBlock(nn.Module):
    """A CIFAR ResNet block whose ReLUs and shortcut are functional (option A of He et al.)."""

    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.padding = stride, (outputs - inputs) // 2

    def forward(self, x):
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        if self.padding:
            x = functional.pad(
                x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, *[self.padding] * 2)
            )
        out += x
        return functional.relu(out)


class ResNet20(nn.Module):
    """ResNet-20 for CIFAR: 19 functional ReLUs."""

    def __init__(self, classes=10):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(16, 16, 1)
        self.layer2 = self._stage(16, 32, 2)
        self.layer3 = self._stage(32, 64, 2)
        self.linear = nn.Linear(64, classes)

    @staticmethod
    def _stage(inputs, outputs, stride):
        first = FunctionalBlock(inputs, outputs, stride)
        return nn.Sequential(first, *[FunctionalBlock(outputs, outputs, 1) for _ in range(2)])

    def forward(self, x):
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(functional.avg_pool2d(x, x.shape[-1]).flatten(1))


class ReusedInPlace(nn.Module):
    """One in-place ReLU module called twice, the second time on a tensor recorded before."""

    input_size = (3, 8, 8)

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(6)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        y = self.conv2(x)
        y += x
        y = self.relu(y)
        return self.head(y.mean((2, 3)))


class FailsLate(nn.Module):
    """Raises after its first layer, on inputs above a limit."""

    input_size = (3, 8, 8)

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.relu = nn.ReLU()

    def forward(self, x):
        x = self.relu(self.conv(x))
        if float(x.max()) > 1e6:
            raise RuntimeError("too large")
        return x.mean((2, 3))


class TinyAttention(nn.Module):
    """Patches, one attention block written out, a token-wise MLP: (stimulus, token, unit)."""

    input_size = (3, 8, 8)

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 12, 4, 4)
        self.norm = nn.LayerNorm(12)
        self.qkv = nn.Linear(12, 36)
        self.mlp = nn.Linear(12, 20)
        self.head = nn.Linear(20, 4)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        n, t, _ = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(n, t, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
        attention = (q @ k.transpose(-2, -1)).softmax(-1)
        x = (attention @ v).transpose(1, 2).reshape(n, t, 12)
        return self.head(functional.gelu(self.mlp(x)).mean(1))


def build_tiny():
    """A network as a user would name it: ``networks:build_tiny``."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return ReusedInPlace().eval()


def count_hooks(module):
    """Return the number of forward hooks on a network, all kinds together."""
    return sum(
        len(child._forward_hooks) + len(child._forward_pre_hooks) for child in module.modules()
    )


class Recurrent(nn.Module):
    """Rows of a map as time steps: an LSTM, then a cell in a loop."""

    input_size = (3, 8, 8)

    def __init__(self, batch_first=True):
        super().__init__()
        self.batch_first = batch_first
        self.lstm = nn.LSTM(24, 5, num_layers=2, bidirectional=True, batch_first=batch_first)
        self.cell = nn.GRUCell(10, 7)
        self.head = nn.Linear(7, 4)

    def forward(self, x):
        x = x.permute(0, 2, 1, 3).flatten(2)  # (stimulus, row, channel and column)
        if self.batch_first:
            x, _ = self.lstm(x)
        else:
            x, _ = self.lstm(x.transpose(0, 1))
            x = x.transpose(0, 1)
        state = x.new_zeros(len(x), 7)
        for step in range(3):
            state = self.cell(x[:, step], state)
        return self.head(state)


class Experts(nn.Module):
    """Each stimulus goes to one of two experts, by its mean."""

    input_size = (3, 8, 8)

    def __init__(self):
        super().__init__()
        self.stem = nn.Linear(3, 6)
        self.bright = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
        self.dark = nn.Sequential(nn.Linear(6, 6), nn.GELU())
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        mean = x.mean((2, 3))
        features = torch.relu(self.stem(mean))
        out = torch.zeros_like(features)
        bright = mean.sum(1) > 0
        for mask, expert in ((bright, self.bright), (~bright, self.dark)):
            if mask.any():
                out[mask] = expert(features[mask])
        return self.head(torch.tanh(out))


class Windows(nn.Module):
    """Windows of a map are merged into the stimuli, worked on, and taken apart again."""

    input_size = (6, 8, 8)

    def __init__(self):
        super().__init__()
        self.inside = nn.Linear(6, 6)
        self.after = nn.Linear(6, 10)

    def forward(self, x):
        n = x.shape[0]
        x = x.view(n, 6, 2, 4, 2, 4).permute(0, 2, 4, 3, 5, 1).reshape(-1, 16, 6)
        x = torch.relu(self.inside(x))
        x = x.view(n, 2, 2, 4, 4, 6).permute(0, 1, 3, 2, 4, 5).reshape(n, 8, 8, 6)
        return torch.relu(self.after(x))
