"""Execute every notebook on tiny settings, offline, in a temporary folder; exit 1 at the first trouble of any.

    python tests/run_notebooks.py [NOTEBOOK ...] [--full] [--executed FOLDER]

Notebooks read SKYSOM_NOTEBOOK_TINY=1. They are stored without outputs, which is checked here as well.
"""

import argparse
import json
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError

ROOT = Path(__file__).resolve().parents[1]
KERNEL = "skysom-notebooks"
LIMIT_S = 180.0
"""Seconds for a notebook on tiny settings; with --full ten times as many."""

# Runs in the kernel before the first cell: a notebook that fetches something fails here, not on a user's train.
NO_NETWORK = """
import sys as _sys

def _refuse_network(event, arguments, _local=("127.", "::1", "localhost", "0.0.0.0")):
    if event == "socket.connect" and isinstance(arguments[1], tuple):
        host = arguments[1][0]
    elif event == "socket.getaddrinfo":
        host = arguments[0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else host
    if host and not str(host).startswith(_local):
        raise PermissionError(f"notebooks run offline; this one asked for {host}")

_sys.addaudithook(_refuse_network)
"""


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all of notebooks/")
    parser.add_argument("--full", action="store_true", help="the settings a reader gets, instead of tiny ones")
    parser.add_argument("--executed", type=Path, help="keep executed copies in this folder")
    options = parser.parse_args(arguments)
    notebooks = options.notebooks or sorted((ROOT / "notebooks").glob("*.ipynb"))
    if not notebooks:
        say(f"no notebook in {ROOT / 'notebooks'}")
        return 1
    failed = [path for path in notebooks if not check(path, options.full, options.executed)]
    return 1 if failed else 0


def check(path: Path, full: bool, executed: Path | None) -> bool:
    """Run one notebook and say how it went."""
    notebook = nbformat.read(path, as_version=4)
    stored = stored_results(notebook)
    if stored:
        say(f"{path.name}: cells {', '.join(stored)} are stored with results; clear all outputs and save")
        return False
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="skysom-notebooks-") as folder:
        trouble = execute(notebook, Path(folder), full)
    if executed is not None:
        executed.mkdir(parents=True, exist_ok=True)
        nbformat.write(notebook, executed / path.name)
    say(f"{path.name}: {time.monotonic() - started:.1f} s{'' if trouble is None else ', failed'}")
    if trouble is not None:
        say(trouble)
    return trouble is None


def stored_results(notebook: Any) -> list[str]:
    """Ids of the code cells that hold outputs or an execution count."""
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [cell.id for cell in cells if cell.outputs or cell.execution_count is not None]


def execute(notebook: Any, folder: Path, full: bool) -> str | None:
    """Run all cells; None, or the source of the cell that failed and why."""
    environment = prepare(folder, full)
    work = folder / "work"
    work.mkdir()
    deadline = time.monotonic() + LIMIT_S * (10 if full else 1)
    current: dict[str, Any] = {}
    client = NotebookClient(
        notebook,
        kernel_name=KERNEL,
        resources={"metadata": {"path": str(work)}},
        # nbclient limits a cell; what is left of the notebook's time makes it a limit of the notebook
        timeout_func=lambda cell: max(1, round(deadline - time.monotonic())),
        startup_timeout=120,
        on_cell_start=lambda cell, cell_index: current.update(cell=cell),
    )
    return failure(lambda: client.execute(env=environment), current)


def failure(call: Callable[[], Any], current: dict[str, Any]) -> str | None:
    try:
        call()
    except CellExecutionError as error:
        return f"cell {current['cell'].id!r}: {plain(str(error))}\n"  # with its source
    except CellTimeoutError:
        reason = "the time limit of the notebook was reached in this cell"
    except DeadKernelError:
        reason = "the kernel died in this cell (out of memory?)"
    else:
        return None
    cell = current.get("cell")
    source = "(before the first cell)" if cell is None else f"cell {cell.id!r}:\n\n{cell.source}"
    return f"{source}\n\n{reason}\n"


def plain(text: str) -> str:
    """Text without the colours of a terminal."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def prepare(folder: Path, full: bool) -> dict[str, str]:
    """A kernel of this interpreter and everything that is written beside, in ``folder``; returns the environment."""
    kernel = folder / "jupyter" / "kernels" / KERNEL
    kernel.mkdir(parents=True)
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}", "--IPKernelApp.log_level=40"]
    spec = {"argv": command, "display_name": KERNEL, "language": "python"}
    (kernel / "kernel.json").write_text(json.dumps(spec))
    startup = folder / "ipython" / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "00-no-network.py").write_text(NO_NETWORK)
    places = {
        "JUPYTER_PATH": "jupyter", "JUPYTER_CONFIG_DIR": "config", "JUPYTER_RUNTIME_DIR": "runtime",
        "IPYTHONDIR": "ipython", "MPLCONFIGDIR": "matplotlib", "TMPDIR": "tmp",
    }  # fmt: skip
    for place in places.values():
        (folder / place).mkdir(exist_ok=True)
    ours = {name: str(folder / place) for name, place in places.items()}
    # the client looks for the kernel in its own environment
    os.environ.update({name: value for name, value in ours.items() if name.startswith("JUPYTER")})
    ours |= {"MPLBACKEND": "module://matplotlib_inline.backend_inline", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    environment = {**os.environ, **ours}
    shared = Path(os.environ.get("SKYSOM_SHARED", ROOT.parent / "shared"))
    mirabest = shared / "realdata" / "radio_first_mirabest"
    if mirabest.exists():  # without it the notebook simulates a survey
        environment.setdefault("SKYSOM_MIRABEST", str(mirabest))
    environment.pop("SKYSOM_NOTEBOOK_TINY", None)
    return environment if full else {**environment, "SKYSOM_NOTEBOOK_TINY": "1"}


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
