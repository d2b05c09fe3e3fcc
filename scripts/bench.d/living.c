// SPDX-License-Identifier: GPL-2.0-only
/*
 * Measures KSM on memory that changes, at the settings that users have, in a virtual
 * machine whose time is a count of instructions. Prints lines "figure NAME VALUE".
 *
 * usage: living SET
 *        living list         names of all sets, with the MiB that their machine needs
 */
#define _GNU_SOURCE
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ksm.h"
#include "living.h"

#define PAGES_TO_SCAN	100
#define SLEEP_MILLISECS	20
#define FLAT_OUT	100000
#define PASS_LOOK_USECS	1000

/* ---- sets of processes that go on alike ---- */

/* How many pages merging could save, at best; those that change fast are left out. */
static double mergeable(const struct set *set)
{
	double sum = 0;

	for (unsigned int n = 0; n < MAX_PARTS; n++) {
		const struct part *part = &set->parts[n];
		double pages = part_pages(part) * (set->processes - 1);

		if (part->contents == UNIQUE)
			continue;
		if (part->contents == HALF || part->change == COLLECT)
			pages /= 2;
		if (part->change == STAMP || part->change == HOT)
			pages -= pages / part->one_in;
		sum += pages;
	}
	return sum;
}

static const struct part *parts_of(const struct set *set, unsigned int who)
{
	static struct part only[MAX_PARTS];

	if (!set->last_differs)
		return set->parts;
	only[0] = set->parts[who == set->processes - 1 ? 1 : 0];
	return only;
}

static void run_living(const struct set *set)
{
	struct holder holders[MAX_HOLDERS];
	uint64_t from;

	for (unsigned int i = 0; i < set->processes; i++)
		holders[i] = holder_start(parts_of(set, i), i);
	for (unsigned int i = 0; i < set->processes; i++)
		holder_do(&holders[i], REGISTER);
	if (set->settle)
		settle(set);
	from = clock_ns();
	for (unsigned int i = 0; i < set->processes; i++)
		holder_do(&holders[i], LIVE);
	measure(from, set->seconds, set->can ?: mergeable(set), !set->settle);
	print_turns("write", turns, set->processes);
	for (unsigned int i = 0; i < set->processes; i++)
		holder_kill(&holders[i]);
}

/* ---- all sets ---- */

#define MS	1000U
#define S	1000000U

#define STILL_SET(what, size, time)						\
	.run = run_living, .processes = 2, .seconds = (time),			\
	.parts = { { .mib = (size) / 2, .contents = what } }

/* Merged with ksmd flat out, then watched. */
#define REST_SET(what, size)							\
	STILL_SET(what, size, 60), .settle = 2

#define PERIODIC(every, in, time)						\
	.run = run_living, .processes = 2, .seconds = (time), .parts = {	\
		{ .mib = 64, .change = REFILL, .every_us = every, .one_in = in } \
	}

#define FAST(every, time, pages, millisecs)					\
	.run = run_living, .processes = 4, .seconds = (time),			\
	.pages_to_scan = (pages), .sleep_millisecs = (millisecs), .parts = {	\
		{ .mib = 80 },							\
		{ .mib = 4, .change = STAMP, .every_us = every, .one_in = 1 }	\
	}

#define HOT_SET(what, kib, in)							\
	.run = run_living, .processes = 2, .seconds = 60, .parts = {		\
		{ .mib = 32, .contents = what, .folio_kib = (kib),		\
		  .change = HOT, .every_us = 2 * MS, .one_in = in }		\
	}

#define RANDOM_SET(differ)							\
	.run = run_living, .processes = 2, .seconds = 120, .parts = {		\
		{ .mib = 64, .unlike = differ,					\
		  .change = RANDOM, .every_us = 100 * MS, .one_in = 60 }	\
	}

#define HEAP(every)								\
	.run = run_living, .processes = 2, .seconds = 120,			\
	.parts = { { .mib = 64, .change = COLLECT, .every_us = every } }

static const struct set sets[] = {
	{ "still-twins-128M", STILL_SET(TWINS, 128, 120) },
	{ "still-unique-128M", STILL_SET(UNIQUE, 128, 120) },
	{ "still-half-128M", STILL_SET(HALF, 128, 120) },
	{ "still-twins-1G", STILL_SET(TWINS, 1024, 240) },
	{ "still-unique-1G", STILL_SET(UNIQUE, 1024, 240) },
	{ "still-half-1G", STILL_SET(HALF, 1024, 240) },
	{ "rest-twins-8G", REST_SET(TWINS, 8192) },
	{ "rest-unique-8G", REST_SET(UNIQUE, 8192) },
	{ "periodic-1s-20th", PERIODIC(1 * S, 20, 120) },
	{ "periodic-4s-5th", PERIODIC(4 * S, 5, 240) },
	{ "periodic-10s-half", PERIODIC(10 * S, 2, 120) },
	{ "periodic-30s-5th", PERIODIC(30 * S, 5, 240) },
	{ "fast-200ms", FAST(200 * MS, 60, 100, 20) },
	{ "fast-300ms", FAST(300 * MS, 60, 100, 20) },
	{ "fast-500ms", FAST(500 * MS, 60, 100, 20) },
	{ "fast-300ms-1250-10", FAST(300 * MS, 30, 1250, 10) },
	{ "fast-500ms-1250-10", FAST(500 * MS, 30, 1250, 10) },
	{ "fast-300ms-2000-20", FAST(300 * MS, 30, 2000, 20) },
	{ "fast-500ms-2000-20", FAST(500 * MS, 30, 2000, 20) },
	{ "fast-200ms-16000-10", FAST(200 * MS, 30, 16000, 10) },
	{ "fast-300ms-16000-10", FAST(300 * MS, 30, 16000, 10) },
	{ "random-alike", RANDOM_SET(false) },
	{ "random-unlike", RANDOM_SET(true) },
	{ "hot-huge", HOT_SET(TWINS, 2048, 512) },
	{ "hot-huge-8", HOT_SET(TWINS, 2048, 64) },
	{ "hot-huge-unique", HOT_SET(UNIQUE, 2048, 512) },
	{ "hot-64k", HOT_SET(TWINS, 64, 16) },
	{ "hot-64k-unique", HOT_SET(UNIQUE, 64, 16) },
	/* The former engine leaves a page that was unique out of up to 8 passes. */
	{ "late-twin", .run = run_late_twin, .processes = 1, .seconds = 120, .settle = 24,
	  .parts = { { .mib = 256, .contents = UNIQUE },
		     { .mib = 32, .contents = UNIQUE, .first = 20000 } } },
	{ "gc-heap-5s", HEAP(5 * S) },
	{ "gc-heap-20s", HEAP(20 * S) },
	/* A fifth of one part is a tenth of the process. */
	{ "fork-server", .run = run_living, .processes = 1, .seconds = 40, .can = 8 * MIB_PAGES,
	  .parts = { { .mib = 8 },
		     { .mib = 8, .change = FORK, .every_us = 20 * MS, .one_in = 5 } } },
	{ "swap", .run = run_living, .processes = 5, .seconds = 60, .settle = 8,
	  .can = 3 * 32 * MIB_PAGES, .last_differs = true,
	  .parts = { { .mib = 64, .contents = HALF },
		     { .mib = 200, .contents = UNIQUE, .change = SWAP, .every_us = 10 * S } } },
	{ "start-stop", .run = run_start_stop, .processes = 18, .seconds = 120,
	  .can = 15 * 4 * MIB_PAGES, .parts = { { .mib = 8, .contents = HALF } } },
	{ "exit-unique", .run = run_exit, .processes = 1, .settle = 4,
	  .parts = { { .mib = 256, .contents = UNIQUE } } },
	{ "exit-huge", .run = run_exit, .processes = 1, .settle = 4,
	  .parts = { { .mib = 256, .contents = UNIQUE, .folio_kib = 2048 } } },
	{ "exit-merged", .run = run_exit, .processes = 2, .settle = 4, .parts = { { .mib = 256 } } },
	{ "redis", .run = run_redis, .processes = 4, .seconds = 80, .parts = { { .mib = 96 } } },
};

static const struct set *find_set(const char *name)
{
	for (unsigned int i = 0; i < sizeof(sets) / sizeof(*sets); i++)
		if (!strcmp(name, sets[i].name))
			return &sets[i];
	errx(1, "no set '%s'", name);
}

/* Huge pages may all have to come from one of two nodes. */
static unsigned int set_mib(const struct set *set)
{
	unsigned int mib = 0, large = 0;

	for (unsigned int i = 0; i < set->processes; i++) {
		for (unsigned int n = 0; n < MAX_PARTS; n++) {
			const struct part *part = &parts_of(set, i)[n];

			mib += part->mib;
			large += part->folio_kib ? part->mib : 0;
		}
	}
	return mib + large + mib / 16 + 256;
}

static void list_sets(void)
{
	for (unsigned int i = 0; i < sizeof(sets) / sizeof(*sets); i++)
		printf("%s %u\n", sets[i].name, set_mib(&sets[i]));
}

/* ---- settings ---- */

static void set_number(const char *name, unsigned int number)
{
	char text[16];

	snprintf(text, sizeof(text), "%u", number);
	ksm_set(name, text);
}

void set_speed(unsigned int pages_to_scan, unsigned int sleep_millisecs)
{
	set_number("pages_to_scan", pages_to_scan);
	set_number("sleep_millisecs", sleep_millisecs);
}

static void speed_of_set(const struct set *set)
{
	set_speed(set->pages_to_scan ?: PAGES_TO_SCAN, set->sleep_millisecs ?: SLEEP_MILLISECS);
}

void settle(const struct set *set)
{
	long until = ksm_stand().passes + set->settle;

	set_speed(FLAT_OUT, 0);
	ksm_set("run", "1");
	while (ksm_stand().passes < until)
		usleep(PASS_LOOK_USECS);
	speed_of_set(set);
}

int main(int argc, char **argv)
{
	const struct set *set;

	if (argc != 2)
		errx(2, "usage: living SET, or: living list");
	if (!strcmp(argv[1], "list")) {
		list_sets();
		return 0;
	}
	set = find_set(argv[1]);
	ksm_open();
	memory_init();
	speed_of_set(set);
	/* Who comes during a pass may be left out of it: settling begins with all there. */
	if (!set->settle)
		ksm_set("run", "1");
	set->run(set);
	return 0;
}
