"""The PyTorch side of bench/compare.sh: `step_torch.py BATCH SIDE THREADS f32|bf16`; one training
step for each line read.

f32 runs eagerly, bf16 under autocast and `torch.compile` (f32 weights and Adam); both with
channels last in memory, which is PyTorch's fastest layout for convolutions on a CPU.
"""

import contextlib
import sys

import torch
from torch import nn
from torch.nn import functional

# Channels in, channels out, side of the kernel; the last one gives the logits.
CONVOLUTIONS = [
    (3, 32, 3), (32, 32, 3), (32, 64, 3), (64, 64, 3), (64, 256, 3), (256, 256, 3), (256, 128, 2),
    (192, 128, 3), (128, 128, 3), (128, 64, 2), (96, 64, 3), (64, 64, 3), (64, 2, 3), (2, 1, 1),
]  # fmt: skip


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        layers = [
            nn.Conv2d(i, o, kernel, padding=kernel // 2 if kernel % 2 else 0)
            for i, o, kernel in CONVOLUTIONS
        ]
        for layer in layers:
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            nn.init.zeros_(layer.bias)
        self.layers = nn.ModuleList(layers)

    def part(self, numbers, x):
        for number in numbers:
            x = functional.relu(self.layers[number](x))
        return x

    def up(self, number, x):
        x = functional.interpolate(x, scale_factor=2, mode="nearest")
        # Keras pads an even kernel on the right and below only.
        return self.part([number], functional.pad(x, (0, 1, 0, 1)))

    def forward(self, x):
        first = self.part([0, 1], x)
        second = self.part([2, 3], functional.max_pool2d(first, 2))
        x = self.part([4, 5], functional.max_pool2d(second, 2))
        x = self.part([7, 8], torch.cat([second, self.up(6, x)], 1))
        x = self.part([10, 11, 12], torch.cat([first, self.up(9, x)], 1))
        return self.layers[13](x)


def main():
    batch, side, threads = map(int, sys.argv[1:4])
    half = sys.argv[4] == "bf16"
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    network = Network().to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4, eps=1e-7)
    x = torch.rand(batch, 3, side, side).to(memory_format=torch.channels_last)
    y = (x.mean(1, keepdim=True) > 0.5).float()
    forward = torch.compile(network) if half else network
    print("ready", flush=True)
    for _ in sys.stdin:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16) if half else contextlib.nullcontext():
            logits = forward(x)
        loss = functional.binary_cross_entropy_with_logits(logits.float(), y)
        loss.backward()
        optimizer.step()
        print(f"{loss.item():.6f}", flush=True)


if __name__ == "__main__":
    main()
