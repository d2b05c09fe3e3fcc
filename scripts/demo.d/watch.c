// SPDX-License-Identifier: GPL-2.0-only
/*
 * watch samples            a line a second for the plot, until it is killed
 * watch snapshot           one look, as NAME=VALUE words
 * watch table PAGES LIMIT  the table, until KSM finds nothing more; PAGES is
 *                          what the servers hold, LIMIT the seconds allowed
 */
#include <err.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "stats.h"

#define BAR_WIDTH 24

/*
 * The servers go on writing a few pages each (timers, statistics), and these
 * may merge and part again. A pass adds something when it lifts pages_sharing
 * by more than that over the most seen so far.
 */
#define JITTER_PAGES 16

/* Passes without any merge after which there is nothing to wait for. */
#define MAX_BARREN_PASSES 8

/**
 * struct progress - tells when KSM has found all that it can
 * @most: pages_sharing when something was last added
 * @pass: full_scans at that time; the pass after it was then under way
 */
struct progress {
	unsigned long most;
	unsigned long pass;
};

/* Sleeps until @when, in seconds of the clock that stats use. */
static void sleep_until(double when)
{
	struct timespec t = { .tv_sec = when };

	t.tv_nsec = (when - t.tv_sec) * 1e9;
	clock_nanosleep(CLOCK_BOOTTIME, TIMER_ABSTIME, &t, NULL);
}

/*
 * What is seen after @pass full scans was added by the pass then under way, at
 * the latest. Two more must go by in full.
 */
static bool nothing_added(struct progress *p, const struct stats *now)
{
	if (now->sharing > p->most + JITTER_PAGES) {
		p->most = now->sharing;
		p->pass = now->passes;
	}
	if (!p->most)
		return now->passes >= p->pass + MAX_BARREN_PASSES;
	return now->passes >= p->pass + 3;
}

static void print_head(void)
{
	printf("%5s %5s %8s %8s %8s %10s %8s %5s  %s\n", "time", "pass", "shared",
	       "sharing", "saved", "available", "ksmd", "ksmd", "merged, of the");
	printf("%5s %5s %8s %8s %8s %10s %8s %5s  %s\n", "s", "", "pages",
	       "pages", "MiB", "MiB", "CPU s", "CPU %", "servers' memory");
}

static void print_row(const struct stats *start, const struct stats *before,
		      const struct stats *now, unsigned long pages)
{
	double share = (double)(now->shared + now->sharing) / pages;
	double busy = (now->cpu - before->cpu) / (now->seconds - before->seconds);
	char bar[BAR_WIDTH + 1];
	int full = share * BAR_WIDTH + 0.5;

	for (int i = 0; i < BAR_WIDTH; i++)
		bar[i] = i < full ? '#' : '.';
	bar[BAR_WIDTH] = '\0';
	printf("%5.0f %5lu %8lu %8lu %8.1f %10.1f %8.2f %5.0f  %s %3.0f%%\n",
	       now->seconds - start->seconds, now->passes - start->passes,
	       now->shared, now->sharing, now->saved, now->available,
	       now->cpu - start->cpu, busy * 100, bar, share * 100);
}

/* Looks ten times a second, as passes may be short; prints once a second. */
static int table(unsigned long pages, double limit)
{
	struct stats start = stats_now(), before = start, now = start;
	struct progress progress = { .most = start.sharing, .pass = start.passes };
	double next_row = start.seconds + 1;
	bool done = false;

	print_head();
	while (!done) {
		sleep_until(now.seconds + 0.1);
		now = stats_now();
		done = nothing_added(&progress, &now);
		if (now.seconds < next_row && !done)
			continue;
		print_row(&start, &before, &now, pages);
		before = now;
		while (next_row <= now.seconds)
			next_row += 1;
		if (!done && now.seconds - start.seconds > limit) {
			printf("still merging after %.0f s, pass %lu\n", limit,
			       now.passes - start.passes);
			return 1;
		}
	}
	return 0;
}

static void __attribute__((noreturn)) samples(void)
{
	struct stats before = stats_now();

	for (;;) {
		struct stats now;
		double busy;

		sleep_until(before.seconds + 1);
		now = stats_now();
		busy = (now.cpu - before.cpu) / (now.seconds - before.seconds);
		printf("@sample %.2f %.1f %.1f %.1f %.0f\n", now.seconds,
		       now.total - now.available, now.available, now.saved,
		       busy * 100);
		before = now;
	}
}

static int snapshot(void)
{
	struct stats now = stats_now();

	printf("shared=%lu sharing=%lu saved=%.1f available=%.1f cpu=%.2f\n",
	       now.shared, now.sharing, now.saved, now.available, now.cpu);
	return 0;
}

int main(int argc, char **argv)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	if (argc == 2 && !strcmp(argv[1], "samples"))
		samples();
	if (argc == 2 && !strcmp(argv[1], "snapshot"))
		return snapshot();
	if (argc == 4 && !strcmp(argv[1], "table") && atol(argv[2]) > 0)
		return table(atol(argv[2]), atof(argv[3]));
	errx(2, "usage: watch samples|snapshot|table PAGES LIMIT");
}
