"""Imports run one way: no circle of files, and no room reads from one above it but by the arrows named here."""

import ast
import graphlib
from pathlib import Path


PACKAGE = Path(__file__).parents[1] / "optimum_snp"

# Folders and files of the package, from the ground floor up: each may read from those before it.
ROOMS = (
    # the ground floor
    "checks",
    "torchvision",
    "processes",
    "devices",
    "linear_algebra",
    "file_names",
    "folders",
    "packages",
    "drawing",
    "presets",
    "version",
    "saved_fields",
    # what the user asks for
    "configuration",
    # models, and what is known of them
    "models",
    "source_files",
    "structure",
    "random_images",
    "families",
    "loading",
    "plan",
    # images and labels
    "data",
    # the stages
    "calibration",
    "scoring",
    "reshaping",
    "losses",
    "methods",
    "reconstruction",
    "pruning",
    "exporting",
    "benchmarking",
    "planning",
    "metrics",
    "training",
    "recovery",
    # what is told of a model
    "record",
    "publishing",
    # what the user calls
    "pruner",
    "comparison",
    "app",
    "demo",
    "commands",
    "__init__",
)

# Files that read from a room above their own, and why. One that is here but no longer in the package fails, too.
BACK_ARROWS = {}


def files_of(package):
    """All files of a package, by their names relative to it."""
    return {path.relative_to(package).as_posix(): path for path in sorted(package.rglob("*.py"))}


def imports_of(package, file):
    """The files of the package that one of them imports, anywhere in its code and also for type checks only."""
    folder = Path(file).parent.parts
    imported = set()
    for node in ast.walk(ast.parse((package / file).read_text())):
        if isinstance(node, ast.Import):
            modules = [tuple(alias.name.split(".")) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = (package.name, *folder[: len(folder) - node.level + 1]) if node.level else ()
            module = (*start, *(node.module.split(".") if node.module else ()))
            modules = [(*module, alias.name) for alias in node.names]
        else:
            continue
        imported |= {file_of(package, module) for module in modules if module[0] == package.name}
    return imported


def file_of(package, module):
    """The file of a module, or of the one that the name belongs to."""
    *parents, name = module[1:] or ("__init__",)
    folder = package.joinpath(*parents)
    for path in (folder / name / "__init__.py", folder / f"{name}.py", folder / "__init__.py"):
        if path.is_file():
            return path.relative_to(package).as_posix()
    return folder.relative_to(package).with_suffix(".py").as_posix()


def room_of(file):
    return Path(file).parts[0].removesuffix(".py")


def test_no_circle_of_files():
    graph = {file: imports_of(PACKAGE, file) for file in files_of(PACKAGE)}
    list(graphlib.TopologicalSorter(graph).static_order())  # its error names the circle


def test_every_room_has_its_place():
    assert sorted(ROOMS) == sorted({room_of(file) for file in files_of(PACKAGE)})


def test_imports_run_down():
    arrows = [(file, imported) for file in files_of(PACKAGE) for imported in imports_of(PACKAGE, file)]
    back = {(start, end) for start, end in arrows if ROOMS.index(room_of(start)) < ROOMS.index(room_of(end))}
    assert back == BACK_ARROWS.keys()


def test_checkpoints_carry_their_code():
    """The files of an architecture are copied into checkpoints, where there is nothing else of this package."""
    for file in files_of(PACKAGE / "models"):
        assert {room_of(imported) for imported in imports_of(PACKAGE, f"models/{file}")} <= {"models"}


def test_all_ways_to_import_are_seen(tmp_path):
    house = tmp_path / "house"
    (house / "cellar").mkdir(parents=True)
    for file in ("__init__", "roof", "cellar/__init__", "cellar/wine", "cellar/coal"):
        (house / f"{file}.py").touch()
    (house / "cellar" / "door.py").write_text(
        "import os\nimport house.roof\nfrom typing import TYPE_CHECKING\n"
        "from . import wine, key\nif TYPE_CHECKING:\n    from .coal import Coal\n"
        "def open():\n    from .. import light\n"
    )
    (house / "stairs.py").write_text(
        "from house.cellar.wine import Wine\nfrom . import cellar\nfrom .roof import Tile"
    )
    assert imports_of(house, "cellar/door.py") == {
        "roof.py",
        "cellar/wine.py",
        "cellar/__init__.py",
        "cellar/coal.py",
        "__init__.py",
    }
    assert imports_of(house, "stairs.py") == {"cellar/wine.py", "cellar/__init__.py", "roof.py"}
