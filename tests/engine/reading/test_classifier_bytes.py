"""Classifiers as bytes: they come back equal, and a file made to harm does nothing."""

import functools
import io
import json
import operator
import os
import zipfile

import numpy as np
import pytest
import sklearn
from skops.io import dumps

from skysom.engine.errors import ReadingError
from skysom.engine.reading.classifier_bytes import MOST_DEPTH, from_bytes, to_bytes
from skysom.engine.reading.classifiers import fit_classifier

FEATURES = np.random.default_rng(0).normal(size=(60, 4))
LABELS = np.array(["a", "b", "c"])[np.argmax(FEATURES[:, :3], axis=1)]
METHODS = ("knn", "forest", "mlp", "svm")


@functools.cache
def saved(method):
    classifier = fit_classifier(FEATURES, LABELS, method)
    return classifier, to_bytes(classifier)


def changed(data, change):
    """The file with ``change`` made to its schema, a dictionary."""
    members = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    schema = json.loads(members["schema.json"])
    members["schema.json"] = json.dumps(change(schema) or schema).encode()
    return packed(members)


def packed(members):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


@pytest.mark.parametrize("method", METHODS)
def test_it_comes_back_equal(method):
    classifier, data = saved(method)
    found = from_bytes(data)
    assert (found.method, found.classes) == (method, ("a", "b", "c"))
    assert np.array_equal(found.probabilities(FEATURES), classifier.probabilities(FEATURES))
    assert saved(method)[1][:4] == b"PK\x03\x04"


class Harmful:
    """What pickle would run on loading."""

    def __reduce__(self):
        return os.system, ("touch harmed",)


def content(**more):
    return {"format_version": 1, "sklearn": sklearn.__version__, **more}


@pytest.mark.parametrize(
    "value",
    [
        functools.partial(os.system, "touch harmed"),
        Harmful(),
        operator.methodcaller("system", "touch harmed"),
        os.system,
        np.random.default_rng(0),
        {"deep": [functools.partial(eval, "open('harmed', 'w')")]},
    ],
)
def test_a_malicious_file_runs_nothing(value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ReadingError, match="nothing of it was loaded"):
        from_bytes(dumps(content(estimator=value)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "type_", [("os", "system"), ("posix", "system"), ("subprocess", "Popen"), ("builtins", "eval")]
)
@pytest.mark.parametrize("loader", ["ObjectNode", "TypeNode", "FunctionNode", "MethodNode", "OperatorFuncNode", "Node"])
def test_a_changed_schema_names_no_other_type(type_, loader):
    def change(schema):
        schema["content"]["estimator"] = {
            "__module__": type_[0],
            "__class__": type_[1],
            "__loader__": loader,
            "content": {"module_path": type_[0], "function": type_[1]},
        }

    with pytest.raises(ReadingError, match=f"{type_[0]}.{type_[1]}"):
        from_bytes(changed(saved("svm")[1], change))


def test_a_trusted_name_with_a_loader_that_calls_is_refused():
    def change(schema):
        schema["content"]["estimator"] = {"__module__": "builtins", "__class__": "str", "__loader__": "FunctionNode"}

    with pytest.raises(ReadingError, match="loader FunctionNode"):
        from_bytes(changed(saved("svm")[1], change))


def test_deep_nesting_is_refused():
    deep = "[" * 200_000 + "]" * 200_000
    with pytest.raises(ReadingError, match="RecursionError"):
        from_bytes(packed({"schema.json": deep}))
    some = "[" * (MOST_DEPTH + 2) + "]" * (MOST_DEPTH + 2)
    with pytest.raises(ReadingError, match=f"more than {MOST_DEPTH} deep"):
        from_bytes(packed({"schema.json": some}))


def test_what_unpacks_to_too_much_is_refused(monkeypatch):
    monkeypatch.setattr("skysom.engine.reading.classifier_bytes.MOST_BYTES", 1000)
    with pytest.raises(ReadingError, match="more than 1,000"):
        from_bytes(saved("svm")[1])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"text",
        b"\x80\x04cos\nsystem\n.",
        packed({}),
        packed({"schema.json": b"{"}),
        packed({"schema.json": b"{}"}),
    ],
)
def test_what_is_no_classifier_is_refused(data):
    with pytest.raises(ReadingError, match="classifier"):
        from_bytes(data)


@pytest.mark.parametrize("method", METHODS)
def test_a_torn_or_changed_file_is_an_error_of_ours(method):
    data = saved(method)[1]
    for cut in (len(data) // 2, len(data) - 30):
        with pytest.raises(ReadingError):
            from_bytes(data[:cut])


def test_changed_bytes_in_a_compressed_file_are_an_error_of_ours():
    buffer, rng = io.BytesIO(), np.random.default_rng(0)
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", json.dumps({"content": list(range(300))}))
    data = np.frombuffer(buffer.getvalue(), np.uint8)
    for _ in range(200):
        torn = data.copy()
        torn[rng.integers(len(data))] ^= rng.integers(1, 256, dtype=np.uint8)
        with pytest.raises(ReadingError):
            from_bytes(torn.tobytes())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c | {"sklearn": "0.1.2"}, "scikit-learn 0.1.2"),
        (lambda c: c | {"format_version": 99}, "format 99"),
        (lambda c: c | {"classes": ["a"]}, "contradicts"),
        (lambda c: c | {"method": "guess"}, "contradicts"),
        (lambda c: c | {"scale": -c["scale"]}, "contradicts"),
        (lambda c: c | {"centre": c["centre"][:2]}, "contradicts"),
        (lambda c: c | {"estimator": None}, "damaged"),
        (lambda c: {k: v for k, v in c.items() if k != "centre"}, "damaged"),
    ],
)
def test_content_that_contradicts_itself_is_refused(change, words):
    classifier = saved("svm")[0]
    whole = content(
        method="svm", classes=["a", "b", "c"], centre=classifier.centre, scale=classifier.scale,
        estimator=classifier.estimator,
    )  # fmt: skip
    assert from_bytes(dumps(whole)).classes == ("a", "b", "c")
    with pytest.raises(ReadingError, match=words):
        from_bytes(dumps(change(whole)))


def test_a_tree_that_leads_outside_itself_is_refused():
    classifier = from_bytes(saved("forest")[1])
    tree = classifier.estimator.calibrated_classifiers_[0].estimator.estimators_[0].tree_
    tree.children_left[0] = 10**6
    with pytest.raises(ReadingError, match="contradicts"):
        from_bytes(to_bytes(classifier))
