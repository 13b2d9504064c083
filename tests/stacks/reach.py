"""Which packages a rule can come to import, read from the sources: its adapter, and the functions it reaches.

A function's own imports count only if the function is reached, so that a module may serve several stacks. A
module's imports at its top always count.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIB = ROOT / "lib"
DOORS = ("room", "room_of_layout")  # of the registry: they import a module of a room by name
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


@dataclass(frozen=True)
class Import:
    """One name taken from a package that is not ours."""

    package: str
    module: str
    name: str
    where: str


def rules_with_scripts(root: Path = ROOT) -> dict[str, tuple[Path, Path | None]]:
    """Returns rule -> (adapter, environment file or None if it names none)."""
    found = {}
    for path in sorted(root.glob("rules/**/*.smk")):
        for block in re.split(r"^(?=(?:rule|checkpoint) \w+:)", path.read_text(), flags=re.M)[1:]:
            script = re.search(r'^ +script:\s+"([^"]+)"', block, re.M)
            conda = re.search(r'^ +conda:\s+"([^"]+)"', block, re.M)
            if script:
                name = block.split(":")[0].split()[1]
                found[name] = (
                    (path.parent / script[1]).resolve(),
                    (path.parent / conda[1]).resolve() if conda else None,
                )
    return found


def _loaded(tree: ast.AST) -> Iterator[ast.AST]:
    """Walks a module's top level: into branches and handlers, not into definitions, not into TYPE_CHECKING."""
    for child in ast.iter_child_nodes(tree):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        if not isinstance(child, _DEFINITIONS):
            yield from _loaded(child)


@dataclass
class Source:
    """One module of ours."""

    name: str
    path: Path

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(encoding="utf-8"))

    @cached_property
    def imports(self) -> list[ast.Import | ast.ImportFrom]:
        return [node for node in _loaded(self.tree) if isinstance(node, ast.Import | ast.ImportFrom)]

    @cached_property
    def definitions(self) -> dict[str, ast.AST]:
        found: dict[str, ast.AST] = {}
        for node in _loaded(self.tree):
            if isinstance(node, _DEFINITIONS):
                found[node.name] = node
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                    for name in ast.walk(target):
                        if isinstance(name, ast.Name):
                            found[name.id] = node
        return found


def _module_path(name: str) -> Path | None:
    base = LIB.joinpath(*name.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


@cache
def _load(module: str) -> Source | None:
    path = _module_path(module)
    return Source(module, path) if path else None


@dataclass
class Reach:
    """Collects what is imported on the way from an adapter."""

    found: set[Import] = field(default_factory=set)
    modules: set[str] = field(default_factory=set)
    _visited: set[tuple[str, str]] = field(default_factory=set)

    def adapter(self, path: Path) -> Reach:
        """Follows everything an adapter does."""
        source = Source(str(path), path)
        names = self._enter(source)
        self._follow(source, source.tree, names)
        return self

    def _take(self, source: Source, node: ast.Import | ast.ImportFrom) -> dict[str, tuple[str, str]]:
        """Records one import statement; returns local name -> (module of ours, name in it or empty)."""
        names: dict[str, tuple[str, str]] = {}
        if isinstance(node, ast.Import):
            pairs = [(alias.name, "", alias.asname or alias.name.split(".")[0]) for alias in node.names]
        else:
            pairs = [(node.module or "", alias.name, alias.asname or alias.name) for alias in node.names]
        for module, name, local in pairs:
            top = module.split(".")[0]
            if top == "sightline":
                inner = f"{module}.{name}" if name and _module_path(f"{module}.{name}") else ""
                names[local] = (inner, "") if inner else (module, name)
                self._module(inner or module)
            elif top not in sys.stdlib_module_names:
                self.found.add(Import(top, module, name, str(source.path).removeprefix(f"{ROOT}/")))
        return names

    def _enter(self, source: Source) -> dict[str, tuple[str, str]]:
        names: dict[str, tuple[str, str]] = {}
        for node in source.imports:
            names |= self._take(source, node)
        return names

    def _module(self, module: str) -> None:
        """What importing a module brings with it."""
        for parent in (module.rpartition(".")[0], module):
            source = _load(parent) if parent else None
            if source and parent not in self.modules:
                self.modules.add(parent)
                self._enter(source)

    def _name(self, module: str, name: str) -> None:
        """Follows one function, class or constant of a module."""
        source = _load(module)
        if source is None or (module, name) in self._visited:
            return
        self._visited.add((module, name))
        names = self._enter(source)
        if name in source.definitions:
            self._follow(source, source.definitions[name], names)
        elif name in names:
            self._name(*names[name])

    def _follow(self, source: Source, node: ast.AST, outer: dict[str, tuple[str, str]]) -> None:
        names = dict(outer)
        for child in ast.walk(node):
            if isinstance(child, ast.Import | ast.ImportFrom):
                names |= self._take(source, child)
        for child in ast.walk(node):
            if isinstance(child, ast.Attribute) and isinstance(child.value, ast.Name) and child.value.id in names:
                module, name = names[child.value.id]
                if not name:
                    self._name(module, child.attr)
            if isinstance(child, ast.Attribute) and isinstance(child.value, ast.Call):
                self._door(child.value, child.attr)
            if isinstance(child, ast.Assign) and isinstance(child.value, ast.Call):
                self._door(child.value, None)
            if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Load):
                if child.id in names and names[child.id][1]:
                    self._name(*names[child.id])
                elif child.id in source.definitions and child.id not in names:
                    self._name(source.name, child.id)

    def _door(self, call: ast.Call, attribute: str | None) -> None:
        if not (isinstance(call.func, ast.Name) and call.func.id in DOORS):
            return
        assert len(call.args) == 2, ast.unparse(call)
        assert isinstance(call.args[1], ast.Constant), f"{ast.unparse(call)}: which door is not written out"
        for path in sorted(LIB.glob(f"sightline/systems/*/{call.args[1].value}.py")):
            module = ".".join(path.relative_to(LIB).with_suffix("").parts)
            self._module(module)
            source = _load(module)
            assert source is not None
            for name in [attribute] if attribute else source.definitions:
                self._name(module, name)
