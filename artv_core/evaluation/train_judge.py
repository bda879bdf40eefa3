"""Trains the judge by which videos of the world of pictures are measured, from the root of the repository:
`python -m artv_core.evaluation.train_judge`.

It takes about twenty minutes of one free CPU core. If it is stopped and started again, it continues. The file it writes
holds in its metadata how well the judge sees true frames that it was not trained on. Not in the paper.
"""

import argparse
import time
from pathlib import Path

import torch

from ..checkpoint import load_checkpoint, resolve_checkpoint
from ..synthetic.pictures.world import PictureWorld
from .pictures_judge import save_judge
from .pictures_training import JudgeTraining, train_judge, true_frame_scores

JUDGE = Path("benchmarks/judge.safetensors")
STATE = Path("runs/judge/state.pt")


def main() -> None:
    """Train, measure on true frames, and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=JudgeTraining.steps)
    parser.add_argument("--out", type=Path, default=JUDGE)
    args = parser.parse_args()

    torch.set_num_threads(1)
    world, model = PictureWorld(), load_checkpoint(resolve_checkpoint("small"))  # frames go through its autoencoder
    STATE.parent.mkdir(parents=True, exist_ok=True)
    options, started = JudgeTraining(steps=args.steps), time.monotonic()

    def report(step: int, losses: dict[str, float]) -> None:
        if step % 20 == 0:
            shown = ", ".join(f"{name} {value:.3f}" for name, value in losses.items())
            print(f"{step:5} {time.monotonic() - started:6.0f} s  {shown}", flush=True)

    judge = train_judge(world, model, options, STATE, report)
    scores = {name: round(value, 4) for name, value in true_frame_scores(judge, world).items()}
    print(scores)
    about = {"command": f"python -m {__spec__.name} --steps {args.steps}", "autoencoder": model.config.name}
    save_judge(judge, args.out, about | {"on true frames": scores})


if __name__ == "__main__":
    main()
