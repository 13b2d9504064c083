"""Action tables and lists of classes: EPIC-Kitchens-55 and -100, EGTEA Gaze+, 50 Salads.

Line numbers give a name its class; the `id` column gives a (verb, noun) pair its action. In the published files
both agree, and files where they do not are refused unless asked for.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np

from sightline.errors import InputError

Form = Literal["ek100", "ek55", "egtea", "salads"]
NAME_COLUMN = {"ek100": "key", "ek55": "class_key"}
CLASS_FILES = {
    "ek100": ("EPIC_100_verb_classes.csv", "EPIC_100_noun_classes.csv"),
    "ek55": ("EPIC_verb_classes.csv", "EPIC_noun_classes.csv"),
}
MANY_SHOT_FILES = {"verb": "EPIC_many_shot_verbs.csv", "noun": "EPIC_many_shot_nouns.csv"}
SUBSET_FILES = {
    "unseen": "validation_unseen_participants_ids.csv",
    "tail_verb": "validation_tail_verbs_ids.csv",
    "tail_noun": "validation_tail_nouns_ids.csv",
    "tail_action": "validation_tail_actions_ids.csv",
}


@dataclass(frozen=True)
class ClassTable:
    """The classes of a dataset.

    Attributes:
        actions: Names of the actions in the order of their file, blanks as they stand there.
        verbs, nouns: Names of verbs and nouns; numbers as text where a dataset names none.
        verb_of_action, noun_of_action: int64 [A], class of each action's verb and noun; -1 where it has none.
        pairs: (verb, noun) to action.
    """

    actions: tuple[str, ...]
    verbs: tuple[str, ...]
    nouns: tuple[str, ...]
    verb_of_action: np.ndarray
    noun_of_action: np.ndarray
    pairs: Mapping[tuple[int, int], int] = field(repr=False)

    @property
    def action_ids(self) -> dict[str, int]:
        """Name to class, by line number; of equal names the last wins."""
        return {name: number for number, name in enumerate(self.actions)}

    @property
    def M_verb(self) -> np.ndarray:
        """float32 [A, V], one where an action has the verb."""
        return self._matrix(0, len(self.verbs))

    @property
    def M_noun(self) -> np.ndarray:
        """float32 [A, N], one where an action has the noun."""
        return self._matrix(1, len(self.nouns))

    def _matrix(self, part: int, width: int) -> np.ndarray:
        matrix = np.zeros((len(self.actions), width), np.float32)
        for pair, action in self.pairs.items():
            matrix[action, pair[part]] = 1.0
        return matrix

    def action_of(self, verb: int, noun: int) -> int:
        """Returns the action of a pair; -1 when the table does not know it."""
        return self.pairs.get((verb, noun), -1)

    def part_of(self, action: int, part: Literal["verb", "noun"]) -> int:
        """Returns the verb or the noun of an action; -1 for an unknown action."""
        column = self.verb_of_action if part == "verb" else self.noun_of_action
        return int(column[action]) if 0 <= action < len(column) else -1


def make_table(
    actions: Sequence[str], rows: Sequence[tuple[int, int, int]], verbs: Sequence[str], nouns: Sequence[str]
) -> ClassTable:
    """Builds a table.

    Args:
        actions: Names in the order of their file.
        rows: (action, verb, noun) of each.
        verbs, nouns: Names; where empty, the distinct ids name themselves and must be contiguous.

    Raises:
        InputError: An id lies outside its range, or ids without names have gaps.
    """
    verbs, nouns = (tuple(names) or _numbers(rows, part) for names, part in ((verbs, 1), (nouns, 2)))
    of_action = np.full((2, len(actions)), -1, np.int64)
    pairs: dict[tuple[int, int], int] = {}
    for action, verb, noun in rows:
        for value, limit, name in (
            (action, len(actions), "id"),
            (verb, len(verbs), "verb"),
            (noun, len(nouns), "noun"),
        ):
            if not 0 <= value < limit:
                raise InputError(
                    f"{name} {value} lies outside 0..{limit - 1}", item=f"action {action}", field=name,
                    mend="take class names and action table from one dataset",
                )  # fmt: skip
        of_action[:, action] = verb, noun
        pairs[verb, noun] = action
    return ClassTable(tuple(actions), verbs, nouns, of_action[0], of_action[1], pairs)


def _numbers(rows: Sequence[tuple[int, int, int]], part: int) -> tuple[str, ...]:
    found = sorted({row[part] for row in rows})
    if found != list(range(len(found))):
        raise InputError(
            f"{('verb', 'noun')[part - 1]} ids have gaps and no names were given",
            field=("verb", "noun")[part - 1], mend="give the file of class names",
        )  # fmt: skip
    return tuple(map(str, found))


def read_rows(path: str | Path) -> list[list[str]]:
    """Returns the fields of a csv file, blanks kept, empty lines left out.

    Raises:
        InputError: The file is missing or is not UTF-8.
    """
    try:
        text = Path(path).read_bytes().decode("utf-8-sig")
    except FileNotFoundError:
        raise InputError("file not found", file=path, mend="fetch the annotations or correct the path") from None
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 ({error})", file=path, mend="fetch the file again") from None
    return [row for row in csv.reader(io.StringIO(text)) if row]


def read_names(path: str | Path, form: Form) -> tuple[str, ...]:
    """Returns names of verbs or nouns; a name's class is the number of its line.

    Raises:
        InputError: The header has no column of names.
    """
    header, *rows = read_rows(path) or [[]]
    wanted = NAME_COLUMN[form]
    columns = [name.strip() for name in header]
    if wanted not in columns:
        raise InputError(
            f"no column {wanted!r} in the first line ({', '.join(columns)[:80]})", file=path, field=wanted,
            mend=f"give the file of class names of {form}",
        )  # fmt: skip
    place = columns.index(wanted)
    return tuple(row[place] for row in rows)


def integer(text: str, path: str | Path, line: int, name: str) -> int:
    """Returns a whole number of a csv field; zero padding and blanks are allowed.

    Raises:
        InputError: It is none, e.g. because the file has a header line it should not have.
    """
    try:
        return int(text)
    except ValueError:
        pass
    mend = "delete the header line" if line == 1 else "correct the line"
    raise InputError(f"{text.strip()!r} is not a whole number", file=path, item=f"line {line}", field=name, mend=mend)


def read_action_table(
    path: str | Path, form: Form, *, verbs: Sequence[str] = (), nouns: Sequence[str] = (), strict: bool = True
) -> ClassTable:
    """Reads RULSTM's `actions.csv` of a dataset, or the `mapping.txt` of 50 Salads.

    Args:
        path: EK100 `id,verb,noun,action` and EK55 `id,action,verb,noun` with a header; EGTEA
            `id, verb_noun, Name` and 50 Salads `id name` without.
        form: Dataset.
        verbs, nouns: Names of verbs and nouns.
        strict: Refuses ids that are not 0, 1, 2, ... in the order of the lines.

    Raises:
        InputError: A line is malformed, the header is missing or superfluous, or ids are out of order.
    """
    if form == "salads":
        names = read_mapping(path)
        none = np.full(len(names), -1, np.int64)
        return ClassTable(names, (), (), none, none, {})
    lines = read_rows(path)
    first = 1
    columns = ["id", "verb_noun", "action"]
    if form != "egtea":
        columns = [name.strip() for name in (lines[0] if lines else [])]
        if not {"id", "verb", "noun", "action"} <= set(columns):
            raise InputError(
                "the first line must name the columns id, verb, noun and action", file=path,
                mend="fetch RULSTM's actions.csv again; it has a header",
            )  # fmt: skip
        lines, first = lines[1:], 2
    actions, rows = [], []
    for number, line in enumerate(lines, first):
        if len(line) < len(columns):
            raise InputError(f"{len(line)} of {len(columns)} fields", file=path, item=f"line {number}")
        fields = dict(zip(columns, line, strict=False))
        verb, noun = _pair(fields, path, number)
        actions.append(fields["action"])
        rows.append((integer(fields["id"], path, number, "id"), verb, noun))
    wrong = next((n for n, row in enumerate(rows) if row[0] != n), None)
    if strict and wrong is not None:
        raise InputError(
            f"id {rows[wrong][0]} stands where {wrong} is expected: class order would be ambiguous", file=path,
            item=f"line {wrong + first}", field="id", mend="sort the table by id, without gaps",
        )  # fmt: skip
    return make_table(actions, rows, verbs, nouns)


def _pair(fields: Mapping[str, str], path: str | Path, line: int) -> tuple[int, int]:
    if "verb_noun" not in fields:
        return integer(fields["verb"], path, line, "verb"), integer(fields["noun"], path, line, "noun")
    parts = fields["verb_noun"].split("_")
    if len(parts) != 2:
        mend = "delete the header line" if line == 1 else "correct the line"
        raise InputError(
            f"{fields['verb_noun'].strip()!r} is no pair of ids", file=path, item=f"line {line}", field="verb_noun",
            mend=mend,
        )  # fmt: skip
    return integer(parts[0], path, line, "verb_noun"), integer(parts[1], path, line, "verb_noun")


def read_mapping(path: str | Path) -> tuple[str, ...]:
    """Returns the class names of 50 Salads' `mapping.txt` (`id name` per line); class is the line's number.

    Raises:
        InputError: A line has no name.
    """
    names = []
    for number, row in enumerate(read_rows(path), 1):
        parts = ",".join(row).split()
        if len(parts) != 2:
            raise InputError("expected an id and a name", file=path, item=f"line {number}", mend="correct the line")
        names.append(parts[1])
    return tuple(names)


def all_pairs(verbs: Sequence[str], nouns: Sequence[str]) -> ClassTable:
    """Returns the table where every verb and noun make an action, `verb * #nouns + noun`."""
    rows = [(v * len(nouns) + n, v, n) for v in range(len(verbs)) for n in range(len(nouns))]
    return make_table([f"{v}:{n}" for v in verbs for n in nouns], rows, verbs, nouns)


@dataclass(frozen=True)
class ManyShot:
    """Classes with many training examples (EK55).

    Attributes:
        verbs, nouns: As listed.
        actions: Those whose verb or noun is listed.
    """

    verbs: tuple[int, ...]
    nouns: tuple[int, ...]
    actions: tuple[int, ...]


def read_many_shot(folder: str | Path, table: ClassTable) -> ManyShot:
    """Reads EK55's two lists of many-shot classes.

    Raises:
        InputError: A file is missing or malformed.
    """
    listed = {}
    for part, name in MANY_SHOT_FILES.items():
        path = Path(folder) / name
        header, *rows = read_rows(path) or [[]]
        column = f"{part}_class"
        if column not in header:
            raise InputError(f"no column {column!r}", file=path, field=column, mend="fetch the file again")
        place = header.index(column)
        listed[part] = tuple(integer(row[place], path, n, column) for n, row in enumerate(rows, 2))
    verbs, nouns = set(listed["verb"]), set(listed["noun"])
    actions = sorted(action for (verb, noun), action in table.pairs.items() if verb in verbs or noun in nouns)
    return ManyShot(listed["verb"], listed["noun"], tuple(actions))


def read_ids(path: str | Path) -> frozenset[str]:
    """Returns the narration ids of one of RULSTM's lists (one per line, no header)."""
    return frozenset(row[0].strip() for row in read_rows(path))


def read_subsets(folder: str | Path, names: Collection[str] = tuple(SUBSET_FILES)) -> dict[str, frozenset[str]]:
    """Reads the EK100 evaluation lists `names` (keys of `SUBSET_FILES`) of a folder."""
    return {name: read_ids(Path(folder) / SUBSET_FILES[name]) for name in names}
