"""Declaration of a hyperparameter, and how its values are parsed and checked."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fundamentallm.errors import FundamentallmError

Value = bool | int | float | str
T = TypeVar("T", bool, int, float, str)

TRUE_WORDS = ("true", "1", "yes", "on")
FALSE_WORDS = ("false", "0", "no", "off")


class ConfigError(FundamentallmError):
    """A hyperparameter has an unknown name, a wrong type or an invalid value."""


class ImpossibleCombinationError(ConfigError):
    """Values that are valid one by one, but not together, or not with the text."""


@dataclass(frozen=True)
class Interval:
    """Interval of numbers in mathematical notation: `[0, 1)`, `(0, inf)`."""

    text: str

    @property
    def ends(self) -> tuple[float, float]:
        """Lower and upper bound, included or not."""
        low, high = self.text[1:-1].split(",")
        return float(low), float(high)

    def __contains__(self, number: float) -> bool:
        low, high = self.ends
        above = number >= low if self.text[0] == "[" else number > low
        below = number <= high if self.text[-1] == "]" else number < high
        return above and below

    def __str__(self) -> str:
        low, high = self.ends
        has_low, has_high = self.text[0] == "[", self.text[-1] == "]"
        if math.isinf(high):
            return f"{low:g} or more" if has_low else f"above {low:g}"
        end = int(high) if high.is_integer() else high
        if has_low:
            return f"{low:g} to {end}" if has_high else f"{low:g} to less than {end}"
        return f"above {low:g}, {'at most' if has_high else 'less than'} {end}"


@dataclass(frozen=True)
class Hyperparameter:
    """Declaration of one hyperparameter.

    `typical` is the documented range, which is advice: other values are allowed.
    `possible` is the valid range: other values are refused.
    """

    name: str
    type: type
    default: Value
    help: str
    group: str
    typical: tuple[float, float] | None
    possible: Interval | None
    choices: tuple[str, ...]
    also_called: tuple[str, ...]

    @property
    def is_switch(self) -> bool:
        """True if the flag needs no value and has a `--no-` form; it may also take `auto`."""
        return self.type is bool or "true" in self.choices

    @property
    def flag(self) -> str:
        """Documented spelling on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def accepts(self) -> str:
        """Description of valid values."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.type is bool:
            return "true or false"
        if self.type is str:
            return "rising whole numbers with commas: 10000,20000"
        kind = "a whole number, " if self.type is int else "a number, "
        advice = "" if self.typical is None else f" (typical: {self.typical_text})"
        return f"{kind}{self.possible}{advice}"

    @property
    def typical_text(self) -> str:
        """Documented range as text, e.g. `0.00001 to 0.01`; "" if there is none."""
        return "" if self.typical is None else "{:g} to {:g}".format(*self.typical)

    @property
    def default_text(self) -> str:
        """Default as a user would type it."""
        if isinstance(self.default, bool):
            return str(self.default).lower()
        return f"{self.default:g}" if isinstance(self.default, float) else str(self.default) or '""'

    def parse(self, value: object) -> Value:
        """Convert `value` to this hyperparameter's type.

        Strings are accepted because flags and YAML's `1e-4` are strings. A whole float is accepted
        as an int because W&B's `q_uniform` draws `64.0` for 64.

        Raises:
            ConfigError: The value has the wrong type or is invalid.
        """
        try:
            if self.is_switch and self.choices and value not in self.choices:
                value = str(_parse_bool(value)).lower()
            parsed = _PARSERS[self.type](value)
            if self.choices and parsed not in self.choices:
                raise ValueError
            if self.possible is not None and parsed not in self.possible:
                raise ValueError
        except (TypeError, ValueError, OverflowError):
            given = str(value) if isinstance(value, int | float | str) else repr(value)
            raise ConfigError(f"{self.flag}: got {given!r}; give {self.accepts}") from None
        return parsed

    def warning(self, value: Value) -> str | None:
        """Return a warning if `value` is outside the documented range, else None."""
        if self.typical is None or isinstance(value, str):
            return None
        low, high = self.typical
        if low <= value <= high:
            return None
        return f"{self.flag} {value:g} is outside its documented range, {self.typical_text}"


def _parse_bool(value: object) -> bool:
    word = str(value).strip().lower()
    if word not in TRUE_WORDS + FALSE_WORDS:
        raise ValueError
    return word in TRUE_WORDS


def _parse_float(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise TypeError
    number = float(value)
    if not math.isfinite(number):
        raise ValueError
    return number


def _parse_int(value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    try:
        if isinstance(value, str):
            return int(value)  # exact; float would round
    except ValueError:
        pass  # "64.0" is a whole number too
    number = _parse_float(value)
    if not number.is_integer():
        raise ValueError
    return int(number)


def _parse_text(value: object) -> str:
    """Return a string unchanged, and a list of numbers (`lr_steps` in YAML) as `1,2,3`."""
    if isinstance(value, list | tuple):
        return ",".join(str(item) for item in value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise TypeError
    return str(value).strip()


_PARSERS: Mapping[type, Any] = {
    bool: _parse_bool,
    int: _parse_int,
    float: _parse_float,
    str: _parse_text,
}


def hyperparameter(
    default: T,
    help: str,
    *,
    group: str,
    typical: tuple[float, float] | None = None,
    possible: str = "",
    choices: tuple[str, ...] = (),
    also_called: tuple[str, ...] = (),
) -> T:
    """Declare one field of `Config`.

    The return type is T instead of the dataclass field, so that a type checker compares the default
    with the annotation.
    """
    facts = {
        "help": help,
        "group": group,
        "typical": typical,
        "possible": Interval(possible) if possible else None,
        "choices": choices,
        "also_called": also_called,
    }
    return field(default=default, metadata=facts)  # pyright: ignore[reportReturnType]


def shown(value: Any) -> str:
    """Format a setting's value as people write it: 0.0003, 64, cosine; `adamw, beta2=0.99`.

    Text is in quotes if it is empty, or spaces or line breaks in it would be overlooked.
    """
    if isinstance(value, Mapping) and value:
        members = sorted(value.items(), key=lambda member: not isinstance(member[1], str))
        return ", ".join(v if isinstance(v, str) else f"{k}={shown(v)}" for k, v in members)
    if isinstance(value, str) and (not value or value != " ".join(value.split())):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if float(value).is_integer() and abs(value) < 1e12:
        return str(int(value))
    text = f"{value:.3g}"
    if "e" not in text:
        return text
    places = max(0, 2 - math.floor(math.log10(abs(value))))
    plain = f"{value:.{places}f}"
    return (plain.rstrip("0").rstrip(".") if "." in plain else plain) if len(plain) < 12 else text


def setting_text(name: str, value: Any) -> str:
    """Return a setting for a list of several: `learning_rate 0.01`, `optimizer (sgd, beta=0.9)`."""
    return f"{name} ({shown(value)})" if isinstance(value, Mapping) else f"{name} {shown(value)}"


def markdown_table(hyperparameters: Iterable[Hyperparameter]) -> str:
    """Return the table of docs/hyperparameters.md."""
    rows = ["| flag | default | typical | possible | meaning |", "|---|---|---|---|---|"]
    for known in hyperparameters:
        possible = ", ".join(known.choices) or str(known.possible or known.accepts)
        rows.append(
            f"| `{known.flag}` | `{known.default_text}` | {known.typical_text} | {possible} "
            f"| {known.help} |"
        )
    return "\n".join(rows) + "\n"
