// SPDX-License-Identifier: GPL-2.0-only
/*
 * What follows from the counters. What cannot be known exactly gets bounds.
 */
#include <errno.h>
#include <math.h>

#include "ksmstat.h"

/* A rate is only trusted if it was measured for so many of ksmd's sleeps. */
#define MIN_SLEEPS	4

/* Kernels without the counter of zero pages do not count them anywhere else either. */
static struct figure with_zero(struct figure pages, const struct snapshot *s)
{
	struct figure zero = s->file[KSM_ZERO_PAGES];

	return zero.err == -ENOENT ? pages : figure_add(pages, zero);
}

static void derive_memory(struct derived *d, const struct snapshot *s)
{
	d->saved = figure_mul(with_zero(s->file[KSM_PAGES_SHARING], s), page_size());
	d->net = s->file[KSM_PROFIT];
	d->metadata = figure_sub(d->saved, d->net);
	/* Counters that moved meanwhile may say that metadata is less than nothing. */
	if (!d->metadata.err && d->metadata.value < 0)
		d->metadata = figure_unknown(DISAGREE);
	d->merged = figure_add(s->file[KSM_PAGES_SHARED], s->file[KSM_PAGES_SHARING]);
	d->zero = s->file[KSM_ZERO_PAGES];
	d->equal = with_zero(d->merged, s);
	d->unique = s->file[KSM_PAGES_UNSHARED];
	d->changing = s->file[KSM_PAGES_VOLATILE];
	d->to_scan = figure_add(d->merged, figure_add(d->unique, d->changing));
	d->known = with_zero(d->to_scan, s);
}

/* What a counter grew by; unknown if it is, or if it went back. */
static double growth(struct figure from, struct figure to)
{
	struct figure more = figure_sub(to, from);

	return more.err || more.value < 0 ? NAN : (double)more.value;
}

static double file_growth(const struct snapshot *from, const struct snapshot *to,
			  enum ksm_file file)
{
	return growth(from->file[file], to->file[file]);
}

/* ksmd scans in bursts: what it did between two sleeps only tells nothing. */
static bool is_too_short(double seconds, struct figure sleep_millisecs)
{
	return !sleep_millisecs.err && seconds * 1000 < (double)sleep_millisecs.value * MIN_SLEEPS;
}

/*
 * How long a pass takes. When one pass ended while measuring, it may have begun long
 * ago; of several all but one began and ended within that time.
 *
 * Otherwise pages that were looked at tell. Kernels differ in whether pages that were
 * passed over as unchanged count as scanned, so there are two bounds.
 */
static void derive_pass(struct derived *d, const struct snapshot *from, const struct snapshot *to)
{
	double passes = file_growth(from, to, KSM_FULL_SCANS);
	double scanned = file_growth(from, to, KSM_PAGES_SCANNED);
	double skipped = file_growth(from, to, KSM_PAGES_SKIPPED);

	if (passes >= 2) {
		d->pass_least = d->seconds / (passes + 1);
		d->pass_most = d->seconds / (passes - 1);
	} else if (scanned > 0 && figure_above(d->to_scan, 0) && !d->is_too_short) {
		if (isnan(skipped))
			skipped = 0;
		d->pass_least = d->to_scan.value / ((scanned + skipped) / d->seconds);
		d->pass_most = d->to_scan.value / (scanned / d->seconds);
	}
}

static void derive_rates(struct derived *d, const struct snapshot *from, const struct snapshot *to)
{
	d->seconds = (to->now_ns - from->now_ns) / 1e9;
	if (d->seconds <= 0)
		return;
	d->is_too_short = is_too_short(d->seconds, to->file[KSM_SLEEP_MILLISECS]);
	d->scan_rate = file_growth(from, to, KSM_PAGES_SCANNED) / d->seconds;
	if (from->cpu_is_fine == to->cpu_is_fine)
		d->cpu_share = growth(from->cpu_ns, to->cpu_ns) / 1e9 / d->seconds;
	/* ksmd cannot have scanned in no time. */
	d->is_too_little = !d->cpu_share && d->scan_rate > 0;
	if (d->is_too_little)
		d->cpu_share = NAN;
	derive_pass(d, from, to);
}

/* Hashing takes time, too, so ksmd is always slower than its settings say. */
static void derive_settings(struct derived *d, const struct snapshot *s)
{
	struct figure pages = s->file[KSM_PAGES_TO_SCAN];
	struct figure sleep = s->file[KSM_SLEEP_MILLISECS];

	if (!figure_above(pages, 0) || !figure_above(sleep, 0))
		return;
	d->hash_rate = pages.value * 1000.0 / sleep.value;
	if (figure_above(d->to_scan, 0))
		d->pass_by_settings = d->to_scan.value / d->hash_rate;
}

/**
 * derive - find out what follows
 * @derived: where to
 * @before: a snapshot taken before @now, or NULL
 * @now: a snapshot
 */
void derive(struct derived *derived, const struct snapshot *before, const struct snapshot *now)
{
	*derived = (struct derived){
		.saved_per_cpu = NAN,
		.cpu_share = NAN,
		.scan_rate = NAN,
		.pass_least = NAN,
		.pass_most = NAN,
		.hash_rate = NAN,
		.pass_by_settings = NAN,
	};
	derive_memory(derived, now);
	derived->saved_per_cpu = figure_ratio(derived->saved, now->cpu_ns) * 1e9;
	derive_settings(derived, now);
	if (before)
		derive_rates(derived, before, now);
}
