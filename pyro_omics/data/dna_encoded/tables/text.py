"""Text tables as spreadsheets write them: encoding, separator, what stands above the header, broken lines."""

from __future__ import annotations

import codecs
import csv
import io
import itertools
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, NoReturn

import numpy as np

from pyro_omics.data.dna_encoded.tables.compressed import check_text, open_bytes
from pyro_omics.data.names import plain

SAMPLE = 2**16  # number of characters from which the form of a table is recognised
MIN_LINES = 20  # number of lines in it, if the file has so many
CHUNK = 2**24  # number of bytes that are scanned at once
SEPARATORS = ",;\t|"
SEPARATOR_LINE = re.compile(r'\s*"?sep=(.)"?[\s,;]*', re.IGNORECASE)  # Excel's
UNNAMED = "Unnamed: {}"  # pandas' name for a column without one
IN_QUOTES = "put fields that contain the separator in quotes"


@dataclass(frozen=True)
class Form:
    """The form of a text table.

    Attributes
    ----------
    encoding
        its encoding.
    separator
        what separates fields.
    header
        number of lines up to the header's end.
    names
        names of the columns up to the last that the header names; as pandas calls them where it has none.
    width
        largest number of fields in a row, of which those beyond the named columns are blank; 0 without rows.
    """

    encoding: str
    separator: str
    header: int
    names: tuple[str, ...]
    width: int = 0


def form_of(path: Path) -> Form:
    """Recognise the form of a text table and check its lines.

    Above the header may stand Excel's ``sep=;``, comments that begin with #, blank lines and titles. Blank fields may
    follow the last named column, in the header or in rows.

    Raises
    ------
    ValueError, OSError
        If the file is no text, is empty, or has a line with a field too many or a quote that is not closed.
    """
    check_text(path)
    encoding = _encoding(path)
    sample, lines = _sample(path, encoding)
    if "\0" in sample or not any(line.strip() for line in lines):
        raise ValueError("it is empty" if not sample.strip() else "it is no text")
    separator, above = _separator(lines)
    usual = _usual_width(lines[above:], separator)
    header, fields = _header(lines, separator, above, usual)
    if len(fields) == usual == 1:
        raise ValueError(
            f"it has one column, {fields[0][:50]!r}: separate fields by a comma, a semicolon, a tab or |, or write "
            "what separates them above the header, such as sep=:"
        )
    names = [plain(field) for field in fields]
    names[0] = names[0].removeprefix("#").strip()
    while names and not names[-1]:
        names.pop()
    if usual == len(fields) + 1 == len(names) + 1:
        raise ValueError(
            "its rows have more fields than its header has names: add the name of the column of row names, or leave it "
            "out (in R: write.table(..., row.names = FALSE))"
        )
    form = Form(encoding, separator, header, tuple(name or UNNAMED.format(i) for i, name in enumerate(names)))
    return replace(form, width=max(_widths(path, form), default=0))


def open_text(path: Path, encoding: str) -> IO[str]:
    """A file, also one that is compressed, as text in which lines end in a line feed."""
    return io.TextIOWrapper(open_bytes(path), encoding=encoding, newline=None)


def line_of(path: Path, form: Form, record: int) -> tuple[int, int]:
    """The line of the file, from 1, in which a record begins, and its number of fields; records are counted from 0."""
    line, _, fields = next(itertools.islice(_records(path, form), record, None))
    return line, len(fields)


def _encoding(path: Path) -> str:
    """UTF-16 or UTF-32 by how they start, UTF-8, else the Windows code page that spreadsheets write."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with open_bytes(path) as file:
        chunk = file.read(CHUNK)
        if wide := _wide(chunk[:4]):
            return wide
        try:
            while chunk:
                decoder.decode(chunk)
                chunk = file.read(CHUNK)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            _check_not_mixed(path)
            return "cp1252"
    return "utf-8-sig"


def _check_not_mixed(path: Path) -> None:
    """Raise a ValueError if a file that is not UTF-8 has letters of UTF-8, whose bytes would be read as two letters."""
    with open_bytes(path) as file:
        while chunk := file.read(CHUNK):
            if found := re.search(rb"[^\x80-\xff](?:[\xc2-\xdf][\x80-\xbf])+(?![\x80-\xff])", chunk):
                raise ValueError(
                    f"it is of two encodings, UTF-8 at {found[0][1:].decode()!r} and another: save it anew as UTF-8"
                )


def _wide(start: bytes) -> str | None:
    """The encoding of several bytes a letter that a file has by its mark, or by its first letters without one."""
    if start in (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE):
        return "utf-32"
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    zeros = bytes(min(byte, 1) for byte in start)
    return {b"\1\0\1\0": "utf-16-le", b"\0\1\0\1": "utf-16-be"}.get(zeros)


def _sample(path: Path, encoding: str) -> tuple[str, list[str]]:
    """The first part of a file, with several lines, and its whole lines."""
    with open_text(path, encoding) as file:
        sample = more = file.read(SAMPLE)
        while more and sample.count("\n") < MIN_LINES:
            sample += (more := file.read(SAMPLE))
        ends = not file.read(1)
    lines = sample.split("\n")
    return sample, lines if ends else lines[:-1]


def _separator(lines: list[str]) -> tuple[str, int]:
    """The separator, and the number of lines above the header that say it."""
    for i, line in enumerate(lines[:10]):
        if match := SEPARATOR_LINE.fullmatch(line):
            return match[1], i + 1
        if line.strip():
            break

    def rank(separator: str) -> tuple[float, int]:
        """Number of lines that would stand above the header, and less the number of columns."""
        usual = _usual_width(lines, separator)
        try:
            header, _ = _header(lines, separator, 0, usual)
        except ValueError:
            return math.inf, -usual
        return (sum(bool(line.strip()) for line in lines[: header - 1]), -usual) if usual > 1 else (math.inf, 0)

    return min(SEPARATORS, key=rank), 0


def _fields(lines: list[str], separator: str) -> list[list[str]]:
    """Fields of lines that are not blank or comments, without blank ones at the end."""
    found = []
    for line in lines:
        if line.strip() and not line.startswith("#"):
            fields = next(csv.reader([line], delimiter=separator))
            while fields and not fields[-1].strip():
                fields.pop()
            found.append(fields)
    return found


def _usual_width(lines: list[str], separator: str) -> int:
    """Number of fields in most lines; of two equally common numbers the larger."""
    widths = Counter(len(fields) for fields in _fields(lines, separator)[-100:] if fields)
    return max(widths, key=lambda width: (widths[width], width), default=1)


def _header(lines: list[str], separator: str, above: int, usual: int) -> tuple[int, list[str]]:
    """Number of lines up to the header's end, and the header's fields.

    The header is the first line with about as many fields as most lines: titles have fewer. One that begins with # is
    the header if data follow.
    """
    hashed: Any = None
    short: Any = None
    for i, line in enumerate(lines[above:], above):
        fields = next(csv.reader([line], delimiter=separator), [])
        filled = sum(bool(field.strip()) for field in fields)
        if line.startswith("#"):
            hashed = (i + 1, fields) if filled >= usual else hashed
        elif filled >= usual or (
            filled == usual - 1 and filled and _may_lack_a_name(fields, lines[i + 1 :], separator)
        ):
            if not _has_numbers(fields):
                return i + 1, fields
            if short is not None and hashed is None:
                _raise(short[0], f"its {short[1]} fields look like a header, and most lines have {usual}: {IN_QUOTES}")
            return hashed or (i + 1, fields)
        elif filled > 1 and not _has_numbers(fields):
            short = i + 1, filled
    if hashed is not None:
        return hashed
    raise ValueError(f"no line has the names of {usual} columns: what stands above the header must have fewer fields")


def _may_lack_a_name(fields: list[str], following: list[str], separator: str) -> bool:
    """Whether a line is a header that does not name the first column, as pandas and R write it: data follow."""
    after = _fields(following, separator)
    return not fields[0].strip() or not after or _has_numbers(after[0])


def _has_numbers(fields: list[str]) -> bool:
    return any(re.fullmatch(r"\s*[\d.,]+\s*", field) for field in fields)


def _widths(path: Path, form: Form) -> Iterator[int]:
    """Numbers of fields in lines; a ValueError for a line with a field too many or a quote that is not closed."""
    with open_bytes(path) as file:
        sample = file.read(CHUNK)
    quoted = form.encoding.startswith(("utf-16", "utf-32")) or b'"' in sample or b"\r" in sample.replace(b"\r\n", b"")
    yield from _widths_of_records(path, form) if quoted else _widths_of_lines(path, form)


def _widths_of_lines(path: Path, form: Form) -> Iterator[int]:
    """The same without quotes, by counting separators: seconds for gigabytes."""
    separator, line, rest = ord(form.separator), 0, b""
    with open_bytes(path) as file:
        while (chunk := file.read(CHUNK)) or rest:
            block = rest + chunk
            end = block.rfind(b"\n") + 1 if chunk else len(block)
            if b'"' in block:  # only now: start again, with quotes
                yield from _widths_of_records(path, form)
                return
            if not end:
                rest = block
                continue
            block, rest = block[:end], block[end:]
            codes = np.frombuffer(block, dtype=np.uint8)
            ends = np.append(np.flatnonzero(codes == 10), [] if block.endswith(b"\n") else [len(codes)]).astype(int)
            fields = np.diff(np.searchsorted(np.flatnonzero(codes == separator), ends), prepend=0) + 1
            above = max(form.header - line, 0)
            for i in np.flatnonzero(fields > len(form.names)):
                if i >= above:
                    text = block[0 if i == 0 else ends[i - 1] + 1 : ends[i]].decode(form.encoding, "replace")
                    _check_width(text.rstrip("\r").split(form.separator), form, line + int(i) + 1)
            yield int(fields[above:].max(initial=0))
            line += len(ends)


def _widths_of_records(path: Path, form: Form) -> Iterator[int]:
    for line, _, fields in _records(path, form):
        for field in fields:
            if "\n" in field and form.separator in field:
                _raise(line, f'a quote (") is opened and not closed, at {field[:20]!r}: take it out, or close it')
        _check_width(fields, form, line)
        yield len(fields)


def _records(path: Path, form: Form) -> Iterator[tuple[int, int, list[str]]]:
    """First line (from 1), number (from 0) and fields of each row."""
    with open_text(path, form.encoding) as file:
        for _ in itertools.islice(file, form.header):
            pass
        reader = csv.reader(file, delimiter=form.separator)
        first, record = form.header + 1, 0
        while True:
            try:
                fields = next(reader, None)
            except csv.Error as error:
                _raise(first, f"it cannot be read ({error}): look for a quote that is not closed")
            if fields is None:
                return
            if fields and (len(fields) > 1 or fields[0].strip(" \t")):  # pandas takes other blanks as a row
                yield first, record, fields
                record += 1
            first = form.header + reader.line_num + 1


def _check_width(fields: list[str], form: Form, line: int) -> None:
    if any(field.strip() for field in fields[len(form.names) :]):
        _raise(
            line,
            f"it has {len(fields)} fields for {len(form.names)} named columns: take out a separator "
            f"({form.separator!r}) too many, put the field that contains it in quotes, or name the column",
        )


def _raise(line: int, problem: str) -> NoReturn:
    raise ValueError(f"line {line}: {problem}")
