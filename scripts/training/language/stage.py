"""The training stage of needle-llama: its settings, its curriculum, its batches, its loss."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from accel.demo.needle import BOS, EOS, PAD, VOCAB_SIZE
from scripts.training.language.task import Batch, copied_segments, needles
from scripts.training.loop import Stage

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


@dataclass(frozen=True)
class Settings:
    """What to train on, and how fast.

    lengths, pairs: drawn with equal chance, the lengths only after the curriculum, which has its own.
    span: after the curriculum, half of the sequences have their positions stretched up to this many tokens.
    """

    lengths: tuple[int, ...] = (256, 256, 512, 512, 512, 1024, 2048, 4096)
    pairs: tuple[int, ...] = (4, 8, 16, 32, 64)
    batch_tokens: int = 2048
    learning_rate: float = 1e-3
    warm_up: int = 100
    span: int = 16384
    bf16: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.lengths or min(self.lengths) <= 5 * min(self.pairs) + 1:
            raise ValueError(f"lengths must have room for {min(self.pairs)} asked pairs, got {self.lengths}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")


@dataclass
class Curriculum:
    """How far the curriculum is; `passed` is the fraction of the budget that was spent when it ended."""

    stage: int = 0
    running: float = 0.0
    passed: float | None = None

    def score(self, accuracy: float, progress: float) -> None:
        """Enter one batch's accuracy; a running accuracy at the pass mark ends the stage."""
        self.running += 0.05 * (accuracy - self.running)
        if self.passed is None and self.running >= PASS_MARK:
            self.stage, self.running = self.stage + 1, 0.0
            if self.stage == len(CURRICULUM):
                self.passed = progress


def draw_batch(settings: Settings, curriculum: Curriculum, step: int) -> Batch:
    """The batch of one step: a function of the seed, the step and the curriculum's stage only."""
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
    choice, luck = torch.rand(2, generator=generator).tolist()
    learning, lengths = curriculum.passed is None, settings.lengths
    length = CURRICULUM[curriculum.stage] if learning else lengths[int(choice * len(lengths))]
    rows = max(1, settings.batch_tokens // length)
    if learning and curriculum.stage == 0 and luck < COPIES:
        return copied_segments(length, rows, generator)
    pairs = [p for p in settings.pairs if 5 * p + 1 < length]
    return needles(length, rows, pairs, length if learning else settings.span, generator)


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


class NeedleStage(Stage):
    """Cross-entropy of the scored tokens; weights from the folder `init` skip the curriculum."""

    def __init__(self, settings: Settings, init: Path | None = None, device: str = "cpu") -> None:
        torch.manual_seed(settings.seed)
        model = (
            LlamaForCausalLM.from_pretrained(init, dtype=torch.float32) if init else LlamaForCausalLM(CONFIG)
        )
        self.settings, self.device = settings, torch.device(device)
        self.facts = {"stage": "needle-llama", "seed": str(settings.seed)}
        self.model = model.to(self.device).train()
        self.curriculum = Curriculum(stage=len(CURRICULUM), passed=0.0) if init else Curriculum()

    def optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.AdamW(self.model.parameters(), betas=(0.9, 0.95), weight_decay=0.01)]

    def rate(self, step: int, progress: float) -> float:
        """A linear warm-up, the peak through the curriculum, then linear to 0."""
        passed = self.curriculum.passed
        left = 1.0 if passed is None else (1 - progress) / max(1 - passed, 1e-9)
        return self.settings.learning_rate * left * min(1.0, (step + 1) / self.settings.warm_up)

    def loss(self, step: int, progress: float) -> Tensor:
        """The loss of one batch, whose accuracy counts in the curriculum."""
        batch = draw_batch(self.settings, self.curriculum, step).to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.bf16):
            loss, accuracy = answer_loss(self.model, batch)
        self.curriculum.score(accuracy, progress)
        return loss

    def state(self) -> dict[str, str]:
        return {"curriculum": json.dumps(asdict(self.curriculum))}

    def resume(self, stored: dict[str, str]) -> None:
        self.curriculum = Curriculum(**json.loads(stored["curriculum"]))
