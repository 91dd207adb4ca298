"""What a network costs: parameters, seconds forward and backward, peak memory.

    python benchmarks/network_cost.py --encoder vit_base_patch16_384 --image-size 192 640

Prints one JSON object; `--out FILE` also writes it. Peak memory is that of this process (resident)
on a CPU, allocated on a GPU, so run one size a process.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from networks import build_network
from utils.run_folder import environment
from utils.throughput import peak_memory_gib


def seconds(work, device: torch.device) -> float:
    """Wall seconds of one call, the GPU's queue emptied on both sides."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", default="vit_base_patch16_384")
    parser.add_argument("--image-size", type=int, nargs=2, default=[192, 640], metavar=("H", "W"))
    parser.add_argument("--decoder-channels", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = build_network(
        encoder=args.encoder,
        image_size=tuple(args.image_size),
        max_depth=80.0,
        decoder_channels=args.decoder_channels,
    ).to(device)
    image = torch.rand(args.batch_size, 3, *args.image_size, device=device)
    forward, backward, output = [], [], None

    def run_forward() -> None:
        nonlocal output
        output = network(image)

    def run_backward() -> None:
        network.zero_grad()
        (output.depth.mean() + output.log_uncertainty.mean()).backward()

    for _ in range(args.rounds + 1):
        forward.append(seconds(run_forward, device))
        backward.append(seconds(run_backward, device))
    result = {
        "encoder": args.encoder,
        "image_size": args.image_size,
        "decoder_channels": args.decoder_channels,
        "batch_size": args.batch_size,
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "forward_s": statistics.median(forward[1:]),  # the first round warms up
        "backward_s": statistics.median(backward[1:]),
        "peak_memory_gib": peak_memory_gib(),
        "environment": environment(device),
    }
    text = json.dumps(result, indent=2)
    print(text)
    if args.out:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
