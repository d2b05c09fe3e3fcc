// SPDX-License-Identifier: GPL-2.0-only
/*
 * A line each few seconds, as vmstat does it, until ^C.
 */
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "ksmstat.h"

#define HEADER_LINES	20	/* lines between two headers */
#define WIDTH		80	/* of a line where there is no terminal */
#define FIGURES		60	/* characters of the figures in a line */
#define GAP		2	/* before the bar and the history */
#define BAR		10	/* characters of the bar */
#define HISTORY		12	/* of the history, at most */

/* Savings so far, the oldest first; NAN where they were not known. */
struct history {
	double saved[HISTORY];
	unsigned int nr;
};

/* How many characters the bar and the history get; 0 if there is no room. */
struct layout {
	int bar;
	int history;
};

/* Lines that are too long for the terminal would wrap. */
static struct layout fit_terminal(void)
{
	struct winsize window;
	struct layout layout = { 0 };
	int room = WIDTH;

	if (!ioctl(STDOUT_FILENO, TIOCGWINSZ, &window) && window.ws_col)
		room = window.ws_col;
	room -= FIGURES + GAP + BAR;
	if (room >= 0)
		layout.bar = BAR;
	if (room > GAP)
		layout.history = room - GAP < HISTORY ? room - GAP : HISTORY;
	return layout;
}

/* Being interrupted is no failure. */
static void end_at_once(int signal)
{
	(void)signal;
	_exit(EXIT_OK);
}

/*
 * Those that end it, but for those that were ignored before. They are taken between
 * two lines, so that none is cut in two, and while nobody takes a line.
 */
static void take_signals(sigset_t *signals)
{
	static const int numbers[] = { SIGINT, SIGTERM };
	struct sigaction action = { .sa_handler = end_at_once }, old;

	sigemptyset(signals);
	for (unsigned int i = 0; i < ARRAY_SIZE(numbers); i++) {
		if (sigaction(numbers[i], NULL, &old) || old.sa_handler == SIG_IGN)
			continue;
		sigaddset(signals, numbers[i]);
		sigaction(numbers[i], &action, NULL);
	}
	sigprocmask(SIG_BLOCK, signals, NULL);
}

/* Writes a line at once; false if it is lost. */
static bool write_line(const sigset_t *signals)
{
	bool is_written;

	sigprocmask(SIG_UNBLOCK, signals, NULL);
	is_written = !fflush(stdout);
	sigprocmask(SIG_BLOCK, signals, NULL);
	return is_written;
}

static void show_header(const struct layout *layout)
{
	printf("%-7s %6s %6s%8s%7s%7s%10s%7s", "STATE", "SAVED", "META", "MERGED", "UNIQUE",
	       "CHANGE", "PAGES/S", "CPU%");
	if (layout->bar)
		printf("%*s%-*s", GAP, "", layout->bar, "MERGED");
	if (layout->history)
		printf("%*s%.*s", GAP, "", layout->history, "SAVED");
	putchar('\n');
}

/* Bytes in six characters: "1.50M", "12.3G". */
static const char *short_bytes(struct figure bytes)
{
	static char texts[2][TEXT_SIZE];
	static unsigned int turn;
	const char *long_text = text_bytes(bytes);
	char *text = texts[turn++ % 2];
	size_t digits = strcspn(long_text, " ");

	if (bytes.err)
		return "-";
	snprintf(text, TEXT_SIZE, "%.*s%c", (int)digits, long_text, long_text[digits + 1]);
	return text;
}

static void show_number(int width, int decimals, double value)
{
	char text[TEXT_SIZE] = "-";

	if (!isnan(value))
		snprintf(text, sizeof(text), "%.*f", decimals, value);
	printf("%*s", width, text);
}

/* Eighths of a character where there are such characters. */
static void show_bar(double part, int width)
{
	static const char * const eighths[] = {
		" ", "▏", "▎", "▍", "▌", "▋", "▊", "▉"
	};
	double filled = isnan(part) ? 0 : fmin(part, 1) * width;

	for (int i = 0; i < width; i++, filled -= 1) {
		if (!text_is_utf8())
			putchar(filled >= 0.5 ? '#' : '.');
		else if (filled >= 1)
			fputs("█", stdout);
		else
			fputs(filled > 0 ? eighths[(int)(filled * 8)] : " ", stdout);
	}
}

static void remember(struct history *history, struct figure saved)
{
	if (history->nr == HISTORY)
		memmove(history->saved, history->saved + 1,
			--history->nr * sizeof(history->saved[0]));
	history->saved[history->nr++] = saved.err ? NAN : (double)saved.value;
}

/* The last of it, from nothing to the most that is shown. */
static void show_history(const struct history *history, unsigned int width)
{
	static const char * const blocks[] = {
		"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"
	};
	static const char * const ascii[] = { "_", ".", ":", "-", "=", "+", "*", "#" };
	unsigned int first = history->nr > width ? history->nr - width : 0;
	double most = 0;

	for (unsigned int i = first; i < history->nr; i++)
		most = fmax(most, history->saved[i]);
	for (unsigned int i = first; i < history->nr; i++) {
		double part = most > 0 ? fmax(history->saved[i], 0) / most : 0;
		int level = (int)(part * 7 + 0.5);

		if (isnan(history->saved[i]))
			putchar('?');
		else
			fputs((text_is_utf8() ? blocks : ascii)[level], stdout);
	}
}

static const char *state_word(struct figure run)
{
	static const char * const words[] = { "off", "on", "unmerge" };

	return run.err || run.value > RUN_UNMERGE ? "-" : words[run.value];
}

static void show_one(const struct snapshot *now, const struct derived *d,
		     const struct layout *layout, const struct history *history)
{
	double merged = figure_ratio(d->equal, d->known);

	printf("%-7s %6s %6s", state_word(now->file[KSM_RUN]), short_bytes(d->saved),
	       short_bytes(d->metadata));
	show_number(8, 1, merged * 100);
	show_number(7, 1, figure_ratio(d->unique, d->known) * 100);
	show_number(7, 1, figure_ratio(d->changing, d->known) * 100);
	show_number(10, 0, d->scan_rate);
	show_number(7, 1, d->cpu_share * 100);
	if (layout->bar) {
		printf("%*s", GAP, "");
		show_bar(merged, layout->bar);
	}
	if (layout->history) {
		printf("%*s", GAP, "");
		show_history(history, layout->history);
	}
	putchar('\n');
}

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * NSEC_PER_SEC + now.tv_nsec;
}

/*
 * Lines come at fixed times after the first: they do not drift. Those that were missed,
 * as by a program that was stopped, are left out; and a rate over less than half an
 * interval would say little.
 */
static int64_t next_time(int64_t first, int64_t last, double interval)
{
	double step = interval * NSEC_PER_SEC;
	double after = fmax(now_ns() - first, last - first + step / 2);

	return first + (int64_t)((floor(after / step) + 1) * step);
}

/* Waits until @until; false if a signal came first. */
static bool wait_until(int64_t until, const sigset_t *signals)
{
	struct timespec pause;
	int64_t left;

	do {
		left = until - now_ns();
		left = left > 0 ? left : 0;
		pause.tv_sec = left / NSEC_PER_SEC;
		pause.tv_nsec = left % NSEC_PER_SEC;
		if (sigtimedwait(signals, NULL, &pause) > 0)
			return false;
	} while (errno == EINTR);
	return true;
}

/**
 * show_watch - show lines
 * @interval: seconds between two of them
 * @count: of them, 0 for no end
 *
 * The first has no rates, as there is nothing to compare with.
 *
 * Return: an exit status; being interrupted is no failure.
 */
int show_watch(double interval, unsigned long count)
{
	static char line_buffer[BUFSIZ];
	struct history history = { 0 };
	struct snapshot before, now;
	struct layout layout;
	struct derived derived;
	int status = measure(0, &now, &derived);
	sigset_t signals;
	int64_t begun;

	if (status)
		return status;
	begun = now.now_ns;
	setvbuf(stdout, line_buffer, _IOFBF, sizeof(line_buffer));
	take_signals(&signals);
	for (unsigned long line = 0; ; ) {
		layout = fit_terminal();
		if (line % HEADER_LINES == 0)
			show_header(&layout);
		remember(&history, derived.saved);
		show_one(&now, &derived, &layout, &history);
		if (!write_line(&signals) || ++line == count ||
		    !wait_until(next_time(begun, now.now_ns, interval), &signals))
			break;
		before = now;
		snapshot_take(&now);
		derive(&derived, &before, &now);
	}
	return EXIT_OK;
}
