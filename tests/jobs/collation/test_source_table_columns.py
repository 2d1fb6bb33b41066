"""Names, types and metadata of the columns of a source table."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.io.votable.ucd import check_ucd

from skysom.engine.collation.actions import Action, Effect, actions_for
from skysom.jobs.collation.evidence import evidence_schema
from skysom.jobs.collation.inputs import CatalogueFile, CollationInputs, Mapped
from skysom.jobs.collation.source_table_columns import SourceColumns
from skysom.jobs.errors import ConfigError
from skysom.storage.table_export import text_of


def columns(chosen: dict[str, Any], channels: tuple[tuple[int, ...], ...] | None = None, **more: Any) -> SourceColumns:
    labels = tuple(chosen)
    return SourceColumns(
        labels, actions_for(labels, chosen), channels or ((0,),) * len(labels), (True, False, True), **more
    )


def test_slugs_are_plain_and_all_different() -> None:
    labels = ["IR host", "ir-host", "Größe", "3C", "status", "***", "label_status", "IR  Host!"]
    made = columns(dict.fromkeys(labels, "DATA_ATTACH"))
    assert made.slugs == (
        "ir_host",
        "ir_host_2",
        "grosse",
        "label_3c",
        "label_status",
        "label_",
        "label_status_2",
        "ir_host_3",
    )
    assert len(set(made.schema.names)) == len(made.schema.names)


@pytest.mark.parametrize(
    ("chosen", "flux", "slugs"),
    [
        ({"member": "DATA_ATTACH", "Members": "FLAG"}, (), ("label_member", "label_members")),
        ({"Host": "FLAG", "Host union": "FLAG"}, (), ("host", "host_union_2")),
        ({"Host union": "FLAG", "Host": "FLAG"}, (), ("host_union", "host_2")),
        ({"Host": "DATA_ATTACH", "Host count": "FLAG"}, (), ("host", "host_count_2")),
        ({"Host": "DATA_ATTACH", "Host rows": "LINK"}, (), ("host", "host_rows_2")),
        ({"Total sum": "FLAG", "Peak": "FLAG"}, ("Total", "Peak"), ("label_total_sum", "peak")),
    ],
)
def test_columns_of_labels_never_meet(chosen: dict[str, Any], flux: tuple[str, ...], slugs: tuple[str, ...]) -> None:
    made = columns(chosen, flux=flux)
    assert made.slugs == slugs
    assert columns(dict.fromkeys(chosen, "PASS"), flux=flux).slugs == slugs
    for names in (made.schema.names, evidence_schema(made.slugs).names):
        assert len({name.casefold() for name in names}) == len(names)


def test_actions_on_nodes_attach_rows_of_other_catalogues() -> None:
    names = ("LINK", "UNLINK", "ISOLATE", "NODE_ATTACH")
    made = columns({name: name for name in names}, ((0, 1), (1,), (0,), (0, 1, 2)))
    assert [made.data_channels(label) for label in range(4)] == [(1,), (1,), (), (1,)]
    assert made.data_labels == (0, 1, 3)
    assert {"link_rows", "unlink_count", "node_attach_rows_union"} <= set(made.schema.names)
    assert not {"isolate_rows", "link_channels", "node_attach_channels"} & set(made.schema.names)
    assert columns({"Link": "LINK"}, ((0, 1),), redshift="z", redshift_of="Link").redshift_of == "Link"

    def act(island: Any, source: int, rows: Any) -> Effect:
        return Effect(link=rows.get(0, ()))

    assert not columns({"x": Action("MINE", act, nodes=True)}, ((0, 1),)).data_labels
    assert not columns({"x": "FLAG", "y": "PASS"}, ((0, 1), (1,))).data_labels


def test_columns_of_labels() -> None:
    made = columns(
        {"a": "LINK", "b": "DATA_ATTACH", "c": "FLAG", "d": "PASS", "e": "DATA_ATTACH", "f": "DATA_ATTACH"},
        ((0,), (0, 2), (0,), (0,), (0, 1), (1,)),
    )
    names = made.schema.names
    assert {"b_rows", "b_rows_union", "c", "c_union", "e_rows", "e_channels", "e_channels_union"} <= set(names)
    assert not {"a", "a_rows", "d", "b_channels", "f_channels"} & set(names)
    assert made.schema.field("c").type == pa.bool_()


def test_a_users_action_says_which_columns_it_has() -> None:
    def act(island: Any, source: int, rows: Any) -> Effect:
        return Effect(data=rows, flag=True)

    made = columns({"x": Action("MINE", act, data=True, flag=True)})
    assert {"x_rows", "x", "x_union"} <= set(made.schema.names)


def test_units_and_ucds_are_the_standards() -> None:
    made = columns(
        {"IR host": "DATA_ATTACH", "Art": "FLAG"},
        ((0, 1), (0,)),
        flux=("S",),
        flux_units={"S": "mJy"},
        redshift="z",
        extra=dict,
        extra_types={"mine": "float"},
    )
    found = [*made.schema, *made.component_schema]
    for field in found:
        assert text_of(field, "description"), field.name
        u.Unit(text_of(field, "unit"), format="vounit")
        ucd = text_of(field, "ucd")
        assert not ucd or check_ucd(ucd, check_controlled_vocabulary=True, has_colon=False), (field.name, ucd)
    assert text_of(made.schema.field("S_sum"), "unit") == "mJy"
    assert text_of(made.schema.field("ra_deg"), "ucd") == "pos.eq.ra;meta.main"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"extra_types": {"a": "int"}}, "give a function together"),
        ({"extra": dict, "extra_types": {"a": "complex"}}, "one of int, float, str, bool"),
        ({"extra": dict, "extra_types": {"name": "str"}}, "two columns 'name'"),
        ({"flux": ("S", "S")}, "two columns 'S_sum'"),
        ({"redshift": "z", "redshift_of": "Link"}, "'best', or a label that attaches rows"),
    ],
)
def test_settings_that_do_not_fit(more: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        columns({"Link": "LINK"}, **more)


def test_as_many_actions_as_labels() -> None:
    with pytest.raises(ConfigError, match="2 labels, 1 actions"):
        SourceColumns(("a", "b"), actions_for(["a"], {"a": "PASS"}), ((0,), (0,)))


def test_columns_of_inputs(tmp_path: Path) -> None:
    none = np.zeros(0)
    planes = np.zeros((3, 2, 8, 8), np.uint64)
    planes[1, 0, 4, 4] |= np.uint64(1)
    planes[2, 1, 0, 0] |= np.uint64(2)
    planes[2, 0, 7, 0] |= np.uint64(2)
    labels = ("a", "b", "c")
    fields = [pa.field("ra", pa.float64()), pa.field("S", pa.float64(), metadata={"unit": "mJy"})]
    pq.write_table(pa.table([[1.0], [2.0]], schema=pa.schema(fields)), tmp_path / "base.parquet")
    catalogue = CatalogueFile(tmp_path / "base.parquet", "ra", "dec", "Component_name", 10)
    inputs = CollationInputs(
        mapped=Mapped(none, none, none, none, none),
        catalogues=(catalogue, replace(catalogue, path=Path("ir.parquet"))),
        base_channels=np.array([True, False]),
        labels=labels,
        planes=planes,
        actions=actions_for(labels, {"a": "LINK", "b": "DATA_ATTACH", "c": "FLAG"}),
        rank=none,
        status=none,
        neuron_labels=(("one",), (), ("two", "three")),
        pixel_scale_arcsec=(1.0, 1.0),
        limit_arcsec=30.0,
        flux_columns=("S",),
        redshift_column="z",
    )
    made = SourceColumns.of(inputs, prefix="VLASS ")
    assert made.label_channels == ((0,), (0, 1), ())
    assert (made.base_channels, made.flux, made.redshift, made.prefix) == ((True, False), ("S",), "z", "VLASS ")
    assert "b_channels" in made.schema.names
    assert text_of(made.component_schema.field("id"), "description").startswith("Component_name")
    assert text_of(made.schema.field("S_sum"), "unit") == "mJy"
