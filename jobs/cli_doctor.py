"""`skysom doctor`: what this machine offers and what slows it."""

from typing import Annotated

import typer

Where = Annotated[
    str | None, typer.Option("--output", "-o", help="Where results would go, to look at the disk there; default here.")
]


def doctor_command(output: Where = None) -> None:
    """Say what this machine offers and what slows skysom here, a line each: ok, slow or missing, with the remedy.

    Looks at versions, cores, memory, BLAS and its kernels, a matrix product of half a second, GPU, disk and numba.
    Exits with 1 only where skysom cannot work.
    """
    from skysom.jobs.doctor import findings

    fatal = False
    for finding in findings(output):
        typer.echo(finding.line())
        fatal |= finding.fatal
    if fatal:
        raise typer.Exit(1)
