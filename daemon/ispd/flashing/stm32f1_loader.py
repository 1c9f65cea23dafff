"""The program that runs in an STM32F1's RAM and puts half-words into its flash.

Its source is here as text beside its bytes; a test assembles it where an assembler is installed, and compares.
"""

from typing import Final

__all__ = ["LOADER_CODE", "LOADER_SOURCE"]

LOADER_SOURCE: Final = """\
@ Programs half-words of an STM32F1's flash, one after the other. Position independent; any even address.
@
@ in:   r0  where the half-words are (even)
@       r1  where they go (even)
@       r2  how many, at least one
@       r3  0x40022000, the flash controller
@ out:  r0  behind the last half-word that was programmed
@       r1  where the next one would go: with an error, the one that failed
@       r2  how many remain; 0: all are done
@       r5  FLASH_SR after the last one; one of the bits of 0x14 is an error
@
@ FLASH_CR.PG (or OPTPG) is set by the debugger. BSY is looked at after each half-word: genuine chips hold up the bus until
@ they are ready, others lose what comes too early.

        .syntax unified
        .cpu    cortex-m3
        .thumb

next:   ldrh    r4, [r0]
        strh    r4, [r1]
busy:   ldr     r5, [r3, #0x0c]         @ FLASH_SR
        lsrs    r6, r5, #1              @ BSY goes to the carry
        bcs     busy
        movs    r6, #0x14               @ PGERR, WRPRTERR
        tst     r5, r6
        bne     done
        adds    r0, #2
        adds    r1, #2
        subs    r2, #1
        bne     next
done:   bkpt    #0
"""

LOADER_CODE: Final = bytes.fromhex("04 88 0C 80 DD 68 6E 08 FC D2 14 26 35 42 03 D1 02 30 02 31 01 3A F3 D1 00 BE")
