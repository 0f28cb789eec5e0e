"""The arguments of a comparison: what cannot be right for any run ends before anything trains."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from mmlab.checks import check_whole, kind_of
from mmlab.datasets.base import MultimodalData
from mmlab.training import Balancer, Joint, fit, fit_seeds, train_once
from mmlab.training.alone import MakeBalancer
from mmlab.training.arguments import seed_list
from mmlab.training.checkpoint import check_own_paths
from mmlab.training.progress import no_progress


def check_methods(methods: object) -> None:
    if not isinstance(methods, Mapping):
        raise TypeError(
            f"methods is {kind_of(methods)}; give names and makers, such as "
            "{'joint': Joint, 'OGM-GE': OGM}"
        )
    if not methods:
        raise ValueError("no method to compare; give e.g. methods={'joint': Joint}")
    for name, make in methods.items():
        if not callable(make):
            raise TypeError(
                f"method {name!r} is {make!r}; give something that makes a fresh balancer for each "
                "run, such as OGM or lambda: OGM(alpha=0.1)"
            )


def distinct_seeds(seeds: object) -> list[int]:
    """Several seeds, each once. Raises TypeError, ValueError."""
    found = seed_list(seeds)
    twice = [seed for place, seed in enumerate(found) if seed in found[:place]]
    if twice:
        raise ValueError(
            f"seeds names {twice[0]} more than once; the same run again is no evidence, and pairs "
            "need one row per seed: give each once"
        )
    return found


def check_source(data: object) -> None:
    if not isinstance(data, MultimodalData) and not callable(data):
        raise TypeError(
            f"data is {kind_of(data)}; give one MultimodalData, or a callable seed -> data "
            "set, such as lambda seed: load('av-digits', seed=seed)"
        )


def dataset_of(data: MultimodalData | Callable[[int], MultimodalData], seed: int) -> MultimodalData:
    """The data set of a seed."""
    found = data if isinstance(data, MultimodalData) else data(seed)
    if not isinstance(found, MultimodalData):
        raise TypeError(f"data({seed}) is {kind_of(found)}; it must be a MultimodalData")
    return found


def check_measure(measure: object, units: Mapping[str, str], methods: Iterable[str]) -> None:
    for name, one in measure.items() if isinstance(measure, Mapping) else [("", measure)]:
        if name and name not in methods:
            raise ValueError(f"measure names {name!r}, which is no method; they are {[*methods]}")
        if one is not None and not callable(one):
            what = f"measure[{name!r}]" if name else "measure"
            raise TypeError(f"{what} is {one!r}; give a callable Run -> {{column: value}}")
    if not isinstance(units, Mapping) or not all(isinstance(unit, str) for unit in units.values()):
        raise TypeError(f"units is {units!r}; give column -> text, such as {{'seconds': 's'}}")


def options_of(
    common: Mapping[str, Any], settings: Mapping[str, Mapping[str, Any]], methods: Iterable[str]
) -> dict[str, dict[str, Any]]:
    """The arguments of each method for `fit_seeds`."""
    if not isinstance(settings, Mapping):
        raise TypeError(
            f"settings is {kind_of(settings)}; give method -> arguments, such as "
            "{'OGM': {'lr': 0.1}}"
        )
    for name, own in settings.items():
        if name not in methods:
            raise ValueError(f"settings names {name!r}, which is no method; they are {[*methods]}")
        if not isinstance(own, Mapping):
            raise TypeError(f"settings[{name!r}] is {own!r}; give arguments, such as {{'lr': 0.1}}")
    for name in ("lr", "epochs", "optimizer"):
        if isinstance(common.get(name), Mapping):
            raise TypeError(
                f"{name} is {common[name]!r}; one per method goes into settings, such as "
                f"settings={{{next(iter(methods))!r}: {{{name!r}: ...}}}}"
            )
    allowed = training_arguments()
    for given in (common, *settings.values()):
        unknown = [name for name in given if name not in allowed]
        if unknown:
            raise TypeError(
                f"{unknown[0]!r} is no argument of a training; allowed are {', '.join(allowed)}"
            )
    options = {name: {**common, **settings.get(name, {})} for name in methods}
    for own in options.values():
        if isinstance(own.get("lr"), Tensor):
            own["lr"] = own["lr"].tolist()
    return options


def check_paths_apart(
    methods: Mapping[str, MakeBalancer], options: Mapping[str, Mapping[str, Any]]
) -> None:
    """Refuse one path of an observer for several methods, of which the later would be errors."""
    users: dict[tuple[str, str], str] = {}
    for name, own in options.items():
        for observer in own.get("observers", ()):
            fields = getattr(observer, "path_fields", {"run"})
            if "run" in fields:
                continue
            key = observer.path, methods[name]().name if "method" in fields else ""
            if key in users:
                raise ValueError(
                    f"{type(observer).__name__}({observer.path!r}) is one path for the methods "
                    f"{users[key]!r} and {name!r}; put {{run}} into it, such as "
                    "'{method}-{seed}-{run}'"
                )
            users[key] = name


def training_arguments() -> list[str]:
    """The names of what `compare` hands on to a training, in alphabetical order."""
    found = {*inspect.signature(fit_seeds).parameters, *inspect.signature(fit).parameters}
    return sorted(found - {"model", "data", "balancer", "seed", "seeds", "training"})


def try_before(
    name: str,
    make: MakeBalancer,
    data: MultimodalData,
    seeds: Sequence[int],
    options: Mapping[str, Any],
) -> None:
    """What a training does before its first epoch: what fails here fails at every seed."""
    lr = options.get("lr")
    try:
        if isinstance(lr, list | tuple) and len(lr) != len(seeds):
            raise ValueError(
                f"lr has {len(lr)} entries for {len(seeds)} seeds; give one lr, or a list with one "
                "for each seed"
            )
        balancer = make()
        if make() is balancer:
            raise TypeError(
                f"method {name!r} gives the same object twice, and what it keeps of one seed would "
                "reach the next; make a new one each time, such as lambda: OGM(alpha=0.1)"
            )
        if not isinstance(balancer, Balancer):
            raise TypeError(
                f"method {name!r} makes {kind_of(balancer)}; it must make a Balancer, such "
                "as Joint()"
            )
        check_whole("epochs", options["epochs"])
        observers = options.get("observers", ())
        if not isinstance(observers, Sequence) or not all(map(callable, observers)):
            raise TypeError(f"observers is {observers!r}; give a list of callables Run -> None")
        check_own_paths(observers, len(seeds))
        build = options["build"] or {}
        if not isinstance(build, Mapping):
            raise TypeError(f"build is {build!r}; give arguments, such as {{'encoders': 'cnn'}}")
        if type(balancer).modules is not Balancer.modules:
            return  # its optimiser may count on parameters that the trial would not have
        asked = {"epochs": 0, "lr": rate_of(options, 0), "observers": ()}
        asked["build"] = {**balancer.network, **build}
        trial = {key: value for key, value in options.items() if key != "at_once"} | asked
        with no_progress(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the training itself will say it
            train_once(Joint(), data, seed=seeds[0], **trial)
    except Exception as error:
        error.add_note(f"in compare, before anything was trained, of method {name!r}")
        raise


def rate_of(options: Mapping[str, Any], place: int) -> Any:
    """The learning rate of one seed, where each has its own."""
    lr = options.get("lr")
    return lr[place] if isinstance(lr, list | tuple) else lr
