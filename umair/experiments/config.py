"""An experiment as data: rows, the ranker, and what differs in those beside it."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from umair.config import PlainPath, Section, fingerprint, load_config, merge
from umair.experiments.numeric_world import NumericWorldConfig
from umair.job import Config
from umair.model.presets import with_preset
from umair.model.ranker import RankerConfig
from umair.model.silent_keys import silent_keys
from umair.training.loop import TrainingConfig

TWO_PLACES = "rows from `numeric` or from `week`, one of them"
OWN_PACK = "training.features with `numeric`, whose pack lies beside its rows; leave it out"
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**32)]
DEFAULT = "umair"  # the ranker that the others are compared with


class WeekConfig(Section):
    """A week of the pipeline, run as far as its windows and vectors."""

    config: PlainPath  # YAML file of the weekly run, from the folder of the checkout
    week: str  # ISO week


def laid_over_the_week(values: Any) -> Any:
    """The values of an experiment or a search with the week's own ranker and training below them, where there is a week: on
    one process and without rivals. Raises ConfigError for a week's configuration that cannot be read."""
    named = values.get("week") if isinstance(values, dict) else None
    if not isinstance(named, dict) or not isinstance(named.get("config"), str):
        return values
    if values.get("numeric") is not None:
        raise ValueError(TWO_PLACES)
    week = load_config(named["config"], [], Config)
    alone = {"ranks": 1, "threads": 1, "device": "cpu", "rivals": {}}
    own = {"ranker": week.ranker.model_dump(), "training": {**week.training.model_dump(), **alone}}
    given = {name: {} if values.get(name) is None else values[name] for name in own}
    if isinstance(given["ranker"], dict):
        given["ranker"] = with_preset(given["ranker"])
    return {**values, **{name: merge(own[name], each) if isinstance(each, dict) else each for name, each in given.items()}}


def _changes(values: dict[str, Any], kind: str) -> dict[str, dict[str, Any]]:
    """By name, what differs from the ranker."""
    given = values.get(kind) or {}
    if not isinstance(given, dict) or not all(isinstance(changed, dict) for changed in given.values()):
        raise ValueError("others and ablations: a mapping of names to mappings of what differs")
    return given


def _left_out(values: dict[str, Any]) -> dict[str, Any]:
    """The values without the rankers that `without` names, wherever they stand. Raises ValueError for an unknown name."""
    names = values.get("without") or ()
    if not isinstance(names, list | tuple):
        return values
    places = {kind: values[kind] for kind in ("others", "ablations", "published") if isinstance(values.get(kind), dict)}
    strangers = sorted({str(name) for name in names} - {name for place in places.values() for name in place})
    if strangers:
        raise ValueError(f"without: {', '.join(strangers)}; expected names of others or ablations, here or in a base:")
    return {**values, **{kind: {name: each for name, each in place.items() if name not in names}
                         for kind, place in places.items()}}


def _telling(ranker: RankerConfig) -> dict[str, Any]:
    """The keys that say something of such a ranker; what is matched by what is there to match."""
    matched = {"match": list(ranker.matched)} if ranker.form == DEFAULT else {}
    return {**ranker.model_dump(mode="json", exclude={"exact", *silent_keys(ranker)}), **matched}


def _but_for(one: RankerConfig, other: RankerConfig) -> str:
    differs = [key for key, value in one.model_dump().items() if value != getattr(other, key)]
    return f": {', '.join(differs)} changes nothing of it" if differs else ""


class PublishedConfig(Section):
    """What a paper reports of a ranker, and what there is to say of it."""

    auc: float = Field(gt=0, lt=1)  # as it is printed
    note: str = ""  # a word on it, for the table


class ExperimentConfig(Section):
    """Rows, seeds, the ranker, others (any difference) and ablations (one key each).

    Where the rows are of a week, `training` and `ranker` say what differs from the week's own. Raises, when read,
    ConfigError for an ablation that changes several keys, for rankers that differ in keys alone that change nothing, and for
    rows from two places or from none.
    """

    claim: str  # what the experiment is to show
    numeric: NumericWorldConfig | None = None  # rows of a numeric world; this or `week`, one of them
    week: WeekConfig | None = None  # rows of a week of the pipeline
    seeds: tuple[Seed, ...] = Field((0, 1, 2, 3, 4), min_length=1)  # of training; the rows stay
    training: TrainingConfig  # of every one of them; of a week, what differs from its own
    ranker: RankerConfig  # the one that the others are compared with; of a week, what differs from its own
    called: str = DEFAULT  # its name on pages
    others: dict[str, RankerConfig] = Field({})  # name -> what differs from it
    ablations: dict[str, RankerConfig] = Field({})  # name -> the one key that differs
    without: tuple[str, ...] = ()  # rankers of a `base:` that are left out
    published: dict[str, PublishedConfig] = Field({})  # by ranker, the default among them

    @model_validator(mode="before")
    @classmethod
    def _others_say_what_differs(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("training"), dict) and "seed" in values["training"]:
            raise ValueError(f"training.seed {values['training']['seed']}; an experiment has `seeds`, one a training")
        values = laid_over_the_week(values)
        if not isinstance(values, dict):
            return values
        values = _left_out(values)
        given, ranker = {kind: _changes(values, kind) for kind in ("others", "ablations")}, values.get("ranker") or {}
        if not isinstance(ranker, dict):
            return values
        for name, changed in given["ablations"].items():
            count = len(with_preset(changed))
            if count != 1:
                raise ValueError(f"ablation '{name}' changes {count} keys; one each, so that it shows what that one earns")
        whole = {kind: {name: merge(with_preset(ranker), with_preset(changed)) for name, changed in changes.items()}
                 for kind, changes in given.items()}
        return {**values, **whole}

    @model_validator(mode="after")
    def _consistent(self) -> ExperimentConfig:
        if (self.numeric is None) == (self.week is None):
            raise ValueError(TWO_PLACES)
        twice = {DEFAULT, *self.others} & set(self.ablations) | {DEFAULT} & set(self.others)
        if twice:
            raise ValueError(f"names that stand twice: {', '.join(sorted(twice))}")
        if self.training.rivals:
            raise ValueError("training.rivals: an experiment names its rankers under `others`")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)}: each once, or one would count twice")
        first: dict[str, str] = {}
        for name, ranker in self.rankers.items():
            before = first.setdefault(fingerprint(_telling(ranker)), name)
            if before != name:
                raise ValueError(f"'{name}' is the same ranker as '{before}'{_but_for(ranker, self.rankers[before])}")
        return self

    @model_validator(mode="after")
    def _trained_as_trials_are(self) -> ExperimentConfig:
        if self.training.ranks != 1:
            raise ValueError("training.ranks: trials run as one process each, on the CPU or sharing the node's GPUs: 1")
        if self.numeric and self.training.features:
            raise ValueError(OWN_PACK)
        return self

    @model_validator(mode="after")
    def _published_of_its_rankers(self) -> ExperimentConfig:
        strangers = sorted(set(self.published) - set(self.rankers))
        if strangers or (self.published and DEFAULT not in self.published):
            raise ValueError(f"published: {', '.join(strangers) or f'no {DEFAULT}'}; expected rankers of this experiment, "
                             f"{DEFAULT} among them")
        return self

    @property
    def rankers(self) -> dict[str, RankerConfig]:
        """All of them by name, the default first."""
        return {DEFAULT: self.ranker, **self.others, **self.ablations}
