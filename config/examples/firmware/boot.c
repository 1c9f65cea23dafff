/* Example boot section for the ATmega32U4: 4 KiB at 0x7000, entered at every reset (BOOTRST programmed).
 *
 * Blinks the LED at PC7 three times, then starts the firmware; with blank flash at address 0 it blinks for ever.
 * It takes no firmware over USB: it shows that flash, fuses and lock bits of a board agree, and nothing more.
 */
#include <avr/io.h>
#include <avr/pgmspace.h>
#include <avr/wdt.h>
#include <stdbool.h>
#include <util/delay.h>

static void blink(void)
{
    PORTC |= _BV(PC7);
    _delay_ms(60);
    PORTC &= (uint8_t)~_BV(PC7);
    _delay_ms(120);
}

int main(void)
{
    MCUSR = 0;
    wdt_disable();
    DDRC |= _BV(PC7);
    bool is_blank = pgm_read_word(0) == 0xFFFF;
    for (uint8_t times = 0; is_blank || times < 3; times++) {
        blink();
    }
    DDRC = 0;
    __asm__ __volatile__("jmp 0");
    __builtin_unreachable();
}
