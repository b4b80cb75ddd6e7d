"""Configuration files, their bases and overrides, and what they refuse."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import Field, ValidationError

from umair.config import PlainPath, Section, fingerprint, load_config
from umair.errors import ConfigError
from umair.job import Config

ROOT = Path(__file__).parents[1]


class Inner(Section):
    rows: int = Field(10, gt=0)
    names: tuple[str, ...] = ("a", "b")
    rate: float = 0.5


class Named(Section):
    width: int


class Outer(Section):
    root: str
    inner: Inner = Inner()
    maybe: Inner | None = None
    named: dict[str, Named] = Field({})
    settings: dict[str, str] = Field({})


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def load(folder: Path, text: str, *overrides: str) -> Outer:
    return load_config(write(folder, "conf.yaml", text), list(overrides), Outer)


def refuses(folder: Path, text: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as raised:
        load(folder, text, *overrides)
    return str(raised.value)


def test_what_is_silent_keeps_its_default(tmp_path):
    config = load(tmp_path, "root: /data\ninner: {rows: 3}\n")
    assert config == Outer(root="/data", inner=Inner(rows=3, names=("a", "b"), rate=0.5))


def test_later_lies_over_earlier(tmp_path):
    write(tmp_path, "base/low.yaml", "root: low\ninner: {rows: 1, rate: 0.1, names: [x, y, z]}\n")
    write(tmp_path, "mid.yaml", "base: base/low.yaml\ninner: {rows: 2, names: [q]}\n")
    path = write(tmp_path, "deep/top.yaml", "base: ../mid.yaml\nroot: top\n")
    config = load_config(path, ["inner.rows=4", "inner.rows=5"], Outer)
    assert config == Outer(root="top", inner=Inner(rows=5, rate=0.1, names=("q",)))  # lists are replaced, not merged


@pytest.mark.parametrize(("override", "value"), [
    ("inner.rows=7", Inner(rows=7)), ("inner.names=[c, d]", Inner(names=("c", "d"))), ("inner.names=[]", Inner(names=())),
    ("inner={rows: 7}", Inner(rows=7)), ("inner.rate=1e-3", Inner(rate=0.001)), (" inner.rate =2", Inner(rate=2.0)),
])
def test_forms_of_an_override(tmp_path, override, value):
    assert load(tmp_path, "root: r\n", override).inner == value


def test_an_override_may_hold_equals_signs_and_open_a_section(tmp_path):
    config = load(tmp_path, "root: r\n", "root=a=b", "maybe.rows=3", "named.main.width=4", "settings.spark.x=8")
    assert (config.root, config.maybe, config.named) == ("a=b", Inner(rows=3), {"main": Named(width=4)})
    assert config.settings == {"spark.x": "8"}


@pytest.mark.parametrize("override", ["inner.rows", "=3", " =3", "inner.=3", ".rows=3", "inner..rows=3"])
def test_what_is_no_override(tmp_path, override):
    assert "expected section.key=value" in refuses(tmp_path, "root: r\n", override)


def test_an_unknown_key_names_the_nearest(tmp_path):
    text = refuses(tmp_path, "root: r\ninner: {row: 3}\n")
    assert text == (f"{tmp_path}/conf.yaml: found unknown key 'inner.row'; expected one of names, rate, rows. "
                    "What to do: did you mean 'inner.rows'?")
    assert "found unknown key 'inner.zzz'; expected one of names, rate, rows. What to do: remove it" in refuses(
        tmp_path, "root: r\n", "inner.zzz=1")
    assert "did you mean 'maybe.rows'?" in refuses(tmp_path, "root: r\nmaybe: {rowz: 3}\n")
    assert "did you mean 'named.main.width'?" in refuses(tmp_path, "root: r\nnamed: {main: {widht: 3}}\n")
    assert "did you mean 'named.main.width'?" in refuses(tmp_path, "root: r\n", "named.main.widht=3")
    assert "unknown key '3'" in refuses(tmp_path, "root: r\n3: 4\n")


@pytest.mark.parametrize(("text", "found"), [
    ("root: r\ninner: {rows: many}\n", "key 'inner.rows': found 'many'; expected a valid integer"),
    ("root: r\ninner: {rows: 0}\n", "key 'inner.rows': found 0; expected greater than 0"),
    ("root: r\ninner: {rows: 1.5}\n", "key 'inner.rows': found 1.5"),
    ("root: r\ninner: 5\n", "key 'inner': found 5"),
    ("root: r\nnamed: {main: {}}\n", "found no 'named.main.width'; expected a value for it. What to do: add `named.main.width:`"),
    ("inner: {}\n", "found no 'root'; expected a value for it"),
    ("", "found no 'root'; expected a value for it"),
])
def test_values_of_a_wrong_type(tmp_path, text, found):
    assert found in refuses(tmp_path, text)


@pytest.mark.parametrize(("text", "found"), [
    ("root: r\nroot: s\n", "conf.yaml:2: found key 'root' twice; expected each key once"),
    ("root: r\ninner:\n  rows: 1\n  rate: 2\n  rows: 3\n", "conf.yaml:5: found key 'rows' twice"),
    ("root: [r\n", "found text that is not YAML"),
    ("- root\n", "found list; expected a mapping of sections"),
    ("root: !!python/object/apply:os.system [ls]\n", "found text that is not YAML"),
    ("? [a, b]\n: c\n", "found text that is not YAML"),
    ("root: r\nbase: gone.yaml\n", "gone.yaml: found no readable file; expected a YAML file"),
    ("root: r\nbase: conf.yaml\n", "found a `base:` that leads back to itself"),
])
def test_files_that_cannot_be_used(tmp_path, text, found):
    assert found in refuses(tmp_path, text)


def test_a_missing_file_a_folder_and_another_encoding(tmp_path):
    for path in (tmp_path / "gone.yaml", tmp_path):
        with pytest.raises(ConfigError, match="no readable file"):
            load_config(path, [], Outer)
    (tmp_path / "latin.yaml").write_bytes("root: ä\n".encode("latin-1"))
    with pytest.raises(ConfigError, match=r"latin.yaml: found no readable file; expected a YAML file in UTF-8"):
        load_config(tmp_path / "latin.yaml", [], Outer)


def test_a_circle_of_bases(tmp_path):
    write(tmp_path, "a.yaml", "base: b.yaml\n")
    path = write(tmp_path, "b.yaml", "base: a.yaml\n")
    with pytest.raises(ConfigError, match="leads back to itself; expected a chain that ends"):
        load_config(path, [], Outer)


def test_sections_do_not_change(tmp_path):
    config = load(tmp_path, "root: r\n")
    with pytest.raises(ValueError, match="frozen"):
        config.root = "other"


def test_fingerprints_tell_values_apart_and_nothing_else(tmp_path):
    one = load(tmp_path, "root: r\ninner: {rows: 3, rate: 1}\n")
    same = load(tmp_path, "inner: {rate: 1.0, rows: 3}\nroot: r\n")
    assert fingerprint(one) == fingerprint(same) == fingerprint(one.model_dump())
    assert len(fingerprint(one)) == 12
    assert fingerprint(one) != fingerprint(load(tmp_path, "root: r\ninner: {rows: 4, rate: 1}\n"))
    assert fingerprint([1, [one.inner]]) == fingerprint([1, [one.inner.model_dump()]])
    with pytest.raises(TypeError, match="has no fingerprint"):
        fingerprint({"x": object()})


@pytest.mark.parametrize(("text", "override", "match"), [
    ("root: /data\nwhen: 2026-13-45\n", "inner.rows=1", r"conf\.yaml: found text that is not YAML \(month must be in 1\.\.12\)"),
    ("root: /data\n\0", "inner.rows=1", r"conf\.yaml: found text that is not YAML"),
    ("root: /data\n", "root=2026-13-45", r"command line, 'root=2026-13-45': found text that is not YAML"),
    ("a: &a {rows: 1}\ninner: {<<: *a}\n", "root=x", r"YAML without merge keys \(<<\)"),
    ("root: /data\n", "inner={rows: 1, rows: 2}", "found key 'rows' twice"),
    ("root: /data\n", "inner.rows=true", "key 'inner.rows': found True; expected a number"),
    ("root: /data\n", "maybe={rate: .inf}", r"key 'maybe\.rate': found inf; expected a finite number"),
    ("root: /data\n", "inner.rows=" + "x" * 500, r"found 'x{79}\.\.\.; expected a valid integer"),
])
def test_what_yaml_and_pydantic_would_let_pass_or_choke_on(tmp_path, text, override, match):
    assert re.search(match, refuses(tmp_path, text, override))


@pytest.mark.parametrize("path", ["exp [2026]", "all*", "50%20off", "{a,b}", "a?", "s3://bucket", "a\\b", "", " "])
def test_a_path_that_spark_or_delta_would_not_take_as_it_stands(path):
    class Place(Section):
        folder: PlainPath

    with pytest.raises(ValidationError, match=r"a path, without any of \* \?"):
        Place(folder=path)
    assert Place(folder="/a b/絵-1_2.0").folder == "/a b/絵-1_2.0"


def test_a_base_that_leads_back_by_another_path_is_seen(tmp_path):
    write(tmp_path, "a.yaml", "base: ../x/b.yaml\n")
    (tmp_path.parent / "x").unlink(missing_ok=True)
    (tmp_path.parent / "x").symlink_to(tmp_path)
    write(tmp_path, "b.yaml", "base: a.yaml\n")
    with pytest.raises(ConfigError, match="leads back to itself"):
        load_config(tmp_path / "a.yaml", [], Outer)


def test_a_preset_may_be_named_wherever_a_ranker_stands():
    config = load_config(ROOT / "conf/local.yaml", ["ranker.preset=paper", "training.rivals.corrected.preset=corrected"], Config)
    assert (config.ranker.match, config.ranker.penalties) == ((), True)
    assert config.training.rivals["corrected"].projected_experts
    assert config.training.rivals["id_only"].form == "dcn_v2"
    with pytest.raises(ConfigError, match=r"unknown key 'ranker.prest'.*did you mean 'ranker.preset'"):
        load_config(ROOT / "conf/local.yaml", ["ranker.prest=paper"], Config)
