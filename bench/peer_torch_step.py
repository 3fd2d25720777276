#!/usr/bin/env python3
"""A training step of the same network in PyTorch, as fast as its users get it with little work:
channels last, torch.compile, autocast, fused Adam. Prints a line of tab-separated fields for
each precision:

    torch <precision> <median ms of a step> <ms of a validation batch> <peak MiB>

    peer_torch_step.py [--batch 16] [--size 256] [--steps 50] [--precision f32,tf32,bf16]
                       [--device cuda]
"""

import argparse
import statistics
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

# Channels in, channels out, side of the kernel.
LAYERS = [
    (3, 32, 3),
    (32, 32, 3),
    (32, 64, 3),
    (64, 64, 3),
    (64, 256, 3),
    (256, 256, 3),
    (256, 128, 2),
    (192, 128, 3),
    (128, 128, 3),
    (128, 64, 2),
    (96, 64, 3),
    (64, 64, 3),
    (64, 2, 3),
    (2, 1, 1),
]


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Conv2d(inputs, outputs, side, padding=side // 2 if side % 2 else 0)
            for inputs, outputs, side in LAYERS
        )

    def conv(self, index, x):
        return F.relu(self.layers[index](x))

    def up(self, index, x):
        # TensorFlow pads an even kernel below and right.
        return self.conv(
            index, F.pad(F.interpolate(x, scale_factor=2, mode="nearest"), (0, 1, 0, 1))
        )

    def forward(self, x):
        first = self.conv(1, self.conv(0, x))
        second = self.conv(3, self.conv(2, F.max_pool2d(first, 2)))
        x = self.conv(5, self.conv(4, F.max_pool2d(second, 2)))
        x = self.conv(8, self.conv(7, torch.cat([second, self.up(6, x)], 1)))
        x = self.conv(10, torch.cat([first, self.up(9, x)], 1))
        return self.layers[13](self.conv(12, self.conv(11, x)))


def measure(precision, options):
    device = torch.device(options.device)
    on_card = device.type == "cuda"
    wait = torch.cuda.synchronize if on_card else lambda: None
    torch.manual_seed(3)
    torch.backends.cudnn.benchmark = True
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch._dynamo.reset()
    if on_card:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    network = Network().to(device, memory_format=torch.channels_last)
    compiled = torch.compile(network) if not options.eager else network
    adam = torch.optim.Adam(network.parameters(), lr=1e-4, eps=1e-7, fused=on_card)
    x = torch.rand(options.batch, 3, options.size, options.size, device=device)
    x = x.to(memory_format=torch.channels_last)
    y = (x.mean(1, keepdim=True) > 0.5).float()

    def cast():
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=precision == "bf16")

    def step():
        adam.zero_grad(set_to_none=True)
        with cast():
            logits = compiled(x)
        loss = F.binary_cross_entropy_with_logits(logits.float(), y)
        loss.backward()
        adam.step()

    def validate():
        with torch.no_grad(), cast():
            return compiled(x)

    def median(work):
        for _ in range(5):
            work()
        wait()
        times = []
        # Ten steps at a time, like a training loop that looks at its losses now and then.
        for _ in range(max(1, options.steps // 10)):
            began = time.perf_counter()
            for _ in range(10):
                work()
            wait()
            times.append((time.perf_counter() - began) / 10)
        return 1e3 * statistics.median(times)

    trained, validated = median(step), median(validate)
    peak = torch.cuda.max_memory_reserved() / 2**20 if on_card else 0
    print(f"torch\t{precision}\t{trained:.2f}\t{validated:.2f}\t{peak:.0f}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--precision", default="f32,tf32,bf16")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--eager", action="store_true", help="without torch.compile")
    options = parser.parse_args()
    print(f"# torch {torch.__version__}, cuDNN {torch.backends.cudnn.version()}", flush=True)
    failed = False
    for precision in options.precision.split(","):
        try:
            measure(precision, options)
        except Exception as error:  # one precision that fails leaves the others
            print(
                f"# torch {precision}: {type(error).__name__}: {str(error).splitlines()[0]}",
                flush=True,
            )
            failed = True
    sys.exit(failed)


if __name__ == "__main__":
    main()
