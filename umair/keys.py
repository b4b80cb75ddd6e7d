"""Every key of a configuration as Markdown: what it takes, what it is without a word, and what the source says of it."""

from __future__ import annotations

import ast
import inspect
import json
import re
import textwrap
import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from umair.config import Section, section_of, section_of_values

LIMITS = {Gt: ("above", "gt"), Ge: ("from", "ge"), Lt: ("below", "lt"), Le: ("to", "le")}
KINDS = {int: "whole number", float: "number", bool: "true or false", str: "text", Any: "anything"}


def keys_page(files: dict[str, tuple[str, type[Section]]], presets: dict[str, dict[str, Any]]) -> str:
    """Of each kind of file: a line on it and its schema -> one table a section; a section that stands above is named alone.
    Behind them what each preset of a ranker sets."""
    lines, told = ["# Keys of the configuration", "", "Written by `make docs`. Do not edit."], dict[type[Section], str]()
    for title, (about, schema) in files.items():
        lines += ["", f"## {title}", "", about]
        lines += [line for each in _sections(schema, "", told) for line in each]
    lines += ["", "## Presets of a ranker", "", "`ranker: {preset: NAME}` sets these; any key beside it counts more.", ""]
    keys = list(next(iter(presets.values())))
    lines += [f"| key | {' | '.join(f'`{name}`' for name in presets)} |", "|---" * (len(presets) + 1) + "|"]
    lines += [f"| `{key}` | {' | '.join(f'`{_plain(each[key])}`' for each in presets.values())} |" for key in keys]
    return "\n".join(lines) + "\n"


def _sections(schema: type[Section], name: str, told: dict[type[Section], str]) -> Iterator[list[str]]:
    """The table of a section and of those within it, unless they were told of before."""
    told[schema] = name
    comments, inner = _comments(schema), dict[type[Section], str]()
    rows = [f"| `{key}` | text | none | a name that stands for several of these keys ([{key}s](#{key}s-of-a-ranker)) |"
            for key in schema.shorthands]
    for key, field in schema.model_fields.items():
        within = _section_within(field)
        if within is None:
            rows.append(_row(key, field, comments.get(key, "")))
            continue
        place = (told | inner).get(within)
        if place is None:
            place = inner[within] = f"{name}.{key}".lstrip(".")
        each = "names, each with " if section_of(field.annotation) is None else ""
        default = "needed" if field.is_required() else "null" if field.get_default() is None else ""
        rows.append(f"| `{key}` | {each}[{place}](#{_anchor(place)}) | {default} | {_escaped(comments.get(key, ''))} |")
    heading = ["", f"### {name}", "", _about(schema)] if name else []
    yield [*heading, *(["", "| key | takes | default | what it is |", "|---|---|---|---|", *rows] if rows else [])]
    for within, path in inner.items():
        yield from _sections(within, path, told)


def _section_within(field: FieldInfo) -> type[Section] | None:
    found = section_of(field.annotation) or section_of_values(field.annotation)
    return found if found is not None and issubclass(found, Section) else None


def _row(key: str, field: FieldInfo, comment: str) -> str:
    default = "needed" if field.is_required() else f"`{_plain(field.get_default(call_default_factory=True))}`"
    takes = _kind(field.annotation, _limits(field.metadata))
    return f"| `{key}` | {_escaped(takes)} | {_escaped(default)} | {_escaped(comment)} |"


def _plain(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, default=str)


def _kind(annotation: Any, limits: str = "") -> str:
    """What a key of this type takes, in words; `limits` stand behind it, but before that it may be null."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(parts[0], limits or _limits(parts[1:]))
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin in (Union, types.UnionType):
        some = " or ".join(_kind(part, limits) for part in parts if part is not type(None))
        return f"{some} or null" if type(None) in parts else some
    if origin in (tuple, list):
        return f"list: {_kind(parts[0])}"
    if origin is dict:
        return f"names, each with: {_kind(parts[1])}"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return f"{{{', '.join(annotation.model_fields)}}}"
    return KINDS[annotation] + limits


def _limits(metadata: Any) -> str:
    limits = [limit for each in metadata for limit in (each.metadata if isinstance(each, FieldInfo) else [each])]
    found = [f"{word} {getattr(limit, name):,}" for kind, (word, name) in LIMITS.items() for limit in limits
             if isinstance(limit, kind)]
    return f" {', '.join(found)}" if found else ""


def _comments(schema: type[Section]) -> dict[str, str]:
    """key -> the comment at the end of its line, and those below it that go on."""
    found: dict[str, str] = {}
    for owner in reversed([each for each in schema.__mro__ if issubclass(each, Section) and each is not Section]):
        lines = textwrap.dedent(inspect.getsource(owner)).splitlines()
        body = ast.parse("\n".join(lines)).body[0]
        assert isinstance(body, ast.ClassDef)
        for node in body.body:
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                assert node.end_lineno is not None
                found[node.target.id] = _comment(lines, node.end_lineno - 1, node.end_col_offset or 0)
    return found


def _comment(lines: list[str], last: int, column: int) -> str:
    said = [lines[last].encode()[column:].decode().strip()]
    for line in lines[last + 1:]:
        if not line.strip().startswith("#") or not said[0]:
            break
        said.append(line.strip())
    return re.sub(r"\bNone\b", "null", " ".join(part.lstrip("# ").strip() for part in said))


def _about(schema: type[Section]) -> str:
    """What its docstring says to whoever writes a file; not what it raises."""
    return " ".join((inspect.getdoc(schema) or "").partition(" Raises")[0].partition("\nRaises")[0].split())


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _anchor(name: str) -> str:
    return name.replace(".", "")
