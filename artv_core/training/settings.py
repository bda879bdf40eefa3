"""The settings of the stages of a training run, as frozen dataclasses. `config.py` reads and checks them."""

from dataclasses import dataclass, field

FITTING = -1
"""As `data.held_out`: choose how many clips to hold out from the number of clips."""


@dataclass(frozen=True)
class LoopConfig:
    """Settings that every stage has.

    `batch_size` is the total over all processes. Each process takes its share `micro_batch` samples at a time (0: all
    at once) and accumulates gradients. The learning rate warms up linearly, stays constant, then decays linearly to 0
    over the last `decay_steps`. `optimizer` is "adamw", "adamw8bit" (its state takes a quarter of the memory) or
    "muon". Muon updates the matrices and kernels inside the networks at `muon_learning_rate`, and AdamW updates the
    rest at `learning_rate`.

    `weight_decay` is AdamW's and Muon's. `gradient_clip` bounds the gradients' norm (0: no bound). Every `save_minutes`
    the state is written, and every `sheet_every` steps a sheet. `mixed_precision` is "no", "bf16" or "fp16".

    `ema_decay` 0 keeps no averaged weights; `ema_device` "cpu" keeps them in main memory. `graph`: on one CUDA device,
    capture the forward and backward pass as CUDA graphs, one for each shape of micro-batch. `log_every`: steps between
    two entries in the log, each with means of the loss and other scalars. `workers`: processes that read ahead, for
    each training process. `start_from`: a checkpoint (shipped name or path) to start training from; empty starts from
    new weights. `wandb_project`: also log to Weights & Biases, which must be installed.
    """

    start_from: str = ""
    steps: int = 1000
    batch_size: int = 16
    micro_batch: int = 0
    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    muon_learning_rate: float = 3e-3
    weight_decay: float = 0.01
    warmup_steps: int = 100
    decay_steps: int = 0
    gradient_clip: float = 1.0
    ema_decay: float = 0.999
    ema_device: str = "model"
    mixed_precision: str = "no"
    graph: bool = True
    workers: int = 0
    save_minutes: float = 5.0
    log_every: int = 20
    sheet_every: int = 500
    wandb_project: str = ""


@dataclass(frozen=True)
class VAEStage(LoopConfig):
    """The autoencoder's settings. `latent_noise`: standard deviation of the noise added to the latents before they are
    decoded. `crop_share`: share of the steps that see crops of `crop` pixels around the object instead of whole frames,
    where nearly all of the error is; such a step has as many more crops as cost the same. `still_weight`: weight of the
    loss on latents that change where the picture does not. It needs a second frame of each clip, which makes a step 1.5
    times as expensive. `edge_weight`: weight of the error of differences between neighbouring pixels. `moment_weight`:
    weight of the loss that keeps latents at mean 0 and variance 1.

    `steps` 0 uses the autoencoder of `start_from` as it is; in the stage "decoder" it leaves the decoder as it is. That
    stage takes no `start_from` and no `still_weight`: it goes on from the stage "vae", with its encoder as it is.
    """

    latent_noise: float = 0.03
    crop: int = 32
    crop_share: float = 0.0
    edge_weight: float = 0.5
    moment_weight: float = 0.02
    still_weight: float = 0.0


@dataclass(frozen=True)
class LatentsStage:
    """The clips that are rendered and encoded once, for the diffusion stage to draw from. `seed` is the world's seed;
    None uses the run's. Set it so that runs with different seeds see the same clips. There are `clips` clips of
    `frames` frames; `batch_size` of them are encoded at a time. `motion_weights`, for the world of pictures only, is a
    TOML table of how many times as often as usual clips show a motion (`"spinning fast" = 3.0`); motions that are not
    named count 1."""

    clips: int = 4096
    frames: int = 12
    batch_size: int = 8
    seed: int | None = None
    motion_weights: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class DataConfig:
    """The user's own clips, for runs that do not train on a synthetic world.

    `path`: a folder of videos with a caption beside each, a CSV or JSONL list, WebDataset shards, or a folder written
    by `artv prepare`. `bucket_multiple`: videos roughly keep their aspect ratio, in sizes of about the training size's
    area whose sides are multiples of this; 0 crops all videos to the training size. Prepared clips stay as they are,
    and the training size must be one of theirs. `held_out`: number of clips that are never trained on, used for
    held-out losses and sample sheets; -1 takes a quarter of all clips, up to 8. `fps`: frames per second that are taken
    from a video. `min_frames`: shorter clips are left out. `window`: number of groups (shards or files) whose clips are
    shuffled together.
    """

    path: str = ""
    fps: float = 8.0
    bucket_multiple: int = 64
    min_frames: int = 3
    held_out: int = FITTING
    window: int = 16


@dataclass(frozen=True)
class DiffusionStage(LoopConfig):
    """Settings for training the noise network and the mask network, and the text encoder if there is none to start
    from.

    `train` names the parts that learn: "unet" (Stable Diffusion's own weights), "branches" (what ARTV adds to it: the
    reference adapter and the branches for the anchor and the noise levels), "mask", "text", and instead of "unet"
    "lora": changes of rank `lora_rank` of the UNet's linear layers (LoRA), which make a small file. The other parts
    stay as they are, in half precision if training uses it.

    `first_share` of the samples are first frames (no references), `second_share` are second frames (both references and
    the anchor are the frame before). `auxiliary_share` of the loss is the noise network's own error, the rest is the
    masked error; the paper trains on the masked error alone (0). `weight_cap` bounds the loss's weight (0: no bound,
    which is the plain error of eps or v); `min_snr_gamma` above 0 uses min-SNR weighting instead (Hang et al. 2023,
    arXiv 2303.09556). Cells that differ from most of their frame weigh up to `1 + detail_weight` times as much. Cells
    that cannot be copied from the last frame weigh up to `1 + change_weight` times as much as others, while each frame
    keeps its share of the loss. `uniform_share` of the samples draw their time step uniformly; the others draw a
    log-normal noise-to-signal ratio (Karras et al., 2022) with median `ratio_median` and standard deviation
    `ratio_spread` in the logarithm. A first frame can be any frame of its clip but the first; in `beginning_share` of
    the cases it is the clip's first. The anchor is at most `anchor_window` frames back. References and anchor get noise
    levels from 0 to `max_noise_level`. `drop_references`, `drop_anchor` and `drop_text` are the shares of samples that
    leave that condition out, each drawn independently. The mask network starts with a bias of `mask_bias` before its
    sigmoid, so it copies little at first.

    Not in the paper: in `rollout_share` of the samples the references are frames made by the networks in their current
    state, `rollout_frames` of them with `rollout_steps` denoising steps each. The target is still the true frame. In
    `error_share` of the samples one of the last `error_bank` errors of the networks is added to the references, and in
    as many another one to the anchor (`ErrorBank`).

    `resident`: if the run makes its own clips, keep their latents in the device's memory and draw a whole step's
    samples there. On one CUDA device the whole step, with optimiser and average, becomes one CUDA graph. The samples of
    a step then differ from those drawn on the host, but have the same distribution. If this is not possible, the run
    says why and continues without it. `gradient_checkpointing` saves memory and makes a step slower.

    Every `evaluate_every` steps (0: never) the loss on held-out clips is measured with `evaluate_samples` samples for
    each of `evaluate_bands` bands of time steps, and for each of three noise levels of references and anchor. In a
    synthetic world no clips are held out, and this measures nothing.
    """

    train: tuple[str, ...] = ("unet", "branches", "mask", "text")
    lora_rank: int = 16
    resident: bool = False
    gradient_checkpointing: bool = False
    first_share: float = 0.25
    second_share: float = 0.3
    anchor_window: int = 10
    max_noise_level: int = 100
    drop_references: float = 0.1
    drop_anchor: float = 0.1
    drop_text: float = 0.1
    auxiliary_share: float = 0.25
    weight_cap: float = 5.0
    min_snr_gamma: float = 0.0
    detail_weight: float = 0.0
    change_weight: float = 0.0
    beginning_share: float = 0.0
    uniform_share: float = 1.0
    ratio_median: float = 1.0
    ratio_spread: float = 1.2
    rollout_share: float = 0.0
    rollout_frames: int = 2
    rollout_steps: int = 4
    error_share: float = 0.0
    error_bank: int = 512
    mask_bias: float = -1.5
    sheet_rows: int = 12
    sheet_columns: int = 12
    sheet_steps: int = 0
    evaluate_every: int = 0
    evaluate_samples: int = 16
    evaluate_bands: int = 4


@dataclass(frozen=True)
class DistillStage(DiffusionStage):
    """Settings for training a student: the networks of a `teacher` (a checkpoint: shipped name or path), trained to
    make a frame in `evaluations` evaluations of one branch, with the teacher's guidance in it. For each of them the
    teacher takes `substeps` steps. The student starts from `start_from`, or from the teacher if that is empty. An empty
    `teacher` means that the run has no such stage. Not in the paper.

    Noise levels of references and anchor are drawn up to `max_noise_level`, as in the stage "diffusion". Errors of the
    bank (`error_share`) are added to what the student sees, but not to what the teacher sees. Time steps are those of
    the student, so `uniform_share`, `ratio_median` and `ratio_spread` are not used, and there are no held-out losses by
    time step. A frame's error counts as its root mean square, and well below `error_floor` as its square.
    """

    teacher: str = ""
    evaluations: int = 4
    substeps: int = 3
    error_floor: float = 0.01
    train: tuple[str, ...] = ("unet", "branches", "mask")
    drop_references: float = 0.0
    drop_anchor: float = 0.05
    drop_text: float = 0.05
    evaluate_bands: int = 0
