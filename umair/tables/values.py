"""How a given value becomes a typed one, as Spark SQL. What cannot be read becomes null; nothing raises, ANSI mode or not.

Times: ISO text with or without a zone (none means UTC), or seconds since 1970 as a number or as digits.
"""

from __future__ import annotations

from pyspark.sql.types import (
    ArrayType,
    BinaryType,
    ByteType,
    DataType,
    DateType,
    DecimalType,
    DoubleType,
    FloatType,
    IntegerType,
    LongType,
    ShortType,
    StringType,
    TimestampNTZType,
    TimestampType,
)

WHOLE = (ByteType, ShortType, IntegerType, LongType)
REAL = (FloatType, DoubleType)
MOMENTS = (TimestampType, TimestampNTZType, DateType)
DIGITS = r"^\\s*-?[0-9]+([.][0-9]+)?\\s*$"  # inside a SQL literal, where a backslash is written twice
ISO_DATE = r"^\\s*[0-9]{4}-[0-9]{2}-[0-9]{2}"  # a bare time of day would be read as today's
LATEST_SECOND = 1e11  # the year 5138: more than this is another unit than seconds


def parsed(name: str, given: DataType, wanted: DataType) -> str | None:
    """SQL that reads column `name` of type `given` as `wanted`, null where it cannot; None if no value of it could be."""
    column = f"`{name}`"
    if isinstance(wanted, (LongType, IntegerType)):
        return _whole_number(column, given, wanted.simpleString())
    if isinstance(wanted, TimestampType):
        return _moment(column, given)
    if isinstance(wanted, ArrayType):
        return _text_list(column, given)
    if isinstance(wanted, BinaryType):
        return {BinaryType: column, StringType: f"try_to_binary({column}, 'base64')"}.get(type(given))
    return f"cast({column} AS string)" if isinstance(given, (StringType, DecimalType, *WHOLE, *REAL)) else None


def was_given(name: str, given: DataType, wanted: DataType) -> str:
    """SQL that says whether column `name` holds a value at all: not null, not NaN, not blank where no text is wanted."""
    if isinstance(given, REAL):
        return f"(`{name}` IS NOT NULL AND NOT isnan(`{name}`))"
    if isinstance(given, StringType) and not isinstance(wanted, StringType):
        return f"(`{name}` IS NOT NULL AND trim(`{name}`) <> '')"
    return f"(`{name}` IS NOT NULL)"


def _whole_number(column: str, given: DataType, wanted: str) -> str | None:
    if isinstance(given, WHOLE):
        return f"try_cast({column} AS {wanted})"
    if isinstance(given, REAL):
        return f"CASE WHEN {column} = rint({column}) THEN try_cast({column} AS {wanted}) END"
    if isinstance(given, (StringType, DecimalType)):  # '12.0' is how pandas writes a whole number beside a missing one
        exact = f"try_cast({column} AS decimal(38, 6))"
        return f"CASE WHEN {exact} = floor({exact}) THEN try_cast({exact} AS {wanted}) END"
    return None


def _moment(column: str, given: DataType) -> str | None:
    if isinstance(given, MOMENTS):
        return f"cast({column} AS timestamp)"
    seconds = f"try_cast({column} AS double)"
    from_seconds = f"CASE WHEN abs({seconds}) < {LATEST_SECOND:.0f}D THEN try_cast({seconds} AS timestamp) END"
    if isinstance(given, (*WHOLE, *REAL, DecimalType)):
        return from_seconds
    if isinstance(given, StringType):
        from_iso = f"CASE WHEN {column} RLIKE '{ISO_DATE}' THEN try_cast({column} AS timestamp) END"
        return f"CASE WHEN {column} RLIKE '{DIGITS}' THEN {from_seconds} ELSE {from_iso} END"
    return None


def _text_list(column: str, given: DataType) -> str | None:
    if isinstance(given, StringType):
        return f"from_json({column}, 'array<string>')"
    if isinstance(given, ArrayType) and isinstance(given.elementType, (StringType, *WHOLE)):
        return f"cast({column} AS array<string>)"
    return None
