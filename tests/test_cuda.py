"""What a CPU gives, a GPU gives too: rankers, encoders, their training and what both leave behind. Skipped without a GPU.

Dropout is off wherever two devices are compared: each draws its own. The tolerances are those of TF32 products, which
convolutions use on a GPU, and of sums in another order.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from batches import SMALL, WIDTHS, random_batch, small
from small_site import make_site
from small_store import RANKER, RIVAL, draw_store, inputs_of
from test_embed_images import patchwork_bytes
from test_experiments import written
from test_tag_pretext import ENCODER, PRETEXT, catalogue  # noqa: F401  a fixture
from test_text_pairs import ENCODER as TEXTS
from test_text_pairs import TRAINING, terms_file  # noqa: F401  a fixture

from umair.embedding.image_worker import EmbedImagesConfig, embed_batches, open_encoder
from umair.embedding.texts import EmbedTextsConfig, worker_encoder
from umair.embedding.texts import embed_batches as embed_text_batches
from umair.evaluation.scoring import rows_of
from umair.experiments.run import run_experiments
from umair.model.image_encoder import ImageEncoderConfig, build_image_encoder, save_image_encoder
from umair.model.ranker import Ranker, RankerConfig
from umair.model.text_encoder import TextEncoderConfig, build_text_encoder, save_text_encoder, text_encoder_facts
from umair.recommendations import ITEM_COLUMNS, USER_COLUMNS, Meeting
from umair.storage import Store, write_folder
from umair.training.checkpoint import build_ranker, load_ranker
from umair.training.lookup import Lookup
from umair.training.loop import TrainingConfig, train_rankers
from umair.training.pretext_loop import train_pretext
from umair.training.ranks import Ranks
from umair.training.tagged_pictures import Catalogue
from umair.training.text_pairs import train_text_encoder

GPU = "cuda:0"
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
UNDROPPED = {"tower_dropout": 0.0, "deep_dropout": 0.0, "attention_dropout": 0.0, "id_dropout": 0.0}
FORMS: dict[str, RankerConfig] = {
    "paper": SMALL, "umair": small(preset="umair", match_width=5), "corrected": small(preset="corrected"),
    **{name: small(contribution=name) for name in ("senet", "mixed", "item", "none")}, "batch mean": small(batch_mean=True),
    **{form: small(form=form, inputs="all", vector_fields=2)
       for form in ("dcn", "xdeepfm", "fibinet", "difm", "dcn_v2", "final_mlp")}}


# ---------------------------------------------------------------- rankers
@pytest.mark.parametrize("form", FORMS)
def test_logits_and_gradients_of_a_ranker(form: str) -> None:
    config = FORMS[form].model_copy(update=UNDROPPED)
    found = {}
    for device in ("cpu", GPU):
        torch.manual_seed(0)
        ranker: Ranker = build_ranker(config, WIDTHS).to(device).train()
        batch = random_batch(config, rows=40).to(device)
        logit_B = ranker(batch).logit_B
        torch.nn.functional.binary_cross_entropy_with_logits(logit_B, batch.label_B).backward()
        found[device] = logit_B.detach().cpu(), {name: weight.grad.cpu() for name, weight in ranker.named_parameters()
                                                 if weight.grad is not None}
    (logit_B, gradients), (other_B, others) = found.values()
    torch.testing.assert_close(other_B, logit_B, atol=1e-4, rtol=1e-3)
    assert gradients.keys() == others.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(others[name], gradient, atol=1e-4, rtol=1e-2, msg=lambda text, name=name: f"{name}: {text}")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    torch.set_num_threads(1)
    return draw_store(tmp_path_factory.mktemp("root"))


def trained(store: Store, folder: Path, ranks: Ranks, ranker: RankerConfig = RANKER, **changes: Any) -> dict[str, Any]:
    """Facts of a ranker and a rival that were trained without dropout."""
    settings = {"epochs": 2, "batch": 100, "learning_rate": 0.01, "shuffle_pool": 500, "checkpoint_steps": 5,
                "rivals": {"dcn_v2": RIVAL.model_copy(update=UNDROPPED)}, **changes}
    return train_rankers(ranks, ranker=ranker.model_copy(update=UNDROPPED), config=TrainingConfig(**settings),
                         inputs=inputs_of(store), root=str(store.root), folder=str(folder))


def losses(facts: dict[str, Any], name: str = "main") -> list[float]:
    return [line["rankers"][name]["log_loss"] for line in facts["valid"]]


def assert_alike(facts: dict[str, Any], other: dict[str, Any]) -> None:
    """The first steps agree within rounding. Adam makes steps of one size of gradients that are rounding alone, so that by
    the end of 24 steps the losses of two devices were up to 0.0031 apart on an H100."""
    for name in ("main", "dcn_v2"):
        first, others = ([point["loss"][name] for point in each["curve"][:2]] for each in (facts, other))
        np.testing.assert_allclose(first, others, atol=1e-3)
        np.testing.assert_allclose(losses(facts, name), losses(other, name), atol=1e-2)


@pytest.fixture(scope="module")
def on_the_cpu(store: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return trained(store, tmp_path_factory.mktemp("cpu") / "key", Ranks())


@pytest.mark.parametrize("changes", [{}, {"resident": True}, {"accumulate": 2}, {"compiled": True}], ids=str)
def test_training_of_rankers(store: Store, on_the_cpu: dict[str, Any], changes: dict[str, Any], tmp_path: Path) -> None:
    facts = trained(store, tmp_path / "key", Ranks(device=GPU), **changes)
    assert_alike(facts, trained(store, tmp_path / "other" / "key", Ranks(), **changes) if "accumulate" in changes else on_the_cpu)
    weights, others = (load_ranker(Path(folder)).state_dict() for folder in (
        tmp_path / "key" / "main", tmp_path / "key" / "dcn_v2"))
    assert {tensor.device.type for tensor in [*weights.values(), *others.values()]} == {"cpu"}  # readable without a GPU


def test_sparse_tables_and_clipping(store: Store, tmp_path: Path) -> None:
    changes = {"sparse_from": 1_000, "clip_norm": 1.0}
    facts, other = (trained(store, tmp_path / device / "key", Ranks(device=device), **changes) for device in (GPU, "cpu"))
    assert_alike(facts, other)


def test_bfloat16_learns_what_float32_learns(store: Store, on_the_cpu: dict[str, Any], tmp_path: Path) -> None:
    facts = trained(store, tmp_path / "key", Ranks(device=GPU), precision="bfloat16")
    np.testing.assert_allclose(losses(facts), losses(on_the_cpu), atol=2e-2)


class Killed(Exception):
    """Stands for the end of a process."""


class KilledAfterACheckpoint(Ranks):
    def barrier(self) -> None:
        raise Killed


@pytest.mark.parametrize(("first", "then"), [(GPU, "cpu"), ("cpu", GPU), (GPU, GPU)])
def test_a_checkpoint_goes_from_one_device_to_another(store: Store, on_the_cpu: dict[str, Any], tmp_path: Path, first: str,
                                                      then: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Killed):
        trained(store, tmp_path / "key", KilledAfterACheckpoint(device=first))
    facts = trained(store, tmp_path / "key", Ranks(device=then))
    assert "train: goes on after step 5 from" in capsys.readouterr().out
    assert_alike(facts, on_the_cpu)


def test_an_experiments_trials(tmp_path: Path) -> None:
    found = [run_experiments([written(tmp_path)], tmp_path / device, 2, [f"training.device={device}", *changes])["small"]
             for device, changes in (("cuda", ["training.resident=true"]), ("cpu", []))]
    for name in ("umair", "ids", "no_match"):
        losses = [each["slices"]["all"]["rankers"][name]["log_loss"] for each in found]
        assert losses[0] == pytest.approx(losses[1], abs=0.02)  # each device draws its own dropout
    agreement = [each["rankers"]["umair"]["match_agreement"].keys() for each in found]
    assert agreement[0] == agreement[1]


# ---------------------------------------------------------------- encoders
def embedded(folder: Path, fingerprint: str, **changes: Any) -> dict[str, np.ndarray]:
    """Vectors of ten pictures, by the worker's own way, in batches of four."""
    config = EmbedImagesConfig(batch=4, threads=2, **changes)
    columns = {"illust_id": list(range(10)), "illust_index": list(range(10)), "image": [None] * 10,
               "image_content": [patchwork_bytes(seed) for seed in range(10)], "state": ["new"] * 10, "reason": [None] * 10}
    types = [pa.int64(), pa.int32(), pa.string(), pa.binary(), pa.string(), pa.string()]
    batch = pa.RecordBatch.from_arrays([pa.array(column, kind) for column, kind in zip(columns.values(), types, strict=True)],
                                       names=list(columns))
    found = pa.Table.from_batches(list(embed_batches(iter([batch]), folder=str(folder), fingerprint=fingerprint,
                                                     image_root="", config=config)))
    open_encoder.cache_clear()
    assert found["rule"].null_count == 10
    return {name: np.stack(found[name].to_pylist()) for name in ("semantic", "style")}


def cosine(one_ND: np.ndarray, other_ND: np.ndarray) -> float:
    """The least of all rows."""
    lengths_N = np.linalg.norm(one_ND, axis=1) * np.linalg.norm(other_ND, axis=1)
    return float(((one_ND * other_ND).sum(1) / lengths_N).min())


@pytest.mark.parametrize(("changes", "least"), [({}, 0.9999), ({"precision": "bfloat16"}, 0.995), ({"precision": "float16"}, 0.999),
                                                ({"prefetch": False}, 0.9999), ({"compile": True}, 0.9999)], ids=str)
def test_vectors_of_pictures(changes: dict[str, Any], least: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = build_image_encoder(ImageEncoderConfig(**ENCODER)).eval()
    facts = write_folder(tmp_path / "encoder", lambda folder: save_image_encoder(encoder, folder))
    expected = embedded(tmp_path / "encoder", facts["fingerprint"])
    found = embedded(tmp_path / "encoder", facts["fingerprint"], device="cuda", **changes)
    for name, vector_ND in found.items():
        assert cosine(vector_ND, expected[name]) > least, name
        moved_NN = np.linalg.norm(vector_ND[:, None] - expected[name][None, :], axis=-1)
        assert (moved_NN.argmin(1) == np.arange(10)).all(), name  # random weights: cosines of different pictures are high too


@pytest.mark.parametrize(("precision", "least"), [("float32", 0.9999), ("bfloat16", 0.995), ("float16", 0.999)])
def test_vectors_of_texts(precision: str, least: float, tmp_path: Path) -> None:
    texts = ["blue sky", "青い空", "蓝天", "x" * 500]
    encoder = build_text_encoder(TextEncoderConfig(**TEXTS), texts)

    def save(folder: Path) -> dict[str, Any]:
        save_text_encoder(encoder, folder)
        return text_encoder_facts(encoder)

    write_folder(tmp_path / "encoder", save)
    batch = pa.RecordBatch.from_arrays([pa.array(texts)], names=["text"])
    vectors = []
    for config in (EmbedTextsConfig(), EmbedTextsConfig(device="cuda", precision=precision)):
        (rows,) = embed_text_batches(iter([batch]), folder=str(tmp_path / "encoder"), encoder="txt", config=config)
        vectors.append(np.stack(rows.column("vector").to_pylist()))
        worker_encoder.cache_clear()
    assert cosine(*vectors) > least


@pytest.mark.parametrize("changes", [{}, {"precision": "bfloat16", "accumulate": 2}], ids=str)
def test_the_image_pretext(catalogue: tuple[list[str], str], changes: dict[str, Any], tmp_path: Path) -> None:  # noqa: F811
    facts = [train_pretext(Ranks(device=device), catalogue=Catalogue(*catalogue), encoder=ENCODER, pretext={**PRETEXT, **changes},
                           folder=str(tmp_path / device)) for device in (GPU, "cpu")]
    for each in facts:
        assert each["mean_average_precision"] > each["baseline_mean_average_precision"] + 0.1
    first = [each["loss_curve"][0][1] for each in facts]
    assert first[0] == pytest.approx(first[1], abs=5e-3)  # the same order, augmentation and weights


def test_the_text_encoders_training(terms_file: str, tmp_path: Path) -> None:  # noqa: F811
    facts = [train_text_encoder(Ranks(device=device), files=[terms_file], encoder=TEXTS, pairs=TRAINING, folder=str(tmp_path / device))
             for device in (GPU, "cpu")]
    for each in facts:
        assert each["loss"][-1] < 0.7 * each["loss"][0]
    assert facts[0]["loss"][0] == pytest.approx(facts[1]["loss"][0], rel=0.05)  # dropout is drawn otherwise


def test_pairs_meet_alike(tmp_path):
    site = make_site(tmp_path)
    ranker, features = load_ranker(site.rankers / "main").eval(), site.plan.open_features()
    candidates = {name: np.arange(len(features.item_fields), dtype=np.int32) for name in ITEM_COLUMNS}
    table = pa.concat_tables([pq.read_table(file, columns=list(USER_COLUMNS)) for file in site.test_files]).combine_chunks()
    users = rows_of(table.to_batches()[0])
    scores = [Meeting(ranker.to(device), Lookup(features, ranker, device), candidates, rows=16).scores(users).cpu() for device in ("cpu", GPU)]
    torch.testing.assert_close(*scores, rtol=1e-2, atol=1e-3)
