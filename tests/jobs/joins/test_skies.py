"""Partitions of any size, anywhere on the sky, give the answer of the whole."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skysom.jobs.joins.counts import join_counts
from skysom.jobs.joins.hats import HatsOptions, import_hats
from skysom.jobs.joins.sky import SkyJoin, join_sky

CENTRES = [(0, 0), (359.99, 41.81), (77, 90), (10, -90), (180, 45), (90, -41.81), (225, 0.01)]
"""RA 0, the poles, and places where base pixels of HEALPix meet."""


@st.composite
def cases(draw):
    """Two catalogues about some places (not always the same ones), partitions of both, a radius, and how to match."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    tables = []
    for count in (draw(st.integers(1, 120)), draw(st.integers(1, 200))):
        places = draw(st.lists(st.sampled_from(CENTRES), min_size=1, max_size=3, unique=True))
        spread = draw(st.sampled_from([0.05, 2.0, 30.0]))
        ra, dec = [], []
        for place in places:
            away = rng.exponential(spread, count) * u.deg
            found = SkyCoord(*place, unit="deg").directional_offset_by(rng.uniform(0, 360, count) * u.deg, away)
            ra.append(found.ra.deg)
            dec.append(found.dec.deg)
        table = pd.DataFrame({"ra": np.concatenate(ra), "dec": np.concatenate(dec)})
        table = pd.concat([table, table.iloc[:2]], ignore_index=True).sample(frac=1, random_state=1)
        tables.append(table.assign(id=np.arange(len(table))))
    rows = draw(st.sampled_from([1, 7, 50])), draw(st.sampled_from([1, 7, 50]))
    rows = tuple(max(one, len(table) // 25) for one, table in zip(rows, tables, strict=True))  # 25 partitions, about
    radius = draw(st.sampled_from([0.5, 60.0, 2000.0]))
    how, keep = draw(st.sampled_from(["nearest", "all", "one-to-one"])), draw(st.sampled_from(["left", "inner"]))
    return tables, rows, SkyJoin(radius, how, keep), draw(st.booleans())


def check(folder, case):
    tables, rows, chosen, counted = case
    sides = {"astropy": [], "lsdb": []}
    for name, table, most in zip(("left", "right"), tables, rows, strict=True):
        table.to_parquet(folder / f"{name}.parquet", index=False)
        options = HatsOptions(partition_rows=most, margin_arcsec=0 if name == "left" else chosen.radius_arcsec)
        import_hats(folder / f"{name}.parquet", folder / name, options)
        sides["astropy"].append(folder / f"{name}.parquet")
        sides["lsdb"].append(folder / name)
    found = []
    for backend, both in sides.items():
        path = folder / f"{backend}.parquet"
        if counted:
            join_counts(*both, (chosen.radius_arcsec, 0.0), path, backend=backend)
            found.append(pq.read_table(path).sort_by("id"))
        else:
            join_sky(*both, chosen, path, backend=backend)
            found.append(pq.read_table(path).sort_by([("id", "ascending"), ("rank", "ascending")]))
    assert found[0].equals(found[1])


@given(cases())
@settings(deadline=None, max_examples=3, derandomize=True, suppress_health_check=list(HealthCheck))
def test_partitions_give_the_answer_of_the_whole(tmp_path_factory, case):
    check(tmp_path_factory.mktemp("sky"), case)


@pytest.mark.slow
@given(cases())
@settings(deadline=None, max_examples=60, suppress_health_check=list(HealthCheck))
def test_partitions_give_the_answer_of_the_whole_many_times(tmp_path_factory, case):
    check(tmp_path_factory.mktemp("sky"), case)
