"""Tuning: the fastest recipe that meets a target on the user's own model, size, steps and machine.

Dense once a prompt. One of those runs says how the layers share a budget (`profile`). The families of recipes
are ranked by the forced error at one executed work. Of the best one the density is bisected by whole
generations, in every block size on a few prompts, and in the fastest on all that are not kept aside. It is
checked on those that are; if it falls short there it is chosen again on all of them, and says so.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from accel.accelerate import accelerated, patches_of
from accel.apply.supported import require_models
from accel.files import alone_in, whole_file
from accel.machine.versions import device_name
from accel.mistake import Mistake
from accel.patches.models import supported_models
from accel.recipe.choose import default_recipe
from accel.recipe.recipe import DENSE, Recipe
from accel.run.settings import GenerateSettings
from accel.tuning.bisection import CLOSE, Bisection
from accel.tuning.candidates import Candidate, candidates, combined
from accel.tuning.pace import Pace, Progress, silent
from accel.tuning.point import Point, Ranked, Tuned, Unreachable
from accel.tuning.profile import Profile, allocate, profile
from accel.tuning.subject import Subject, tensors_in
from accel.tuning.target import Target, aside_of

RANKED_AT = 0.5  # the work that families are compared at
FINALISTS, RANKED_ON = 3, 3  # families that are compared on more than one prompt, and on how many
ABOUT_THE_FIRST = 0.97  # a family has to do better than the centre by more than this to count
FEW, ABOUT = 4, 0.25  # prompts that block sizes are compared on, and how close to the target
USUAL_ROUNDS = 3, 2  # of a bisection on these, and of the one after it on all
SLACK = 0.1
FULL_LOSS = 4.0  # generations that looking at every density takes, at most


@dataclass
class _Search:
    """The state of one tuning."""

    subject: Subject
    target: Target
    chosen_on: Sequence[int]
    aside: Sequence[int]
    looked_at: Profile
    n_steps: int
    shared: int
    points: list[Point] = field(default_factory=list)
    ranked: list[Ranked] = field(default_factory=list)

    @property
    def n_layers(self) -> int:
        return len(self.looked_at.sites)

    def layers(self, density: float) -> tuple[float, ...]:
        """The density of every layer at a given mean over the layers that are not shared."""
        pays = self.looked_at.pays or 1.0  # If no density pays off, executed work decides.
        return (1.0,) * self.shared + allocate(self.looked_at.by_layer()[self.shared :], density, pays)

    def recipe(self, candidate: Candidate, density: float) -> Recipe:
        return candidate.recipe(density, self.layers(density), self.n_layers)

    def point(self, candidate: Candidate, density: float, prompts: Sequence[int]) -> Point:
        """A recipe by whole generations, its figures' means over some prompts."""
        recipe = self.recipe(candidate, density)
        self.subject.remember(density)
        what = f"{candidate.name}, density {density:.2f}"
        outcomes = tuple(self.subject.outcome(recipe, number, what) for number in prompts)
        found = Point(candidate.name, density, recipe, outcomes)
        if found not in self.points:
            self.points.append(found)
        return found

    def known(self, candidate: Candidate, prompts: Sequence[int]) -> list[float]:
        """The densities of a family that were tried on all of these prompts, for other targets too."""
        return [
            density
            for density in self.subject.densities
            if all(self.subject.knows(self.recipe(candidate, density), number) for number in prompts)
        ]

    def density_at(self, candidate: Candidate, work: float) -> float:
        return candidate.density_at(work, self.n_steps, self.n_layers)

    def rank(self, name: str, recipe: Recipe, prompts: Sequence[int]) -> Ranked:
        """A recipe by its forced error."""
        found = [self.subject.forced(recipe, number, name) for number in prompts]
        forced, work = (statistics.fmean(values) for values in zip(*found, strict=True))
        ranked = Ranked(name, work, forced, len(prompts))
        self.ranked = [*(each for each in self.ranked if each.name != name), ranked]
        return ranked


def tune(
    pipe: Any,
    prompts: Sequence[str],
    target: str | Target,
    *,
    settings: GenerateSettings | None = None,
    kept_aside: int | None = None,
    block_sizes: tuple[tuple[int, int], ...] = ((128, 64), (64, 64)),
    folder: str | Path = "out/tune",
    progress: Progress = silent,
) -> Tuned:
    """Find the fastest recipe that meets a target.

    Args:
        pipe: a diffusers video pipeline, loaded.
        prompts: at least two; each with its number, plus the settings' seed, as seed.
        target: "latent_error<0.15", "ssim>0.95" or "speedup>1.5".
        settings: how the pipeline is called: sizes, steps, guidance.
        kept_aside: of the prompts, the last ones that nothing is chosen on; None is half of them.
        block_sizes: that are tried, (query rows, key rows).
        folder: where results are kept; with the same folder, an interrupted search continues.
        progress: hears what is done next, and the share that is done.

    Raises:
        TypeError: if it is not a pipeline with a supported model and a scheduler.
        Mistake: if the target, prompts or settings make no sense, or the folder's results are damaged.
        BlockingIOError: if another tuning is using the folder.
        Unreachable: if no recipe meets the target; holds the best one.
    """
    require_models(pipe)
    if getattr(pipe, "scheduler", None) is None:
        raise TypeError(
            f"tune needs a pipeline with a scheduler, got {type(pipe).__name__}; for language models there "
            "are `accel tune MODEL --text FILE` and accel.tuning.language.search.tune_language"
        )
    target = Target.parse(target) if isinstance(target, str) else target
    if isinstance(prompts, str):
        raise Mistake(f"tune needs a list of prompts, got the text {prompts!r}")
    aside = aside_of(len(prompts), "prompts", kept_aside)
    settings = settings or GenerateSettings(prompt=prompts[0])
    families = candidates(block_sizes, settings.num_inference_steps)
    began = time.perf_counter()
    pace = Pace(progress)
    with alone_in(Path(folder)):
        subject = Subject(pipe, settings, tuple(prompts), Path(folder), target.metric == "ssim", pace)
        try:
            search, best, reached, held_out, corrected = _found(
                subject, target, len(prompts) - aside, families
            )
            videos = subject.shown(reached.recipe, len(prompts) - 1)
        finally:
            seconds = subject.took(time.perf_counter() - began)
    data = best.data(reached.density, search.layers(reached.density), search.n_layers)
    return Tuned(
        target, reached.recipe, data, reached, held_out, corrected,
        tuple(search.points), tuple(sorted(search.ranked, key=lambda ranked: ranked.forced)),
        search.looked_at, settings, tuple(prompts), aside, device_name(pipe.device), seconds, videos,
    )  # fmt: skip


def _found(
    subject: Subject, target: Target, chosen_on: int, families: Sequence[Candidate]
) -> tuple[_Search, Candidate, Point, Point | None, bool]:
    """The search when it is over, the best family, and what `_checked` says of it."""
    prompts = len(subject.prompts)
    n_steps = len(subject.dense(0).course.velocities)
    shared = shared_layers(subject.pipe)
    families = tuple(replace(family, shared=shared) for family in families)
    _announce(subject, families, chosen_on, prompts - chosen_on)
    search = _Search(
        subject, target, range(chosen_on), range(chosen_on, prompts),
        _looked_at(subject, families[0]), n_steps, families[0].shared,
    )  # fmt: skip
    best, reached = _settled(search, _ranked(search, families), _sizes(families))
    return search, best, *_checked(search, best, reached)


def _sizes(families: Sequence[Candidate]) -> list[tuple[int, int]]:
    return list(dict.fromkeys(family.block_size for family in families))


def _settled(search: _Search, best: Candidate, sizes: Sequence[tuple[int, int]]) -> tuple[Candidate, Point]:
    """The best family in the fastest block size, and the density at which it meets the target.

    Small blocks have the lowest error at equal work, but need not be the fastest. The sizes are compared on a
    few prompts, each where it meets the target; of the one taken the density is then that of all prompts.

    Raises:
        Unreachable: if the best family meets the target in no size.
    """
    start = search.density_at(best, RANKED_AT)
    few: dict[Candidate, Point] = {}
    for size in sorted(sizes, key=lambda size: size != best.block_size):
        family = replace(best, block_size=size)
        try:
            few[family] = _bisected(search, family, search.chosen_on[:FEW], start, ABOUT)
        except Unreachable as refused:
            few[family] = refused.best
        start = few[family].density

    def worth(family: Candidate) -> tuple[bool, float]:
        ahead = 1.0 if family == best else ABOUT_THE_FIRST
        return search.target.met_by(few[family].cautious(search.target)), ahead * _gain(search, few[family])

    refusals = []
    for family in sorted(few, key=worth, reverse=True):
        try:
            return family, _bisected(search, family, search.chosen_on, few[family].density)
        except Unreachable as refused:
            refusals.append(refused)
    raise refusals[0]


def _bisected(
    search: _Search, family: Candidate, prompts: Sequence[int], start: float, close: float = CLOSE
) -> Point:
    bisection = Bisection(lambda density: search.point(family, density, prompts), search.target, close)
    return bisection.search(start, search.known(family, prompts))


def _gain(search: _Search, point: Point) -> float:
    """What a point that meets the target is chosen for: its speed or, if that is the target, its quality."""
    if search.target.metric != "speedup":
        return point.speedup
    lost = point.latent_error if point.latent_error is not None else 1 - (point.ssim or 0.0)
    return 1 / max(lost, 1e-9)


def shared_layers(pipe: Any) -> int:
    """How many layers, from the first, compute the same in both passes of guidance."""
    with accelerated(pipe, DENSE):
        installed = [one for patch in patches_of(pipe) for one in patch.installed]
    if len(supported_models(pipe)) > 1:
        return 0
    texts = [not one.site.text_free for one in installed]
    return texts.index(True) if True in texts else 0


def _announce(subject: Subject, families: Sequence[Candidate], chosen_on: int, aside: int) -> None:
    """Say how long it usually takes, by the first dense generation."""
    seconds = subject.dense(0).seconds
    shown = 2 if subject.has_decoder else 0
    of_few, of_all = USUAL_ROUNDS
    tried = of_few * len(_sizes(families)) * min(FEW, chosen_on)
    tried += of_all * chosen_on if chosen_on > FEW else 0
    ranked = len(families) + 3 + FINALISTS * (min(RANKED_ON, chosen_on) - 1)
    calls = chosen_on + aside + ranked + tried + aside + shown
    subject.pace.expected = calls
    minutes = (calls + FULL_LOSS) * seconds / 60
    subject.pace.tell(
        f"a dense generation takes {seconds:.0f} s; about {calls} of them, {minutes:.0f} minutes, "
        "and more if the prompts kept aside miss the target",
        0.0,
    )


def _looked_at(subject: Subject, family: Candidate) -> Profile:
    """The errors of every layer and head at every density, from the folder if they are there."""
    file = subject.file("profile", family.recipe(0.3, n_layers=1), 0)
    kept = tensors_in(file)
    if kept is None:
        subject.pace.next("where it hurts: every layer and head at every density")
        found = profile(
            subject.pipe,
            lambda: subject.run(0),
            lambda density: family.recipe(density, n_layers=1).rules[0].policy,
        )
        kept = asdict(found)
        with whole_file(file) as draft:
            torch.save(kept, draft)
        subject.pace.done(file.name)
    return Profile(**kept)


def _ranked(search: _Search, families: Sequence[Candidate]) -> Candidate:
    """The best family at one work: the centre, what is better on the first prompt, and all of that combined.

    One prompt may favour what others do not, so the centre and the best are compared again on a few.
    """
    first = search.chosen_on[:1]

    def forced(candidate: Candidate, prompts: Sequence[int]) -> float:
        recipe = search.recipe(candidate, search.density_at(candidate, RANKED_AT))
        return search.rank(candidate.name, recipe, prompts).forced

    search.rank("auto", default_recipe(supported_models(search.subject.pipe)), first)
    errors = {family: forced(family, first) for family in families}
    centre, *others = families
    better = sorted(
        (other for other in others if errors[other] < ABOUT_THE_FIRST * errors[centre]),
        key=errors.__getitem__,
    )
    everything = combined(centre, better)
    if everything not in errors:
        errors[everything] = forced(everything, first)
    leading = list(dict.fromkeys([centre, *sorted(errors, key=errors.__getitem__)]))[:FINALISTS]
    return min(leading, key=lambda family: forced(family, search.chosen_on[:RANKED_ON]))


def _checked(search: _Search, best: Candidate, reached: Point) -> tuple[Point, Point | None, bool]:
    """The point after a look at the prompts kept aside, what it does there, and whether that changed it.

    A miss by more than the slack is what the prompts chosen on could not show: all are then chosen on.
    """
    if not search.aside:
        return reached, None, False
    held_out = search.point(best, reached.density, search.aside)
    if search.target.met_by(held_out.value(search.target), SLACK):
        return reached, held_out, False
    everything = range(len(search.subject.prompts))
    return _bisected(search, best, everything, reached.density), held_out, True
