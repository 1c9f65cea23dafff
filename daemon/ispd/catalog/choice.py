"""Which part, bootloader, fuse bytes and lock byte a job means, from its options and from what its files say themselves."""

from collections.abc import Iterable, Sequence

from ispd.catalog.bootloaders import Bootloaders
from ispd.catalog.imagefile import ImageFile
from ispd.catalog.options import RecipeOptions
from ispd.catalog.parts import Parts
from ispd.catalog.sections import holds
from ispd.errors import ErrorCode, Facts, RefusedError
from ispd.model.bootloader import Bootloader
from ispd.model.part import AvrPart, Interface, MemoryKind, Part
from ispd.model.recipe import PlanKind

__all__ = ["check_bootloader", "check_linked", "choose_bootloader", "choose_fuses", "choose_lock", "choose_part"]

_ALL_BITS = 0xFF
_MACHINES = {Interface.ISP: "an AVR", Interface.SWD: "an ARM"}


def choose_part(options: RecipeOptions, files: Iterable[ImageFile], parts: Parts) -> Part | None:
    """Return the part that the options name, or that an ELF file was linked for; None where each board's signature decides.

    Raises ``RefusedError``: unknown-part, image-does-not-fit where an ELF file was linked for another part.
    """
    chosen = None if options.part is None else parts.get(options.part)
    for file in files:
        linked = _linked_for(file, parts)
        if chosen is None and linked:
            chosen = linked[0]
        elif chosen is not None:
            check_linked(file, chosen, parts)
    return chosen


def check_linked(file: ImageFile, part: Part, parts: Parts) -> None:
    """Raise ``RefusedError`` (image-does-not-fit) where an ELF file was linked for another part."""
    _check_machine(file, part)
    linked = _linked_for(file, parts)
    if linked and part not in linked:
        raise RefusedError(
            ErrorCode.IMAGE_DOES_NOT_FIT,
            f"{file.name} was linked for {linked[0].name}, the part is {part.name}",
            hint="is this image made for another part?",
            facts=Facts(part=part.id, field="images"),
        )


def _check_machine(file: ImageFile, part: Part) -> None:
    if file.elf is None or file.elf.interface is part.interface:
        return
    raise RefusedError(
        ErrorCode.IMAGE_DOES_NOT_FIT,
        f"{file.name} was linked for {_MACHINES[file.elf.interface]}; {part.name} is {_MACHINES[part.interface]}",
        hint="is this image made for another part?",
        facts=Facts(part=part.id, field="images"),
    )


def _linked_for(file: ImageFile, parts: Parts) -> tuple[Part, ...]:
    """Return the parts an ELF file can be for, the one it names first; none where it does not say, or says another family."""
    if file.elf is None:
        return ()
    named = [part for part in parts if part.id == file.elf.built_for]
    if named:
        return (named[0], *(part for part in parts if part.id in named[0].twins))
    return () if file.elf.signature is None else parts.by_signature(file.elf.signature, AvrPart)


def choose_bootloader(
    options: RecipeOptions, part: Part | None, files: Sequence[ImageFile], bootloaders: Bootloaders
) -> Bootloader | None:
    """Return the bootloader the options name. A QMK name that is several is decided by the one found in the files; where no file has
    to hold one, all of them are meant.

    Raises ``RefusedError`` (unknown-bootloader) naming the candidates.
    """
    if options.bootloader is None:
        return None
    candidates = bootloaders.candidates(options.bootloader, part)
    if len(candidates) > 1:
        digests = {file.sha256 for file in files}
        held = [b for b in candidates if b.image_sha256 in digests] or [b for b in candidates if _holds(files, b)]
        if len(held) == 1:
            return held[0]
        if options.plan is PlanKind.CHAIN_ONLY and not held:
            return bootloaders.any_of(options.bootloader, part) or bootloaders.get(options.bootloader, part)
    return bootloaders.get(options.bootloader, part)


def check_bootloader(bootloader: Bootloader, part: Part) -> None:
    """Raise ``RefusedError`` (unknown-bootloader) where a bootloader is for other parts."""
    if not {part.id, *part.twins} & set(bootloader.parts):
        raise RefusedError(
            ErrorCode.UNKNOWN_BOOTLOADER,
            f"{bootloader.id} is a bootloader for {', '.join(bootloader.parts) or 'other parts'}, not for {part.id}",
            hint="its fuse bytes would mean something else on this part",
            facts=Facts(part=part.id),
        )


def _holds(files: Iterable[ImageFile], bootloader: Bootloader) -> bool:
    return any(holds(file.image, bootloader) for file in files)


def choose_fuses(
    options: RecipeOptions, bootloader: Bootloader | None, part: Part | None
) -> tuple[dict[MemoryKind, int], tuple[str, ...]]:
    """Return the fuse and option bytes to write, the bootloader's and over them what was given, and a word where they differ."""
    fuses = {} if bootloader is None else dict(bootloader.fuses)
    given = {
        MemoryKind.LFUSE: options.lfuse,
        MemoryKind.HFUSE: options.hfuse,
        MemoryKind.EFUSE: options.efuse,
        **options.option_bytes,
    }
    told: list[str] = []
    for memory, value in given.items():
        if value is None:
            continue
        if bootloader is not None and memory in bootloader.fuses:
            known = (bootloader.fuses[memory], *bootloader.fuse_alternatives.get(memory, ()))
            told += _difference(bootloader, part, memory, value, known)
        fuses[memory] = value
    return fuses, tuple(told)


def choose_lock(
    options: RecipeOptions, bootloader: Bootloader | None, part: Part | None
) -> tuple[int | None, tuple[str, ...]]:
    """Return the lock byte to write, None for none, and a word where another was given than the bootloader's."""
    usual = None if bootloader is None else bootloader.lock
    if options.lock is None or bootloader is None or usual is None:
        return (usual if options.lock is None else options.lock), ()
    return options.lock, _difference(bootloader, part, MemoryKind.LOCK, options.lock, (usual,))


def _difference(
    bootloader: Bootloader, part: Part | None, memory: MemoryKind, value: int, known: Sequence[int]
) -> tuple[str, ...]:
    mask = _ALL_BITS if part is None else part.mask(memory)
    if any((value ^ other) & mask == 0 for other in known):
        return ()
    return (f"{memory} 0x{value:02X} was given; {bootloader.id} is made for 0x{known[0]:02X}",)
