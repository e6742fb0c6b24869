"""Documents: run a page's snippets and commands in order, as a reader would, in one process.

python tests/support/documents.py page.md     # in an empty folder
"""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import sys
import textwrap
import typing
from pathlib import Path

FENCE = re.compile(r"^ *```(\w*)\n(.*?)^ *```", re.M | re.S)
DEMO = 'str(__import__("accel.demo.paths", fromlist=["DEMO_VIDEO"]).DEMO_VIDEO)'
SMALL = "height=64, width=64, num_frames=9, num_inference_steps=2, max_sequence_length=32"
# What stands in for what a test machine lacks: a GPU, weights of gigabytes, minutes.
STAND_INS = {
    '"Wan-AI/Wan2.1-T2V-14B-Diffusers"': DEMO,
    '"Wan-AI/Wan2.1-T2V-1.3B-Diffusers"': DEMO,
    '"Qwen/Qwen3-8B"': f'{DEMO}.replace("shapes-wan", "needle-llama")',
    '"cuda"': '"cpu"',
    "torch.bfloat16": "torch.float32",
    "height=480, width=832, num_frames=81": SMALL,
    'pipe("a cat on a skateboard").': f'pipe("a cat on a skateboard", {SMALL}).',
    "pipe.enable_model_cpu_offload()": "",
    "max_new_tokens=200": "max_new_tokens=2",
    'open("long.txt").read()': '"The code of Rome is 42. " * 40',
    'pipe("a red fox", num_inference_steps=8)': f'pipe("a red fox", {SMALL})',
    'torch.distributed.init_process_group("cpu:gloo,cuda:nccl")': "",
    "torch.cuda.set_device(torch.distributed.get_rank())": "",
    "ulysses_degree=4": "ulysses_degree=2",
}
SAVED_AS = {"yaml": "mine.yaml", "text": "prompts.txt", "json": "prompts.jsonl"}


class Block(typing.NamedTuple):
    """What a page shows: "python", "sh", a file to save, or nothing to run."""

    language: str
    text: str


def blocks_of(page: Path) -> list[Block]:
    return [Block(*found) for found in FENCE.findall(page.read_text(encoding="utf-8"))]


def snippets_of(page: Path) -> list[str]:
    """A page's Python, as it stands."""
    return [textwrap.dedent(block.text) for block in blocks_of(page) if block.language == "python"]


def standing_in(text: str) -> str:
    """A snippet that runs on a small machine."""
    for real, other in STAND_INS.items():
        text = text.replace(real, other)
    return text


def commands_of(block: Block) -> list[str]:
    """The `accel` commands of a block, without what is said of them."""
    lines = block.text.splitlines() if block.language in ("sh", "") else []
    return [re.sub(r"\s+#.*", "", line).strip() for line in lines if line.startswith("accel ")]


def command(line: str) -> tuple[int, str]:
    """The exit code of a command line and what it said, run in this process."""
    from accel.cli.app import main

    said = io.StringIO()
    sys.argv = shlex.split(line)
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            main()
    except SystemExit as stopped:
        return int(stopped.code or 0), said.getvalue()
    return 0, said.getvalue()


def run(page: Path) -> None:
    """Run everything on a page; the names of its Python live from one snippet to the next."""
    names: dict = {"__name__": page.stem}
    sys.modules[page.stem] = type(sys)(page.stem)
    for block in blocks_of(page):
        if block.language == "python":
            exec(compile(block.text, str(page), "exec"), names)
        elif block.language in SAVED_AS:
            Path(SAVED_AS[block.language]).write_text(block.text, encoding="utf-8")
        for line in commands_of(block):
            code, said = command(line)
            assert code == 0, f"{line}: {code}\n{said}"


if __name__ == "__main__":
    run(Path(sys.argv[1]))
