"""Trains the judge by which videos of the world of pictures are measured: `python benchmarks/judge.py`.

Some twenty minutes of one free CPU core; stopped and started again it goes on. Writes `benchmarks/judge.safetensors`,
which holds in its metadata how well it sees true frames that it was not trained on.
"""

import argparse
import sys
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from artv_core.checkpoint import load_checkpoint, resolve_checkpoint
from artv_core.evaluation.pictures_judge import save_judge
from artv_core.evaluation.pictures_training import JudgeTraining, train_judge, true_frame_scores
from artv_core.synthetic.pictures.world import PictureWorld

JUDGE = ROOT / "benchmarks/judge.safetensors"
STATE = ROOT / "runs/judge/state.pt"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=JudgeTraining.steps)
    parser.add_argument("--out", type=Path, default=JUDGE)
    args = parser.parse_args()

    torch.set_num_threads(1)
    world, model = PictureWorld(), load_checkpoint(resolve_checkpoint("small"))  # whose autoencoder frames go through
    STATE.parent.mkdir(parents=True, exist_ok=True)
    options, started = JudgeTraining(steps=args.steps), time.monotonic()

    def report(step: int, losses: dict[str, float]) -> None:
        if step % 20 == 0:
            shown = ", ".join(f"{name} {value:.3f}" for name, value in losses.items())
            print(f"{step:5} {time.monotonic() - started:6.0f} s  {shown}", flush=True)

    judge = train_judge(world, model, options, STATE, report)
    scores = {name: round(value, 4) for name, value in true_frame_scores(judge, world).items()}
    print(scores)
    about = {"command": f"python benchmarks/judge.py --steps {args.steps}", "autoencoder": model.config.name}
    save_judge(judge, args.out, about | {"on true frames": scores})


if __name__ == "__main__":
    main()
