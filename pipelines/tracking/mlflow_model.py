"""An export as an MLflow model: signature, input example, parity report, loader of raw strings."""

from __future__ import annotations

import shutil
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from features.schema import MultiValued, Schema

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.models import ModelSignature

SAVED_MODEL = "saved_model"
PARITY = "parity.json"
_EXAMPLE_ROWS = 3
_LOADER = Path(__file__).parents[1] / "served" / "elastic_ctr_model.py"
_PACKAGES = ("tensorflow", "pandas", "numpy")


def write_model(
    saved_model: Path,
    schema: Schema,
    folder: Path,
    *,
    impressions: Path | None = None,
    parity: Path | None = None,
    run_id: str = "",
) -> Path:
    """Write a folder for `mlflow models serve` and `mlflow.pyfunc.load_model`; return it.

    Args:
        saved_model: the exported folder, copied to `data/saved_model`.
        schema: names the model's fields.
        folder: must not exist.
        impressions: an `impressions` artifact whose first records become the input example.
        parity: the `serving.json` of the model's check, copied.
        run_id: the MLflow run that made the model.
    """
    import mlflow.pyfunc
    from mlflow.models import Model

    # Two flavors: TensorFlow's own loader, and `pyfunc` with the loader module of this project. The
    # latter is copied into the folder, so that a server needs no package of this project.
    model = Model(run_id=run_id)
    model.add_flavor(
        "tensorflow", saved_model_dir=f"data/{SAVED_MODEL}", model_type="tf2-module", code=None
    )
    mlflow.pyfunc.save_model(
        path=str(folder),
        loader_module=_LOADER.stem,
        data_path=str(saved_model),
        code_paths=[str(_LOADER)],
        mlflow_model=model,
        signature=signature_of(schema),
        input_example=None if impressions is None else _example(impressions, schema),
        pip_requirements=[f"{name}=={version(name)}" for name in _PACKAGES],
    )
    if parity is not None:
        shutil.copyfile(parity, folder / PARITY)
    return folder


def signature_of(schema: Schema) -> ModelSignature:
    """Return the model's signature: a required input per field, a float out.

    An input is a string, for a multi-valued field a list of strings.
    """
    from mlflow.models import ModelSignature
    from mlflow.types.schema import Array, ColSpec, DataType
    from mlflow.types.schema import Schema as Columns

    inputs = [
        ColSpec(Array(DataType.string) if isinstance(f, MultiValued) else DataType.string, f.name)
        for f in schema.column_fields()
    ]
    return ModelSignature(Columns(inputs), Columns([ColSpec(DataType.float, "probability")]))


def _example(impressions: Path, schema: Schema) -> pd.DataFrame:
    import pyarrow.parquet as pq

    names = [field.name for field in schema.column_fields()]
    first = sorted((impressions / "impressions").glob("*.parquet"))[0]
    rows = pq.ParquetFile(first).read(columns=names).slice(0, _EXAMPLE_ROWS).to_pandas()
    # MLflow's readers need not see who clicked: a user's id is replaced by its digest.
    for field in schema.column_fields():
        if schema.source_column(field) == schema.user:
            rows[field.name] = [sha256(id_.encode()).hexdigest()[:16] for id_ in rows[field.name]]
    return rows
