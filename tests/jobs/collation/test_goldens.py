"""`skysom collate` end to end: the peer's groups, edges, hosts and flags, from its own files and from an output."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from skysom.jobs.adopt import adopt
from skysom.jobs.cli import main
from skysom.jobs.output import Output
from skysom.jobs.pink_convert import import_pink

LABELS = ("Related Radio", "IR Host", "Sidelobe")
PEERS_ORDER = "peers_order"
ORDERS = {
    "best_matching_first": "best_matching_first",
    "largest_first": "largest_first",
    "largest_first_nosort": "largest_first:within=row",
    "area_ratio": "area_ratio",
    # There pixels without a label count as included (a defect), so that order comes from a column.
    "area_ratio_inc_2_3": PEERS_ORDER,
    "area_ratio_inc_2_3_exc_5": "area_ratio:include=Related Radio:include=IR Host:exclude=Sidelobe",
}


class Golden:
    """A set of the peer, flags that make the command see what the peer saw, and what the peer found."""

    def __init__(self, truth, where, scale, limit, rotations, catalogues):
        self.truth, self.where, self.rotations, self.catalogues = truth, where, rotations, catalogues
        self.scale, self.limit = scale, limit
        self.orders = json.loads((truth / "sorter_orders.json").read_text())

    def found(self, first, actions, order):
        """Run the command, which begins with the flags ``first``; the folder of what it found."""
        lines = dict.fromkeys(LABELS, "PASS") | actions
        (self.where / "actions.toml").write_text("\n".join(f'"{label}" = "{name}"' for label, name in lines.items()))
        base = pd.read_csv(self.truth / self.catalogues[0], dtype=str)
        base[PEERS_ORDER] = np.argsort(list(dict.fromkeys(self.orders[order])))
        base.to_csv(self.where / "base.csv", index=False)
        sort, out = ORDERS[order], self.where / order
        if len(self.catalogues) == 1 and sort.startswith("area_ratio"):
            sort = f"area_ratio:second=0{sort.removeprefix('area_ratio')}"
        flags = [
            *("--catalogue", self.where / "base.csv", "--actions", self.where / "actions.toml", "--sort", sort),
            *(part for name in self.catalogues[1:] for part in ("--catalogue", self.truth / name)),
            *("--annotations", self.truth / "som.bin.results.pkl", "--float32-angles", "--pixel-scale", self.scale),
            *("--separation-limit", self.limit, "--dask", "threads", "--threads", 1),
            *("--output", out, "--rows-per-box", 100 if order == "best_matching_first" else 10_000),
        ]
        assert main(["collate", *(str(flag) for flag in (*first, *flags))]) == 0
        return out

    def check(self, found, truth, order):
        """Groups and edges are the peer's, and so is what hangs on the edge of smallest count."""
        # There `largest_first` lists every source twice and counts both.
        counts = [self.orders[order].index(row) for row in dict.fromkeys(self.orders[order])]
        sources = pq.read_table(found / "sources.parquet").to_pylist()
        assert [source["members"] for source in sources] == truth["groups"]
        expected = sorted((u, v, data["count"], data["src_idx"]) for u, v, _, data in truth["edges"])
        edges = pd.read_parquet(found / "edges.parquet")[["u", "v", "count", "source"]]
        assert (
            sorted((u, v, counts[count], source) for u, v, count, source in edges.itertuples(index=False)) == expected
        )
        data = {data["count"]: data for *_, data in truth["edges"]}
        isolated = {row for row, values in truth["nodes"] if "isolated" in values}
        for source in sources:
            own = [data[count] for u, _, count, _ in expected if u in source["members"]]
            first = min(own, key=lambda each: each["count"], default={})
            assert source["representative"] == first.get("src_idx", -1)
            assert source["count"] == (counts.index(first["count"]) if first else -1)
            if "ir_host_rows" in source:
                assert sorted(source["ir_host_rows"]) == sorted(first.get("IR Host", []))
            if "sidelobe" in source:
                assert source["sidelobe"] == first.get("Sidelobe")
            assert (source["isolated"] is not None) == bool(isolated.intersection(source["members"]))
        assert sorted(row for source in sources for row in source["members"]) == list(range(len(truth["nodes"])))


@pytest.fixture(params=[2, 1], ids=["two channels", "one channel"])
def golden(request, shared, tmp_path):
    if request.param == 1:
        truth = shared("goldens/pyink/single_channel")
        return Golden(truth, tmp_path, 1.0, 27, 92, ["radio_catalogue.csv"])
    return Golden(shared("goldens/pyink"), tmp_path, 1.5, 49, 96, ["radio_catalogue.csv", "ir_catalogue.csv"])


@pytest.mark.parametrize("actions", ["link_data_asis", "link_data_true_asis", "all_working_asis", "isolate_intended"])
def test_the_peers_files_give_the_peers_groups(golden, actions):
    truth = json.loads((golden.truth / f"groups_{actions}.json").read_text())
    files = [*("--som", golden.truth / "som.bin", "--map", golden.truth / "map.bin")]
    files += ["--transform", golden.truth / "transform.bin"]
    assert len(truth["sorters"]) == (6 if len(golden.catalogues) == 2 else 4)
    for order, expected in truth["sorters"].items():
        golden.check(golden.found(files, truth["actions"], order), expected, order)


@pytest.mark.parametrize("actions", ["all_working_asis", "isolate_intended"])
def test_an_output_with_the_peers_mapping_gives_the_peers_groups(golden, actions):
    truth = json.loads((golden.truth / f"groups_{actions}.json").read_text())
    output = imported(golden)
    for order in ("best_matching_first", "largest_first"):
        found = golden.found([output, "--id-column", "idx"], truth["actions"], order)
        golden.check(found, truth["sorters"][order], order)


def imported(golden) -> Path:
    """The peer's files as an output of skysom; a mapping that is not the peer's search's, but its file."""
    output, names = Output(golden.where / "survey"), ("images", "som", "map", "transform")
    images, som, mapping, transforms = (golden.truth / f"{name}.bin" for name in names)
    with output.lock(create=True):
        import_pink(
            output.survey, images=images, som=som, mapping=mapping, transforms=transforms, rotations=golden.rotations,
            region="circular",
        )  # fmt: skip
        adopt(output, "main", som=True, mapping=True)
    return output.root
