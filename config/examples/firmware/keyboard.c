/* Example keyboard firmware for the ATmega32U4 at 16 MHz: something real to flash, and nothing to own a keyboard for.
 *
 * Scans a 5 x 12 matrix every millisecond, debounces it, looks keys up in four layers and reports them as text on the
 * serial port (PD3, 115200 baud); meanwhile a light show runs on the LED at PC7. Settings come from EEPROM.
 */
#include <avr/eeprom.h>
#include <avr/interrupt.h>
#include <avr/io.h>
#include <avr/pgmspace.h>
#include <avr/sleep.h>
#include <avr/wdt.h>
#include <avr/cpufunc.h>
#include <stdbool.h>
#include <stdint.h>

#include "tables.h"

#define ROWS 5
#define COLUMNS 12
#define LAYERS 4
#define DEBOUNCE_MS 5
#define SETTINGS_MAGIC 0x4B42u

struct settings {
    uint16_t magic;
    uint8_t layout;
    uint8_t debounce_ms;
    uint8_t brightness;
    uint8_t frame_ms;
    uint8_t colour[KEYS];
    char name[16];
    uint8_t end;
};

/* What a fresh board starts with; becomes board.eep. */
struct settings EEMEM stored = {
    .magic = SETTINGS_MAGIC,
    .layout = 0,
    .debounce_ms = DEBOUNCE_MS,
    .brightness = 200,
    .frame_ms = 16,
    .colour = {
        0, 4, 8, 13, 17, 21, 26, 30, 34, 38, 43, 47, 51, 55, 60, 64, 68, 72, 77, 81,
        85, 89, 94, 98, 102, 106, 111, 115, 119, 123, 128, 132, 136, 140, 145, 149, 153, 157, 162, 166,
        170, 174, 179, 183, 187, 191, 196, 200, 204, 208, 213, 217, 221, 225, 230, 234, 238, 242, 247, 251},
    .name = "EXAMPLE BOARD 1",
    .end = 0x5A,
};

static const char key_names[LAYERS][ROWS][COLUMNS][6] PROGMEM = {
    {{"Esc", "1", "2", "3", "4", "5", "6", "7", "8", "9", "0", "Bspc"},
     {"Tab", "Q", "W", "E", "R", "T", "Y", "U", "I", "O", "P", "Del"},
     {"Caps", "A", "S", "D", "F", "G", "H", "J", "K", "L", ";", "Enter"},
     {"Shift", "Z", "X", "C", "V", "B", "N", "M", ",", ".", "/", "RShft"},
     {"Ctrl", "Gui", "Alt", "Fn1", "Fn2", "Space", "Space", "Left", "Down", "Up", "Right", "Menu"}},
    {{"`", "F1", "F2", "F3", "F4", "F5", "F6", "F7", "F8", "F9", "F10", "Ins"},
     {"BkTab", "Home", "Up", "End", "PgUp", "Prnt", "7", "8", "9", "-", "=", "["},
     {"Mute", "Left", "Down", "Right", "PgDn", "Scrl", "4", "5", "6", "+", "'", "]"},
     {"Shift", "Undo", "Cut", "Copy", "Paste", "Pause", "1", "2", "3", "0", "\\", "RShft"},
     {"Ctrl", "Gui", "Alt", "Fn1", "Fn3", "Play", "Stop", "Prev", "VolDn", "VolUp", "Next", "Menu"}},
    {{"~", "!", "@", "#", "$", "%", "^", "&", "*", "(", ")", "F11"},
     {"Btn1", "MsUp", "Btn2", "WhUp", "Mac1", "Mac2", "{", "}", "|", "_", "+", "F12"},
     {"MsLft", "MsDn", "MsRgt", "WhDn", "Mac3", "Mac4", "<", ">", "?", ":", "\"", "F13"},
     {"Shift", "Mac5", "Mac6", "Mac7", "Mac8", "Wake", "Sleep", "Power", "Calc", "Mail", "Web", "RShft"},
     {"Ctrl", "Gui", "Alt", "Fn3", "Fn2", "Space", "Space", "Back", "Fwd", "Fav", "Home", "Menu"}},
    {{"Boot", "Spd-", "Spd+", "Bri-", "Bri+", "Hue-", "Hue+", "Sat-", "Sat+", "Eff-", "Eff+", "Reset"},
     {"Test", "Row1", "Row2", "Row3", "Row4", "Row5", "Col1", "Col2", "Col3", "Col4", "Col5", "Col6"},
     {"Save", "Col7", "Col8", "Col9", "Col10", "Col11", "Col12", "Lay0", "Lay1", "Lay2", "Lay3", "Load"},
     {"Shift", "Deb1", "Deb2", "Deb5", "Deb10", "Deb20", "Nkro", "6kro", "Swap", "Lock", "Unlk", "RShft"},
     {"Ctrl", "Gui", "Alt", "Fn1", "Fn2", "Info", "Vers", "Left", "Down", "Up", "Right", "Menu"}},
};

static volatile uint8_t elapsed_ms;
static struct settings settings;
static uint8_t bounce[ROWS][COLUMNS];
static uint16_t pressed[ROWS];
static uint16_t frame;

ISR(TIMER0_COMPA_vect)
{
    elapsed_ms++;
}

static void put(char c)
{
    while (!(UCSR1A & _BV(UDRE1))) {
    }
    UDR1 = (uint8_t)c;
}

static void put_flash(const char *text)
{
    for (char c = (char)pgm_read_byte(text); c != '\0'; c = (char)pgm_read_byte(++text)) {
        put(c);
    }
}

static void start_hardware(void)
{
    MCUSR = 0;
    wdt_disable();
    DDRC |= _BV(PC7);
    PORTB = 0x7F; /* rows: inputs with pull-ups */
    PORTD |= 0xF3;
    PORTF |= 0xF3;
    UBRR1 = 16; /* 115200 baud from 16 MHz, double speed */
    UCSR1A = _BV(U2X1);
    UCSR1B = _BV(TXEN1);
    TCCR0A = _BV(WGM01);
    TCCR0B = _BV(CS01) | _BV(CS00); /* 16 MHz / 64 / 250 = 1 kHz */
    OCR0A = 249;
    TIMSK0 = _BV(OCIE0A);
    TCCR4A = _BV(COM4A1) | _BV(PWM4A); /* LED at PC7 */
    TCCR4B = _BV(CS42);
    OCR4C = 0xFF;
}

static void select_column(uint8_t column, bool on)
{
    volatile uint8_t *port = column < 6 ? &PORTD : &PORTF;
    volatile uint8_t *direction = column < 6 ? &DDRD : &DDRF;
    static const uint8_t bits[6] PROGMEM = {0x01, 0x02, 0x10, 0x20, 0x40, 0x80};
    uint8_t bit = pgm_read_byte(&bits[column % 6]);
    if (on) {
        *port &= (uint8_t)~bit;
        *direction |= bit;
    } else {
        *direction &= (uint8_t)~bit;
        *port |= bit;
    }
}

static uint8_t layer_of(void)
{
    bool fn1 = pressed[4] & _BV(3);
    bool fn2 = pressed[4] & _BV(4);
    return (uint8_t)((fn1 ? 1 : 0) + (fn2 ? 2 : 0));
}

static void report(uint8_t row, uint8_t column, bool down)
{
    put(down ? '+' : '-');
    put_flash(key_names[layer_of()][row][column]);
    put('\n');
}

static void scan(void)
{
    for (uint8_t column = 0; column < COLUMNS; column++) {
        select_column(column, true);
        _NOP();
        _NOP();
        _NOP(); /* the input synchroniser is two clocks behind */
        uint8_t rows = (uint8_t)~PINB;
        select_column(column, false);
        for (uint8_t row = 0; row < ROWS; row++) {
            bool now = rows & _BV(row);
            bool was = pressed[row] & (1u << column);
            if (now == was) {
                bounce[row][column] = 0;
            } else if (++bounce[row][column] >= settings.debounce_ms) {
                bounce[row][column] = 0;
                pressed[row] ^= 1u << column;
                report(row, column, now);
            }
        }
    }
}

static void show(void)
{
    uint16_t sum = 0;
    for (uint8_t key = 0; key < KEYS; key++) {
        uint8_t light = pgm_read_byte(&light_show[frame * KEYS + key]);
        uint8_t colour = pgm_read_byte(&colour_wheel[settings.colour[key]]);
        sum += (uint16_t)(((uint16_t)light * colour) >> 8);
    }
    OCR4A = (uint8_t)(((uint32_t)sum * settings.brightness / KEYS) >> 8);
    frame = (uint16_t)((frame + 1) % FRAMES);
}

int main(void)
{
    start_hardware();
    eeprom_read_block(&settings, &stored, sizeof settings);
    if (settings.magic != SETTINGS_MAGIC) {
        settings.debounce_ms = DEBOUNCE_MS;
        settings.brightness = 128;
        settings.frame_ms = 16;
    }
    sei();
    set_sleep_mode(SLEEP_MODE_IDLE);
    put_flash(PSTR("example board\n"));
    for (uint8_t since = 0;;) {
        sleep_mode();
        if (elapsed_ms == 0) {
            continue;
        }
        elapsed_ms = 0;
        scan();
        if (++since >= settings.frame_ms) {
            since = 0;
            show();
        }
    }
}
