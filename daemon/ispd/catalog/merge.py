"""The production merge: firmware and bootloader in one image, as the QMK ISP flashing guide joins them by hand.

Where the guide's readers let the later line win, two files that want different bytes at one address are refused here.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from ispd.catalog.avr_image import find_bootloader, guess_bootloader
from ispd.catalog.imagefile import ImageFile
from ispd.catalog.sections import clip, is_combined, sides
from ispd.errors import ErrorCode, Facts, RefusedError
from ispd.model.bootloader import Bootloader
from ispd.model.image import Image, Segment
from ispd.model.part import Part
from ispd.model.recipe import SourceFile
from ispd.model.span import Span

__all__ = ["MergeResult", "merge_files", "strip_to"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MergeResult:
    """Files in one image. ``warnings`` tells what of their bytes was dropped or found twice, ``notes`` what never counts."""

    image: Image
    sources: tuple[SourceFile, ...]
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def merge_files(
    files: Sequence[ImageFile],
    part: Part | None,
    *,
    strip_sketch: bool = False,
    parts: Iterable[Part] = (),
    loader: Bootloader | None = None,
) -> MergeResult:
    """Join files; their order does not matter. Start records are left out, with a note: they mean nothing to a chip.

    :param part: tells where a boot section can begin.
    :param strip_sketch: of a combined file (bootloader and sketch) that is in another's way, take the bootloader only.
    :param parts: where ``part`` is not known, what it may be; a combined file is then judged by its length.
    :param loader: the known bootloader below a firmware that one of the files holds; without it, one at the end of flash is looked for.
    Raises ``RefusedError`` (image-overlap) naming both files and the range, unless the bytes are the same.
    """
    finder = _Finder(part, parts, loader)
    taken: list[ImageFile] = []
    told: list[str] = []
    for file in files:
        fresh = file
        for index, stands in enumerate(taken):
            earlier = stands
            if strip_sketch and _clash(earlier, fresh) is not None:
                earlier, fresh = _strip_one(earlier, fresh, finder)
                taken[index] = earlier
            _refuse_clash(earlier, fresh, finder)
            both = list(earlier.image.overlaps(fresh.image))
            if both:
                told.append(f"{earlier.name} and {fresh.name} both hold {_list(both)}, with the same bytes")
        taken.append(fresh)
    return MergeResult(
        image=_join(taken),
        sources=tuple(file.source for file in files),
        warnings=(*dict.fromkeys(warning for file in taken for warning in file.warnings), *told),
        notes=tuple(
            f"{file.name}: its start record (0x{file.start_record:04X}) is left out; the chip has no use for it"
            for file in files
            if file.start_record is not None
        ),
    )


@dataclass(frozen=True, slots=True)
class _Finder:
    """Finds bootloaders in files, with what is known about the part."""

    part: Part | None
    parts: Iterable[Part]
    loader: Bootloader | None

    def combined_at(self, file: ImageFile) -> Span | None:
        """Return where the bootloader of a combined file lies; None for any other file."""
        image = file.image
        if self.loader is not None:
            return sides(image, self.loader)[0].span if is_combined(image, self.loader) else None
        if self.part is not None:
            start = find_bootloader(self.part, image, file.start_record)
        else:
            guessed = guess_bootloader(self.parts, image, file.start_record)
            start = file.start_record if guessed is None else guessed
        return (
            Span(start, image.span.stop) if start is not None and image.span.start < start < image.span.stop else None
        )


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
    match [finder.combined_at(file) for file in (first, second)]:
        case [Span() as kept, None]:
            return strip_to(first, kept), second
        case [None, Span() as kept]:
            return first, strip_to(second, kept)
        case [None, None]:
            return first, second
        case _:
            raise RefusedError(
                ErrorCode.IMAGE_OVERLAP,
                f"{first.name} and {second.name} both hold a bootloader and something beside it",
                hint="name one file with a firmware and one with a bootloader",
                facts=Facts(address=second.image.span.start),
            )


def strip_to(file: ImageFile, kept: Span) -> ImageFile:
    """Return only the bootloader of a combined file: what lies beside it is dropped, filler bytes too."""
    if kept.stop >= file.image.span.stop:
        what = f"from 0x{kept.start:04X} on was taken, not what the file holds below it"
    else:
        what = f"up to 0x{kept.stop - 1:08X} was taken, not what the file holds above it"
    note = f"{file.name}: only the bootloader {what}"
    return replace(file, image=clip(file.image, kept.start, kept.stop), warnings=(*file.warnings, note))


def _cure(first: ImageFile, second: ImageFile, finder: _Finder) -> str:
    """Say what to do about an overlap: mostly, one file is a bootloader that was built together with a sketch."""
    for file in (second, first):
        kept = finder.combined_at(file)
        if kept is not None:
            side = "below" if kept.stop >= file.image.span.stop else "above"
            return (
                f"{file.name} is a combined file, a bootloader at 0x{kept.start:04X} and a sketch or firmware {side} it:"
                " --strip-sketch takes the bootloader only"
            )
    homeless = next((file.name for file in (second, first) if not file.has_address), None)
    if homeless is not None:
        return (
            f"nothing says where {homeless} belongs, and so it stands at 0: name its address, as {homeless}@0x08002000"
        )
    return "only one of them can be in flash: name the firmware and the bootloader that belong together"


def _outline(image: Image) -> str:
    return _list([segment.span for segment in image.segments])


def _list(spans: Sequence[Span]) -> str:
    words = [str(span) for span in spans]
    return ", ".join(words if len(words) <= 3 else [*words[:2], f"{len(words) - 3} more", words[-1]])
