"""The house: imports run downwards through the rooms, few files lie at the top, encodings are asked, not looked at."""

from __future__ import annotations

import ast
import itertools
from pathlib import Path

from approx_fx.config import compiling_sources
from approx_fx.encode.choose import ENCODINGS
from approx_fx.encode.group import Group, Relu

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "approx_fx"
ROOMS = (
    ["errors", "process", "torch_compat", "version"],
    ["joint", "ops", "recurrent", "chunk"],
    ["inductor"],
    ["peak"],
    ["config"],
    ["encode"],
    ["plan"],
    ["passes"],
    ["report"],
    ["measure"],
    ["rounding"],
    ["backend"],
    ["explain"],
    ["convert"],
    ["bench"],
    ["cli"],
)


def imports(path: Path) -> list[tuple[str, ...]]:
    """The modules of the package that a file imports when it is run, as parts of their names."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    tree = ast.parse(path.read_text())
    typing = {
        n for i in ast.walk(tree) if isinstance(i, ast.If) and "TYPE_CHECKING" in ast.dump(i.test) for n in i.body
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level and node not in typing:
            base = parts[: len(parts) - node.level]
            for alias in node.names:
                whole = (*base, *(node.module.split(".") if node.module else ()))
                inner = (*whole, alias.name)
                found.append(inner if PACKAGE.joinpath(*inner).with_suffix(".py").exists() else whole)
    return found


def files() -> list[Path]:
    return [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]


def test_imports_run_downwards() -> None:
    level = {room: index for index, rooms in enumerate(ROOMS) for room in rooms}
    for path in files():
        room = path.relative_to(PACKAGE).with_suffix("").parts[0]
        for module in imports(path):
            assert level[module[0]] <= level[room], (
                f"{path.relative_to(PACKAGE)} imports {module[0]}, which lies above it"
            )


def test_imports_make_no_circle() -> None:
    left = {path.relative_to(PACKAGE).with_suffix("").parts: set(imports(path)) for path in files()}
    left = {name: {other for other in others if other in left and other != name} for name, others in left.items()}
    while left:
        free = [name for name, others in left.items() if not others & left.keys()]
        assert free, f"a circle among {sorted(map('/'.join, left))}"
        for name in free:
            del left[name]


def test_few_files_lie_at_the_top() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 9


def test_encodings_are_asked_what_they_are() -> None:
    names = {kind.__name__ for kind in ENCODINGS} | {Group.__name__, Relu.__name__}
    for path in files():
        if path.parent == PACKAGE / "encode":
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "isinstance":
                looked_for = {item.id for item in ast.walk(node.args[1]) if isinstance(item, ast.Name)}
                assert not looked_for & names, f"{path.relative_to(PACKAGE)}:{node.lineno}"


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 160


def test_what_the_documentation_names_exists() -> None:
    """Files in backticks, as `passes/verify.py` or `tests/inductor/test_leaks.py`."""
    for page in itertools.chain([ROOT / "README.md"], (ROOT / "docs").glob("*.md")):
        for name in page.read_text().split("`")[1::2]:
            if name.endswith(".py") and not set(name) & set(" *="):
                places = [ROOT / name, PACKAGE / name, PACKAGE / "inductor" / name]
                assert any(place.exists() for place in places), f"{page.name}: {name}"


def test_a_change_of_the_page_leaves_compiled_graphs_valid() -> None:
    """Inductor's cached graphs are keyed by the sources that a compile depends on."""
    sources = {path.relative_to(PACKAGE).as_posix() for path in compiling_sources()}
    assert {"passes/pipeline.py", "ops/channel.py", "inductor/patches.py", "backend.py"} <= sources
    assert not {"report/view/html.py", "bench/worker.py", "cli.py"} & sources
    assert (PACKAGE / "report/view/html.py").exists() and (PACKAGE / "bench/worker.py").exists()
