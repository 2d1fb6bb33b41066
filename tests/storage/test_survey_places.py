"""The survey store on disk and in an object store: the same arrays, and no map that is half one, half another."""

import contextlib
import json
import pickle

import numpy as np
import pytest
import xarray as xr

from skysom.storage import place as places
from skysom.storage import publish
from skysom.storage.errors import SurveyError
from skysom.storage.place import place
from skysom.storage.survey import ArraySpec, Survey, add_images, read_images, write_images


@pytest.fixture(params=["local", "s3"])
def root(request, tmp_path):
    """Where the store goes: on disk, or in an object store."""
    return place(tmp_path) if request.param == "local" else place(request.getfixturevalue("s3") + "/run")


@pytest.fixture
def survey(root):
    """A store of 100 rows in two shards, with images."""
    made = Survey.create(root / "survey.zarr", images=100, shard_images=64, attrs={"channels": ["a"]})
    add_images(made, "images", ArraySpec("float32", ("channel", "y", "x"), (1, 4, 4), np.nan))
    made.add_image_array("source_id", ArraySpec("str", fill=""))
    return made


IMAGES = np.random.default_rng(1).normal(size=(100, 1, 4, 4)).astype(np.float32)


def test_what_is_written_is_read_and_xarray_opens_it(survey):
    worker = pickle.loads(pickle.dumps(survey.path))
    for start, stop in survey.shards():
        write_images(Survey(worker, "r+"), "images", start, IMAGES[start:stop])
    survey["source_id"][:] = np.array([f"s{i}" for i in range(100)], dtype=object)
    again = Survey(str(survey.path))
    assert np.array_equal(read_images(again, "images", 10, 90), IMAGES[10:90])
    assert list(again.column("source_id")[-2:]) == ["s98", "s99"]
    with pytest.raises(SurveyError, match="cut a shard"):
        survey.write_rows("images", 10, IMAGES[:64])
    with pytest.raises(SurveyError, match="holds no array 'none'"):
        again["none"]
    with xr.open_zarr(str(survey.path), consolidated=False) as opened:
        assert opened["images"].dims == ("image", "channel", "y", "x")
        assert np.array_equal(opened["images"].values, IMAGES)


def test_a_grown_store_has_its_new_rows(survey):
    assert survey["images"].shape[0] == 100
    survey.resize(130)
    assert len(Survey(survey.path)) == 130
    assert survey["images"].shape[0] == Survey(survey.path)["images"].shape[0] == 130


def test_a_missing_store_is_one_sentence(root):
    assert not Survey.is_at(root / "survey.zarr")
    with pytest.raises(SurveyError, match="no survey store"):
        Survey(root / "survey.zarr")


def weights(seed, neurons=70):
    return np.random.default_rng(seed).normal(size=(neurons, 1, 3, 3)).astype(np.float32)


def test_a_map_is_replaced_whole(survey):
    survey.save_som("main", weights(1), {"n": 1})
    survey.save_som("main", weights(2, neurons=6), {"n": 2})
    found, attrs = Survey(survey.path).load_som("main")
    assert np.array_equal(found, weights(2, neurons=6))
    assert attrs["n"] == 2
    assert publish.WHOLE not in attrs
    assert survey.som_names() == ["main"]
    assert [entry.name for entry in places.entries(survey.path / "soms")] == ["main", "zarr.json"]
    assert len(places.files_below(survey.path / "soms" / "main" / "weights")) == 2  # metadata and one chunk


class Killed(BaseException):
    """Stands for a kill at a write."""


@pytest.mark.parametrize("seed", range(4))
def test_a_kill_at_any_request_leaves_the_old_map_or_the_new_one(s3, monkeypatch, seed):
    survey = Survey.create(place(s3) / "survey.zarr", images=64, shard_images=64, attrs={})
    survey.save_som("main", weights(1), {})
    left = [int(np.random.default_rng(seed).integers(1, 25))]
    with monkeypatch.context() as patch:
        _kill_after(patch, left)
        with contextlib.suppress(Killed):
            survey.save_som("main", weights(2), {})
    swept = Survey(survey.path, "r+").recover()
    again = Survey(survey.path)
    found, _ = again.load_som("main")
    assert np.array_equal(found, weights(1)) or np.array_equal(found, weights(2))
    assert again.som_names() == ["main"]
    assert [entry.name for entry in places.entries(survey.path / "soms")] == ["main", "zarr.json"]
    assert swept in (0, 1)
    survey.save_som("main", weights(3), {})
    assert np.array_equal(Survey(survey.path).load_som("main")[0], weights(3))


def _kill_after(patch, left):
    """The process is killed at one of the next requests that change something."""
    from s3fs import S3FileSystem

    send = S3FileSystem._call_s3

    async def counted(self, method, *args, **named):
        if method.startswith(("put", "copy", "delete")):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
        return await send(self, method, *args, **named)

    patch.setattr(S3FileSystem, "_call_s3", counted)


def test_a_half_copied_map_is_seen_as_damaged_until_it_is_recovered(s3):
    survey = Survey.create(place(s3) / "survey.zarr", images=64, shard_images=64, attrs={})
    survey.save_som("main", weights(1), {})
    survey.save_som("other", weights(2), {})
    soms = survey.path / "soms"
    chunk = next(path for path in places.files_below(soms / "other") if "/c/" in str(path))
    places.write_atomically(soms / "main" / chunk.relative_to(soms / "other"), places.read_bytes(chunk))
    with pytest.raises(SurveyError, match="damaged"):
        survey.load_som("main")


def test_a_store_is_there_once_its_root_is(s3):
    beside, final = place(s3) / "survey.zarr.partial", place(s3) / "survey.zarr"
    Survey.create(beside, images=64, shard_images=64, attrs={}).add_image_array("ok", ArraySpec("bool"))
    places.write_atomically(final / "ok" / "zarr.json", b"{}")  # what a killed copy leaves
    assert not Survey.is_at(final)
    publish.publish(beside, final)
    assert Survey.is_at(final)
    assert Survey(final)["ok"].shape == (64,)
    assert not places.exists(beside)
    assert publish.WHOLE not in json.loads(places.read_bytes(final / "zarr.json"))["attributes"]
