"""Dataclasses to plain data, and back. Reading is strict: errors name the wrong field."""

import dataclasses
import types
import typing


def later(default: typing.Any) -> typing.Any:
    """A dataclass field that older releases do not know. `plain` leaves it out while it has its default value. So older
    releases can read models that do not use the field, and existing journals still match."""
    return dataclasses.field(default=default, metadata={"later": True})


def plain(value: typing.Any) -> typing.Any:
    """A dataclass as data that JSON can store. Fields made with `later` are left out at their default value."""
    if dataclasses.is_dataclass(value):
        fields = [(entry, getattr(value, entry.name)) for entry in dataclasses.fields(value)]
        return {
            entry.name: plain(inner)
            for entry, inner in fields
            if not (entry.metadata.get("later") and inner == entry.default)
        }
    return value


def from_dict(kind: type, data: object, path: str) -> typing.Any:
    """Build dataclass `kind` from plain data. Missing fields get their defaults. `path` names the data in errors.

    Raises ValueError on unknown fields and wrong types."""
    if not isinstance(data, dict):
        raise ValueError(f"{path}: expected an object, got {type(data).__name__}")
    hints = typing.get_type_hints(kind)
    unknown = sorted(set(data) - set(hints))
    if unknown:
        raise ValueError(f"{path}: unknown field {shown(unknown[0])}; known: {', '.join(hints)}")
    return kind(**{name: _convert(hints[name], value, f"{path}.{name}") for name, value in data.items()})


def _convert(hint: typing.Any, value: object, path: str) -> object:
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        inner = next(arg for arg in typing.get_args(hint) if arg is not type(None))
        return None if value is None else _convert(inner, value, path)
    if dataclasses.is_dataclass(hint):
        return from_dict(typing.cast(type, hint), value, path)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, (list, tuple)):
            raise ValueError(f"{path}: expected a list, got {shown(value)}")
        args = typing.get_args(hint)
        if args[-1] is not Ellipsis and len(value) != len(args):
            raise ValueError(f"{path}: expected {len(args)} values, got {len(value)}")
        return tuple(_convert(args[0], item, path) for item in value)
    if hint is float and type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise ValueError(f"{path}: got {shown(value)}, which is too large") from None
    hint = typing.get_origin(hint) or hint
    if type(value) is not hint:
        raise ValueError(f"{path}: expected {hint.__name__}, got {shown(value)}")
    return value


def shown(value: object) -> str:
    """The value for a message. Long strings are cut; large or nested values are described by their type."""
    if isinstance(value, (dict, list, tuple)):
        return f"a {type(value).__name__}"
    if isinstance(value, int) and abs(value) >= 2**63:
        return "an integer of more than 63 bits"
    return repr(value) if not isinstance(value, str) or len(value) <= 60 else f"{value[:60]!r}..."


def refuse_constant(name: str) -> typing.NoReturn:
    """`parse_constant` for `json.loads`: raises ValueError on NaN and infinities."""
    raise ValueError(f"{name} is not a valid number")
