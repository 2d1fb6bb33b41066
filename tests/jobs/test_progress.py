"""What a user is told while a stage goes on, where there is no terminal."""

import re

from skysom.jobs import progress as module
from skysom.jobs.progress import Progress


def test_lines_name_the_stage_the_rate_the_workers_and_what_is_left(monkeypatch, capsys):
    monkeypatch.setattr(module, "LINE_EVERY_S", -1.0)
    with Progress("map", stage=(4, 5)) as progress:
        progress(1000, 9000)
        progress(2000, 9000, workers=3)
        progress(9000, 9000, workers=1)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "map 4/5: 1,000 of 9,000 images, 0.0/s"
    assert re.fullmatch(r"map 4/5: 2,000 of 9,000 images, [\d.]+/s, 3 workers, [\d.]+ s to go", lines[1])
    assert len(lines) == 2, "the end is told by the stage itself"


def test_lines_are_rare(capsys):
    with Progress("train") as progress:
        for done in range(1000):
            progress(done, 1000)
    assert capsys.readouterr().err == ""
