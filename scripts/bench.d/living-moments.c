// SPDX-License-Identifier: GPL-2.0-only
/* Sets in which something happens once: a process comes, goes, or moves its memory. */
#include <err.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ksm.h"
#include "living.h"

#define CLEAN_UP_USECS	2000000
#define END		-1	/* no order, but the end of the process */

/* The second part is what a process holds that starts when the first has settled. */
void run_late_twin(const struct set *set)
{
	const struct part *late = &set->parts[1];
	struct part parts[MAX_PARTS] = { set->parts[0] };
	struct holder old, new;

	old = holder_start(parts, 0);
	holder_do(&old, REGISTER);
	settle(set);
	parts[0] = *late;
	new = holder_start(parts, 0);
	holder_do(&new, REGISTER);
	measure(clock_ns(), set->seconds, part_pages(late), true);
	holder_kill(&new);
	holder_kill(&old);
}

/* ---- what applications pay ---- */

/**
 * struct price - of something that a process does, per page
 * @own: the process's instructions
 * @ksmd: what ksmd did meanwhile and soon after
 */
struct price {
	double own;
	double ksmd;
};

/* Nanoseconds of @order (or the end, if it is END), without ksmd's turns in between. */
static uint64_t own_ns(const struct holder *holder, int order)
{
	uint64_t before = ksm_sched_ns(), ns;

	ns = order == END ? holder_kill(holder) : holder_do(holder, order);
	return ns - (ksm_sched_ns() - before);
}

static struct price pay(const struct holder *holder, int order, unsigned long pages)
{
	uint64_t before = ksm_sched_ns();
	struct price price;

	price.own = (double)own_ns(holder, order) / pages;
	usleep(CLEAN_UP_USECS);
	price.ksmd = (double)(ksm_sched_ns() - before) / pages;
	return price;
}

/* A process, @order for it (or its end), with KSM or without. */
static struct price price_of(const struct set *set, int order, bool mergeable)
{
	struct holder holders[MAX_HOLDERS];
	struct price price;

	for (unsigned int i = 0; i < set->processes; i++) {
		holders[i] = holder_start(set->parts, i);
		if (mergeable)
			holder_do(&holders[i], REGISTER);
	}
	if (mergeable)
		settle(set);
	price = pay(&holders[0], order, part_pages(&set->parts[0]));
	for (unsigned int i = order == END ? 1 : 0; i < set->processes; i++)
		holder_kill(&holders[i]);
	return price;
}

void run_exit(const struct set *set)
{
	static const struct {
		const char *plain, *extra, *ksmd;
		int order;
	} ways[] = {
		{ "exit_plain", "exit_extra", "exit_ksmd", END },
		{ "unmerge_plain", "unmerge_extra", "unmerge_ksmd", UNMERGE },
		{ "move_plain", "move_extra", "move_ksmd", MOVE },
	};

	for (unsigned int i = 0; i < sizeof(ways) / sizeof(*ways); i++) {
		struct price plain = price_of(set, ways[i].order, false);
		struct price with = price_of(set, ways[i].order, true);

		print_figure(ways[i].plain, plain.own);
		print_figure(ways[i].extra, with.own - plain.own);
		print_figure(ways[i].ksmd, with.ksmd - plain.ksmd);
	}
}

/* ---- processes that come and go ---- */

#define ALIVE		16
#define EVERY_NS	1000000000ULL

/* Each second one comes, and the oldest goes; and another one that is not mergeable. */
static void __attribute__((noreturn)) start_and_stop(const struct part *parts, uint64_t from)
{
	struct holder holders[ALIVE], plain;

	for (unsigned int n = 0; ; n++) {
		struct holder *h = &holders[n % ALIVE];

		sleep_until(from + n * EVERY_NS);
		if (n >= ALIVE)
			note_turn(&turns[0], own_ns(h, END));
		*h = holder_start(parts, 2 * n);
		holder_do(h, REGISTER);
		plain = holder_start(parts, 2 * n + 1);
		note_turn(&turns[1], own_ns(&plain, END));
	}
}

void run_start_stop(const struct set *set)
{
	uint64_t from = clock_ns();
	pid_t pid = fork();

	if (pid < 0)
		err(1, "fork");
	if (!pid)
		start_and_stop(set->parts, from);
	measure(from, set->seconds, set->can, true);
	print_turns("exit", &turns[0], 1);
	print_turns("plain_exit", &turns[1], 1);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}
