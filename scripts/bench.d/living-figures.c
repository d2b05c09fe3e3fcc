// SPDX-License-Identifier: GPL-2.0-only
/*
 * What is merged, and at what cost, over a stretch of time: as a whole, from the
 * moment that the memory is registered, and in its second half ("late").
 */
#include <err.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "ksm.h"
#include "living.h"

#define LOOK_USECS	100000

/**
 * struct point - all that is counted, at one time
 * @at: passes, merged pages, and when
 * @cpu_ns: of ksmd
 * @copies: made because of a write to a merged page
 * @swapped_in: pages
 * @area: merged pages times nanoseconds, from the beginning on
 */
struct point {
	struct stand at;
	uint64_t cpu_ns;
	long copies;
	long swapped_in;
	double area;
};

void print_figure(const char *name, double value)
{
	printf("figure %s %.9g\n", name, value);
	fflush(stdout);
}

static struct point look(const struct stand *at, double area)
{
	return (struct point){
		.at = *at,
		.cpu_ns = ksm_sched_ns(),
		.copies = vmstat("cow_ksm"),
		.swapped_in = vmstat("pswpin"),
		.area = area,
	};
}

static void print_named(const char *prefix, const char *name, double value)
{
	char figure[64];

	snprintf(figure, sizeof(figure), "%s%s", prefix, name);
	print_figure(figure, value);
}

static void print_stretch(const char *prefix, const struct point *a, const struct point *b,
			  double can)
{
	double ns = b->at.ns - a->at.ns;
	double merged = (b->area - a->area) / ns;

	print_named(prefix, "merged", merged);
	if (can)
		print_named(prefix, "merged_percent", 100 * merged / can);
	print_named(prefix, "cpu_percent", 100 * (b->cpu_ns - a->cpu_ns) / ns);
	print_named(prefix, "copies_per_s", 1e9 * (b->copies - a->copies) / ns);
	print_named(prefix, "passes", b->at.passes - a->at.passes);
}

/* When so much was merged, in seconds; nothing is printed if it never was. */
struct mark {
	const char *name;
	double share;
	bool reached;
};

static void look_at_marks(struct mark *marks, uint64_t from, const struct stand *now, double can)
{
	for (struct mark *m = marks; m->name; m++) {
		if (m->reached || now->merged < m->share * can)
			continue;
		m->reached = true;
		print_figure(m->name, (now->ns - from) / 1e9);
	}
}

void measure(uint64_t from, double seconds, double can, bool fresh)
{
	struct mark marks[] = { { .name = "half_s", .share = 0.5 },
				{ .name = "most_s", .share = 0.95 }, { } };
	struct stand last = ksm_stand(), now = last;
	struct point begun, middle, end;
	double area = 0;
	bool late = false;

	begun = look(&last, 0);
	while (now.ns - from < seconds * 1e9) {
		usleep(LOOK_USECS);
		now = ksm_stand();
		area += (now.ns - last.ns) * (now.merged + last.merged) / 2.0;
		last = now;
		if (fresh && can)
			look_at_marks(marks, from, &now, can);
		if (!late && now.ns - from >= seconds * 1e9 / 2) {
			middle = look(&now, area);
			late = true;
		}
	}
	begun.at.ns = from;
	end = look(&now, area);
	print_figure("can", can);
	if (end.swapped_in > begun.swapped_in)
		print_figure("swapped_in", end.swapped_in - begun.swapped_in);
	print_stretch("", &begun, &end, can);
	print_stretch("late_", &middle, &end, can);
}

void print_turns(const char *what, const struct turns *turns, unsigned int holders)
{
	struct turns sum = { };

	for (unsigned int i = 0; i < holders; i++) {
		sum.count += turns[i].count;
		sum.sum_ns += turns[i].sum_ns;
		if (turns[i].max_ns > sum.max_ns)
			sum.max_ns = turns[i].max_ns;
	}
	if (!sum.count)
		return;
	print_named(what, "_mean_us", sum.sum_ns / 1e3 / sum.count);
	print_named(what, "_max_us", sum.max_ns / 1e3);
}
