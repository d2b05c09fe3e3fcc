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

static void run_living(const struct set *set)
{
	struct holder holders[MAX_HOLDERS];
	uint64_t from;

	for (unsigned int i = 0; i < set->processes; i++)
		holders[i] = holder_start(set->parts, i);
	for (unsigned int i = 0; i < set->processes; i++)
		holder_do(&holders[i], REGISTER);
	from = clock_ns();
	for (unsigned int i = 0; i < set->processes; i++)
		holder_do(&holders[i], LIVE);
	measure(from, set->seconds, mergeable(set));
	print_writes(set->processes);
	for (unsigned int i = 0; i < set->processes; i++)
		holder_kill(&holders[i]);
}

/* ---- all sets ---- */

#define MS	1000U
#define S	1000000U

#define FAST(every)								\
	.run = run_living, .processes = 4, .seconds = 60, .parts = {		\
		{ .mib = 80 },							\
		{ .mib = 4, .change = STAMP, .every_us = (every), .one_in = 1 }	\
	}

#define HOT_HUGE(what, in)							\
	.run = run_living, .processes = 2, .seconds = 60, .parts = {		\
		{ .mib = 32, .contents = what, .huge = true,			\
		  .change = HOT, .every_us = 2 * MS, .one_in = in }		\
	}

static const struct set sets[] = {
	{ "still-twins", .run = run_living, .processes = 2, .seconds = 120,
	  .parts = { { .mib = 64 } } },
	{ "still-unique", .run = run_living, .processes = 2, .seconds = 120,
	  .parts = { { .mib = 64, .contents = UNIQUE } } },
	{ "periodic-4s-5th", .run = run_living, .processes = 2, .seconds = 240,
	  .parts = { { .mib = 64, .change = REFILL, .every_us = 4 * S, .one_in = 5 } } },
	{ "fast-300ms", FAST(300 * MS) },
	{ "fast-300ms-1250-10", FAST(300 * MS), .pages_to_scan = 1250, .sleep_millisecs = 10 },
	{ "hot-huge", HOT_HUGE(TWINS, 512) },
	{ "late-twin", .run = run_late_twin, .processes = 2, .seconds = 120,
	  .parts = { { .mib = 256, .contents = UNIQUE },
		     { .mib = 32, .contents = UNIQUE, .first = 20000 } } },
	{ "exit-unique", .run = run_exit, .processes = 1,
	  .parts = { { .mib = 256, .contents = UNIQUE } } },
	{ "exit-merged", .run = run_exit, .processes = 2, .parts = { { .mib = 256 } } },
};

static const struct set *find_set(const char *name)
{
	for (unsigned int i = 0; i < sizeof(sets) / sizeof(*sets); i++)
		if (!strcmp(name, sets[i].name))
			return &sets[i];
	errx(1, "no set '%s'", name);
}

static unsigned int set_mib(const struct set *set)
{
	unsigned int mib = 0;

	for (unsigned int n = 0; n < MAX_PARTS; n++)
		mib += set->parts[n].mib * set->processes;
	return mib + mib / 16 + 256;
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

void settle(const struct set *set, unsigned int passes)
{
	long until = ksm_stand().passes + passes;

	set_speed(FLAT_OUT, 0);
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
	ksm_set("run", "1");
	set->run(set);
	return 0;
}
