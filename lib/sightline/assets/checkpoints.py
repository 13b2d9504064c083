"""Weights from files, key maps as data, and one report of what fitted and what did not."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from sightline.assets.weight_files import read_state_dict
from sightline.errors import CheckpointError

__all__ = [
    "Drop", "Duplicate", "KeyMap", "KeyReport", "Merge", "Rename", "Resize", "Split", "StripPrefix",
    "assign_tensors", "load_into", "map_keys", "read_state_dict",
]  # fmt: skip

_SHOWN = 8


# ------------------------------------------------------------------------------------------------ rules
class Entry(NamedTuple):
    """A tensor on its way to the model and the names it had in the file."""

    tensor: Tensor
    sources: tuple[str, ...]


Entries = dict[str, Entry]
Shapes = Mapping[str, tuple[int, ...]]


class Rule(Protocol):
    """One step of a key map."""

    def apply(self, entries: Entries, shapes: Shapes, report: KeyReport) -> Entries:
        """Returns the entries under their new names; `shapes` are those of the model."""


def _put(entries: Entries, name: str, entry: Entry) -> None:
    if name in entries:
        raise CheckpointError(
            f"{entry.sources[0]} and {entries[name].sources[0]} both lead to {name}",
            item=name,
            mend="the file mixes two key layouts; save it again",
        )
    entries[name] = entry


@dataclass(frozen=True)
class Rename:
    """Replaces every match of the regular expression `pattern` in a name by `to`."""

    pattern: str
    to: str

    def apply(self, entries: Entries, shapes: Shapes, report: KeyReport) -> Entries:
        """See `Rule.apply`."""
        renamed: Entries = {}
        for name, entry in entries.items():
            _put(renamed, re.sub(self.pattern, self.to, name), entry)
        return renamed


@dataclass(frozen=True)
class StripPrefix:
    """Takes `prefix` off the names that start with it, as often as it stands there."""

    prefix: str

    def apply(self, entries: Entries, shapes: Shapes, report: KeyReport) -> Entries:
        """See `Rule.apply`."""
        return Rename(f"^(?:{re.escape(self.prefix)})+", "").apply(entries, shapes, report)


@dataclass(frozen=True)
class Drop:
    """Leaves out names that match `pattern` as a whole, and says `why` in the report."""

    pattern: str
    why: str

    def apply(self, entries: Entries, shapes: Shapes, report: KeyReport) -> Entries:
        """See `Rule.apply`."""
        kept = {name: entry for name, entry in entries.items() if not re.fullmatch(self.pattern, name)}
        for name in entries.keys() - kept.keys():
            report.dropped.update(dict.fromkeys(entries[name].sources, self.why))
        return kept


@dataclass(frozen=True)
class Duplicate:
    """`name` is a second copy of `of` (a shared module saved twice); `of` wins where both are present."""

    name: str
    of: str

    def apply(self, entries: Entries, shapes: Shapes, report: KeyReport) -> Entries:
        """See `Rule.apply`."""
        if self.name not in entries:
            return entries
        copy = entries[self.name]
        rest = {name: entry for name, entry in entries.items() if name != self.name}
        original = rest.get(self.of)
        if original is None:
            rest[self.of] = copy
            return rest
        same_shape = copy.tensor.shape == original.tensor.shape
        on_meta = copy.tensor.is_meta or original.tensor.is_meta
        if not same_shape or not (on_meta or torch.equal(copy.tensor, original.tensor)):
            report.notes.append(f"{self.name} differs from {self.of}; the latter is used")
        rest[self.of] = Entry(original.tensor, original.sources + copy.sources)
        return rest


@dataclass(frozen=True)
class Split:
    """Cuts a packed tensor into several along dimension 0.

    Attributes:
        pattern: Regular expression of the packed name (whole name).
        to: Templates of the new names (`\\1` refers to the pattern's groups).
        sizes: Rows of each part within one group; equal parts if absent.
        groups: Interleaved groups along dimension 0, each holding all parts (packed q, k, v per head).
    """

    pattern: str
    to: tuple[str, ...]
    sizes: tuple[int, ...] | None = None
    groups: int = 1

    def apply(self, entries: Entries, shapes: Shapes, report: KeyReport) -> Entries:
        """See `Rule.apply`."""
        result: Entries = {}
        for name, entry in entries.items():
            match = re.fullmatch(self.pattern, name)
            if match is None:
                _put(result, name, entry)
                continue
            rows, rest = entry.tensor.shape[0], entry.tensor.shape[1:]
            sizes = self.sizes or (rows // self.groups // len(self.to),) * len(self.to)
            if len(sizes) != len(self.to) or sum(sizes) * self.groups != rows:
                raise CheckpointError(f"{rows} rows cannot be split into {self.groups} x {sizes}", item=name)
            parts = entry.tensor.reshape(self.groups, rows // self.groups, *rest).split(list(sizes), dim=1)
            for template, part in zip(self.to, parts, strict=True):
                _put(result, match.expand(template), Entry(part.reshape(-1, *rest), entry.sources))
        return result


@dataclass(frozen=True)
class Merge:
    """Joins tensors along `dim`: the one matching `pattern` and those its templates `others` name."""

    pattern: str
    others: tuple[str, ...]
    to: str
    dim: int = 0

    def apply(self, entries: Entries, shapes: Shapes, report: KeyReport) -> Entries:
        """See `Rule.apply`."""
        rest, joined = dict(entries), {}
        for name in entries:
            match = re.fullmatch(self.pattern, name)
            parts = [name, *(match.expand(other) for other in self.others)] if match else []
            if match is None or not all(part in rest for part in parts):
                continue
            taken = [rest.pop(part) for part in parts]
            sources = tuple(source for part in taken for source in part.sources)
            joined[match.expand(self.to)] = Entry(torch.cat([part.tensor for part in taken], self.dim), sources)
        for name, entry in joined.items():
            _put(rest, name, entry)
        return rest


@dataclass(frozen=True)
class Resize:
    """Fits tensors that match `pattern` to the model's shape.

    `rows`: keeps the leading rows; rows the file lacks get the mean row (a vocabulary that grew).
    `grid`: bicubic interpolation of a square grid of positions [1, leading + n*n, dim] (a ViT's pos_embed).
    """

    pattern: str
    how: str = "rows"

    def apply(self, entries: Entries, shapes: Shapes, report: KeyReport) -> Entries:
        """See `Rule.apply`."""
        result = dict(entries)
        for name, entry in entries.items():
            wanted, found = shapes.get(name), tuple(entry.tensor.shape)
            if wanted is None or wanted == found or not re.fullmatch(self.pattern, name):
                continue
            fit = _fit_rows if self.how == "rows" else _fit_grid
            resized = fit(entry.tensor, wanted)
            if tuple(resized.shape) == wanted:
                result[name] = Entry(resized, entry.sources)
                report.reshaped[name] = [list(found), list(wanted)]
        return result


def _fit_rows(tensor: Tensor, wanted: tuple[int, ...]) -> Tensor:
    if tuple(tensor.shape[1:]) != wanted[1:]:
        return tensor
    extra = wanted[0] - tensor.shape[0]
    if extra <= 0:
        return tensor[: wanted[0]]
    mean = tensor.float().mean(dim=0, keepdim=True).to(tensor.dtype)
    return torch.cat([tensor, mean.expand(extra, *tensor.shape[1:])])


def _fit_grid(tensor: Tensor, wanted: tuple[int, ...]) -> Tensor:
    side, target = math.isqrt(tensor.shape[-2]), math.isqrt(wanted[-2])
    leading = tensor.shape[-2] - side * side
    if tensor.ndim != 3 or target * target + leading != wanted[-2] or tensor.shape[-1] != wanted[-1]:
        return tensor
    grid = tensor[:, leading:].float().reshape(1, side, side, -1).permute(0, 3, 1, 2)
    grid = nn.functional.interpolate(grid, size=(target, target), mode="bicubic", align_corners=False)
    flat = grid.permute(0, 2, 3, 1).reshape(1, target * target, -1).to(tensor.dtype)
    return torch.cat([tensor[:, :leading], flat], dim=1)


@dataclass(frozen=True)
class KeyMap:
    """The way from a file's names to a model's, as rules that are applied in order."""

    rules: tuple[Rule, ...] = ()


# ----------------------------------------------------------------------------------------------- report
@dataclass
class KeyReport:
    """What became of every tensor of a file and of every tensor of a model.

    Attributes:
        used: Model tensor -> names in the file it came from.
        missing: Model tensors the file does not have.
        left_over: Names in the file the model has no place for.
        mismatched: Model tensor -> [shape in the file, shape in the model].
        reshaped: Model tensor -> [shape in the file, shape in the model], resized by a rule.
        dropped: Names in the file left out by a rule -> why.
        notes: Sentences for the user.
    """

    used: dict[str, list[str]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)
    mismatched: dict[str, list[list[int]]] = field(default_factory=dict)
    reshaped: dict[str, list[list[int]]] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def used_sources(self) -> set[str]:
        """Names in the file that reached the model."""
        return {source for sources in self.used.values() for source in sources}

    def to_json(self) -> dict[str, Any]:
        """Returns the report as a JSON object for provenance; `used` only where a name changed."""
        plain = json.loads(json.dumps(self.__dict__))
        plain["used"] = {name: sources for name, sources in self.used.items() if sources != [name]}
        return {"n_used": len(self.used), **plain}

    def summary(self) -> str:
        """Returns the report as one line: counts, and the names of whatever was not used one to one."""
        parts = [f"{len(self.used)} tensors used"]
        for title, names in (
            ("missing", self.missing),
            ("left over", self.left_over),
            ("of another shape", list(self.mismatched)),
            ("resized", list(self.reshaped)),
            ("dropped", list(self.dropped)),
        ):
            parts.append(f"{len(names)} {title}" + (f" ({_some(names)})" if names else ""))
        return "; ".join([*parts, *self.notes])

    def require(
        self,
        *,
        allow_missing: Sequence[str] = (),
        allow_left_over: Sequence[str] = (),
        file: str | Path | None = None,
    ) -> None:
        """Refuses what does not fit; patterns are regular expressions over whole names.

        Raises:
            CheckpointError: Tensors are missing, left over or of another shape and no pattern allows it.
        """
        problems = []
        for title, names, allowed in (
            ("tensors missing", self.missing, allow_missing),
            ("tensors left over", self.left_over, allow_left_over),
        ):
            names = [name for name in names if not any(re.fullmatch(pattern, name) for pattern in allowed)]
            if names:
                problems.append(f"{title} ({len(names)}): {_some(names)}")
        if self.mismatched:
            shapes = [f"{name} is {found}, expected {wanted}" for name, (found, wanted) in self.mismatched.items()]
            problems.append(f"tensors of another shape ({len(shapes)}): {_some(shapes)}")
        if problems:
            raise CheckpointError(
                "the weights do not fit the model: " + "; ".join(problems),
                file=file,
                mend="check that file, base model and the model's settings belong together",
            )


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def map_keys(state: Mapping[str, Tensor], keymap: KeyMap, shapes: Shapes) -> tuple[dict[str, Tensor], KeyReport]:
    """Returns the tensors that fit the model, by its names, and the report; works on the meta device."""
    report = KeyReport()
    entries: Entries = {name: Entry(tensor, (name,)) for name, tensor in state.items()}
    for rule in keymap.rules:
        entries = rule.apply(entries, shapes, report)
    fitting: dict[str, Tensor] = {}
    for name, (tensor, sources) in entries.items():
        if name not in shapes:
            report.left_over.extend(sources)
        elif tuple(tensor.shape) != tuple(shapes[name]):
            report.mismatched[name] = [list(tensor.shape), list(shapes[name])]
        else:
            fitting[name] = tensor
            report.used[name] = list(sources)
    report.missing = [name for name in shapes if name not in entries]
    report.left_over.sort()
    return fitting, report


def load_into(
    module: nn.Module,
    state: Mapping[str, Tensor],
    keymap: KeyMap,
    *,
    allow_missing: Sequence[str] = (),
    allow_left_over: Sequence[str] = (),
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    file: str | Path | None = None,
) -> KeyReport:
    """Puts a state dict into a module and says what happened to every key.

    Args:
        module: May live on the meta device; its tensors are replaced, never copied into.
        state: Tensors by the file's names.
        keymap: Rules from the file's names to the module's.
        allow_missing: Regular expressions of module tensors that may keep their values.
        allow_left_over: Regular expressions of file names that may go unused.
        dtype: Floating tensors are converted to it, one at a time; None keeps the file's.
        device: Where the tensors go; None leaves them where they are.
        file: Named in errors.

    Raises:
        CheckpointError: Something is missing, left over or of another shape; the module is unchanged.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    fitting, report = map_keys(state, keymap, shapes)
    report.require(allow_missing=allow_missing, allow_left_over=allow_left_over, file=file)
    assign_tensors(module, fitting, dtype=dtype, device=device)
    return report


def assign_tensors(
    module: nn.Module,
    tensors: Mapping[str, Tensor],
    *,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
) -> None:
    """Makes `tensors` the module's own, converted one at a time; names the module lacks are an error.

    Raises:
        CheckpointError: A name is not one of the module's.
    """
    converted = {
        name: tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)
        for name, tensor in tensors.items()
    }
    unknown = module.load_state_dict(converted, strict=False, assign=True).unexpected_keys
    if unknown:
        raise CheckpointError(f"the module has no tensors {_some(unknown)}")
