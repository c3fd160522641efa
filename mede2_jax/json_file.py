"""The one way in which JSON files are read: a fault of any kind is one line that names the file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeVar

import pydantic

from mede2_jax.config import UserError, describe_validation_error
from mede2_jax.foreign import JSONFault, parse_json

ModelT = TypeVar("ModelT", bound=pydantic.BaseModel)

Count = Annotated[int, pydantic.Field(gt=0, le=2**31)]
"""A size or a number of things."""
Finite = Annotated[float, pydantic.Field(allow_inf_nan=False)]


class Foreign(pydantic.BaseModel):
    """A file that others write, or a part of one, as far as it is read here.

    What else it holds is theirs. Null is the same as left out. Types are as written: neither `"64"` nor `true` is a number.
    """

    model_config = pydantic.ConfigDict(extra="ignore", strict=True, frozen=True)

    WITH_NULL: ClassVar[tuple[str, ...]] = ()
    """Fields of which null says something else than that they are left out."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {name: item for name, item in value.items() if item is not None or name in cls.WITH_NULL}


def load_json(path: Path, cure: str = "") -> dict[str, Any]:
    """The JSON object in a file.

    Args:
        path: The file.
        cure: What the user should do about a fault, for the end of the line: `fetch it again`.

    Raises:
        UserError: It cannot be read, or is not one JSON object (see `parse_json`).
    """
    value = load_any_json(path, cure)
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(value).__name__}{_end(cure)}")
    return value


def load_any_json(path: Path, cure: str = "") -> Any:
    """The JSON value in a file, whatever it is.

    Raises:
        UserError: It cannot be read, or is no JSON.
    """
    try:
        return parse_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"cannot read {str(path)!r}: {error.strerror}{_end(cure)}") from None
    except JSONFault as error:
        raise UserError(f"{path}: {error}{_end(cure)}") from None


def load_checked(path: Path, model: type[ModelT], cure: str = "") -> ModelT:
    """The JSON object in a file as `model`.

    Raises:
        UserError: As `load_json`; or a field has another type than the model's, which the line names with the value seen.
    """
    return check(load_json(path, cure), model, str(path), cure)


def check(value: Any, model: type[ModelT], where: str, cure: str = "") -> ModelT:
    """A JSON value as `model`; `where` is what the line begins with.

    Raises:
        UserError: It does not fit.
    """
    try:
        return model.model_validate(value)
    except pydantic.ValidationError as error:
        raise UserError(f"{where}: {describe_validation_error(error)}{_end(cure)}") from None


def _end(cure: str) -> str:
    return f"; {cure}" if cure else ""
