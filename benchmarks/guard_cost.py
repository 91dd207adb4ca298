"""What safety costs: a step of consistency_train.py with all its guards, and the same without any.

    python benchmarks/guard_cost.py --out benchmarks/results/guard_cost_cpu.json
    torchrun --standalone --nproc-per-node 2 benchmarks/guard_cost.py

Both do the same work on the same batch: colours, groups, tiles, forward, backward, clipping,
optimiser, moving average. Guarded is what the script runs: valid pixels counted over passes and
processes, gradients spoiled where a loss is not finite, the flag that the optimiser reads, results
noted, samples counted, signals asked for and agreed on, word left for others, losses kept for the
log. Bare is the loop of a tutorial. Taken in turn; the ratio is that of each round. Not in it: what
happens now and then (checkpoints, validation, a line of the log). Prints one JSON object.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.interleaved import seconds_in_turn, summary, write_result
from consistency_train import TERMS, build_step, draw_groups, open_batches
from datasets.colours import colour_views
from datasets.synthetic_tree import SyntheticSettings, write_tree
from learner import Learner
from losses import weighted_sum
from networks.masking import pack_groups
from resuming import start_network
from session import Session
from streams import open_labels
from unlabeled import open_unlabeled
from utils.config import load_config, weights_of
from utils.optimization import autocast
from utils.processes import start_process, stop_process

CONF = Path(__file__).parent.parent / "conf" / "consistency_train.yaml"


def steps_of(words: list[str]) -> tuple[dict[str, Callable[[], None]], Learner, Session]:
    """ "bare" and "guarded", each one step; and what they are made of."""
    cfg = load_config(CONF, words)
    process = start_process(cfg.run.device)
    weights = weights_of(cfg, TERMS, script="consistency_train.py")
    labeled, validation = open_labels(cfg, process)
    unlabeled = open_unlabeled(cfg, labeled, validation, process)
    start = start_network(cfg, process)
    network = start.network
    step_module = build_step(cfg, network).to(process.device)
    run = {"process": process, "start": start}
    learner = Learner(cfg, step_module=step_module, trained=("labeled", "unlabeled"), **run)
    streams = {"labeled": labeled, "unlabeled": unlabeled, "validation": validation}
    session = Session(cfg, learner=learner, streams=streams, **run)
    batches = open_batches(cfg, labeled, unlabeled, network, learner.progress.samples, process)
    kept = {name: next(stream) for name, stream in batches.items()}
    num_tokens = {"unlabeled": network.encoder.grid(network.image_size)}
    num_tokens = {name: height * width for name, (height, width) in num_tokens.items()}
    forward = learner.accelerated(step_module)
    done = 0

    def losses_of(fetched: dict) -> tuple[dict, dict]:
        batch = {name: colour_views(views) for name, views in fetched.items()}
        tiles = {
            name: pack_groups(
                draw_groups(cfg, name, batch[name]["sample_number"], num_tokens=count),
                num_prefix=network.encoder.num_prefix,
            ).to(process.device)
            for name, count in num_tokens.items()
        }
        return batch, forward(batch["labeled"], batch["unlabeled"], tiles, network)

    def bare() -> None:
        learner.optimizer.zero_grad(set_to_none=True)
        with autocast(process.device, learner.precision):
            _, losses = losses_of({name: dict(views) for name, views in kept.items()})
        losses.pop("weight_mass")
        weighted_sum(losses, weights).backward()
        nn.utils.clip_grad_norm_(step_module.parameters(), cfg.optimizer.max_grad_norm)
        learner.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(
                list(learner.averaged.average.parameters()), list(network.parameters()),
                1 - cfg.train.ema_decay,
            )  # fmt: skip

    def guarded() -> None:
        nonlocal done
        repeated = {name: iter([dict(views)]) for name, views in kept.items()}
        for fetched in learner.passes(repeated):
            with learner.forward_pass(done):
                batch, losses = losses_of(fetched)
            notes = {"weight_mass": losses.pop("weight_mass")}
            learner.backward(done, weighted_sum(losses, weights), losses | notes, batch)
        learner.learn(done)
        session.log_losses(done + 1)
        session.draw_validate_save(done + 1)
        done += 1

    return {"bare": bare, "guarded": guarded}, learner, session


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", default="vit_small_patch16_224")
    parser.add_argument("--image-size", type=int, nargs=2, default=[96, 320], metavar=("H", "W"))
    parser.add_argument("--decoder-channels", type=int, default=64)
    parser.add_argument("--labeled", type=int, default=1)
    parser.add_argument("--unlabeled", type=int, default=7)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=1, help="a turn, so that a GPU is kept busy")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args(arguments)
    with TemporaryDirectory() as place:
        settings = SyntheticSettings(
            num_train_scenes=8, num_val_scenes=1, num_test_scenes=1, frames_per_scene=2,
            image_size=(96, 320),
        )  # fmt: skip
        write_tree(Path(place) / "look_a", "look_a", settings, workers=1)
        never = 10**9
        words = [
            *(f"{name}.root={place}" for name in ("labeled", "unlabeled", "validation")),
            f"network.encoder={args.encoder}", f"network.image_size={args.image_size}",
            f"network.decoder_channels={args.decoder_channels}", "labeled.num_frames=null",
            f"labeled.batch_size={args.labeled}", f"unlabeled.batch_size={args.unlabeled}",
            f"run.folder={place}", "train.num_workers=0", "train.ema_decay=0.99",
            f"train.num_steps={never}", f"log.every_steps={never}", f"save.every_steps={never}",
            f"evaluation.every_steps={never}", f"samples.every_steps={never}",
        ]  # fmt: skip
        steps, learner, session = steps_of(words)
        several = {
            name: lambda step=step: [step() for _ in range(args.steps)]
            for name, step in steps.items()
        }
        device = learner.process.device
        with session.stop:
            seconds, others = seconds_in_turn(
                several, rounds=args.rounds, warmup=args.warmup, device=device
            )
        session.agreement.any_asked_now(False)
    result = {
        "benchmark": "guard_cost",
        "settings": {key: value for key, value in vars(args).items() if key != "out"},
        "processes": learner.process.world_size,
        "precision": learner.precision,
        "others_busy": summary(others),
        "seconds": {
            name: summary([s / args.steps for s in values]) for name, values in seconds.items()
        },
        "guarded_over_bare": summary(
            [g / b for g, b in zip(seconds["guarded"], seconds["bare"], strict=True)]
        ),
    }
    if learner.process.is_main:
        write_result(result, device=device, out=args.out)
    learner.let_go()
    steps.clear()
    several.clear()
    return 0


if __name__ == "__main__":
    code = main()
    stop_process()
    sys.exit(code)
