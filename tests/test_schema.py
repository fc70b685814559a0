"""Schemas: their axes, what tells two of them apart, the sizes they give, and the way to a file and back."""

import json
from dataclasses import FrozenInstanceError, dataclass, fields, replace
from typing import ClassVar

import pytest

from pyro_omics.schema import CellSchema, DELSchema, Schema
from pyro_omics.sizes import DELSizes, Sizes

CELLS = CellSchema(
    training_digest="0123456789abcdef",
    genes=("CD3D", "LYZ", "MS4A1"),
    batches=("d2", "d10"),
    labels=("B", "T"),
    categorical=("sex", "kit"),
    categories=(("F", "M"), ("v1", "v2", "v3")),
    continuous=("age",),
    proteins=("CD3", "CD19"),
    panels=(("CD3", "CD19"), ("CD3",)),
)
LIBRARY = DELSchema(
    training_digest="fedcba9876543210",
    targets=("t1", "t2"),
    controls=("c1",),
    pre_selections=("naive",),
    cycles=("A", "B"),
    synthons=(("a1", "a2", "a10"), ("x", "y")),
    known_yields=True,
    mean_counts=(1.5, 2.0, 0.25, 3.0),
)
# As they were saved before they had classes.
OLD_CELLS = {
    "genes": ["CD3D", "LYZ", "MS4A1"],
    "levels": {
        "batch": ["d2", "d10"],
        "label": ["B", "T"],
        "categorical sex": ["F", "M"],
        "categorical kit": ["v1", "v2", "v3"],
    },
    "continuous": ["age"],
    "proteins": ["CD3", "CD19"],
    "training cells": "0123456789abcdef",
    "panels": {"d2": ["CD3", "CD19"], "d10": ["CD3"]},
}
OLD_LIBRARY = {
    "targets": ["t1", "t2"],
    "controls": ["c1"],
    "pre-selections": ["naive"],
    "cycles": ["A", "B"],
    "levels": {"A": ["a1", "a2", "a10"], "B": ["x", "y"]},
    "scores": ["score"],
    "yields": True,
    "training compounds": "fedcba9876543210",
    "counts of a compound": [1.5, 2.0, 0.25, 3.0],
}


@pytest.mark.parametrize("schema", [CELLS, LIBRARY, CellSchema(), DELSchema()])
def test_a_schema_comes_back_from_json(schema):
    found = Schema.from_dict(json.loads(json.dumps(schema.to_dict())))
    assert found == schema and type(found) is type(schema)
    assert hash(found) == hash(schema)


@pytest.mark.parametrize(("old", "schema"), [(OLD_CELLS, CELLS), (OLD_LIBRARY, LIBRARY)])
def test_a_schema_that_was_saved_as_a_dictionary_is_read(old, schema):
    assert Schema.from_dict(json.loads(json.dumps(old))) == schema


def test_old_schemas_without_proteins_have_no_panels():
    old = {**OLD_CELLS, "proteins": [], "panels": {}}
    assert Schema.from_dict(old) == replace(CELLS, proteins=(), panels=())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"kind": "peaks"}, r"kind must be one of \['cells', 'compounds'.*got 'peaks'"),
        ({**CELLS.to_dict(), "cycles": []}, r"the fields of a CellSchema must be among .*got \['cycles'\]"),
    ],
)
def test_what_is_no_schema_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        Schema.from_dict(data)


def test_a_schema_of_ones_own_comes_back():
    @dataclass(frozen=True)
    class PeakSchema(CellSchema):
        kind: ClassVar[str] = "test peaks"
        chromosomes: tuple[str, ...] = ()

    schema = PeakSchema(genes=("peak1",), chromosomes=("chr1", "chr2"))
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema


@pytest.mark.parametrize("schema", [CELLS, LIBRARY])
def test_each_field_makes_a_difference(schema):
    others = {str: "other", bool: False, tuple: ()}
    for field in fields(schema):
        other = replace(schema, **{field.name: others[type(getattr(schema, field.name))]})
        of_rows = field.name in ("training_digest", "panels", "mean_counts")
        assert schema.differences(other) == ([] if of_rows else [field.name])
        assert schema.differences(other, training_rows=True) == [field.name]
        assert other.differences(schema, training_rows=True) == [field.name]
        assert schema != other
    assert schema.differences(schema, training_rows=True) == []


def test_order_makes_a_difference():
    other = replace(CELLS, categorical=("kit", "sex"), categories=CELLS.categories[::-1], genes=CELLS.genes[::-1])
    assert CELLS.differences(other) == ["genes", "categorical", "categories"]


def test_cells_and_compounds_differ_in_everything():
    assert CELLS.differences(LIBRARY) == [
        "genes", "batches", "labels", "categorical", "categories", "continuous", "proteins",
    ]  # fmt: skip


def test_axes_have_names():
    assert CELLS.columns == CELLS.names("genes") == ("CD3D", "LYZ", "MS4A1")
    assert [CELLS.names(axis) for axis in ("proteins", "batch", "label")] == [
        ("CD3", "CD19"),
        ("d2", "d10"),
        ("B", "T"),
    ]
    assert LIBRARY.columns == LIBRARY.names("targets") == ("t1", "t2")
    assert [LIBRARY.names(axis) for axis in ("controls", "pre-selections", "scores")] == [
        ("c1",),
        ("naive",),
        ("score",),
    ]
    assert LIBRARY.names("A") == ("a1", "a2", "a10")
    assert LIBRARY.selections == ("t1", "t2", "c1", "naive")
    with pytest.raises(
        ValueError, match=r"axis must be one of \['genes', 'proteins', 'batch', 'label'\]; got 'synthons'"
    ):
        CELLS.names("synthons")


def test_sizes_follow_from_names():
    assert CELLS.sizes(40, log_library=((7.0, 0.5), (7.5, 0.2))) == Sizes(
        n_obs=40, n_genes=3, n_batches=2, n_labels=2, n_categories=(2, 3), n_continuous=1, n_proteins=2,
        log_library=((7.0, 0.5), (7.5, 0.2)),
    )  # fmt: skip
    assert LIBRARY.sizes(6, (1.0, 2.0, 3.0, 4.0), n_features=8) == DELSizes(
        n_obs=6, cycles=("A", "B"), n_synthons=(3, 2), depth=(1.0, 2.0), control_depth=(3.0,), pre_depth=(4.0,),
        known_yields=True, n_features=8,
    )  # fmt: skip


def test_lists_become_tuples_and_a_schema_does_not_change():
    schema = CellSchema(genes=["a", "b"], categories=[["x"]])
    assert schema.genes == ("a", "b") and schema.categories == (("x",),)
    with pytest.raises(FrozenInstanceError):
        schema.genes = ()


def test_fields_are_read_as_from_the_dictionaries_of_earlier_versions():
    assert CELLS["genes"] == ["CD3D", "LYZ", "MS4A1"] and CELLS["panels"] == [["CD3", "CD19"], ["CD3"]]
    assert CELLS["levels"]["batch"] == ["d2", "d10"] and LIBRARY["levels"]["B"] == ["x", "y"]
    with pytest.raises(KeyError, match="'gene' is not among the fields"):
        CELLS["gene"]
