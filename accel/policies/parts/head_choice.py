"""Which of several candidates a head takes: from a table, or by the attention of a few of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from accel.kernels.layout.blocks import blocks_of_tokens, per_head
from accel.kernels.layout.layout import BlockLayout
from accel.noun import noun
from accel.patches.context import Context
from accel.policies.parts.schedule_parts import check_ends, part_at

Candidate = Annotated[int, Field(ge=0)]
Entry = TypeVar("Entry")


@noun
class PlannedPart:
    """The candidate of every head in one part of the schedule.

    Args:
        heads: a row for each layer, in call order, a candidate's number for each head.
        until: the share of the schedule at which the part ends, in (0, 1].
    """

    heads: Annotated[tuple[tuple[Candidate, ...], ...], Field(min_length=1)]
    until: Annotated[float, Field(gt=0, le=1)] = 1.0


@noun
class Table:
    """A plan of candidates by layer and head, made beforehand; parts of the schedule may have tables of their
    own, in order of time."""

    parts: Annotated[tuple[PlannedPart, ...], Field(min_length=1)]
    kind: Literal["table"] = "table"

    def __post_init__(self) -> None:
        check_ends([part.until for part in self.parts])

    @property
    def highest(self) -> int:
        return max(number for part in self.parts for layer in part.heads for number in layer)

    def of_call(self, heads: int, context: Context) -> list[int]:
        """The candidates of one call's heads.

        Raises:
            ValueError: if the table is of a model with other layers or heads.
        """
        part = self.parts[part_at([part.until for part in self.parts], context.progress)]
        return list(row_of(part.heads, heads, context))


def row_of(table: tuple[tuple[Entry, ...], ...], heads: int, context: Context) -> tuple[Entry, ...]:
    """What a table by layer and head has for one call's heads.

    Raises:
        ValueError: if the table is of a model with other layers or heads.
    """
    if len(table) != context.n_layers:
        raise ValueError(f"the table's number of layers is {len(table)}, this model's {context.n_layers}")
    row = table[context.layer]
    if context.heads is not None:
        row = row[context.heads.own]
    if len(row) != heads:
        raise ValueError(
            f"the table's number of heads in layer {context.layer} is {len(row)}, this call's {heads}"
        )
    return row


@noun
class SampledRows:
    """The candidate that keeps most of the attention of a few rows, computed exactly.

    After arXiv 2502.01776, which compares outputs.

    Args:
        rows: queries that are asked, spread evenly over the sequence; the cost is rows / M of QKᵀ.
    """

    rows: Annotated[int, Field(ge=1)] = 64
    kind: Literal["sampled_rows"] = "sampled_rows"

    def choose(self, q: Tensor, k: Tensor, layouts: Sequence[BlockLayout]) -> Tensor:
        """Int64 [B, H]: the number of the best layout for each head; ties go to the first."""
        return self.kept(q, k, layouts).argmax(dim=0)

    def kept(self, q: Tensor, k: Tensor, layouts: Sequence[BlockLayout]) -> Tensor:
        """Float32 [L, B, H]: what each layout keeps of the asked rows' attention, summed over the rows."""
        rows = self.positions(q.shape[2], q.device)
        keys = per_head(k, q.shape[1])
        logits = (q[:, :, rows] * q.shape[3] ** -0.5 @ keys.transpose(-1, -2)).float()
        if layouts[0].causal:
            query = rows[:, None] + k.shape[2] - q.shape[2]
            logits = logits.masked_fill(torch.arange(k.shape[2], device=q.device) > query, -torch.inf)
        weights = logits.softmax(dim=-1)
        return torch.stack([_kept_mass(weights, layout, rows) for layout in layouts])

    def positions(self, q_len: int, device: torch.device) -> Tensor:
        """Int64 [R]: which queries are asked."""
        spread = torch.linspace(0, q_len - 1, min(self.rows, q_len), dtype=torch.float64, device=device)
        return spread.round().long()


def _kept_mass(weights: Tensor, layout: BlockLayout, rows: Tensor) -> Tensor:
    """Float32 [B, H]: what the asked rows' weights [B, H, R, N] have in the blocks that are listed."""
    batch, heads = weights.shape[:2]
    device = weights.device
    block = blocks_of_tokens(layout.q_order, layout.q_len, layout.block_size[0], device)[:, :, rows]
    of_rows = block[..., None].expand(-1, -1, -1, layout.num_kv_blocks).expand(batch, heads, -1, -1)
    listed = per_head(layout.listed, heads).expand(batch, -1, -1, -1).gather(2, of_rows)
    key_block = per_head(
        blocks_of_tokens(layout.kv_order, layout.kv_len, layout.block_size[1], device), heads
    )
    of_keys = key_block[:, :, None].expand(batch, -1, len(rows), -1)
    return (weights * listed.gather(3, of_keys)).sum(dim=(2, 3))


Chooser = Annotated[Table | SampledRows, Field(discriminator="kind")]
