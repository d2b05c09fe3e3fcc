/* SPDX-License-Identifier: GPL-2.0-only */
/* Memory that changes while it is merged: who holds it, and what it costs. */
#ifndef BENCH_LIVING_H
#define BENCH_LIVING_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define MIB_PAGES	256UL
#define HUGE_PAGES	512UL
#define MAX_PARTS	2
#define MAX_HOLDERS	64

/**
 * enum contents - what is in a part
 * @TWINS: equal in all processes
 * @UNIQUE: no two pages are equal
 * @HALF: every second page is unique
 */
enum contents { TWINS, UNIQUE, HALF };

/**
 * enum change - how a part is written to
 * @STILL: not at all
 * @REFILL: one page in @one_in gets new contents, always the same ones
 * @STAMP: the same, but only a word of each changes
 * @HOT: likewise, with a word that differs in each process
 * @RANDOM: pages get new contents at random, on average every @one_in seconds
 * @COLLECT: the pages of one half move to the other, in another order
 * @FORK: a child does what STAMP says, and exits
 * @SWAP: pages are reclaimed, and the next time read
 */
enum change { STILL, REFILL, STAMP, HOT, RANDOM, COLLECT, FORK, SWAP };

/**
 * struct part - a stretch of memory that each process of a set holds
 * @mib: its size
 * @contents: of its pages
 * @first: number of the first page, which decides on its contents
 * @change: how it is written to
 * @every_us: how often
 * @one_in: see there
 * @unlike: new contents differ in each process, and so do random times
 * @folio_kib: in folios of 64 or 2048 KiB; 0: of a page
 */
struct part {
	unsigned long mib;
	enum contents contents;
	unsigned long first;
	enum change change;
	unsigned int every_us;
	unsigned int one_in;
	bool unlike;
	unsigned int folio_kib;
};

/**
 * struct set - what is measured in one boot
 * @name: as on the command line
 * @run: does it
 * @processes: that hold the parts
 * @seconds: to measure, from when all is registered
 * @settle: passes before that, with ksmd flat out
 * @pages_to_scan: 0: the default
 * @sleep_millisecs: 0: the default
 * @can: pages that merging could save; 0: follows from the parts
 * @last_differs: the last process has the second part alone, the others the first
 * @parts: what each process holds
 */
struct set {
	const char *name;
	void (*run)(const struct set *set);
	unsigned int processes;
	unsigned int seconds;
	unsigned int settle;
	unsigned int pages_to_scan;
	unsigned int sleep_millisecs;
	unsigned long can;
	bool last_differs;
	struct part parts[MAX_PARTS];
};

/**
 * enum order - what a holder is told to do
 * @REGISTER: make its memory mergeable
 * @LIVE: write to it from now on, and take no more orders
 * @UNMERGE: undo the first
 * @MOVE: mremap() its parts to other addresses
 */
enum order { REGISTER, LIVE, UNMERGE, MOVE };

/**
 * struct holder - a process with memory
 * @pid: of it
 * @orders: pipe to it
 * @answers: pipe from it
 */
struct holder {
	pid_t pid;
	int orders;
	int answers;
};

/**
 * struct turns - how long what a holder does each time took
 * @count: how often
 * @sum_ns: together
 * @max_ns: the longest
 */
struct turns {
	uint64_t count;
	uint64_t sum_ns;
	uint64_t max_ns;
};

/* ---- living-memory.c ---- */

/* Shared by all holders, one for each. */
extern struct turns *turns;

void memory_init(void);
void note_turn(struct turns *turns, uint64_t ns);
void sleep_until(uint64_t ns);
unsigned long part_pages(const struct part *part);
/* Starts process number @who, and waits until its memory is filled. */
struct holder holder_start(const struct part *parts, unsigned int who);
/* The nanoseconds that it took; LIVE is not waited for. */
uint64_t holder_do(const struct holder *holder, enum order order);
/* The same, for all that end it. */
uint64_t holder_kill(const struct holder *holder);

/* ---- living-figures.c ---- */

void print_figure(const char *name, double value);
/*
 * Looks at KSM for @seconds from @from on; @can: how many pages could be merged;
 * @fresh: so it is told when half and most of them are.
 */
void measure(uint64_t from, double seconds, double can, bool fresh);
/* What the first @holders noted of their turns. */
void print_turns(const char *what, const struct turns *turns, unsigned int holders);

/* ---- living-moments.c ---- */

void run_late_twin(const struct set *set);
void run_exit(const struct set *set);
void run_start_stop(const struct set *set);

/* ---- living-redis.c ---- */

void run_redis(const struct set *set);

/* ---- living.c ---- */

void set_speed(unsigned int pages_to_scan, unsigned int sleep_millisecs);
/* Lets ksmd run flat out for as many passes as the set says, then at its speed again. */
void settle(const struct set *set);

#endif
