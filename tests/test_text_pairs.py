"""Fine-tuning on text pairs: no false negatives in a batch, equal steps, a loss by hand, and texts that find each other."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

from umair.errors import ConfigError, ContractError
from umair.model.text_encoder import TextEncoderConfig, load_text_encoder
from umair.schema import TERMS
from umair.storage import read_facts
from umair.training import text_pairs
from umair.training.ranks import Ranks, run_ranks
from umair.training.text_pairs import (
    TextPairs,
    TextPairsConfig,
    _sample_texts,
    batches_apart,
    batches_of_rank,
    count_works,
    rate_factor,
    read_text_pairs,
    require_trainable,
    split_rows,
    train_text_encoder,
    weighted_rows,
)
from umair.training.text_recall import rank_pairs, recall_intervals, summary_of

torch.set_num_threads(1)
NUMBERS = {"zh": ["红", "蓝", "绿", "黑", "白", "金"], "ja": ["あか", "あお", "みどり", "くろ", "しろ", "きん"],
           "en": ["red", "blue", "green", "black", "white", "golden"]}
THINGS = {"zh": ["猫", "狗", "鱼", "花"], "ja": ["ネコ", "イヌ", "サカナ", "ハナ"], "en": ["cat", "dog", "fish", "flower"]}
ENCODER = {"vocabulary_size": 512, "width": 64, "layers": 1, "heads": 2}
TRAINING = {"epochs": 12, "batch": 16, "learning_rate": 3e-3, "holdout_share": 0.15, "holdout_by": "pair"}


def write_terms(path: Path, pairs: list[tuple[str, str]], **same: str) -> str:
    columns = dict(zip(("text_a", "text_b"), zip(*pairs, strict=True), strict=True)) if pairs else {"text_a": [], "text_b": []}
    columns |= {name: [value] * len(pairs) for name, value in same.items()}
    table = pa.table({name: pa.array(columns.get(name, ["x"] * len(pairs)), pa.string()) for name in TERMS.column_names})
    pq.write_table(table, path)
    return str(path)


def coloured_things() -> list[tuple[str, str]]:
    """24 meanings in three languages, 72 pairs: a held-out pair is found by knowing both of its words."""
    words = {language: [f"{colour} {thing}" for colour, thing in itertools.product(NUMBERS[language], THINGS[language])]
             for language in NUMBERS}
    return [pair for a, b in itertools.combinations(words, 2) for pair in zip(words[a], words[b], strict=True)]


@pytest.fixture(scope="module")
def terms_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_terms(tmp_path_factory.mktemp("terms") / "terms.parquet", coloured_things())


# ---------------------------------------------------------------- reading
def test_a_pair_counts_once_whichever_way_round_and_never_with_itself(tmp_path):
    terms = read_text_pairs([write_terms(tmp_path / "t", [("b", "a"), ("a", "b"), ("b", "a"), ("c", "c"), ("c", "a")])])
    assert terms.texts.to_pylist() == ["a", "b", "c"]
    assert [terms.texts_at(pair) for pair in terms.pair_N2] == [["a", "b"], ["c", "a"]]
    assert [sorted(terms.partners_of(text)) for text in range(3)] == [[1, 2], [0], [0]]


def test_a_text_of_blanks_joins_nothing(tmp_path):
    """Tables taken in before the contract knew wide and zero-width blanks may hold some."""
    blanks = ["\u3000", "\u200b", "\ufeff \u00a0"]
    terms = read_text_pairs([write_terms(tmp_path / "t", [("a", "b"), *[(f"name {blank!r}", blank) for blank in blanks]])])
    assert [terms.texts_at(pair) for pair in terms.pair_N2] == [["a", "b"]]


def test_the_order_of_files_and_rows_changes_nothing(tmp_path):
    pairs = coloured_things()
    forward = read_text_pairs([write_terms(tmp_path / "a", pairs[:30]), write_terms(tmp_path / "b", pairs[30:])])
    backward = read_text_pairs([write_terms(tmp_path / "c", pairs[::-1])])
    np.testing.assert_array_equal(forward.pair_N2, backward.pair_N2)
    assert forward.texts.equals(backward.texts)


def test_held_out_rows_are_never_trained_on_and_nothing_gets_lost():
    trained, held = split_rows(range(1000), TextPairsConfig(holdout_share=0.1, holdout_most=60, holdout_by="pair"))
    assert len(held) == 60
    assert sorted([*trained, *held]) == list(range(1000))


def test_a_work_is_held_out_whole_or_not_at_all(tmp_path):
    """A chain of 300 pairs is one work, larger than what is to be held out; 100 more works have three pairs each."""
    chain = [(f"c{number}", f"c{number + 1}") for number in range(300)]
    small = [(f"{work} {a}", f"{work} {b}") for work in range(100) for a, b in (("zh", "ja"), ("ja", "en"), ("zh", "en"))]
    terms = read_text_pairs([write_terms(tmp_path / "t", [*chain, *small])])
    trained, held = split_rows(terms, TextPairsConfig(holdout_share=0.1))
    assert len(held) == 60
    assert sorted([*trained, *held]) == list(range(600))
    assert not set(terms.work_N[trained]) & set(terms.work_N[held])
    texts = [{text for row in rows for text in terms.texts_at(terms.pair_N2[row])} for rows in (trained, held)]
    assert not texts[0] & texts[1]
    assert len(split_rows(terms, TextPairsConfig(holdout_share=0.1, seed=1))[1]) == 60
    assert set(split_rows(terms, TextPairsConfig(holdout_share=0.1, seed=1))[1]) != set(held)


def test_kinds_are_seen_as_often_as_they_weigh(tmp_path):
    terms = read_text_pairs([write_terms(tmp_path / "a", [(f"a{n}", f"b{n}") for n in range(400)], kind="name"),
                             write_terms(tmp_path / "b", [(f"c{n}", f"d{n}") for n in range(400)], kind="relation")])
    rows, random = np.arange(800), np.random.default_rng(0)
    seen = weighted_rows(terms, rows, {"name": 2.5, "relation": 0.25}, random)
    counts = Counter(terms.kinds[row] for row in seen)
    assert counts["name"] == pytest.approx(1000, abs=40)  # 4 standard errors
    assert counts["relation"] == pytest.approx(100, abs=35)
    assert set(Counter(row for row in seen if terms.kinds[row] == "name").values()) == {2, 3}
    assert weighted_rows(terms, rows, {}, random) is rows
    with pytest.raises(ConfigError, match=r"text_pairs.weights: found kind names; expected kinds of pairs: name, relation"):
        weighted_rows(terms, rows, {"names": 2}, random)
    batches = list(batches_apart(terms, seen, 50))  # the same pair twice in a batch would be its own false negative
    assert all(len(set(batch)) == len(batch) for batch in batches)


@pytest.mark.parametrize("count", [1, 2])
def test_the_loss_in_chunks_is_the_same_training_in_less_memory(spark, terms_file, tmp_path, count):
    """Without dropout the same steps are taken, up to rounding."""
    curves = []
    for chunk in (0, 3):
        arguments = {"files": [terms_file], "encoder": {**ENCODER, "dropout": 0.0}, "folder": str(tmp_path / str(chunk)),
                     "pairs": {**TRAINING, "epochs": 2, "chunk": chunk}}
        facts = train_text_encoder(Ranks(), **arguments) if count == 1 else run_ranks(spark, train_text_encoder, arguments, 2)[0]
        curves.append(facts["loss"])
    assert curves[0] == pytest.approx(curves[1], rel=1e-3)


# ---------------------------------------------------------------- batches
def test_pairs_of_a_small_work_never_meet(tmp_path):
    terms = read_text_pairs([write_terms(tmp_path / "t", [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e"), ("x", "y")])])
    batches = [{"".join(terms.texts_at(terms.pair_N2[row])) for row in batch}
               for batch in batches_apart(terms, np.arange(5), batch=8)]
    assert batches == [{"ab", "xy"}, {"bc"}, {"cd"}, {"de"}]


def test_texts_that_differ_in_spelling_alone_are_one_text(tmp_path):
    terms = read_text_pairs([write_terms(tmp_path / "t", [("Ｎａｒｕｔｏ", "火影忍者"), ("naruto", "火影忍者"), ("NARUTO ", "ナルト")])])
    assert len(terms.texts) == 3
    assert len(terms) == 2
    assert len(set(terms.work_N.tolist())) == 1


def test_the_tokenizer_is_trained_on_no_held_out_text(terms_file):
    terms = read_text_pairs([terms_file])
    rows = np.arange(0, len(terms), 2)
    allowed = {text for row in rows for text in terms.texts_at(terms.pair_N2[row])}
    assert set(_sample_texts(terms, rows, 0)) == allowed
    assert allowed < set(_sample_texts(terms, np.arange(len(terms)), 0))


def test_pairs_of_a_large_work_that_share_a_text_or_are_known_partners_never_meet(tmp_path, monkeypatch):
    monkeypatch.setattr(text_pairs, "SMALL_WORK", 3)
    monkeypatch.setattr(text_pairs, "LARGE_THING", 3)
    chain = [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e"), ("x", "y")]  # a-b and c-d share none, but b-c is known
    terms = read_text_pairs([write_terms(tmp_path / "t", chain)])
    batches = [{"".join(terms.texts_at(terms.pair_N2[row])) for row in batch}
               for batch in batches_apart(terms, np.arange(5), batch=8)]
    assert batches == [{"ab", "de", "xy"}, {"bc"}, {"cd"}]


# Two series in two languages, with two characters each; what is said of them joins all to one work of twelve pairs.
SAME = [("Fate", "命运"), ("Touhou", "东方"), *((f"{who} en", f"{who} zh") for who in ("Saber", "Rin", "Reimu", "Marisa")),
        ("Saber zh", "Saber ja")]
BELONG = [("Saber en", "Fate"), ("Rin zh", "命运"), ("Reimu en", "Touhou"), ("Rin en", "Touhou"), ("Marisa zh", "Touhou")]  # Rin as a guest


def two_series(folder: Path) -> TextPairs:
    return read_text_pairs([write_terms(folder / "a", SAME, kind="name"), write_terms(folder / "b", BELONG, kind="belongs")],
                           relations=("belongs",))


def test_what_stands_for_one_thing_and_what_a_relation_joins(tmp_path):
    terms = two_series(tmp_path)
    thing = {text: int(thing) for pair, things in zip(terms.pair_N2, terms.thing_N2, strict=True)
             for text, thing in zip(terms.texts_at(pair), things, strict=True)}
    assert thing["Fate"] == thing["命运"] != thing["Touhou"] == thing["东方"]
    assert thing["Saber en"] == thing["Saber zh"] == thing["Saber ja"] != thing["Rin en"] == thing["Rin zh"]
    assert len(set(thing.values())) == 6
    assert terms.related_things[thing["Rin en"]] == {thing["Fate"], thing["Touhou"]}
    assert terms.related_things[thing["Fate"]] == {thing["Saber en"], thing["Rin en"]}
    assert len(set(terms.work_N.tolist())) == 1


def test_no_batch_of_a_large_work_has_two_pairs_of_a_thing_or_of_things_that_belong_together(tmp_path, monkeypatch):
    """Rin's names may meet Marisa's, but not Fate's, where she belongs; nor may two that belong to Fate in two languages."""
    monkeypatch.setattr(text_pairs, "SMALL_WORK", 3)
    terms, met = two_series(tmp_path), set()
    for seed in range(40):
        for batch in batches_apart(terms, np.random.default_rng(seed).permutation(len(terms)), batch=8):
            names = [tuple(terms.texts_at(terms.pair_N2[row])) for row in batch]
            met |= {frozenset(two) for two in itertools.combinations(names, 2)}
    rin, marisa, saber = ("Rin en", "Rin zh"), ("Marisa en", "Marisa zh"), ("Saber en", "Saber zh")
    assert {frozenset((rin, marisa)), frozenset((rin, saber)), frozenset((("Fate", "命运"), ("Touhou", "东方")))} <= met
    assert not {frozenset((rin, ("Fate", "命运"))), frozenset((rin, ("Touhou", "东方"))), frozenset((saber, ("Saber ja", "Saber zh"))),
                frozenset((("Saber en", "Fate"), ("Rin zh", "命运"))), frozenset((rin, ("Saber en", "Fate")))} & met


def test_pairs_of_one_thing_alone_are_refused(tmp_path):
    """None may be another's negative, so that there is nothing to learn from."""
    words = [f"word {number}" for number in range(12)]
    file = write_terms(tmp_path / "t", list(itertools.combinations(words, 2)))
    with pytest.raises(ContractError, match=r"66 pairs to train on, too few or too alike for a batch for each rank"):
        train_text_encoder(Ranks(), files=[file], encoder=ENCODER, pairs={**TRAINING, "holdout_share": 0.0}, folder=str(tmp_path / "out"))


def test_a_chain_of_texts_with_several_meanings_is_no_thing(tmp_path, monkeypatch):
    """As one thing, a chain of so many would fill no batch; taken link by link, every other pair may stand in one."""
    monkeypatch.setattr(text_pairs, "SMALL_WORK", 3)
    chain = [(f"{number:03}", f"{number + 1:03}") for number in range(30)]
    terms = read_text_pairs([write_terms(tmp_path / "t", chain)])
    assert max(map(len, batches_apart(terms, np.arange(30), batch=30))) == 1
    monkeypatch.setattr(text_pairs, "LARGE_THING", 29)
    terms = read_text_pairs([write_terms(tmp_path / "t", chain)])
    assert max(map(len, batches_apart(terms, np.arange(30), batch=30))) == 10  # two links lie between


def test_works_too_large_for_a_batch_or_for_the_split_are_counted(tmp_path, monkeypatch):
    """One work of four pairs and one of a single pair; of five pairs, two may be held out."""
    monkeypatch.setattr(text_pairs, "SMALL_WORK", 3)
    terms = read_text_pairs([write_terms(tmp_path / "t", [("a", "b"), ("b", "c"), ("c", "d"), ("d", "e"), ("x", "y")])])
    counted = count_works(terms, TextPairsConfig(holdout_share=0.4))
    assert counted["all"] == {"pairs": 5, "large": 0.8, "never_held_out": 0.8}
    assert sum(each["pairs"] for kind, each in counted.items() if kind != "all") == 5
    assert count_works(terms, TextPairsConfig(holdout_share=0.8))["all"]["never_held_out"] == 0


@pytest.mark.parametrize("batch", [2, 5, 24])
def test_every_pair_is_dealt_out_once_and_nothing_in_a_batch_is_a_false_negative(terms_file, batch):
    terms = read_text_pairs([terms_file])
    rows = np.random.default_rng(1).permutation(len(terms))
    batches = list(batches_apart(terms, rows, batch))
    assert sorted(row for rows in batches for row in rows) == list(range(72))
    assert max(map(len, batches)) == batch
    known = {tuple(pair) for pair in terms.pair_N2} | {tuple(pair[::-1]) for pair in terms.pair_N2}
    for rows in batches:
        for (a, p), (b, q) in itertools.combinations(terms.pair_N2[rows].tolist(), 2):
            assert len({a, p, b, q}) == 4
            assert not {(a, q), (b, p), (a, b), (p, q)} & known


@pytest.mark.parametrize("count", [1, 2, 3])
def test_ranks_take_equally_many_batches_and_share_no_pair(terms_file, count):
    terms = read_text_pairs([terms_file])
    shares = [batches_of_rank(terms, np.arange(72), 10, Ranks(rank, count), np.random.default_rng(7)) for rank in range(count)]
    assert len({len(share) for share in shares}) == 1
    rows = [row for share in shares for batch in share for row in batch]
    assert len(rows) == len(set(rows)) >= 60


def test_each_epoch_deals_anew(terms_file):
    terms, order = read_text_pairs([terms_file]), np.random.default_rng(7)
    first, second = (batches_of_rank(terms, np.arange(72), 10, Ranks(), order) for _ in range(2))
    assert {tuple(sorted(batch)) for batch in first} != {tuple(sorted(batch)) for batch in second}


def test_one_text_in_most_pairs_does_not_scatter_the_rest(tmp_path):
    hub = [("hub", f"h{number}") for number in range(900)] + [(f"a{number}", f"b{number}") for number in range(100)]
    terms = read_text_pairs([write_terms(tmp_path / "t", hub)])
    batches = list(batches_apart(terms, np.random.default_rng(0).permutation(1000), 20))
    assert sorted(row for rows in batches for row in rows) == list(range(1000))
    others = [rows for rows in batches if any("hub" not in terms.texts_at(terms.pair_N2[row]) for row in rows)]
    assert len(others) <= 7  # 100 pairs in batches of 20, each with at most one pair of the hub


# ---------------------------------------------------------------- loss and rate
def test_the_loss_is_cross_entropy_over_scaled_cosines():
    anchors, positives = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[3.0, 0.0], [1.0, 1.0]])
    loss = MultipleNegativesRankingLoss(torch.nn.Module(), scale=20.0).compute_loss_from_embeddings([anchors, positives], None)
    half = math.sqrt(0.5)  # cosines by hand: [[1, .707], [0, .707]]
    first, second = -math.log(1 / (1 + math.exp(20 * half - 20))), -math.log(1 / (1 + math.exp(-20 * half)))
    assert loss.item() == pytest.approx((first + second) / 2, rel=1e-3)


@pytest.mark.parametrize(("progress", "factor"), [(0, 0), (0.05, 0.5), (0.1, 1), (0.55, 0.5), (1, 0)])
def test_the_rate_climbs_over_the_first_tenth_and_then_falls_to_zero(progress, factor):
    assert rate_factor(progress, 0.1) == pytest.approx(factor)


def test_without_warm_up_the_rate_starts_at_its_peak():
    assert rate_factor(0, 0) == 1


class Table:
    """An encoder that looks its vectors up."""

    def __init__(self, vectors: dict[str, list[float]]) -> None:
        self.vectors = vectors

    def __call__(self, texts):
        table = np.array([self.vectors[text] for text in texts])
        return table / np.linalg.norm(table, axis=1, keepdims=True)


def test_recall_by_hand(tmp_path):
    terms = read_text_pairs([write_terms(tmp_path / "t", [("a", "p"), ("a", "q"), ("b", "r"), ("c", "s")])])
    table = Table({"a": [1, 0], "p": [3, 1], "q": [9, 1], "b": [0, 1], "r": [1, 1], "c": [-1, 1], "s": [1, -1]})
    # Asked from the left: a finds p (the nearer q is right too and does not compete) and q; b finds r; c is nearest to r
    # and farthest from s: fourth. From the right, among a, b, c: p and q find a; r is as near to a as to b: second; s: third.
    found = summary_of(rank_pairs(table, terms, np.arange(4)))
    assert found["pairs"] == 4
    assert found["recall_at_1"] == round(5 / 8, 4)
    assert found["recall_at_10"] == 1.0
    assert found["mrr"] == pytest.approx((5 + 1 / 4 + 1 / 2 + 1 / 3) / 8, abs=1e-4)
    assert summary_of(rank_pairs(table, terms, np.arange(0))) == {"pairs": 0, "by": {}}
    same = Table({text: [1, 1] for text in "apqbrcs"})
    assert summary_of(rank_pairs(same, terms, np.array([0, 2])))["recall_at_1"] == 0  # equal vectors are no hit
    broken = lambda texts: np.full((len(texts), 2), np.nan, np.float32)  # noqa: E731
    assert summary_of(rank_pairs(broken, terms, np.array([0, 2])))["recall_at_1"] == 0  # nor is what is no number


def test_groups_ask_among_themselves(tmp_path):
    names = write_terms(tmp_path / "a", [("a", "p"), ("b", "q")], kind="name", lang_a="ja", lang_b="en")
    titles = write_terms(tmp_path / "b", [("c", "r")], kind="title", lang_a="zh", lang_b="ja")
    terms = read_text_pairs([names, titles])
    table = Table({"a": [1, 0], "p": [1, 0], "b": [0, 1], "q": [0, 1], "c": [1, 0], "r": [-1, 0]})
    found = summary_of(rank_pairs(table, terms, np.arange(3)))
    assert list(found["by"]) == ["name en-ja", "title ja-zh"]
    assert {group: each["recall_at_1"] for group, each in found["by"].items()} == {"name en-ja": 1.0, "title ja-zh": 1.0}
    assert [each["pairs"] for each in found["by"].values()] == [2, 1]


def ranked(*works: tuple[int, list[int], list[int]]) -> dict[str, dict[str, list]]:
    """One group; of each pair the work and both places, before and after."""
    work, before, after = zip(*works, strict=True)
    return {"name en-ja": {"work": list(work), "before": list(before), "after": list(after)}}


def test_an_interval_draws_whole_works():
    # Two works, two pairs each: one is found throughout, one never, on both sides. Of two drawn works the share found is
    # 0, 1/2, 1/2 or 1 with equal chance, so that the outer 2.5 % are 0 and 1.
    two = ranked((7, [1, 1], [1, 1]), (7, [1, 1], [1, 1]), (9, [20, 20], [20, 20]), (9, [20, 20], [20, 20]))
    found = recall_intervals([two], {"name en-ja", "title ja-zh"})
    assert found["pairs"] == 4
    assert found["recall_at_1"] == {"before": [0.5, 0, 1], "after": [0.5, 0, 1], "gain": [0, 0, 0]}
    assert found["mrr"]["before"] == [0.525, 0.05, 1]  # (1 + 1 / 20) / 2
    one = ranked(*[(7, [1, 1], [1, 1])] * 50, *[(7, [20, 20], [20, 20])] * 50)
    assert recall_intervals([one], {"name en-ja"})["recall_at_1"]["after"] == [0.5, 0.5, 0.5]  # one work: nothing to draw
    with pytest.raises(ValueError, match="no held-out pair in title ja-zh"):
        recall_intervals([one], {"title ja-zh"})


def test_a_gain_is_that_of_the_same_pairs():
    # each pair is found on one side after training and on none before, whatever is drawn
    found = recall_intervals([ranked(*[(work, [20, 30], [1, 5]) for work in range(30)])], {"name en-ja"})
    assert found["recall_at_1"]["gain"] == [0.5, 0.5, 0.5]
    assert found["recall_at_10"] == {"before": [0, 0, 0], "after": [1, 1, 1], "gain": [1, 1, 1]}


def test_the_interval_is_of_the_mean_over_runs():
    # Two works, one found throughout, one never; three runs. The sum of what six drawn works say is binomial(6, 1/2): at most
    # one of six with chance 0.109, none with 0.016, so that the lower end is 1/6, and the upper 5/6.
    run = ranked((1, [1, 1], [1, 1]), (2, [20, 20], [20, 20]))
    assert recall_intervals([run] * 3, {"name en-ja"})["recall_at_1"]["after"] == [0.5, 0.1667, 0.8333]


def test_an_interval_holds_the_truth_as_often_as_it_says():
    chance, held, width = np.random.default_rng(0), 0, []
    for _ in range(200):
        runs = []
        for _ in range(3):  # 60 works of two pairs, which are found or missed together, with chance 0.3
            found = np.repeat(np.where(chance.random(60) < 0.3, 1, 20), 2)
            runs.append(ranked(*[(place // 2, [20, 20], [rank, rank]) for place, rank in enumerate(found.tolist())]))
        _, low, high = recall_intervals(runs, {"name en-ja"}, resamplings=300)["recall_at_1"]["after"]
        held += low <= 0.3 <= high
        width.append(high - low)
    assert 0.90 <= held / 200 <= 0.985
    assert np.mean(width) == pytest.approx(2 * 1.96 * (0.3 * 0.7 / 180) ** 0.5, rel=0.1)  # 180 works in all


# ---------------------------------------------------------------- training
@pytest.fixture(scope="module")
def trained(terms_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoders") / "alone"
    facts = train_text_encoder(Ranks(), files=[terms_file], encoder=ENCODER, pairs=TRAINING, folder=str(folder),
                               lineage={"terms_version": 3}, keep_ranks=True)
    return folder, facts


def test_training_lets_held_out_translations_find_each_other(trained):
    _, facts = trained
    assert facts["held_out"] == 10
    assert facts["pairs"] == 62
    assert min(facts["seen"]) >= 60  # a pair left without a partner sits an epoch out
    assert facts["loss"][-1] < facts["loss"][0] / 2
    assert facts["after"]["recall_at_1"] >= 0.7 > 0.3 >= facts["before"]["recall_at_1"]


def test_kept_ranks_give_the_figures_again(trained):
    _, facts = trained
    found = recall_intervals([facts["ranked"]], set(facts["ranked"]))
    for moment in ("before", "after"):
        assert {name: found[name][moment][0] for name in ("recall_at_1", "recall_at_10", "mrr")} == {
            name: facts[moment][name] for name in ("recall_at_1", "recall_at_10", "mrr")}
    assert found["recall_at_1"]["gain"][1] > 0


def test_the_folder_holds_the_encoder_and_its_facts(trained):
    folder, facts = trained
    assert read_facts(folder) == facts
    assert facts["terms_version"] == 3
    assert facts["width"] == 512 == load_text_encoder(folder).get_embedding_dimension()


def test_the_same_seed_gives_the_same_encoder_and_another_seed_another(trained, terms_file, tmp_path):
    _, facts = trained
    def again(**changed):
        return train_text_encoder(Ranks(), files=[terms_file], encoder=ENCODER, pairs={**TRAINING, **changed},
                                  folder=str(tmp_path / "again"))
    assert again()["fingerprint"] == facts["fingerprint"]
    assert again(seed=1)["fingerprint"] != facts["fingerprint"]


def test_two_horovod_ranks_train_one_encoder(spark, terms_file, tmp_path):
    folder = tmp_path / "two"
    arguments = {"files": [terms_file], "encoder": ENCODER, "pairs": {**TRAINING, "epochs": 16}, "folder": str(folder)}
    first, second = run_ranks(spark, train_text_encoder, arguments, 2)
    assert first == second == read_facts(folder)
    assert first["after"]["recall_at_1"] >= 0.7
    assert min(first["seen"]) >= 50  # of 62: a last batch without a partner on the other rank is left out
    assert not list(tmp_path.glob(".two-*"))  # one rank wrote, and left nothing behind


def test_no_epoch_keeps_the_base_as_it_is(trained, tmp_path):
    folder, facts = trained
    empty = write_terms(tmp_path / "t", [])
    kept = train_text_encoder(Ranks(), files=[empty], encoder={"base": str(folder)}, pairs={"epochs": 0},
                              folder=str(tmp_path / "kept"))
    assert kept["fingerprint"] == facts["fingerprint"]
    assert kept["loss"] == []
    assert kept["after"] == {"pairs": 0, "by": {}}


def test_a_base_is_trained_further(trained, terms_file, tmp_path):
    folder, facts = trained
    further = train_text_encoder(Ranks(), files=[terms_file], encoder={"base": str(folder)},
                                 pairs={**TRAINING, "epochs": 1, "learning_rate": 1e-4}, folder=str(tmp_path / "further"))
    assert further["fingerprint"] != facts["fingerprint"]
    assert further["loss"][0] < facts["loss"][0] / 2


# ---------------------------------------------------------------- bad input
@pytest.mark.parametrize(("base", "epochs", "rows", "says"), [
    (None, 0, 10, "epochs: 0 and no text_encoder.base, which gives random vectors"),
    (None, 3, 0, "found no pair of texts; .*bring pairs .*or name a trained model in text_encoder.base"),
    (None, 0, 0, "found no pair of texts"),
    ("somewhere", 3, 0, "found 3 and no pair of texts; .*text_pairs.epochs=0 to use text_encoder.base")])
def test_random_vectors_are_refused(base, epochs, rows, says):
    with pytest.raises(ConfigError, match=says):
        require_trainable(TextEncoderConfig(base=base), TextPairsConfig(epochs=epochs), rows)


@pytest.mark.parametrize(("base", "epochs", "rows"), [(None, 1, 10), ("somewhere", 0, 0), ("somewhere", 2, 10)])
def test_what_can_be_trained_or_kept_passes(base, epochs, rows):
    require_trainable(TextEncoderConfig(base=base), TextPairsConfig(epochs=epochs), rows)


def test_it_is_said_when_nothing_can_be_held_out(terms_file, tmp_path, capsys):
    """Works have three pairs; 3 % of 72 are two."""
    for share, said in ((0.03, True), (0.05, False), (0.0, False)):
        facts = train_text_encoder(Ranks(), files=[terms_file], encoder=ENCODER, folder=str(tmp_path / str(share)),
                                   pairs={**TRAINING, "epochs": 1, "holdout_by": "work", "holdout_share": share})
        assert ("of 72 pairs none could be held out, as every work has more of them than text_pairs.holdout_share (0.03)"
                in capsys.readouterr().out) == said
        assert (facts["held_out"] == 0) == (share != 0.05)


def test_pairs_too_alike_for_a_batch_say_so(tmp_path):
    alike = write_terms(tmp_path / "t", [("a", "b"), ("b", "c"), ("a", "c")])
    with pytest.raises(ContractError, match=r"3 pairs to train on, too few or too alike .*bring more pairs"):
        train_text_encoder(Ranks(), files=[alike], encoder=ENCODER, pairs={"epochs": 1}, folder=str(tmp_path / "f"))


def test_a_rate_that_diverges_is_named(terms_file, tmp_path):
    with pytest.raises(ConfigError, match=r"text_pairs.learning_rate: found 1e\+38, with which the loss became nan"):
        train_text_encoder(Ranks(), files=[terms_file], encoder=ENCODER, folder=str(tmp_path / "f"),
                           pairs={**TRAINING, "learning_rate": 1e38})
    assert not (tmp_path / "f").exists()
