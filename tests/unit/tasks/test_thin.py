"""Tasks decode, call and encode; what is more belongs to ``pipeline``. Read from the source: nothing is imported."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from pipeline.ask.flow import STAGES as ASK_STAGES
from pipeline.ingest.flow import STAGES as INGEST_STAGES

ROOT = Path(__file__).resolve().parents[3]
MOST_LINES = 10
CANVAS_WORDS = {"chain", "group", "chord"}


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def tasks(module: str) -> dict[str, ast.FunctionDef]:
    """The task functions of a module, by the name they are sent under."""
    found = {}
    for node in ast.walk(parsed(ROOT / "tasks" / f"{module}.py")):
        if isinstance(node, ast.FunctionDef):
            for call in node.decorator_list:
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "app.task":
                    (name,) = (ast.literal_eval(word.value) for word in call.keywords if word.arg == "name")
                    found[name] = node
    return found


def body_lines(function: ast.FunctionDef) -> int:
    """Lines of the body, its docstring apart."""
    first = function.body[1] if ast.get_docstring(function) else function.body[0]
    return (function.end_lineno or 0) - first.lineno + 1


@pytest.mark.parametrize(
    ("module", "stages", "others"),
    [("ask", ASK_STAGES, {"failed"}), ("ingest", INGEST_STAGES, {"next_wave", "finalize", "failed"})],
)
def test_each_stage_is_a_task_of_its_name(module: str, stages: tuple[str, ...], others: set[str]) -> None:
    found = tasks(module)
    assert set(found) == {f"{module}.{name}" for name in {*stages, *others}}
    assert all(name == f"{module}.{function.name}" for name, function in found.items())


@pytest.mark.parametrize("module", ["ask", "ingest"])
def test_a_task_is_thin(module: str) -> None:
    sizes = {name: body_lines(function) for name, function in tasks(module).items()}
    assert {name: size for name, size in sizes.items() if size > MOST_LINES} == {}


def test_canvases_are_made_in_one_place() -> None:
    files = [*(ROOT / "tasks").glob("*.py"), *(ROOT / "deploy").rglob("*.py")]
    assert len(files) > 10
    using = {path.name for path in files if CANVAS_WORDS & _celery_names(parsed(path))}
    assert using == {"canvases.py"}


def _celery_names(module: ast.Module) -> set[str]:
    imported = {
        alias.asname or alias.name
        for node in ast.walk(module)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("celery")
        for alias in node.names
    }
    attributes = {
        node.attr
        for node in ast.walk(module)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ("celery", "app")
    }
    return imported | attributes


def test_the_pipeline_never_names_celery() -> None:
    for path in (ROOT / "pipeline").rglob("*.py"):
        imported = {
            (alias.name if isinstance(node, ast.Import) else node.module or "").split(".")[0]
            for node in ast.walk(parsed(path))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for alias in node.names
        }
        assert imported.isdisjoint({"celery", "kombu", "gevent", "tasks"}), path


def test_no_test_imports_tasks_before_its_redis_is_known() -> None:
    """Celery's configuration is read at import; collecting such a module would tie all tests to the wrong server."""
    for_workers = {ROOT / "tests/broken_backend.py", ROOT / "tests/garbage.py"}
    for path in set((ROOT / "tests").rglob("*.py")) - for_workers:
        at_import = [node for node in parsed(path).body if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {alias.name for node in at_import if isinstance(node, ast.Import) for alias in node.names}
        names |= {node.module or "" for node in at_import if isinstance(node, ast.ImportFrom)}
        assert not {name for name in names if name.split(".")[0] in ("tasks", "celeryconfig")}, path
