"""Columns that jobs derive for the catalogue.

Who made each, and from which mapping, is written down: no input column is ever replaced, and what was derived from a
mapping goes when the mapping goes.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from skysom.jobs.errors import ConfigError
from skysom.jobs.results import RESULT_COLUMNS, catalogue_columns, check_whole, update_catalogue
from skysom.storage import place as places
from skysom.storage.place import Place, write_atomically
from skysom.storage.survey import Survey

if TYPE_CHECKING:
    from skysom.jobs.output import Output


@dataclass(frozen=True)
class Maker:
    """The command that made a column, and the mapping it was made from (None: of none)."""

    job: str
    mapping: str | None = None


def add_derived(output: "Output", columns: Mapping[str, Any], maker: Maker) -> None:
    """Add ``columns`` (one value an image) to the catalogue, or replace those that the same command made before.

    Call it while holding the output's lock. Raises ConfigError where a name belongs to the input, to the mapping or to
    another command, or where the catalogue's rows are not the store's.
    """
    check_names(output, columns, maker.job)
    survey = Survey(output.survey)
    check_whole(output.catalogue, survey.column("source_id"))
    output.check()
    # The names first: a column without its maker would be taken for the input's and never be replaced.
    write_makers(output.private, makers(output.private) | dict.fromkeys(columns, maker))
    update_catalogue(output.catalogue, columns, survey.shard_images)


def check_names(output: "Output", names: Iterable[str], job: str) -> None:
    """ConfigError, before any work, unless the command ``job`` may write the columns ``names``."""
    known, there = makers(output.private), catalogue_columns(output.catalogue)
    for name in names:
        maker = known.get(name)
        if name in RESULT_COLUMNS:
            raise ConfigError(f"{name!r} is a column of the mapping; give the new column another name")
        if maker is None and name in there:
            raise ConfigError(f"{output.catalogue} has a column {name!r} of its own; give the new one another name")
        if maker is not None and maker.job != job:
            raise ConfigError(
                f"column {name!r} was made by `skysom {maker.job}`; give that of `skysom {job}` another name"
            )


def makers(private: Place) -> dict[str, Maker]:
    """Columns that commands have added to the catalogue, with who made each; ``private`` is the output's own folder."""
    path = private / "columns.json"
    try:
        return {name: Maker(**values) for name, values in json.loads(places.read_bytes(path)).items()}
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise ConfigError(f"{path} is damaged; restore it, or remove it and the columns that commands added") from None


def write_makers(private: Place, known: Mapping[str, Maker]) -> None:
    """Replace what `makers` reads."""
    content = {name: asdict(maker) for name, maker in known.items()}
    write_atomically(private / "columns.json", json.dumps(content, indent=1).encode())
