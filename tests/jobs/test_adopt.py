"""PINK's files become an output that the other commands go on from, and come back out equal."""

import numpy as np
import pandas as pd

from skysom.jobs.cli import main


def test_import_train_map_report_and_export(shared, tmp_path):
    case = shared("goldens/pink/02_rot8_random")
    output = tmp_path / "out"
    files = ["--images", "images.bin", "--som", "som.bin", "--mapping", "map.bin", "--transforms", "transform.bin"]
    files = [str(case / word) if word.endswith(".bin") else word for word in files]
    assert main(["import-pink", "-o", str(output), *files, "--rotations", "8"]) == 0
    table = pd.read_parquet(output / "catalogue.parquet")
    assert (table["status"] == "ok").all()
    golden = np.fromfile(case / "map.bin", np.float32)[-len(table) * 9 :].reshape(-1, 9)
    assert np.array_equal(table["bmu"], golden.argmin(axis=1))
    assert set(table["angle_deg"] % 45) == {0.0}
    assert main(["report", "-o", str(output)]) == 0

    again = ["map", "-o", str(output), "--som", "som:main", "--som-name", "again", "--set", "map.rotations=8"]
    assert main(again) == 0
    np.testing.assert_allclose(pd.read_parquet(output / "catalogue.parquet")["bmu_distance"], golden.min(1), rtol=5e-6)

    further = ["train", "-o", str(output), "--init", "som:main", "--som-name", "finer", "--set", "som.width=3"]
    assert main([*further, "--set", "train.stages=[{rotations=8}]"]) == 0

    back = ["export-pink", "-o", str(output)]
    for name in ("images", "som", "mapping", "transforms"):
        back += [f"--{name}", str(tmp_path / f"{name}.bin")]
    assert main(back) == 0
    for name, golden_name in {"images": "images", "som": "som", "mapping": "map", "transforms": "transform"}.items():
        assert (tmp_path / f"{name}.bin").read_bytes() == (case / f"{golden_name}.bin").read_bytes(), name
