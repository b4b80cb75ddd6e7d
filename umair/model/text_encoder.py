"""Text encoder (UMAIR-FPS, "ACGVoc2Vec"): one sentence-transformers model, from scratch or from a trained base.

Both kinds are Transformer -> mean pooling over the mask -> Dense to `output` values with tanh, the structure of
`distiluse-base-multilingual-cased-v2`. An illustration's text vector is the mean of its tags' vectors.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import tempfile
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, model_validator
from safetensors.torch import save
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Dense, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import DistilBertConfig, DistilBertModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from umair.config import Section
from umair.errors import StorageError

MAX_CHARACTERS = 4096  # a text is cut here before it is tokenised: 128 tokens never reach further
NOT_OF_THE_NETWORK = ("_name_or_path", "architectures", "transformers_version", "dtype", "torch_dtype")  # but who saved it
PREPROCESSING = "nfkc-2"  # part of the fingerprint: changes when `clean_text` does
SPECIAL_TOKENS = ("[PAD]", "[CLS]", "[SEP]")
BYTE_TOKENS = tuple(f"<0x{byte:02X}>" for byte in range(256))  # the spelling that the tokenizers library looks for
_INVISIBLE = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u200b\u2028\u2029\ufeff\ud800-\udfff]+")  # also lone surrogates


class TextEncoderConfig(Section):
    """`base` names a trained model; without it a small DistilBERT is built from scratch with the sizes below."""

    base: str | None = None  # hub name or folder, e.g. sentence-transformers/distiluse-base-multilingual-cased-v2
    vocabulary_size: int = Field(8000, ge=512)  # tokens at most; 256 bytes and 3 special ones are always there
    width: int = Field(256, gt=0)  # of a token's vector
    layers: int = Field(4, gt=0)  # of the transformer
    heads: int = Field(4, gt=0)  # of attention in each layer; they divide the width
    dropout: float = Field(0.1, ge=0, lt=1)  # in training
    output: int = Field(512, gt=0)  # values of a text's vector; a base brings its own
    max_tokens: int = Field(128, ge=8, le=512)  # longer texts are cut
    seed: int = 0  # of the first weights

    @model_validator(mode="after")
    def _heads_divide_width(self) -> TextEncoderConfig:
        if self.width % self.heads:
            raise ValueError(f"heads {self.heads} must divide width {self.width}")
        return self


def clean_text(text: str) -> str:
    """What the encoder sees of a text: NFKC, control characters and runs of white space as one blank, cut to 4,096."""
    cut = _INVISIBLE.sub(" ", text).strip()[:MAX_CHARACTERS]  # before NFKC, which may make a character 18 long
    return _INVISIBLE.sub(" ", unicodedata.normalize("NFKC", cut))[:MAX_CHARACTERS].strip()


def build_text_encoder(config: TextEncoderConfig, texts: Iterable[str]) -> SentenceTransformer:
    """The encoder before training, on the CPU: the base, or random weights and a tokenizer trained on `texts`.

    Raises StorageError when the base cannot be loaded.
    """
    return load_base(config) if config.base else assemble(config, train_tokenizer(config, texts))


def train_tokenizer(config: TextEncoderConfig, texts: Iterable[str]) -> str:
    """Byte-pair encoding over characters, as JSON. Han characters stay single; characters that are rare or new are
    spelled in bytes, so that no text is ever unknown.

    Only pieces that occur twice are merged, so that rare words stay made of parts that others share.
    """
    tokenizer = Tokenizer(models.BPE(byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Split(Regex(r"\p{Han}"), "isolated")])
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocabulary_size, min_frequency=2, special_tokens=[*SPECIAL_TOKENS, *BYTE_TOKENS],
        limit_alphabet=(config.vocabulary_size - len(SPECIAL_TOKENS) - len(BYTE_TOKENS)) * 3 // 4, show_progress=False)
    tokenizer.train_from_iterator((clean_text(text) for text in texts), trainer)
    tokenizer.decoder = decoders.ByteFallback()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")])
    described: str = tokenizer.to_str()
    return described


def assemble(config: TextEncoderConfig, tokenizer: str) -> SentenceTransformer:
    """A from-scratch encoder around a tokenizer given as JSON; the weights depend on `config.seed` alone."""
    fast = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(tokenizer), model_max_length=config.max_tokens,
                                   pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]")
    shape = DistilBertConfig(
        vocab_size=len(fast), dim=config.width, n_layers=config.layers, n_heads=config.heads, hidden_dim=4 * config.width,
        max_position_embeddings=config.max_tokens, dropout=config.dropout, attention_dropout=config.dropout,
        pad_token_id=fast.pad_token_id)
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder, _no_progress_bars():
        torch.manual_seed(config.seed)
        DistilBertModel(shape).save_pretrained(folder)
        fast.save_pretrained(folder)
        transformer = Transformer(folder)  # takes nothing but a folder
        dense = Dense(config.width, config.output, activation_function=torch.nn.Tanh())
    return SentenceTransformer(modules=[transformer, Pooling(config.width, "mean"), dense], device="cpu")


def load_base(config: TextEncoderConfig) -> SentenceTransformer:
    """A trained model from a folder or the hub, cut to `max_tokens`. Raises StorageError when it cannot be loaded."""
    assert config.base is not None
    model = _load(config.base, local=Path(config.base).is_dir(), do="check text_encoder.base: a folder with modules.json "
                  "and safetensors weights, or a hub name that this machine can reach or has in its cache")
    model.max_seq_length = min(config.max_tokens, model.max_seq_length or config.max_tokens)
    return model


def save_text_encoder(model: SentenceTransformer, folder: Path) -> None:
    """Writes weights (safetensors), tokenizer and structure (JSON) into `folder`; nothing is pickled."""
    with _no_progress_bars():
        model.save(str(folder), create_model_card=False, safe_serialization=True)


def load_text_encoder(folder: Path | str, device: str = "cpu") -> SentenceTransformer:
    """The encoder that `save_text_encoder` wrote, in evaluation mode, without a network.

    Raises StorageError: no such folder, not an encoder's folder, damaged weights.
    """
    if not (Path(folder) / "modules.json").is_file():
        raise StorageError(str(folder), "no modules.json", "the folder of a text encoder",
                           "run jobs/finetune_text_encoder.py first")
    model = _load(str(folder), local=True, do="run jobs/finetune_text_encoder.py again", device=device)
    return model.eval()


def text_encoder_fingerprint(model: SentenceTransformer) -> str:
    """Twelve hex digits over modules, weights, tokenizer, length limit and preprocessing: equal digits, equal vectors."""
    digest = hashlib.sha256(f"{PREPROCESSING} {model.max_seq_length} {_structure(model)}".encode())
    digest.update(_tokenizer_rules(model).encode())
    for name, weight in sorted(model.state_dict().items()):
        digest.update(save({name: weight.detach().cpu().contiguous()}))
    return digest.hexdigest()[:12]


def text_encoder_facts(model: SentenceTransformer) -> dict[str, Any]:
    """`fingerprint` and `width`, as facts.json of the encoder's folder holds them."""
    return {"fingerprint": text_encoder_fingerprint(model), "width": int(model.get_embedding_dimension() or 0)}


def _structure(model: SentenceTransformer) -> str:
    """What the modules are and do beside their weights, as JSON: the network, how it is pooled, activations, normalising."""
    found = []
    for module in model:
        network = getattr(module, "auto_model", None)
        rules = module.get_config_dict() if network is None and hasattr(module, "get_config_dict") else {}
        if network is not None:
            rules = {key: rule for key, rule in network.config.to_dict().items() if key not in NOT_OF_THE_NETWORK}
        found.append([type(module).__name__, rules])
    return json.dumps(found, sort_keys=True, default=str)


def _tokenizer_rules(model: SentenceTransformer) -> str:
    """The tokenizer as JSON without what the last call left in it: how it padded and cut that batch."""
    rules = json.loads(model.tokenizer.backend_tokenizer.to_str())
    return json.dumps({key: rule for key, rule in rules.items() if key not in ("padding", "truncation")}, sort_keys=True)


def _load(name: str, *, local: bool, do: str, device: str = "cpu") -> SentenceTransformer:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads may deadlock in forked Spark workers
    try:
        with _no_progress_bars():
            return SentenceTransformer(name, device=device, local_files_only=local, trust_remote_code=False,
                                       model_kwargs={"use_safetensors": True})
    except Exception as error:  # the libraries below raise whatever the damage provokes, from OSError to KeyError
        raise StorageError(f"text encoder '{name}'", f"no loadable model ({type(error).__name__}: {error})",
                           "a sentence-transformers model with safetensors weights", do) from error


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()
