"""What the verb eval is given: its wishes, and what its target is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

Drawing = dict[str, Any]  # fields of Settings as they were given


@dataclass(frozen=True)
class Wish:
    """What was asked for beside the target, the evaluators and how to draw."""

    suite: str | None
    count: int | None
    batch: int | None
    rescore: bool
    reference: Path | None
    rules: Any
    profiles: str | None
    judge: str | None
    subset: int | None
    images: Path | None
    truth: Path | None
    crop_ratio: float | None
    lenient: bool
    python: Path | None
    runner: tuple[tuple[str, Any], ...]
    order: Literal["copy-major", "prompt-major"] | None = None
    pattern: str | None = None
    file_list: Path | None = None
    tiles: int | None = None
    side: int | None = None  # of a tile, where --resolution means that

    @property
    def placing(self) -> dict[str, Any]:
        """The options that say which image of a folder is of which prompt."""
        return {"order": self.order, "pattern": self.pattern, "file_list": self.file_list, "tiles": self.tiles}


class Place(NamedTuple):
    """Suite, side and folder of a run; None where the target or the suite decides."""

    suite: str | None
    side: int | None
    folder: Path | None


def places(target: str, suites: str | None, sides: list[int], out: Path | None) -> list[Place]:
    """Every run that is asked for; the folder names what there are several of."""
    chosen: list[str | None] = [*dict.fromkeys(name.strip() for name in suites.split(","))] if suites else [None]
    found: list[Place] = []
    for suite in chosen:
        for side in sides or (None,):
            parts = [part for part, several in ((suite, len(chosen) > 1), (f"r{side}", len(sides) > 1)) if several and part]
            found.append(Place(suite, side, (out or Path("runs") / Path(target).stem).joinpath(*parts) if parts else out))
    return found


def resolve(target: str, wish: Wish, out: Path | None, drawing: Drawing) -> tuple[Path, Path, str, Any]:
    """Images to judge, folder for what is found, suite, and for a checkpoint's name the plan by which they are still to be drawn."""
    from harope_bench.core import registry
    from harope_bench.core.conditioning import check_rescored
    from harope_bench.core.errors import OptionError, UnknownName
    from harope_bench.data.run_folder import PLAN, Run
    from harope_bench.pipeline.generate import make_plan

    path = Path(target)
    if not path.exists():
        if target not in registry.entries("checkpoints"):
            raise UnknownName("file, folder or checkpoint", target, registry.names("checkpoints"))
        plan = make_plan(target, wish.suite, drawing)
        folder = out or Path("runs") / target
        return folder, folder, plan.suite, plan
    if given := sorted(key for key, value in drawing.items() if key != "device" and value is not None):
        raise OptionError(f"{target} is drawn already, --{given[0].replace('_', '-')} would change nothing; leave it out")
    run = path.is_dir() and (path / PLAN).exists()
    found = Run(path).plan if run else None
    if found is not None and wish.suite not in (None, found.suite):
        check_rescored(target, found.suite, str(wish.suite))
    known = wish.suite or (found.suite if found else None)
    if known is None:
        raise OptionError(f"{target} does not say its suite; add --suite, one of: {', '.join(registry.names('suites'))}")
    return path, out or (path if run else Path("runs") / f"eval-{path.stem}"), known, None


def names_pictures(target: str) -> bool:
    """Whether the target is a classifier's checkpoint or a run of one."""
    from harope_bench.core import registry
    from harope_bench.data.run_folder import Run
    from harope_bench.models.load_checkpoint import checkpoint
    from harope_bench.pipeline.classify import names_pictures, reads

    if Path(target).exists():
        plan = Run(Path(target)).plan if Path(target).is_dir() else None
        return plan is not None and reads(plan.suite)
    return target in registry.entries("checkpoints") and names_pictures(checkpoint(target))


def naming_plan(target: str, suite: str | None, out: Path | None, drawing: Drawing) -> tuple[Any, Path, int | None]:
    """Plan, folder and number of pictures (None: all) of a classifier's run; those of a run that is there already."""
    from harope_bench.core.errors import OptionError
    from harope_bench.data.run_folder import Run
    from harope_bench.pipeline.classify import reading_plan

    if not Path(target).exists():
        return reading_plan(target, suite, drawing), out or Path("runs") / target, None
    if given := sorted(key for key, value in drawing.items() if key != "device" and value is not None):
        raise OptionError(f"{target} has its plan already, --{given[0].replace('_', '-')} would change nothing; leave it out")
    run = Run(Path(target))
    return run.plan, out or run.folder, len(run.asked())


def folder_form(wish: Wish) -> Any:
    """Return what the user states of the images in a folder."""
    from harope_bench.suites.official_layouts.prompt_folder import FolderForm

    return FolderForm(wish.order, wish.pattern, wish.file_list, wish.side, wish.tiles)


def refuse(what: str, target: str, **options: Any) -> None:
    """OptionError for an option that means nothing to this kind of target."""
    from harope_bench.core.errors import OptionError

    if given := [key for key, value in options.items() if value is not None]:
        raise OptionError(f"{target} {what}, --{given[0].replace('_', '-')} means nothing to it; leave it out")


def of_network(evaluator: str) -> bool:
    """Whether an evaluator looks at the network itself, not at images."""
    from harope_bench.core import registry

    return getattr(registry.load("evaluators", evaluator), "looks_at", "images") == "network"


def wanted_profiles(text: str | None) -> list[str | None]:
    """The profiles asked for, each once; None is the suite's own. OptionError for an empty name."""
    from harope_bench.core.errors import OptionError

    if text is None:
        return [None]
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    if not all(names):
        raise OptionError(f"--profile {text!r} has an empty name; write one or more, as adm,clean")
    return [*names]
