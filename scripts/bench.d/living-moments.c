// SPDX-License-Identifier: GPL-2.0-only
/* Sets in which something happens once: a process comes, goes, or moves its memory. */
#include <stdlib.h>
#include <unistd.h>

#include "ksm.h"
#include "living.h"

#define SETTLE_PASSES	24	/* the former engine leaves a page out of up to 8 */
#define EXIT_PASSES	4
#define CLEAN_UP_USECS	2000000

/* The second part is what a process holds that starts when the first has settled. */
void run_late_twin(const struct set *set)
{
	const struct part *late = &set->parts[1];
	struct part parts[MAX_PARTS] = { set->parts[0] };
	struct holder old, new;

	old = holder_start(parts, 0);
	holder_do(&old, REGISTER);
	settle(set, SETTLE_PASSES);
	parts[0] = *late;
	new = holder_start(parts, 0);
	holder_do(&new, REGISTER);
	measure(clock_ns(), set->seconds, part_pages(late));
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

/* ksmd's turns in between are not the process's. */
static struct price pay(const struct holder *holder, int order, unsigned long pages)
{
	uint64_t before = ksm_sched_ns(), after, ns;
	struct price price;

	ns = order < 0 ? holder_kill(holder) : holder_do(holder, order);
	after = ksm_sched_ns();
	price.own = (double)(ns - (after - before)) / pages;
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
		settle(set, EXIT_PASSES);
	price = pay(&holders[0], order, part_pages(&set->parts[0]));
	for (unsigned int i = order < 0 ? 1 : 0; i < set->processes; i++)
		holder_kill(&holders[i]);
	return price;
}

void run_exit(const struct set *set)
{
	static const struct {
		const char *plain, *extra, *ksmd;
		int order;
	} ways[] = {
		{ "exit_plain", "exit_extra", "exit_ksmd", -1 },
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
