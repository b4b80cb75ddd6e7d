"""The text encoder: one structure from scratch or from a base, any script, no pickle, no network, telling fingerprints."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense
from sentence_transformers.sentence_transformer.modules import Normalize, Pooling

from umair.errors import StorageError
from umair.model.text_encoder import (
    MAX_CHARACTERS,
    TextEncoderConfig,
    build_text_encoder,
    clean_text,
    load_text_encoder,
    save_text_encoder,
    text_encoder_facts,
)

torch.set_num_threads(1)
TEXTS = ["猫", "子猫", "青い猫", "白猫", "猫咪", "小猫", "cat", "blue cat", "white cat", "catfish"]
SMALL = TextEncoderConfig(vocabulary_size=512, width=32, layers=1, heads=2)


@pytest.fixture(scope="module")
def encoder() -> SentenceTransformer:
    return build_text_encoder(SMALL, TEXTS).eval()


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def test_the_vector_is_tanh_of_a_projected_mean_over_the_texts_own_tokens(encoder):
    features = encoder.preprocess(["青い cat", "a much longer text that makes the first one be padded"])
    tokens_BTW = encoder[0](dict(features))["token_embeddings"]
    mask_BT1 = features["attention_mask"].unsqueeze(-1)
    mean_BW = (tokens_BTW * mask_BT1).sum(dim=1) / mask_BT1.sum(dim=1)
    by_hand_BD = torch.tanh(mean_BW @ encoder[2].linear.weight.T + encoder[2].linear.bias)
    vector_BD = encoder(dict(features))["sentence_embedding"]
    torch.testing.assert_close(vector_BD, by_hand_BD)
    assert vector_BD.shape == (2, 512)


@pytest.mark.parametrize("text", ["猫", "ねこ", "ネコ", "cat", "кот", "고양이", "🐱", "𠮷"])
def test_no_script_is_unknown_to_the_tokenizer(encoder, text):
    tokens = encoder.tokenizer.convert_ids_to_tokens(encoder.tokenizer(text)["input_ids"])[1:-1]
    assert encoder.tokenizer.backend_tokenizer.decoder.decode(tokens) == text  # scripts of no training text included


def test_words_that_share_characters_share_tokens(encoder):
    tokens = {text: set(encoder.tokenizer(text)["input_ids"]) - set(encoder.tokenizer("")["input_ids"])
              for text in ("子猫", "猫の絵", "dog")}
    assert tokens["子猫"] & tokens["猫の絵"]
    assert not tokens["子猫"] & tokens["dog"]


def test_han_characters_stay_single_however_often_they_stand_together():
    often = build_text_encoder(SMALL, ["青猫 one", "青猫 two", "青猫 three"]).tokenizer
    assert often.tokenize("青猫") == ["青", "猫"]
    assert often.tokenize("青い") == ["青", *often.tokenize("い")]


def test_case_and_width_do_not_matter(encoder):
    vectors_ND = encoder.encode(["BLUE cat", "blue cat", "blue dog"])
    np.testing.assert_allclose(vectors_ND[0], vectors_ND[1], atol=1e-6)
    assert np.abs(vectors_ND[1] - vectors_ND[2]).max() > 1e-3


@pytest.mark.parametrize(("text", "seen"), [
    ("ｃａｔ　№１", "cat No1"), (" a\x00b\x1b\n\tc ", "a b c"), ("\ud800x", "x"), ("\x00\x07", ""), ("", ""),
    ("x" * 100_000, "x" * MAX_CHARACTERS), ("\u200b" * 5_000 + "cat", "cat"), ("\ufdfa" * MAX_CHARACTERS, None)])
def test_clean_text(text, seen):
    cleaned = clean_text(text)
    assert len(cleaned) <= MAX_CHARACTERS
    assert seen is None or cleaned == seen


def test_a_hundred_kilobytes_are_cut_to_128_tokens(encoder):
    assert encoder.preprocess(["cat " * 25_000])["input_ids"].shape == (1, 128)
    tail_ND = encoder.encode(["cat " * 128 + "dog", "cat " * 128 + "fish", "dog " * 128])
    np.testing.assert_allclose(tail_ND[0], tail_ND[1], atol=1e-6)  # what is beyond the cut changes nothing
    assert np.abs(tail_ND[0] - tail_ND[2]).max() > 1e-3


def test_a_saved_encoder_gives_the_same_vectors_without_pickle_or_network(encoder, tmp_path, no_network):
    save_text_encoder(encoder, tmp_path)
    loaded = load_text_encoder(tmp_path)
    np.testing.assert_array_equal(loaded.encode(TEXTS), encoder.encode(TEXTS))
    assert not loaded.training
    assert loaded.max_seq_length == 128
    kinds = {path.suffix for path in tmp_path.rglob("*") if path.is_file()}
    assert kinds == {".json", ".safetensors"}


def test_the_fingerprint_stands_for_the_vectors(encoder, tmp_path):
    facts = text_encoder_facts(encoder)
    assert facts["width"] == 512
    save_text_encoder(encoder, tmp_path)
    loaded = load_text_encoder(tmp_path)
    loaded.encode(["padded", "and cut " * 200])  # leaves padding and truncation in the tokenizer
    assert text_encoder_facts(loaded) == facts
    with torch.no_grad():
        loaded[2].linear.bias[0] += 1e-6
    assert text_encoder_facts(loaded) != facts


def test_the_tokenizer_and_the_length_limit_count_in_the_fingerprint(encoder):
    fingerprint = text_encoder_facts(encoder)["fingerprint"]
    assert text_encoder_facts(build_text_encoder(SMALL, TEXTS))["fingerprint"] == fingerprint
    shorter = build_text_encoder(SMALL, TEXTS)
    shorter.max_seq_length = 64
    assert text_encoder_facts(shorter)["fingerprint"] != fingerprint
    one, other = (build_text_encoder(SMALL, [text]) for text in ("ab ab", "cd cd"))
    assert torch.equal(one[2].linear.weight, other[2].linear.weight)  # the same weights, another tokenizer
    assert text_encoder_facts(one)["fingerprint"] != text_encoder_facts(other)["fingerprint"]


def test_how_the_modules_work_beside_their_weights_counts_in_the_fingerprint(encoder, tmp_path):
    """The same weights and tokenizer, read through another pooling, activation or normalising, are another encoder."""
    said = {text_encoder_facts(encoder)["fingerprint"]}
    transformer, dense = encoder[0], encoder[2]
    wordy = Dense(32, 512, activation_function=torch.nn.Identity())
    wordy.linear = dense.linear
    for modules in ([transformer, Pooling(32, "cls"), dense], [transformer, Pooling(32, "mean"), wordy],
                    [transformer, Pooling(32, "mean"), dense, Normalize()]):
        other = SentenceTransformer(modules=modules, device="cpu")
        facts = text_encoder_facts(other)
        assert not np.allclose(other.encode(["cat"]), encoder.encode(["cat"]))
        save_text_encoder(other, tmp_path / str(len(said)))
        assert text_encoder_facts(load_text_encoder(tmp_path / str(len(said)))) == facts
        said.add(facts["fingerprint"])
    assert len(said) == 4


def test_first_weights_depend_on_the_seed_and_leave_the_callers_random_state_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first = build_text_encoder(SMALL, TEXTS)
    assert torch.equal(torch.rand(1), expected)
    other = build_text_encoder(SMALL.model_copy(update={"seed": 1}), TEXTS)
    assert not torch.equal(first[2].linear.weight, other[2].linear.weight)


def test_a_base_folder_is_taken_as_it_is_and_cut_to_max_tokens(encoder, tmp_path, no_network):
    save_text_encoder(encoder, tmp_path)
    based = build_text_encoder(TextEncoderConfig(base=str(tmp_path), max_tokens=16), [])
    np.testing.assert_array_equal(based.eval().encode(["猫 cat"]), encoder.encode(["猫 cat"]))
    assert based.max_seq_length == 16


def test_a_folder_that_is_no_encoder_says_what_to_run(tmp_path):
    with pytest.raises(StorageError, match=r"found no modules.json; .*run jobs/finetune_text_encoder.py first"):
        load_text_encoder(tmp_path)


def test_damaged_weights_say_so(encoder, tmp_path):
    save_text_encoder(encoder, tmp_path)
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(StorageError, match=r"found no loadable model .*run jobs/finetune_text_encoder.py again"):
        load_text_encoder(tmp_path)


def test_pickled_weights_are_refused(encoder, tmp_path):
    save_text_encoder(encoder, tmp_path)
    state = encoder[0].auto_model.state_dict()
    (tmp_path / "model.safetensors").unlink()
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(StorageError, match="expected a sentence-transformers model with safetensors weights"):
        load_text_encoder(tmp_path)


def test_a_base_that_is_nowhere_names_the_key(tmp_path: Path):
    with pytest.raises(StorageError, match=r"check text_encoder.base"):
        build_text_encoder(TextEncoderConfig(base=str(tmp_path / "none")), [])


def test_heads_must_divide_the_width():
    with pytest.raises(ValidationError, match="heads 3 must divide width 32"):
        TextEncoderConfig(width=32, heads=3)
