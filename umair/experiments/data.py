"""The rows of an experiment: what rankers train on, the test rows, and the truth where somebody knows it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from umair.errors import ContractError
from umair.evaluation.contributions import FACTOR
from umair.experiments.config import ExperimentConfig, WeekConfig
from umair.experiments.learnable import Known, Learnable, learnable_scores
from umair.experiments.numeric_world import Factors, NumericWorldConfig, draw_numeric_world, numeric_inputs
from umair.schema import SPLITS, window_table
from umair.training.inputs import TrainingInputs
from umair.training.reader import count_rows, read_rows

Array = npt.NDArray[Any]
COLD = "cold"  # a slice: illustrations without a training row
NEW_USERS = "new users"  # a slice: users without a training row
TAIL_QUANTILE = 0.8  # of a numeric world; a week has evaluation.tail_quantile


@dataclass(frozen=True)
class Rows:
    """Rows of one window in the order of its files."""

    user_N: Array
    item_N: Array
    label_N: Array

    @classmethod
    def of(cls, rows_by_file: dict[str, int], split: str) -> Rows:
        chunks = list(read_rows(dict(sorted(rows_by_file.items())), ("user_index", "illust_index", "label")))
        if not chunks:
            raise ContractError(f"table '{window_table(split)}' of the experiment", "no row", "rows to train on and to test",
                                "choose another week, or a world with more rows")
        return cls(*(np.concatenate([chunk[name] for chunk in chunks]) for name in ("user_index", "illust_index", "label")))


@dataclass(frozen=True)
class Data:
    """One experiment's rows and what is known of them."""

    inputs: TrainingInputs
    root: str  # whose features/ has the pack
    test: Rows
    slices: dict[str, Array]  # name -> bool mask of the test rows
    probability_N: Array | None = None  # of a bookmark, for each test row
    learnable: Learnable | None = None  # what can be learned of the test rows
    true_weights_U: dict[str, Array] | None = None  # modality -> each user's weight, by user_index


def open_data(config: ExperimentConfig, folder: Path) -> Data:
    """Draws the numeric world below `folder` unless it is there, or takes the week.

    Raises ConfigError for a week whose windows and vectors are not finished.
    """
    if config.numeric:
        return _numeric(config.numeric, folder / "world")
    assert config.week is not None
    return _week(config.week)


def open_training(numeric: NumericWorldConfig | None, week: WeekConfig | None, folder: Path) -> tuple[TrainingInputs, str]:
    """What trains on such rows without ever seeing the test window: inputs, and the root whose features/ has the pack."""
    if numeric:
        draw_numeric_world(numeric, folder / "world")
        return numeric_inputs(folder / "world", ("train", "valid")), str(folder / "world")
    assert week is not None
    job = _finished_job(week)
    return _week_inputs(job), str(job.store.root)


def _numeric(config: NumericWorldConfig, folder: Path) -> Data:
    draw_numeric_world(config, folder)
    inputs = numeric_inputs(folder)
    data = _data(inputs, str(folder))
    with np.load(folder / "truth.npz") as truth:
        factors = Factors(**{name: truth[name] for name in Factors.__dataclass_fields__})
        probability_N = truth["probability"]
    known = Known(np.concatenate([factors.style_IF, factors.content_IF], 1), factors.popularity_I)
    weights = dict(zip(("style", "semantic"), factors.weight_U3.T[:2], strict=True))  # popularity has no modality
    return replace(data, probability_N=probability_N, true_weights_U=weights,
                   learnable=_learnable(inputs, data, known))


def _data(inputs: TrainingInputs, root: str, tail_quantile: float = TAIL_QUANTILE) -> Data:
    """The tail: illustrations with no more training rows than that quantile of those that have any."""
    train, test = (_with_both_labels(inputs, split) for split in ("train", "test"))
    _with_both_labels(inputs, "valid")
    item_I, count_I = np.unique(train.item_N, return_counts=True)
    rows_of = dict(zip(item_I.tolist(), count_I.tolist(), strict=True))
    count_N = np.array([rows_of.get(item, 0) for item in test.item_N.tolist()])
    new_user_N = ~np.isin(test.user_N, train.user_N)
    edge = np.quantile(count_I, tail_quantile)
    slices = {"all": np.ones(len(count_N), bool), COLD: count_N == 0, "tail": (count_N > 0) & (count_N <= edge),
              NEW_USERS: new_user_N}
    return Data(inputs, root, test, {name: mask for name, mask in slices.items() if len(np.unique(test.label_N[mask])) == 2})


def _with_both_labels(inputs: TrainingInputs, split: str) -> Rows:
    """The window's rows. Raises ContractError where all have one label: nothing could be learned of them, or ordered."""
    rows = Rows.of(inputs.rows_by_file[split], split)
    found = np.unique(rows.label_N)
    if len(found) < 2:
        raise ContractError(f"table '{window_table(split)}' of the experiment",
                            f"{len(rows.label_N):,} rows, all with label {found[0]}", "rows of both labels",
                            "choose a week, or a world, with bookmarks and with views that none followed")
    return rows


def _learnable(inputs: TrainingInputs, data: Data, known: Known) -> Learnable:
    train, valid = (Rows.of(inputs.rows_by_file[split], split) for split in ("train", "valid"))
    return learnable_scores(train, valid, data.test, known)


# ---------------------------------------------------------------- a week of the pipeline
def _week(config: WeekConfig) -> Data:
    job = _finished_job(config)
    inputs = _week_inputs(job)
    files = {split: count_rows(job.snapshot(window_table(split)).files) for split in SPLITS}
    data = _data(replace(inputs, rows_by_file=files), str(job.store.root), job.config.evaluation.tail_quantile)
    return _with_truth(data, job) if job.config.evaluation.truth else data


def _finished_job(config: WeekConfig) -> Any:
    from umair.config import load_config
    from umair.job import Config, Job, require_finished
    from umair.weeks import Week

    job = Job(load_config(config.config, [], Config), Week.parse(config.week))
    job.again.clear()  # what its configuration would have made anew is finished for an experiment
    require_finished(job, "build_windows", "embed_images", "embed_texts")
    return job


def _week_inputs(job: Any) -> TrainingInputs:
    """Without the test window."""
    from umair.storage import read_facts

    image_encoder = job.config.embed_images.named(read_facts(job.model_folder("pretrain_image_encoder")))
    text_encoder = job.config.embed_texts.named(read_facts(job.model_folder("finetune_text_encoder")))
    return TrainingInputs.of(job.store, job.versions, image_encoder, text_encoder,
                             titles=job.config.embed_texts.include_titles)


def _with_truth(data: Data, job: Any) -> Data:
    """Adds what the drawn world's truth says: probabilities, factors and the users' weights, by index."""
    folder = Path(job.config.evaluation.truth)
    if not (folder / "events.parquet").exists():
        raise ContractError("evaluation.truth", f"no {folder / 'events.parquet'}", "the truth of a drawn world, or null",
                            "correct evaluation.truth of the week's configuration")
    user_of = _index_by_id(job, "users", "user")
    item_of = _index_by_id(job, "illustrations", "illust")
    events = pq.read_table(folder / "events.parquet").to_pandas()
    events["user"], events["item"] = events["user_id"].map(user_of), events["illust_id"].map(item_of)
    known = events.dropna(subset=["user", "item"]).set_index(["user", "item"])["probability"]
    probability_N = known.reindex(list(zip(data.test.user_N, data.test.item_N, strict=True))).to_numpy()
    if np.isnan(probability_N).any():
        raise ContractError(f"evaluation.truth {folder}", f"{np.isnan(probability_N).sum()} test rows without a probability",
                            "one for every test row", "take the truth that was drawn with these events")
    items = _indexed(folder / "illustrations.parquet", "illust_id", item_of)
    users = _indexed(folder / "users.parquet", "user_id", user_of)
    if "concepts" not in items:
        raise ContractError(f"{folder / 'illustrations.parquet'}", "no column concepts", "what an illustration's tags name",
                            "draw the world again: this one is of an earlier version")
    artist_IA = np.eye(items["artist_id"].nunique())[np.unique(items["artist_id"], return_inverse=True)[1]]
    factor_IF, popularity_I, artist_IA, tag_IC = (_by_place(items, values) for values in (
        np.concatenate([np.stack(items["style"]), np.stack(items["content"])], 1), items["popularity"].to_numpy(), artist_IA,
        _shares(items["concepts"])))
    weights = {modality: _by_index(users, column) for modality, column in FACTOR.items()}
    return replace(data, probability_N=probability_N, true_weights_U=weights,
                   learnable=_learnable(data.inputs, data, Known(factor_IF, popularity_I, (tag_IC, artist_IA))))


def _index_by_id(job: Any, table: str, kind: str) -> dict[int, int]:
    rows = pq.ParquetDataset(list(job.snapshot(table).files)).read(columns=[f"{kind}_id", f"{kind}_index"]).to_pydict()
    return dict(zip(rows[f"{kind}_id"], rows[f"{kind}_index"], strict=True))


def _indexed(file: Path, key: str, index_of: dict[int, int]) -> Any:
    """A table of the truth with the column `index`; rows that the pipeline set aside are left out."""
    table = pq.read_table(file).to_pandas()
    table["index"] = table[key].map(index_of)
    return table.dropna(subset=["index"]).astype({"index": int})


def _shares(lists: Any) -> Array:
    """[I, C]: the share of each concept among those that an illustration's tags name, as users' tastes count them (means
    over the tags); so large that the concepts of a usual illustration have about 1 each."""
    share_IC = np.zeros((len(lists), 1 + max((int(each.max(initial=0)) for each in lists), default=0)))
    for row, each in enumerate(lists):
        share_IC[row, each] = 1 / max(1, len(each))
    return share_IC / max(1e-9, float(share_IC[share_IC > 0].mean()))


def _by_place(items: Any, values: Array) -> Array:
    """The values of the truth's rows, by illust_index; zero for others."""
    placed = np.zeros((items["index"].max() + 1, *values.shape[1:]))
    placed[items["index"]] = values
    return placed


def _by_index(users: Any, column: str) -> Array:
    values = np.full(users["index"].max() + 1, np.nan)
    values[users["index"]] = users[column]
    return values
