// SPDX-License-Identifier: GPL-2.0-only
/*
 * A line each few seconds, as vmstat does it, until ^C.
 */
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#include "ksmstat.h"

#define HEADER_LINES	20	/* lines between two headers */
#define BAR		10	/* characters of the bar */
#define HISTORY		12	/* of the history */

/* Savings so far, the oldest first; NAN where they were not known. */
struct history {
	double saved[HISTORY];
	unsigned int nr;
};

/* Those that end it; between two lines, so that none is cut in two. */
static void block_signals(sigset_t *signals)
{
	sigemptyset(signals);
	sigaddset(signals, SIGINT);
	sigaddset(signals, SIGTERM);
	sigprocmask(SIG_BLOCK, signals, NULL);
}

static void show_header(void)
{
	printf("STATE      SAVED   META  MERGED UNIQUE CHANGE   PAGES/S   CPU%%  %-*s  SAVED\n",
	       BAR, "MERGED");
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
static void show_bar(double part)
{
	static const char * const eighths[] = {
		" ", "▏", "▎", "▍", "▌", "▋", "▊", "▉"
	};
	double filled = isnan(part) ? 0 : fmin(part, 1) * BAR;

	for (int i = 0; i < BAR; i++, filled -= 1) {
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

/* From nothing to the most that is in it. */
static void show_history(const struct history *history)
{
	static const char * const blocks[] = {
		"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"
	};
	static const char * const ascii[] = { "_", ".", ":", "-", "=", "+", "*", "#" };
	double most = 0;

	for (unsigned int i = 0; i < history->nr; i++)
		most = fmax(most, history->saved[i]);
	for (unsigned int i = 0; i < history->nr; i++) {
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

static void show_one(const struct snapshot *now, const struct derived *d, struct history *history)
{
	double merged = figure_ratio(d->equal, d->known);

	printf("%-7s %8s %6s", state_word(now->file[KSM_RUN]), short_bytes(d->saved),
	       short_bytes(d->metadata));
	show_number(8, 1, merged * 100);
	show_number(7, 1, figure_ratio(d->unique, d->known) * 100);
	show_number(7, 1, figure_ratio(d->changing, d->known) * 100);
	show_number(10, 0, d->scan_rate);
	show_number(7, 1, d->cpu_share * 100);
	fputs("  ", stdout);
	show_bar(merged);
	fputs("  ", stdout);
	remember(history, d->saved);
	show_history(history);
	putchar('\n');
	fflush(stdout);
}

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * NSEC_PER_SEC + now.tv_nsec;
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
	struct history history = { 0 };
	struct snapshot before, now;
	struct derived derived;
	int status = measure(0, &now, &derived);
	sigset_t signals;
	int64_t begun;

	if (status)
		return status;
	begun = now.now_ns;
	setvbuf(stdout, NULL, _IOLBF, 0);
	block_signals(&signals);
	for (unsigned long line = 0; ; ) {
		if (line % HEADER_LINES == 0)
			show_header();
		show_one(&now, &derived, &history);
		/* Lines come at fixed times after the first: they do not drift. */
		if (++line == count || ferror(stdout) ||
		    !wait_until(begun + (int64_t)(interval * line * NSEC_PER_SEC), &signals))
			break;
		before = now;
		snapshot_take(&now);
		derive(&derived, &before, &now);
	}
	return EXIT_OK;
}
