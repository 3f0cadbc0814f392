"""What a configuration model allows at a place: its keys, and which of its texts name something else."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from collections.abc import Mapping as MappingType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel

from proxy.config.base import Refers
from proxy.config.problem import Path
from proxy.config.tree import Mapping, Node, Scalar, Sequence


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that a value of this type may be, through `Annotated`, unions and `None`."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from models_in(get_args(annotation)[0])
    elif origin in {Union, types.UnionType}:
        for member in get_args(annotation):
            yield from models_in(member)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation


def fields_of(model: type[BaseModel]) -> dict[str, Any]:
    """The keys of a model as they are written, each with its type."""
    return {
        field.alias or name: Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation
        for name, field in model.model_fields.items()
    }


def _below(annotation: Any, segment: str | int) -> list[Any]:
    """The types of what stands at `segment` in a value of this type."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return _below(get_args(annotation)[0], segment)
    if origin in {Union, types.UnionType}:
        return [found for member in get_args(annotation) for found in _below(member, segment)]
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        fields = fields_of(annotation)
        return [fields[segment]] if segment in fields else []
    item = _item(annotation)
    return [] if item is None else [item]


def _item(annotation: Any) -> Any:
    """The type of the items of a list or of the values of a map, else None."""
    origin = get_origin(annotation)
    arguments = get_args(annotation)
    if not arguments or not isinstance(origin, type):
        return None
    if issubclass(origin, MappingType):
        return arguments[1] if len(arguments) == 2 else None
    if issubclass(origin, typing.Sequence | typing.AbstractSet):
        return arguments[0]
    return None


def allowed_at(model: type[BaseModel], path: Path) -> list[str]:
    """The keys that the map at `path` may have."""
    annotations: list[Any] = [model]
    for segment in path:
        below = [found for annotation in annotations for found in _below(annotation, segment)]
        # Validators put names of union members and functions into the path: they lead nowhere and are passed over.
        annotations = below or annotations
    return [key for annotation in annotations for found in models_in(annotation) for key in fields_of(found)]


def references(annotation: Any, node: Node, path: Path = ()) -> Iterator[tuple[Path, str, Scalar]]:
    """Every text at and below `node` that names an entry of another section: path, section, the text's node."""
    origin = get_origin(annotation)
    if origin is Annotated:
        arguments = get_args(annotation)
        for marker in arguments[1:]:
            if isinstance(marker, Refers) and isinstance(node, Scalar):
                yield path, marker.kind, node
        yield from references(arguments[0], node, path)
    elif origin in {Union, types.UnionType}:
        for member in get_args(annotation):
            yield from references(member, node, path)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        if isinstance(node, Mapping):
            for key, field in fields_of(annotation).items():
                if key in node.items:
                    yield from references(field, node.items[key], (*path, key))
    elif (item := _item(annotation)) is not None:
        if isinstance(node, Sequence):
            for index, below in enumerate(node.items):
                yield from references(item, below, (*path, index))
        elif isinstance(node, Mapping):
            for key, below in node.items.items():
                yield from references(item, below, (*path, key))
