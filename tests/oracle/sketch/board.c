/* An Arduino Uno around simavr's ATmega328P core: host serial line, SPI master, reset output, reset button.
 *
 * simavr 1.6 moves an SPI byte in 100 us whatever SPCR says and gives a UART character eleven bits, so both
 * peripherals are modelled here, from the ATmega328P data sheet (chapters "SPI" and "USART0"), and only the core,
 * timers, ports, watchdog and self-programming are simavr's. All times are CPU cycles.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <simavr/avr_ioport.h>
#include <simavr/avr_spi.h>
#include <simavr/sim_avr.h>
#include <simavr/sim_interrupts.h>
#include <simavr/sim_io.h>

enum { /* data space addresses of the ATmega328P */
	DDRB = 0x24, PORTB = 0x25, SPCR = 0x4C, SPSR = 0x4D, SPDR = 0x4E, MCUSR = 0x54,
	UCSRA = 0xC0, UCSRB = 0xC1, UBRRL = 0xC4, UBRRH = 0xC5, UDR = 0xC6
};
enum { RXC = 1 << 7, TXC = 1 << 6, UDRE = 1 << 5, FE = 1 << 4, DOR = 1 << 3, U2X = 1 << 1, MPCM = 1 << 0 };
enum { RXEN = 1 << 4, TXEN = 1 << 3, UDRIE = 1 << 5, SPE = 1 << 6, MSTR = 1 << 4, SPI2X = 1 << 0, EXTRF = 1 << 1 };
enum { VECTOR_RX = 18, VECTOR_UDRE = 19 };
enum { RESET_PIN = 1 << 2 }; /* Uno pin 10 is PB2 */
enum { RUN_CYCLES = 400 };   /* instructions executed between looks at the timers; timers shorten it by themselves */
enum { FIFO = 2 };           /* USART receive buffer */

typedef uint8_t (*spi_hook)(uint8_t mosi, uint64_t at, uint32_t cycles_per_bit);
typedef void (*reset_hook)(int level, uint64_t at);

struct frame { double start; uint8_t byte; };

/* A wire that carries frames of ten bits, and the receiver at its end, which samples it in its own time. */
struct line {
	struct frame *frames;
	size_t first, count, size;
	double bit;      /* cycles per bit of the sender */
	double free_at;  /* when the sender can begin another frame */
	double ready_at; /* when the receiver began to look for an edge */
	double edge;     /* the edge it found, below 0 while it looks */
};

struct received { uint8_t byte, bad; };

struct reply { uint64_t at; uint8_t byte, bad; };

struct board {
	avr_io_t io; /* first: simavr hands it back on reset */
	avr_t *avr;
	spi_hook spi;
	reset_hook reset;
	int reset_level;
	uint8_t miso;
	struct line to_avr, to_host;
	double host_bit;
	struct received fifo[FIFO];
	int fifo_count;
	uint8_t shifting, waiting; /* transmitter: byte in the shift register, byte in the data buffer */
	int is_shifting, is_waiting;
	struct reply *replies;
	size_t reply_first, reply_count, reply_size;
	uint64_t resets, overruns;
	avr_int_vector_t *rx_vector, *udre_vector;
	struct { avr_io_write_t c; void *param; } portb, ddrb;
};

/* -- lines ---------------------------------------------------------------------------------------------------- */

static void line_send(struct line *l, uint8_t byte, double at)
{
	if (l->first + l->count == l->size) {
		if (l->first) {
			memmove(l->frames, l->frames + l->first, l->count * sizeof *l->frames);
			l->first = 0;
		} else {
			l->size = l->size ? 2 * l->size : 256;
			l->frames = realloc(l->frames, l->size * sizeof *l->frames);
		}
	}
	double start = at > l->free_at ? at : l->free_at;
	l->frames[l->first + l->count++] = (struct frame){ start, byte };
	l->free_at = start + 10 * l->bit;
}

static int frame_level(const struct line *l, const struct frame *f, double at)
{
	int bit = (int)((at - f->start) / l->bit);
	return bit <= 0 ? 0 : bit > 8 ? 1 : f->byte >> (bit - 1) & 1;
}

static int line_level(const struct line *l, double at)
{
	for (size_t i = 0; i < l->count; i++) {
		const struct frame *f = &l->frames[l->first + i];
		if (at < f->start)
			return 1;
		if (at < f->start + 10 * l->bit)
			return frame_level(l, f, at);
	}
	return 1;
}

/* Find the first falling edge since the receiver became ready. */
static void line_search(struct line *l)
{
	l->edge = -1;
	while (l->count && l->frames[l->first].start + 10 * l->bit <= l->ready_at) {
		l->first++;
		l->count--;
	}
	for (size_t i = 0; i < l->count; i++) {
		const struct frame *f = &l->frames[l->first + i];
		int before = 1;
		for (int bit = 0; bit < 9; bit++) {
			double at = f->start + bit * l->bit;
			int level = bit ? f->byte >> (bit - 1) & 1 : 0;
			if (before && !level && at >= l->ready_at) {
				l->edge = at;
				return;
			}
			before = level;
		}
	}
}

/* Sample the frame that began at the edge, with the receiver's own bit time. */
static struct received line_sample(struct line *l, double bit)
{
	struct received r = { 0, 0 };
	for (int i = 0; i < 8; i++)
		r.byte |= line_level(l, l->edge + (i + 1.5) * bit) << i;
	r.bad = !line_level(l, l->edge + 9.5 * bit);
	l->ready_at = l->edge + 9.5 * bit;
	return r;
}

/* -- USART: receiver ------------------------------------------------------------------------------------------ */

static double avr_bit(const struct board *b)
{
	const uint8_t *d = b->avr->data;
	return (((d[UBRRH] & 0x0F) << 8 | d[UBRRL]) + 1) * (d[UCSRA] & U2X ? 8.0 : 16.0);
}

static void timer_at(struct board *b, double at, avr_cycle_timer_t timer)
{
	double wait = at - (double)b->avr->cycle;
	avr_cycle_timer_register(b->avr, wait < 1 ? 1 : (avr_cycle_count_t)(wait + 1), timer, b);
}

static void show_fifo(struct board *b)
{
	uint8_t *a = &b->avr->data[UCSRA];
	*a &= ~(RXC | FE);
	if (b->fifo_count) {
		*a |= RXC | (b->fifo[0].bad ? FE : 0);
		avr_raise_interrupt(b->avr, b->rx_vector);
	}
}

static avr_cycle_count_t rx_done(avr_t *avr, avr_cycle_count_t when, void *param);

static void rx_search(struct board *b)
{
	if (b->avr->data[UCSRB] & RXEN) {
		line_search(&b->to_avr);
		if (b->to_avr.edge >= 0)
			timer_at(b, b->to_avr.edge + 9.5 * avr_bit(b), rx_done);
	}
}

static avr_cycle_count_t rx_done(avr_t *avr, avr_cycle_count_t when, void *param)
{
	struct board *b = param;
	(void)when;
	if (!(avr->data[UCSRB] & RXEN))
		return 0;
	struct received r = line_sample(&b->to_avr, avr_bit(b));
	if (b->fifo_count < FIFO) {
		b->fifo[b->fifo_count++] = r;
		show_fifo(b);
	} else {
		avr->data[UCSRA] |= DOR;
		b->overruns++;
	}
	rx_search(b);
	return 0;
}

static uint8_t read_udr(avr_t *avr, avr_io_addr_t addr, void *param)
{
	struct board *b = param;
	uint8_t byte = b->fifo[0].byte;
	(void)addr;
	if (b->fifo_count) {
		b->fifo_count--;
		memmove(b->fifo, b->fifo + 1, (FIFO - 1) * sizeof *b->fifo);
	}
	avr->data[UCSRA] &= ~DOR;
	avr_clear_interrupt(avr, b->rx_vector);
	show_fifo(b);
	return byte;
}

/* -- USART: transmitter, and the host's receiver at the other end --------------------------------------------- */

static avr_cycle_count_t host_done(avr_t *avr, avr_cycle_count_t when, void *param)
{
	struct board *b = param;
	struct received r = line_sample(&b->to_host, b->host_bit);
	(void)when;
	if (b->reply_first + b->reply_count == b->reply_size) {
		b->reply_size = b->reply_size ? 2 * b->reply_size : 1024;
		b->replies = realloc(b->replies, b->reply_size * sizeof *b->replies);
	}
	b->replies[b->reply_first + b->reply_count++] = (struct reply){ avr->cycle, r.byte, r.bad };
	line_search(&b->to_host);
	if (b->to_host.edge >= 0)
		timer_at(b, b->to_host.edge + 9.5 * b->host_bit, host_done);
	return 0;
}

static avr_cycle_count_t tx_done(avr_t *avr, avr_cycle_count_t when, void *param);

static void tx_start(struct board *b, uint8_t byte)
{
	b->is_shifting = 1;
	b->to_host.bit = avr_bit(b);
	line_send(&b->to_host, byte, (double)b->avr->cycle);
	timer_at(b, b->to_host.free_at, tx_done);
	if (b->to_host.edge < 0) {
		line_search(&b->to_host);
		if (b->to_host.edge >= 0)
			timer_at(b, b->to_host.edge + 9.5 * b->host_bit, host_done);
	}
}

static void show_empty(struct board *b)
{
	b->avr->data[UCSRA] |= UDRE;
	if (b->avr->data[UCSRB] & UDRIE)
		avr_raise_interrupt(b->avr, b->udre_vector);
}

static avr_cycle_count_t tx_done(avr_t *avr, avr_cycle_count_t when, void *param)
{
	struct board *b = param;
	(void)when;
	b->is_shifting = 0;
	if (b->is_waiting) {
		b->is_waiting = 0;
		tx_start(b, b->waiting);
		show_empty(b);
	} else {
		avr->data[UCSRA] |= TXC;
	}
	return 0;
}

static void write_udr(avr_t *avr, avr_io_addr_t addr, uint8_t v, void *param)
{
	struct board *b = param;
	(void)addr;
	if (!(avr->data[UCSRB] & TXEN))
		return;
	if (!b->is_shifting) {
		tx_start(b, v);
		show_empty(b);
		return;
	}
	b->waiting = v;
	b->is_waiting = 1;
	avr->data[UCSRA] &= ~UDRE;
	avr_clear_interrupt(avr, b->udre_vector);
}

static void write_ucsra(avr_t *avr, avr_io_addr_t addr, uint8_t v, void *param)
{
	uint8_t kept = avr->data[addr] & ~(U2X | MPCM);
	(void)param;
	if (v & TXC)
		kept &= ~TXC;
	avr->data[addr] = kept | (v & (U2X | MPCM));
}

static void write_ucsrb(avr_t *avr, avr_io_addr_t addr, uint8_t v, void *param)
{
	struct board *b = param;
	uint8_t risen = v & ~avr->data[addr];
	avr->data[addr] = v;
	if (!(v & RXEN))
		b->fifo_count = 0;
	show_fifo(b);
	if (risen & RXEN) {
		b->to_avr.ready_at = (double)avr->cycle;
		rx_search(b);
	}
	if (risen & UDRIE && avr->data[UCSRA] & UDRE)
		avr_raise_interrupt(avr, b->udre_vector);
}

/* -- SPI and the reset output --------------------------------------------------------------------------------- */

static avr_cycle_count_t spi_done(avr_t *avr, avr_cycle_count_t when, void *param)
{
	struct board *b = param;
	(void)when;
	avr_raise_irq(avr_io_getirq(avr, AVR_IOCTL_SPI_GETIRQ(0), SPI_IRQ_INPUT), b->miso);
	return 0;
}

static void write_spdr(avr_t *avr, avr_io_addr_t addr, uint8_t v, void *param)
{
	static const uint8_t divider[] = { 4, 16, 64, 128 };
	struct board *b = param;
	avr->data[addr] = v;
	avr->data[SPSR] &= SPI2X;
	if ((avr->data[SPCR] & (SPE | MSTR)) != (SPE | MSTR))
		return;
	uint32_t bit = divider[avr->data[SPCR] & 3] >> (avr->data[SPSR] & SPI2X);
	b->miso = b->spi(v, avr->cycle, bit);
	avr_cycle_timer_register(avr, 8 * bit, spi_done, b);
}

static void look_at_reset_pin(struct board *b)
{
	const uint8_t *d = b->avr->data;
	/* the target's own pull-up wins while the pin is an input */
	int level = d[DDRB] & RESET_PIN ? !!(d[PORTB] & RESET_PIN) : 1;
	if (level != b->reset_level) {
		b->reset_level = level;
		b->reset(level, b->avr->cycle);
	}
}

static void write_portb(avr_t *avr, avr_io_addr_t addr, uint8_t v, void *param)
{
	struct board *b = param;
	b->portb.c(avr, addr, v, b->portb.param);
	look_at_reset_pin(b);
}

static void write_ddrb(avr_t *avr, avr_io_addr_t addr, uint8_t v, void *param)
{
	struct board *b = param;
	b->ddrb.c(avr, addr, v, b->ddrb.param);
	look_at_reset_pin(b);
}

/* -- the board ------------------------------------------------------------------------------------------------ */

static void on_reset(avr_io_t *io)
{
	struct board *b = (struct board *)io;
	b->resets++;
	b->fifo_count = b->is_shifting = b->is_waiting = 0;
	b->to_avr.edge = -1;
	b->to_host.count = 0; /* a frame that was on its way is cut off */
	b->to_host.edge = -1;
	b->avr->run_cycle_limit = RUN_CYCLES;
	look_at_reset_pin(b);
}

static void hook(struct board *b, avr_io_addr_t addr, avr_io_read_t r, avr_io_write_t w)
{
	avr_io_addr_t a = AVR_DATA_TO_IO(addr);
	b->avr->io[a].r.c = r;
	b->avr->io[a].r.param = b;
	b->avr->io[a].w.c = w;
	b->avr->io[a].w.param = b;
}

static avr_int_vector_t *find_vector(avr_t *avr, int number)
{
	for (int i = 0; i < avr->interrupts.vector_count; i++)
		if (avr->interrupts.vector[i]->vector == number)
			return avr->interrupts.vector[i];
	return NULL;
}

struct board *board_new(const uint8_t *flash, uint32_t size, uint32_t start, double frequency, spi_hook spi,
                        reset_hook reset)
{
	avr_t *avr = avr_make_mcu_by_name("atmega328p");
	struct board *b = calloc(1, sizeof *b);
	if (!avr || !b)
		return NULL;
	avr_init(avr);
	avr->log = LOG_ERROR;
	avr->frequency = (uint32_t)frequency;
	avr_loadcode(avr, (uint8_t *)flash, size, 0);
	avr->codeend = avr->flashend;
	avr->reset_pc = start;
	b->avr = avr;
	b->spi = spi;
	b->reset = reset;
	b->reset_level = 1;
	b->to_avr.edge = b->to_host.edge = -1;
	b->rx_vector = find_vector(avr, VECTOR_RX);
	b->udre_vector = find_vector(avr, VECTOR_UDRE);
	b->rx_vector->raise_sticky = b->udre_vector->raise_sticky = 1;
	b->portb.c = avr->io[AVR_DATA_TO_IO(PORTB)].w.c;
	b->portb.param = avr->io[AVR_DATA_TO_IO(PORTB)].w.param;
	b->ddrb.c = avr->io[AVR_DATA_TO_IO(DDRB)].w.c;
	b->ddrb.param = avr->io[AVR_DATA_TO_IO(DDRB)].w.param;
	avr->io[AVR_DATA_TO_IO(PORTB)].w.c = write_portb;
	avr->io[AVR_DATA_TO_IO(PORTB)].w.param = b;
	avr->io[AVR_DATA_TO_IO(DDRB)].w.c = write_ddrb;
	avr->io[AVR_DATA_TO_IO(DDRB)].w.param = b;
	hook(b, UDR, read_udr, write_udr);
	hook(b, UCSRA, NULL, write_ucsra);
	hook(b, UCSRB, NULL, write_ucsrb);
	avr->io[AVR_DATA_TO_IO(SPDR)].w.c = write_spdr;
	avr->io[AVR_DATA_TO_IO(SPDR)].w.param = b;
	b->io.kind = "board";
	b->io.reset = on_reset;
	avr_register_io(avr, &b->io);
	return b;
}

void board_set_baud(struct board *b, double baud)
{
	b->to_avr.bit = b->host_bit = b->avr->frequency / baud;
}

/* What the Uno's reset capacitor does when DTR becomes active. */
void board_press_reset(struct board *b)
{
	avr_reset(b->avr);
	b->avr->data[MCUSR] |= EXTRF;
}

/* Queue bytes on the host's transmit line, none of them before ``at``. */
void board_feed(struct board *b, const uint8_t *bytes, size_t count, uint64_t at)
{
	for (size_t i = 0; i < count; i++)
		line_send(&b->to_avr, bytes[i], (double)at);
	if (b->to_avr.edge < 0)
		rx_search(b);
}

/* Run to cycle ``until``, or only to the next reply byte. Returns simavr's state. */
int board_run(struct board *b, uint64_t until, int stop_at_reply)
{
	int state = b->avr->state;
	size_t had = b->reply_count;
	while (b->avr->cycle < until && !(stop_at_reply && b->reply_count > had)) {
		state = avr_run(b->avr);
		if (state == cpu_Done || state == cpu_Crashed)
			break;
	}
	return state;
}

/* Hand out reply bytes, oldest first; ``bad`` are framing errors as the host's receiver sees them. */
size_t board_take(struct board *b, uint8_t *bytes, uint8_t *bad, uint64_t *at, size_t room)
{
	size_t count = b->reply_count < room ? b->reply_count : room;
	for (size_t i = 0; i < count; i++) {
		const struct reply *r = &b->replies[b->reply_first + i];
		bytes[i] = r->byte;
		bad[i] = r->bad;
		at[i] = r->at;
	}
	b->reply_first += count;
	b->reply_count -= count;
	if (!b->reply_count)
		b->reply_first = 0;
	return count;
}

uint64_t board_cycle(const struct board *b) { return b->avr->cycle; }

uint64_t board_line_free(const struct board *b) { return b->to_avr.free_at > 0 ? (uint64_t)b->to_avr.free_at : 0; }

uint64_t board_resets(const struct board *b) { return b->resets; }

uint64_t board_overruns(const struct board *b) { return b->overruns; }

uint8_t board_peek(const struct board *b, uint16_t address) { return b->avr->data[address]; }

const uint8_t *board_flash(const struct board *b) { return b->avr->flash; }

void board_free(struct board *b)
{
	avr_terminate(b->avr);
	free(b->to_avr.frames);
	free(b->to_host.frames);
	free(b->replies);
	free(b);
}
