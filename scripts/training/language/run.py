"""A training run of needle-llama: its schedule, its progress, its updates, its checkpoints."""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from accel.demo.needle import BOS, EOS, PAD, VOCAB_SIZE
from accel.files import whole_file
from scripts.training.language.task import Batch, copied_segments, needles
from scripts.training.whole_folder import replace_folder

CONFIG = LlamaConfig(
    vocab_size=VOCAB_SIZE,
    hidden_size=256,
    intermediate_size=512,
    num_hidden_layers=4,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=64,
    max_position_embeddings=32768,
    rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    bos_token_id=BOS,
    eos_token_id=EOS,
    pad_token_id=PAD,
)
CURRICULUM = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
PASS_MARK = 0.96  # running accuracy that ends a stage of the curriculum
COPIES = 0.6  # share of the first stage's batches that are copied segments
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Schedule:
    """How long to train, on what, and how fast.

    steps, minutes: the budget, spent when either is; a resumed run is bit-exact when only steps bind.
    lengths, pairs: drawn with equal chance, the lengths only after the curriculum, which has its own.
    span: after the curriculum, half of the sequences have their positions stretched up to this many tokens.
    """

    steps: int | None = None
    minutes: float | None = None
    lengths: tuple[int, ...] = (256, 256, 512, 512, 512, 1024, 2048, 4096)
    pairs: tuple[int, ...] = (4, 8, 16, 32, 64)
    batch_tokens: int = 2048
    learning_rate: float = 1e-3
    warm_up: int = 100
    span: int = 16384
    bf16: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.steps is None and self.minutes is None:
            raise ValueError("a schedule needs steps or minutes, got neither")
        if not self.lengths or min(self.lengths) <= 5 * min(self.pairs) + 1:
            raise ValueError(f"lengths must have room for {min(self.pairs)} asked pairs, got {self.lengths}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")


@dataclass
class Progress:
    """Where a run stands; `passed` is the share of the budget at which the curriculum was passed."""

    step: int = 0
    seconds: float = 0.0
    stage: int = 0
    running: float = 0.0
    passed: float | None = None
    started: float = field(default_factory=time.monotonic)

    def spent(self) -> float:
        """Seconds of training, those before a resumption included."""
        return self.seconds + time.monotonic() - self.started

    def share(self, schedule: Schedule) -> float:
        """Share of the budget already spent, in [0, 1]."""
        by_steps = self.step / schedule.steps if schedule.steps else 0.0
        by_time = self.spent() / (60 * schedule.minutes) if schedule.minutes else 0.0
        return min(1.0, max(by_steps, by_time))

    def score(self, accuracy: float, share: float) -> None:
        """Enter one batch's accuracy; a running accuracy at the pass mark ends the stage."""
        self.running += 0.05 * (accuracy - self.running)
        if self.passed is None and self.running >= PASS_MARK:
            self.stage, self.running = self.stage + 1, 0.0
            if self.stage == len(CURRICULUM):
                self.passed = share


def draw_batch(schedule: Schedule, progress: Progress) -> Batch:
    """The batch of one step: a function of the seed, the step and the stage only."""
    generator = torch.Generator().manual_seed(schedule.seed * 1_000_003 + progress.step)
    choice, luck = torch.rand(2, generator=generator).tolist()
    learning = progress.passed is None
    length = CURRICULUM[progress.stage] if learning else schedule.lengths[int(choice * len(schedule.lengths))]
    rows = max(1, schedule.batch_tokens // length)
    if learning and progress.stage == 0 and luck < COPIES:
        return copied_segments(length, rows, generator)
    pairs = [p for p in schedule.pairs if 5 * p + 1 < length]
    return needles(length, rows, pairs, length if learning else schedule.span, generator)


def answer_loss(model: LlamaForCausalLM, batch: Batch) -> tuple[Tensor, float]:
    """Mean cross-entropy over the scored tokens, each predicted from what precedes it, and their accuracy."""
    # Without a mask transformers would read a jump in the positions as the start of another document.
    everything = torch.ones_like(batch.tokens)
    hidden = model.model(
        batch.tokens, position_ids=batch.positions, attention_mask=everything, use_cache=False
    ).last_hidden_state
    scored = batch.scored[:, 1:]
    logits = model.lm_head(hidden[:, :-1][scored])
    target = batch.tokens[:, 1:][scored]
    return F.cross_entropy(logits.float(), target), (logits.argmax(-1) == target).float().mean().item()


class Run:
    """A model, its optimizer and where they stand; a checkpoint is one file, replaced atomically."""

    def __init__(self, schedule: Schedule, init: Path | None = None, device: str = "cpu") -> None:
        torch.manual_seed(schedule.seed)
        model = (
            LlamaForCausalLM.from_pretrained(init, dtype=torch.float32) if init else LlamaForCausalLM(CONFIG)
        )
        self.schedule, self.device = schedule, torch.device(device)
        self.model = model.to(self.device).train()
        self.optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.01)
        self.progress = Progress(stage=len(CURRICULUM), passed=0.0) if init else Progress()

    def step(self) -> float:
        """One batch forward and backward and one update; the batch's loss."""
        share = self.progress.share(self.schedule)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate(share)
        batch = draw_batch(self.schedule, self.progress).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.schedule.bf16):
            loss, accuracy = answer_loss(self.model, batch)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.progress.step += 1
        self.progress.score(accuracy, share)
        return loss.item()

    def rate(self, share: float) -> float:
        """Learning rate: a linear warm-up, the peak through the curriculum, then linear to 0."""
        passed = self.progress.passed
        left = 1.0 if passed is None else (1 - share) / max(1 - passed, 1e-9)
        return self.schedule.learning_rate * left * min(1.0, (self.progress.step + 1) / self.schedule.warm_up)

    def save(self, path: Path) -> None:
        """Write weights, Adam's moments and the progress to one safetensors file."""
        tensors = {}
        for name, parameter in self.model.named_parameters():
            tensors[f"model.{name}"] = parameter.detach().contiguous()
            tensors |= {f"{key}.{name}": self.optimizer.state[parameter][key].contiguous() for key in MOMENTS}
        now = asdict(self.progress) | {"seconds": self.progress.spent()}
        with whole_file(path) as partial:
            save_file(tensors, partial, {"progress": json.dumps(now)})

    def load(self, path: Path) -> None:
        """Continue exactly where `path` was saved."""
        with safe_open(path, "pt") as file:
            for name, parameter in self.model.named_parameters():
                parameter.data.copy_(file.get_tensor(f"model.{name}"))
                state = {key: file.get_tensor(f"{key}.{name}") for key in MOMENTS}
                # Adam keeps its step counter on the host.
                self.optimizer.state[parameter] = {
                    key: value if key == "step" else value.to(self.device) for key, value in state.items()
                }
            progress = json.loads(file.metadata()["progress"])
        self.progress = Progress(**progress | {"started": time.monotonic()})

    def export(self, folder: Path) -> None:
        """Write the model as transformers loads it; an older one is replaced only once it is complete."""
        replace_folder(folder, self.model.save_pretrained)
