"""The paper's network in PyTorch, for comparison: slim's ResNet-50 v1 with fc1024.

A stage's stride sits in its last unit, on the 3x3 convolution, as in nets/_resnet.py.
"""

import torch
from torch import nn
from torch.nn import functional

# Depth of a block's bottleneck, its units and its stride.
BLOCKS = ((64, 3, 2), (128, 4, 2), (256, 6, 2), (512, 3, 1))

RGB_MEANS = (123.68, 116.78, 103.94)


class ConvBN(nn.Sequential):
    """Convolution without biases, and batch norm as slim's."""

    def __init__(self, in_channels, channels, size, stride=1):
        super().__init__(
            nn.Conv2d(in_channels, channels, size, stride, size // 2, bias=False),
            nn.BatchNorm2d(channels, eps=1e-5, momentum=0.1),
        )


class Unit(nn.Module):
    """A residual unit: 1x1, 3x3 and 1x1 convolutions beside a shortcut."""

    def __init__(self, in_channels, depth, stride):
        super().__init__()
        self.stride = stride
        wide = 4 * depth
        self.shortcut = None
        if in_channels != wide:
            self.shortcut = ConvBN(in_channels, wide, 1, stride)
        self.conv1 = ConvBN(in_channels, depth, 1)
        self.conv2 = ConvBN(depth, depth, 3, stride)
        self.conv3 = ConvBN(depth, wide, 1)

    def forward(self, inputs):
        """Map [B, C, H, W] to [B, 4 * depth, H / stride, W / stride]."""
        if self.shortcut is not None:
            shortcut = self.shortcut(inputs)
        else:
            shortcut = inputs[:, :, :: self.stride, :: self.stride]
        outputs = functional.relu(self.conv1(inputs), inplace=True)
        outputs = functional.relu(self.conv2(outputs), inplace=True)
        return functional.relu(self.conv3(outputs).add_(shortcut), inplace=True)


class ResNet50(nn.Module):
    """RGB images [B, 3, H, W] in 0..255 to embeddings [B, embedding_dim].

    Args:
        embedding_dim: D.
    """

    def __init__(self, embedding_dim=128):
        super().__init__()
        self.register_buffer('means', torch.tensor(RGB_MEANS)[:, None, None])
        self.root = ConvBN(3, 64, 7, 2)
        units, channels = [], 64
        for depth, num_units, stride in BLOCKS:
            for i in range(1, num_units + 1):
                units.append(Unit(channels, depth, stride if i == num_units else 1))
                channels = 4 * depth
        self.units = nn.Sequential(*units)
        self.hidden = nn.Linear(channels, 1024, bias=False)
        self.hidden_norm = nn.BatchNorm1d(1024, eps=1e-5, momentum=0.1)
        self.emb = nn.Linear(1024, embedding_dim)

    def forward(self, images):
        """Map [B, 3, H, W] in 0..255 to [B, embedding_dim]."""
        outputs = functional.relu(self.root(images - self.means), inplace=True)
        # TensorFlow's SAME: what is missing of a window is missing at the far border.
        outputs = functional.max_pool2d(outputs, 3, 2, ceil_mode=True)
        outputs = self.units(outputs).mean((2, 3))
        outputs = functional.relu(self.hidden_norm(self.hidden(outputs)), inplace=True)
        return self.emb(outputs)
