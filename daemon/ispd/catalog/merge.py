"""The production merge: firmware and bootloader in one image, as the QMK ISP flashing guide joins them by hand.

Where the guide's readers let the later line win, two files that want different bytes at one address are refused here.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ispd.catalog.avr_image import find_bootloader, guess_bootloader
from ispd.catalog.imagefile import ImageFile
from ispd.errors import ErrorCode, Facts, RefusedError
from ispd.model.image import Image, Segment
from ispd.model.part import Part
from ispd.model.recipe import SourceFile
from ispd.model.span import Span

__all__ = ["MergeResult", "clip", "merge_files", "strip_below"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeResult:
    """Files in one image. ``warnings`` tells what of their bytes was dropped or found twice, ``notes`` what never counts."""

    image: Image
    sources: tuple[SourceFile, ...]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def merge_files(
    files: Sequence[ImageFile], part: Part | None, *, strip_sketch: bool = False, parts: Iterable[Part] = ()
) -> MergeResult:
    """Join files; their order does not matter. Start records are left out, with a note: they mean nothing to an AVR.

    :param part: tells where a boot section can begin.
    :param strip_sketch: of a combined file (bootloader and sketch) that is in another's way, take the bootloader only.
    :param parts: where ``part`` is not known, what it may be; a combined file is then judged by its length.
    Raises ``RefusedError`` (image-overlap) naming both files and the range, unless the bytes are the same.
    """
    taken: list[ImageFile] = []
    told: list[str] = []
    for file in files:
        fresh = file
        for index, stands in enumerate(taken):
            earlier = stands
            if strip_sketch and _clash(earlier, fresh) is not None:
                earlier, fresh = _strip_one(earlier, fresh, _Finder(part, parts))
                taken[index] = earlier
            _refuse_clash(earlier, fresh, _Finder(part, parts))
            both = list(earlier.image.overlaps(fresh.image))
            if both:
                told.append(f"{earlier.name} and {fresh.name} both hold {_list(both)}, with the same bytes")
        taken.append(fresh)
    return MergeResult(
        image=_join(taken),
        sources=tuple(file.source for file in files),
        warnings=(*dict.fromkeys(warning for file in taken for warning in file.warnings), *told),
        notes=tuple(
            f"{file.name}: its start record (0x{file.start_record:04X}) is left out; an AVR has no use for it"
            for file in files
            if file.start_record is not None
        ),
    )


@dataclass(frozen=True, slots=True)
class _Finder:
    """Finds bootloaders in files, with what is known about the part."""

    part: Part | None
    parts: Iterable[Part]

    def combined_at(self, file: ImageFile) -> int | None:
        """Return where the bootloader of a combined file begins; None for any other file."""
        if self.part is not None:
            start = find_bootloader(self.part, file.image, file.start_record)
        else:
            guessed = guess_bootloader(self.parts, file.image, file.start_record)
            start = file.start_record if guessed is None else guessed
        return start if start is not None and file.image.span.start < start < file.image.span.stop else None


def _clash(first: ImageFile, second: ImageFile) -> Span | None:
    ranges = first.image.overlaps(second.image)
    return next((span for span in ranges if first.image.bytes_in(span) != second.image.bytes_in(span)), None)


def _refuse_clash(first: ImageFile, second: ImageFile, finder: _Finder) -> None:
    span = _clash(first, second)
    if span is None:
        return
    sides = f"{first.name} ({_outline(first.image)}) and {second.name} ({_outline(second.image)})"
    raise RefusedError(
        ErrorCode.IMAGE_OVERLAP,
        f"{sides} want different bytes in {span}",
        hint=_cure(first, second, finder),
        facts=Facts(address=span.start),
    )


def _join(files: Sequence[ImageFile]) -> Image:
    """Return all bytes of files that agree where they overlap."""
    image = Image(())
    for file in files:
        image = image.merged(Image(tuple(_beyond(file.image, image))))
    return image


def _beyond(image: Image, known: Image) -> Iterator[Segment]:
    """Yield what ``image`` defines and ``known`` does not."""
    ranges = iter(known.segments)
    taken = next(ranges, None)
    for segment in image.segments:
        start = segment.start
        while taken is not None and taken.start < segment.span.stop:
            if taken.start > start:
                yield Segment(start, segment.data[start - segment.start : taken.start - segment.start])
            start = max(start, taken.span.stop)
            if taken.span.stop > segment.span.stop:
                break
            taken = next(ranges, None)
        if start < segment.span.stop:
            yield Segment(start, segment.data[start - segment.start :])


def _strip_one(first: ImageFile, second: ImageFile, finder: _Finder) -> tuple[ImageFile, ImageFile]:
    """Reduce the one combined file of two to its bootloader. Where both are, nobody can tell whose firmware is meant."""
    starts = [finder.combined_at(file) for file in (first, second)]
    match starts:
        case [int(start), None]:
            return strip_below(first, start), second
        case [None, int(start)]:
            return first, strip_below(second, start)
        case [None, None]:
            return first, second
        case _:
            raise RefusedError(
                ErrorCode.IMAGE_OVERLAP,
                f"{first.name} and {second.name} both hold a bootloader and something below it",
                hint="name one file with a firmware and one with a bootloader",
                facts=Facts(address=second.image.span.start),
            )


def strip_below(file: ImageFile, start: int) -> ImageFile:
    """Return only the bootloader of a combined file: what lies below it is dropped, filler bytes too."""
    note = f"{file.name}: only the bootloader from 0x{start:04X} on was taken, not what the file holds below it"
    return replace(file, image=clip(file.image, start, file.image.span.stop), warnings=(*file.warnings, note))


def clip(image: Image, start: int, stop: int) -> Image:
    """Return what an image defines from ``start`` up to, not including, ``stop``."""
    keep = Span(min(start, stop), stop)
    inside = (segment.span.overlap(keep) for segment in image.segments)
    return Image(tuple(Segment(span.start, image.bytes_in(span)) for span in inside if len(span)))


def _cure(first: ImageFile, second: ImageFile, finder: _Finder) -> str:
    """Say what to do about an overlap: mostly, one file is a bootloader that was built together with a sketch."""
    for file in (second, first):
        start = finder.combined_at(file)
        if start is not None:
            return (
                f"{file.name} is a combined file, a bootloader at 0x{start:04X} and a sketch or firmware below it:"
                " --strip-sketch takes the bootloader only"
            )
    return "only one of them can be in flash: name the firmware and the bootloader that belong together"


def _outline(image: Image) -> str:
    return _list([segment.span for segment in image.segments])


def _list(spans: Sequence[Span]) -> str:
    words = [str(span) for span in spans]
    return ", ".join(words if len(words) <= 3 else [*words[:2], f"{len(words) - 3} more", words[-1]])
