"""Inputs of a collation from an output: rows by id, turns as the mapping has them, annotations of its map, refusals."""

import importlib.util
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from astropy.io import fits

from skysom.engine.errors import CollationError
from skysom.jobs.annotate import annotations_folder, annotations_of, map_of, save_annotations
from skysom.jobs.collation.inputs_assembly import CollateOptions
from skysom.jobs.collation.inputs_catalogue import CatalogueChoice
from skysom.jobs.collation.inputs_output import inputs_from_output
from skysom.jobs.errors import ConfigError, MissingStageError
from skysom.jobs.mapping_reader import MappingReader
from skysom.jobs.pyink_annotations import pyink_from_annotations
from skysom.storage.annotation_set import AnnotationError, with_label, with_note
from skysom.storage.pyink_annotations import write_pyink_annotations
from skysom.storage.survey import Survey

_spec = importlib.util.spec_from_file_location("collation_survey", Path(__file__).with_name("collation_survey.py"))
made = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(made)


def inputs(output, *catalogues, annotations=None, som_name="main", **options):
    chosen = tuple(CatalogueChoice(path) if not isinstance(path, CatalogueChoice) else path for path in catalogues)
    return inputs_from_output(
        output, CollateOptions(catalogues=chosen, **options), annotations=annotations, som_name=som_name
    )


@pytest.fixture
def output(tmp_path):
    found = made.make_survey(tmp_path / "survey")
    made.annotate(found)
    return found


def table_of(output):
    return pd.read_parquet(output.catalogue)


def test_the_mapping_is_taken_as_it_is(output):
    found, survey = inputs(output), Survey(output.survey)
    rows = np.delete(np.arange(60), 5)
    assert np.array_equal(found.mapped.row, rows)
    assert np.array_equal(found.mapped.neuron, survey.column("mappings/main/bmu")[rows])
    assert np.array_equal(found.mapped.flip, survey.column("mappings/main/bmu_flip")[rows])
    turns = survey.column("mappings/main/bmu_rotation")[rows]
    assert np.allclose(found.mapped.angle_rad, turns * 2 * np.pi / made.ROTATIONS, atol=1e-6)
    assert found.pixel_scale_arcsec == (made.SCALE, made.SCALE)
    assert found.status_names().tolist() == ["ok"] * 5 + ["not_mapped"] + ["ok"] * 54
    assert found.rank[5] == -1
    assert sorted(found.rank.tolist()) == list(range(-1, 59))
    assert found.base.path == output.catalogue
    assert found.base.rows == 60
    assert [action.name for action in found.actions] == ["LINK", "DATA_ATTACH"]
    # A disc of radius 9 about the centre of 34 pixels: the corners of its pixels are within 9 + sqrt(1/2).
    assert 9 * made.SCALE < found.limit_arcsec < (9 + np.sqrt(0.5) + 0.01) * made.SCALE


def test_rows_are_found_by_id_in_a_larger_base(output, tmp_path):
    more = pd.DataFrame({"name": [f"t{row}" for row in range(40)], "RAJ2000": 1.0, "DEJ2000": np.linspace(19, 21, 40)})
    own = table_of(output).rename(columns={"source_id": "name", "ra": "RAJ2000", "dec": "DEJ2000"})
    table = pd.concat([own, more], ignore_index=True).sample(frac=1, random_state=1).reset_index(drop=True)
    for suffix, write in {"csv": table.to_csv, "parquet": table.to_parquet}.items():
        path = tmp_path / f"base.{suffix}"
        write(path, index=False)
        found, before = inputs(output, path), inputs(output)
        ids = table["name"][found.mapped.row]
        order = np.argsort([int(name[1:]) for name in ids])
        for name in ("neuron", "angle_rad", "flip", "distance"):
            assert np.array_equal(getattr(found.mapped, name)[order], getattr(before.mapped, name))
        assert (np.diff(found.mapped.row) > 0).all()
        assert (found.status_names() == "not_mapped").sum() == 41
        same_order = found.rank[found.mapped.row][order]
        assert np.array_equal(same_order, before.rank[before.mapped.row])


@pytest.mark.parametrize("keep", [None, 3])
def test_neurons_can_be_left_out(tmp_path, capsys, keep):
    exact = np.ones((60, 4), bool)
    exact[:, 2] = False
    output = made.make_survey(tmp_path / "survey", keep=keep, exact=exact)
    made.annotate(output, neurons=[1, 2, 3])
    survey = Survey(output.survey)
    with pytest.raises(ConfigError, match=r"have one of 1 neurons that are not annotated \(0\)"):
        inputs(output)
    found = inputs(output, excluded=(0,))
    bmu = survey.column("mappings/main/bmu")
    stayed = np.flatnonzero(bmu[found.mapped.row] != 0)
    assert 0 < len(stayed) < 59
    assert not (found.mapped.neuron == 0).any()
    assert np.array_equal(found.mapped.neuron[stayed], bmu[found.mapped.row][stayed])
    turns, flips = survey["mappings/main/rotation"][:], survey["mappings/main/flip"][:]
    kept = np.arange(4)[None].repeat(60, 0) if keep is None else survey["mappings/main/neuron"][:]
    for row, neuron, angle, flip in zip(*list(vars(found.mapped).values())[:4], strict=True):
        column = kept[row].tolist().index(neuron)
        assert np.isclose(angle, turns[row, column] * 2 * np.pi / made.ROTATIONS, atol=1e-6)
        assert flip == flips[row, column]
    assert "are approximate, since the best one is left out (--exclude)" in capsys.readouterr().err


def test_components_that_kept_no_other_neuron_are_not_mapped(tmp_path, capsys):
    output = made.make_survey(tmp_path / "survey", keep=1)
    made.annotate(output)
    found = inputs(output, excluded=(2,))
    lost = Survey(output.survey).column("mappings/main/bmu") == 2
    assert f"{lost.sum()} components have only neurons that are left out" in capsys.readouterr().err
    assert (found.status_names()[lost] == "not_mapped").all()


def test_annotations_by_name_folder_version_file_and_the_peers(output, tmp_path):
    expected, folder = inputs(output), annotations_folder(output)
    save_annotations(output, "main", with_label(annotations_of(output), "Sidelobe", author="ada"), "ada")
    weights, lattice, _ = map_of(output, "main")
    write_pyink_annotations(tmp_path / "peer.pkl", pyink_from_annotations(annotations_of(output), weights, lattice))
    with pytest.raises(ConfigError, match="under 'Sidelobe'"):
        inputs(output)
    for name in (folder / "000001", folder / "000001" / "state.json"):
        found = inputs(output, annotations=str(name))
        assert found.labels == expected.labels
        assert np.array_equal(found.planes, expected.planes)
        assert found.origin["annotations"] == {"folder": str(folder), "version": 1}
    actions = tmp_path / "actions.toml"
    actions.write_text('"Related Radio" = "LINK"\n"IR Host" = "DATA_ATTACH"\nSidelobe = "PASS"')
    for name in (None, "main", str(folder), str(tmp_path / "peer.pkl")):
        found = inputs(output, annotations=name, actions=str(actions))
        assert found.labels == (*made.LABELS, "Sidelobe")
        assert np.array_equal(found.planes, expected.planes)


def test_statuses_of_neurons_without_masks(output, capsys):
    bare = made.make_survey(output.root.parent / "bare")
    with pytest.raises(AnnotationError, match=r"no annotations at .*begin with a new set"):
        inputs(bare)
    made.annotate(bare, neurons=[0, 1])
    bmu = Survey(bare.survey).column("mappings/main/bmu")
    strange = ((bmu == 2) | (bmu == 3)).sum()
    with pytest.raises(ConfigError, match=rf"{strange} of 59 .* one of 2 neurons that are not annotated"):
        inputs(bare)
    save_annotations(bare, "main", with_note(annotations_of(bare), 2, "nothing here", author="ada"), "ada")
    capsys.readouterr()
    found = inputs(bare, unannotated="singletons")
    expected = np.array(["ok", "ok", "empty_mask", "unannotated_neuron", "not_mapped"])[bmu]
    assert np.array_equal(found.status_names(), expected)
    assert np.array_equal(found.rank >= 0, np.isin(expected, ["ok", "empty_mask"]))
    said = capsys.readouterr().err
    assert f"{(expected == 'ok').sum()} of 60 components use a mask (1 not_mapped, " in said
    assert f"{(bmu == 3).sum()} unannotated_neuron" in said
    with pytest.raises(ConfigError, match="no component has a mask"):
        inputs(bare, unannotated="singletons", excluded=(0, 1))


def test_repeated_ids_in_the_base_are_marked(output, tmp_path):
    own = table_of(output)
    pd.concat([own, own.iloc[[3, 7]]]).to_csv(tmp_path / "twice.csv", index=False)
    found = inputs(output, tmp_path / "twice.csv")
    assert np.flatnonzero(found.status_names() == "duplicate_id").tolist() == [60, 61]
    assert found.status_names()[[3, 7]].tolist() == ["ok", "ok"]
    assert np.flatnonzero(~found.matchable()).tolist() == [60, 61]


# --- what is refused ------------------------------------------------------------------------------


def test_no_mapping(tmp_path):
    output = made.make_survey(tmp_path / "survey")
    with pytest.raises(MissingStageError):
        inputs(output, som_name="other")


def test_annotations_of_another_map(output, tmp_path):
    other = made.make_survey(tmp_path / "other", seed=4)
    made.annotate(other)
    with pytest.raises(AnnotationError, match=r"are of the map \w{12}\.\.\., the mapping was made with \w{12}\.\.\."):
        inputs(output, annotations=str(annotations_folder(other)))
    with pytest.raises(ConfigError, match=r"nowhere: there are no annotations there; .* annotated map \(main\)"):
        inputs(output, annotations="nowhere")


def test_a_map_that_is_not_the_mappings(output):
    Survey(output.survey, "r+").group["mappings/main"].attrs["som_sha256"] = "0" * 64
    with pytest.raises(ConfigError, match="is not the one its mapping was made with"):
        inputs(output)


def test_a_mapping_without_transforms(output):
    del Survey(output.survey, "r+").group["mappings/main"]["bmu_rotation"]
    with pytest.raises(ConfigError, match="has no bmu_rotation: nobody knows how images lie"):
        inputs(output)


def test_ids_that_the_base_has_not(output, tmp_path):
    own = table_of(output)
    own.iloc[10:].to_csv(tmp_path / "less.csv", index=False)
    with pytest.raises(ConfigError, match=r"9 of 59 mapped sources are not in .*less.csv, such as 's0'"):
        inputs(output, tmp_path / "less.csv")
    own.drop(columns="source_id").to_csv(tmp_path / "nameless.csv", index=False)
    with pytest.raises(ConfigError, match="has no column source_id or name, and it is not the file"):
        inputs(output, tmp_path / "nameless.csv")


def test_the_same_ids_elsewhere_on_the_sky(output, tmp_path):
    own = table_of(output)
    own.assign(dec=own["dec"] + 0.5).to_csv(tmp_path / "moved.csv", index=False)
    with pytest.raises(ConfigError, match=r"59 of 59 mapped sources lie elsewhere in .*moved.csv: 's0' was mapped at"):
        inputs(output, tmp_path / "moved.csv")
    radians = own.assign(ra=np.radians(own["ra"]), dec=np.radians(own["dec"]))
    radians.to_csv(tmp_path / "radians.csv", index=False)
    with pytest.raises(ConfigError, match="lie elsewhere"):
        inputs(output, tmp_path / "radians.csv")


@pytest.mark.parametrize("unit", ["rad", "hourangle"])
def test_units_other_than_degrees(output, tmp_path, unit):
    own = table_of(output)
    columns = [fits.Column("source_id", "4A", array=own["source_id"].to_numpy(str))]
    columns += [fits.Column(name, "D", unit=unit, array=own[name].to_numpy()) for name in ("ra", "dec")]
    fits.BinTableHDU.from_columns(columns).writeto(tmp_path / "base.fits")
    with pytest.raises(Exception, match=f"'ra' is in '{unit}', degrees are needed") as caught:
        inputs(output, tmp_path / "base.fits")
    assert type(caught.value).__name__ == "CatalogueError"


def test_columns_that_are_not_there_or_hold_no_numbers(output, tmp_path):
    path = tmp_path / "base.csv"
    table_of(output).assign(kind="radio").to_csv(path, index=False)
    for options, words in (
        ({"flux_columns": ("peak",)}, r"no column 'peak' \(--flux\)"),
        ({"flux_columns": ("kind",)}, r"--flux kind: the column of .* such as 'radio'"),
        ({"redshift_column": "z"}, r"no column 'z' \(--redshift\)"),
        ({"sort": "-snr"}, r"no column 'snr' \(--sort\)"),
        ({"sort": "-kind"}, r"column 'kind' holds .*, an order needs numbers"),
        ({"sort": "largest_first:channel=1"}, "the masks have the channels 0 to 0"),
        ({"sort": "(flux - flux) / (flux - flux)"}, "has a finite value for none of the 59 components that use a mask"),
        ({"sort": "flux / (flux - flux)"}, "has a finite value for none"),
        ({"flux_columns": ("flux", "ra", "flux")}, "--flux flux is given 2 times; give it once"),
    ):
        with pytest.raises(Exception, match=words):
            inputs(output, path, **options)
    for choice, words in (
        (CatalogueChoice(path, ra_column="RA"), r"no column 'RA' \(--ra-column\)"),
        (CatalogueChoice(path, id_column="id"), r"no column 'id' \(--id-column\)"),
        (
            CatalogueChoice(path, dec_column="ra"),
            "RA and Dec are both column 'ra'; name two with --ra-column and --dec",
        ),
    ):
        with pytest.raises(Exception, match=words):
            inputs(output, choice)
    table_of(output).rename(columns={"ra": "x"}).to_csv(path, index=False)
    with pytest.raises(ConfigError, match=r"has none of the columns ra_deg, ra, .*; name one with --ra-column"):
        inputs(output, path)


def test_an_expression_of_columns_orders_the_masks(output):
    flux = table_of(output)["flux"].to_numpy()
    usable = np.arange(60) != 5
    expected = np.full(60, -1)
    expected[np.flatnonzero(usable)[np.argsort(-flux[usable], kind="stable")]] = np.arange(59)
    assert np.array_equal(inputs(output, sort="-flux").rank, expected)
    assert np.array_equal(inputs(output, sort="-(`flux` / 2) + 1").rank, expected)
    seeded = [inputs(output, sort=sort).rank.tolist() for sort in ("random:1", "random:1", "random:2", "random")]
    assert seeded[0] == seeded[1]
    assert len({tuple(rank) for rank in seeded}) == 3


# --- pixel scales and channels --------------------------------------------------------------------


def test_the_scale_is_that_of_the_images_that_were_mapped(tmp_path, capsys):
    halved = made.make_survey(tmp_path / "halved", chain=[["block_mean", {"max_side": 24}]], image_side=48)
    made.annotate(halved)
    assert inputs(halved).pixel_scale_arcsec == (2 * made.SCALE, 2 * made.SCALE)
    assert "pixel-scale" not in capsys.readouterr().err
    assert inputs(halved, pixel_scale_arcsec=(3.0, 3.5)).pixel_scale_arcsec == (3.0, 3.5)
    assert "--pixel-scale is 3, 3.5, the survey's mapped images have 4 arcsec" in capsys.readouterr().err
    unknown = made.make_survey(tmp_path / "unknown", pixel_scale_arcsec=None)
    made.annotate(unknown)
    with pytest.raises(ConfigError, match="does not know the pixel scale of its images; give --pixel-scale"):
        inputs(unknown)
    assert inputs(unknown, pixel_scale_arcsec=(3.0, 3.0)).pixel_scale_arcsec == (3.0, 3.0)


def test_images_of_different_scales_are_refused(tmp_path):
    output = made.make_survey(tmp_path / "kpc", chain=[["physical_scale", {"kpc_side": 500.0}]])
    made.annotate(output)
    for scale in (None, (2.0, 2.0)):
        with pytest.raises(CollationError, match="physical_scale"):
            inputs(output, pixel_scale_arcsec=scale)


def test_channels_need_catalogues_where_they_have_masks(tmp_path):
    output = made.make_survey(tmp_path / "two", channels=("radio", "infrared"))
    made.annotate(output)
    found = inputs(output)  # no masks on the second channel
    assert found.planes.shape[1] == 1
    assert found.base_channels.tolist() == [True]
    made.annotate(output, channel=1)
    with pytest.raises(ConfigError, match=r"2 channels \(radio, infrared\), 1 catalogue given, .* channel 'infrared'"):
        inputs(output)
    found = inputs(output, output.catalogue, output.catalogue)
    assert found.base_channels.tolist() == [True, True]
    pd.DataFrame({"ra": [0.1], "dec": [20.0], "RA_2": [1.0], "DEC_2": [2.0]}).to_csv(tmp_path / "ir.csv", index=False)
    found = inputs(output, output.catalogue, CatalogueChoice(tmp_path / "ir.csv", "RA_2", "DEC_2"))
    assert found.base_channels.tolist() == [True, False]
    assert found.catalogues[1].ra_column == "RA_2"
    with pytest.raises(ConfigError, match="is given twice, with positions in ra, dec and in flux, dec"):
        inputs(output, output.catalogue, CatalogueChoice(output.catalogue, ra_column="flux"))


def test_what_it_was_made_of_is_written_down(output):
    origin = inputs(output, sort="-flux", flux_columns=("flux",)).origin
    assert origin["som_sha256"] == MappingReader(output).attrs["som_sha256"]
    assert origin["actions"] == {"Related Radio": "LINK", "IR Host": "DATA_ATTACH"}
    assert origin["sort"] == "-flux"
    assert origin["flux_columns"] == ["flux"]
    assert origin["catalogues"][0]["rows"] == 60
    assert len(origin["catalogues"][0]["sha256"]) == 64
