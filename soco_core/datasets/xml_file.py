"""XML as annotations need it: elements and text. What makes XML dangerous is refused."""

from __future__ import annotations

from xml.etree import ElementTree
from xml.parsers import expat

from soco_core.errors import InputError

LARGEST = 8_000_000
"""Bytes of a file; the largest of VOC has 30,000."""
DEEPEST = 30
"""Elements within one another; VOC has 5."""


def parse_xml(data: bytes, file: str) -> ElementTree.Element:
    """Return the root element of an XML file.

    A document type is refused: entities, which can grow without end or read other files, cannot be declared without.

    Raises:
        InputError: it is not XML, or it has a document type, or it is too large or too deep for annotations.
    """
    if len(data) > LARGEST:
        raise InputError(f"{file}: {len(data)} bytes are too many for one image's annotations; restore the file")
    builder = ElementTree.TreeBuilder()
    depth = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > DEEPEST:
            raise InputError(f"{file}: element {tag} lies deeper than {DEEPEST} levels; restore the file")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def refuse(name: str, *_: object) -> None:
        raise InputError(
            f"{file}: has a document type (<!DOCTYPE {name}>), which may declare entities; remove it, VOC's have none"
        )

    try:
        parser = expat.ParserCreate()
        parser.StartElementHandler = start
        parser.EndElementHandler = end
        parser.CharacterDataHandler = builder.data
        parser.StartDoctypeDeclHandler = refuse
        parser.Parse(data, True)
        return builder.close()
    except (expat.ExpatError, ValueError, LookupError) as error:  # the latter two: a strange encoding
        raise InputError(f"{file}: not readable as XML ({error}); restore the file") from error
