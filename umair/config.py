"""Configuration: frozen pydantic sections, YAML files with `base:`, and `section.key=value` overrides. No second way.

Each section class stands beside the code that it configures; `umair.job.Config` puts them together.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import types
import typing
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator

from umair.errors import ConfigError

UNSAFE = "*?[]{}\\%:\n"  # in a path, Spark takes some of them for a pattern, Delta others for an escape
SHOWN = 80  # characters of a wrong value in a message


def _plain(path: str) -> str:
    if set(path) & set(UNSAFE) or not path.strip():
        raise ValueError(f"a path, without any of {' '.join(UNSAFE.strip())} and line breaks, which Spark or Delta "
                         "would not take as they stand")
    return path


PlainPath = Annotated[str, AfterValidator(_plain)]  # of a folder that Spark reads or writes


class Section(BaseModel):
    """A frozen group of keys that refuses keys it does not know."""

    shorthands: ClassVar[tuple[str, ...]] = ()  # keys that a before-validator turns into others

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False, validate_default=True, allow_inf_nan=False,
                              coerce_numbers_to_str=True)  # `spark.sql.shuffle.partitions: 8` needs no quotes

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_not_truths(cls, value: Any, info: ValidationInfo) -> Any:
        """pydantic would take `epochs: true` for 1."""
        kind = cls.model_fields[info.field_name or ""].annotation
        if isinstance(value, bool) and kind in (int, float, int | None, float | None):
            raise ValueError("a number, not true or false")
        return value


AnySection = TypeVar("AnySection", bound=Section)


def load_config(path: str | Path, overrides: Sequence[str], schema: type[AnySection]) -> AnySection:
    """Reads `path`, the files its `base:` names, and `section.key=value` overrides, later over earlier.

    Raises ConfigError: missing file, bad YAML, duplicate key, unknown key (with the nearest known one), wrong type.
    """
    values = _read_with_base(Path(path), seen=())
    for override in overrides:
        values = merge(values, _parse_override(override, schema))
    _refuse_unknown(values, schema, str(path), prefix="")
    try:
        return schema.model_validate(values)
    except ValidationError as error:
        raise _clear(error, f"{path} or an override" if overrides else str(path)) from error


def _clear(error: ValidationError, where: str) -> ConfigError:
    first = error.errors()[0]
    key = ".".join(str(part) for part in first["loc"])
    said = first["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if first["type"] == "missing":
        return ConfigError(where, f"no '{key}'", "a value for it", f"add `{key}:`")
    if not key:
        return ConfigError(where, said, "keys that are known and go together", "correct what is named; docs/keys.md has all")
    found = repr(first.get("input"))
    return ConfigError(f"{where}: key '{key}'", found if len(found) <= SHOWN else f"{found[:SHOWN]}...", said,
                       f"correct '{key}'")


def fingerprint(value: Any) -> str:
    """Twelve hex digits that stand for a JSON-like value or a Section; equal values give equal digits."""
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    canonical = json.dumps(value, sort_keys=True, separators=(",", ":"), default=_section_to_json)
    return hashlib.sha256(canonical.encode()).hexdigest()[:12]


def merge(base: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """`over` laid over `base`: mappings merge key by key, everything else is replaced."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def _section_to_json(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} has no fingerprint")


class _UniqueKeyLoader(yaml.SafeLoader):
    """YAML lets a later duplicate win in silence; here it is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, Hashable):
                raise yaml.constructor.ConstructorError(None, None, "a key that is a list or mapping", key_node.start_mark)
            if key in keys:
                where = key_node.start_mark
                raise ConfigError(f"{where.name}:{where.line + 1}", f"key '{key}' twice", "each key once",
                                  "remove one of the two lines")
            keys.add(key)
        return super().construct_mapping(node, deep=deep)


def _read_with_base(path: Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    if path.resolve() in seen:
        raise ConfigError(str(path), "a `base:` that leads back to itself", "a chain that ends", "remove one `base:`")
    values = _read_yaml(path)
    base = values.pop("base", None)
    if base is None:
        return values
    return merge(_read_with_base(path.parent / str(base), (*seen, path.resolve())), values)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), "no readable file", "a YAML file in UTF-8", "check the path, and the `base:` that may "
                          "name it") from error
    values = _parse_yaml(text, str(path))
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(str(path), type(values).__name__, "a mapping of sections", "start the file with `section:`")
    return values


def _parse_yaml(text: str, where: str) -> Any:
    try:
        loader = _UniqueKeyLoader(text)
        loader.name = where
        return loader.get_single_data()
    except (yaml.YAMLError, ValueError) as error:  # a ValueError comes from a date such as 2026-13-45
        raise ConfigError(where, f"text that is not YAML ({error})", "YAML without merge keys (<<)", "correct the line, or "
                          "quote the value") from error


def _parse_override(override: str, schema: type[BaseModel]) -> dict[str, Any]:
    dotted, equals, text = override.partition("=")
    parts = dotted.strip().split(".")
    if not equals or not all(parts):
        raise ConfigError("command line", repr(override), "section.key=value", "write for example training.epochs=2")
    return _nested(parts, schema, _parse_yaml(text, f"command line, {override!r}"))


def _nested(parts: list[str], schema: type[BaseModel] | None, value: Any) -> dict[str, Any]:
    """`value` below the keys `parts`. What follows the name of a plain mapping is one key, dots and all."""
    if len(parts) == 1:
        return {parts[0]: value}
    field = schema.model_fields.get(parts[0]) if schema else None
    if field is None:
        return {parts[0]: _nested(parts[1:], None, value)}
    section, named = section_of(field.annotation), section_of_values(field.annotation)
    if section is None and named is None and typing.get_origin(field.annotation) is dict:
        return {parts[0]: {".".join(parts[1:]): value}}
    if named is not None and len(parts) > 2:
        return {parts[0]: {parts[1]: _nested(parts[2:], named, value)}}
    return {parts[0]: _nested(parts[1:], section, value)}


def _refuse_unknown(values: dict[str, Any], schema: type[BaseModel], where: str, prefix: str) -> None:
    known = schema.model_fields
    allowed = sorted([*known, *(schema.shorthands if issubclass(schema, Section) else ())])
    for key, value in values.items():
        if key not in allowed:
            near = difflib.get_close_matches(str(key), allowed, n=1)
            hint = f"did you mean '{prefix}{near[0]}'?" if near else "remove it"
            raise ConfigError(where, f"unknown key '{prefix}{key}'", f"one of {', '.join(allowed)}", hint)
        if key not in known:
            continue
        section, named = section_of(known[key].annotation), section_of_values(known[key].annotation)
        if section is not None and isinstance(value, dict):
            _refuse_unknown(value, section, where, f"{prefix}{key}.")
        if named is not None and isinstance(value, dict):
            for name, inner in value.items():
                if isinstance(inner, dict):
                    _refuse_unknown(inner, named, where, f"{prefix}{key}.{name}.")


def section_of(annotation: Any) -> type[BaseModel] | None:
    """The section that a key of this type holds: `S` or `S | None`."""
    options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    for option in options:
        if isinstance(option, type) and issubclass(option, BaseModel):
            return option
    return None


def section_of_values(annotation: Any) -> type[BaseModel] | None:
    """The section of each value of a `dict[str, S]`."""
    return section_of(typing.get_args(annotation)[1]) if typing.get_origin(annotation) is dict else None
