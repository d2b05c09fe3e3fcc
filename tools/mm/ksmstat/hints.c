// SPDX-License-Identifier: GPL-2.0-only
/*
 * Settings that are unwise. A hint is only given when what it says is known.
 */
#include <math.h>
#include <stdarg.h>
#include <string.h>

#include "ksmstat.h"

/* A pass that takes longer is called slow. */
#define SLOW_PASS_SECONDS	3600.0

/* Less than this part of what is known is merged, for more than this of a CPU. */
#define LITTLE_MERGED		0.05
#define MUCH_CPU		0.05

struct hint_list {
	struct hint *hint;
	unsigned int nr;
};

__attribute__
((format(printf, 3, 4)))
static void add(struct hint_list *list, const char *id, const char *format, ...)
{
	struct hint *hint = &list->hint[list->nr++];
	va_list args;

	hint->id = id;
	va_start(args, format);
	vsnprintf(hint->text, sizeof(hint->text), format, args);
	va_end(args);
}

static bool has_advisor(const struct snapshot *s)
{
	return !s->advisor_err && strcmp(s->advisor, "none");
}

static void hint_off(struct hint_list *list, const struct snapshot *s, const struct derived *d)
{
	if (figure_is(s->file[KSM_RUN], RUN_OFF) && figure_above(d->equal, 0))
		add(list, "stopped",
		    "KSM is off: what is merged stays merged, nothing new will be; 'ksmstat on' goes on, 'ksmstat unmerge' gives each its own pages back.");
}

static void hint_nothing(struct hint_list *list, const struct derived *d)
{
	if (figure_is(d->known, 0))
		add(list, "nothing-known",
		    "KSM is on, but knows no page: no process has offered memory, or ksmd has not got to it yet; see 'ksmstat run'.");
}

static void hint_worth(struct hint_list *list, const struct derived *d)
{
	double merged = figure_ratio(d->equal, d->known);

	if (figure_above(d->known, 0) && !d->net.err && d->net.value < 0)
		add(list, "metadata",
		    "Metadata takes more memory than merging saves, by %s: offer less memory, or only such as is equal.",
		    text_bytes_of(-(double)d->net.value));
	/* Comparisons with NAN are false; of one burst between two sleeps nothing follows. */
	if (!d->is_too_short && d->cpu_share > MUCH_CPU && merged < LITTLE_MERGED)
		add(list, "little-merged",
		    "ksmd uses %s of a CPU while %s of the pages it knows are merged: let it sleep longer, or offer less memory.",
		    text_percent(d->cpu_share), text_percent(merged));
}

static void hint_pass(struct hint_list *list, const struct snapshot *s, const struct derived *d)
{
	const char *what = has_advisor(s) ?
		"lower advisor_target_scan_time or raise advisor_max_cpu" :
		"raise pages_to_scan, or set advisor_mode scan-time";

	if (d->pass_least >= SLOW_PASS_SECONDS)
		add(list, "slow-pass",
		    "A pass takes %s at this rate, and a page merges in its second at the earliest: %s.",
		    text_duration(d->pass_least), what);
	else if (isnan(d->pass_least) && d->pass_by_settings >= SLOW_PASS_SECONDS)
		add(list, "slow-pass",
		    "A pass that hashes all that is known takes at least %s with these settings, and a page merges in its second at the earliest: %s.",
		    text_duration(d->pass_by_settings), what);
}

static void hint_settings(struct hint_list *list, const struct snapshot *s)
{
	const struct figure *file = s->file;

	if (figure_is(file[KSM_PAGES_TO_SCAN], 0))
		add(list, "scans-nothing", "pages_to_scan is 0: ksmd is on and does nothing.");
	if (figure_is(file[KSM_SLEEP_MILLISECS], 0))
		add(list, "never-sleeps",
		    "sleep_millisecs is 0: ksmd takes all the CPU time it can get.");
	if (figure_is(file[KSM_SMART_SCAN], 0))
		add(list, "smart-scan",
		    "smart_scan is off: pages that do not change are hashed in each pass all the same.");
	if (has_advisor(s) && !file[KSM_ADVISOR_MAX_PAGES].err &&
	    figure_above(file[KSM_ADVISOR_MIN_PAGES], file[KSM_ADVISOR_MAX_PAGES].value))
		add(list, "advisor-limits",
		    "advisor_min_pages_to_scan is above advisor_max_pages_to_scan: the advisor cannot keep to both.");
}

/**
 * hints_find - what an administrator should know
 * @hints: where to
 * @now: what the kernel told
 * @derived: what follows
 *
 * Return: the number of hints.
 */
unsigned int hints_find(struct hint hints[MAX_HINTS], const struct snapshot *now,
			const struct derived *derived)
{
	struct hint_list list = { .hint = hints };

	hint_off(&list, now, derived);
	if (!figure_is(now->file[KSM_RUN], RUN_ON))
		return list.nr;
	hint_nothing(&list, derived);
	hint_worth(&list, derived);
	hint_pass(&list, now, derived);
	hint_settings(&list, now);
	return list.nr;
}
