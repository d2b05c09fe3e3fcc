// SPDX-License-Identifier: GPL-2.0-only
/*
 * The page of figures.
 */
#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <string.h>
#include <time.h>

#include "ksmstat.h"

#define WIDTH	78	/* of a hint's lines */

/**
 * measure - read all, twice where rates are wanted
 * @interval: seconds between the two, or 0
 * @now: what was read last
 * @derived: what follows
 *
 * Return: EXIT_OK, or EXIT_FAILED when there is nothing, which was said.
 */
int measure(double interval, struct snapshot *now, struct derived *derived)
{
	struct timespec pause = {
		.tv_sec = (time_t)interval,
		.tv_nsec = (long)((interval - (time_t)interval) * 1e9),
	};
	struct snapshot before;

	if (!ksm_is_there())
		return EXIT_FAILED;
	snapshot_take(now);
	if (snapshot_is_empty(now)) {
		complain(KSM_DIR ": %s", reason(now->file[KSM_RUN].err));
		return EXIT_FAILED;
	}
	if (interval > 0) {
		before = *now;
		nanosleep(&pause, NULL);
		snapshot_take(now);
	}
	derive(derived, interval > 0 ? &before : NULL, now);
	return EXIT_OK;
}

__attribute__
((format(printf, 2, 3)))
static void line(const char *label, const char *format, ...)
{
	va_list args;

	printf("  %-22s", label);
	va_start(args, format);
	vprintf(format, args);
	va_end(args);
	putchar('\n');
}

/* A figure in bytes; says why it is unknown where the files do not. */
static void line_bytes(const char *label, struct figure bytes, const char *more)
{
	if (bytes.err == BEYOND || bytes.err == DISAGREE)
		line(label, "not known: %s", reason(bytes.err));
	else
		line(label, "%s%s", text_bytes(bytes), more);
}

static void show_state(const struct snapshot *s)
{
	struct figure run = s->file[KSM_RUN];

	if (run.err)
		printf("Whether KSM is on is not known.\n");
	else if (run.value == RUN_ON)
		printf("KSM is on.\n");
	else if (run.value == RUN_OFF)
		printf("KSM is off.\n");
	else if (run.value == RUN_UNMERGE)
		printf("KSM is off and has unmerged everything.\n");
	else
		printf("KSM is in a state that ksmstat does not know (run %lld).\n", run.value);
}

static void show_saved(const struct snapshot *s, const struct derived *d)
{
	double part = figure_ratio(d->saved, s->memory);
	char more[TEXT_SIZE + 32] = "";

	if (!isnan(part))
		snprintf(more, sizeof(more), " (%s of this machine's memory)", text_percent(part));
	printf("\nSaved\n");
	line_bytes("saved now", d->saved, more);
	line_bytes("net of metadata", d->net, "");
	if (!s->file[KSM_ZERO_PAGES].err)
		line_bytes("by zero pages alone",
			   figure_mul(s->file[KSM_ZERO_PAGES], page_size()), "");
}

static void show_cost(const struct snapshot *s, const struct derived *d)
{
	printf("\nCost\n");
	line_bytes("metadata", d->metadata, "");
	if (d->is_too_little)
		line("ksmd now", "less than this kernel can measure");
	else if (isnan(d->cpu_share))
		line("ksmd now", "%s", d->seconds > 0 ? "not known" : "not measured");
	else
		line("ksmd now", "%s of a CPU, measured for %s%s", text_percent(d->cpu_share),
		     text_duration(d->seconds), s->cpu_is_fine ? "" : " by ticks");
	if (d->is_too_short && !isnan(d->cpu_share))
		line("", "in that time only: it sleeps too long; see -i");
	if (s->cpu_ns.err)
		line("ksmd in total", "not known");
	else
		line("ksmd in total", "%s of CPU time", text_duration(s->cpu_ns.value / 1e9));
	line("saved per CPU second", "%s", text_bytes_of(d->saved_per_cpu));
}

static void show_part(const char *label, struct figure pages, const struct derived *d,
		      const char *what)
{
	double part = figure_ratio(pages, d->known);

	if (pages.err)
		line(label, "not known");
	else
		line(label, "%8s  %11s  %s", isnan(part) ? "" : text_percent(part),
		     text_bytes(figure_mul(pages, page_size())), what);
}

static void show_known(const struct derived *d)
{
	printf("\nMemory that KSM knows: %s", text_bytes(figure_mul(d->known, page_size())));
	if (!d->known.err)
		printf(", %s pages", text_count(d->known));
	putchar('\n');
	show_part("merged", d->merged, d, "shares a copy");
	if (d->zero.err != -ENOENT)
		show_part("zero pages", d->zero, d, "shares the kernel's zero page");
	show_part("unique", d->unique, d, "unchanged, no equal page yet");
	show_part("changing", d->changing, d, "new, or written to too often");
}

static void show_pass(const struct derived *d)
{
	if (!(d->seconds > 0))
		line("a pass takes", "not measured");
	else if (isnan(d->pass_least) && d->is_too_short && d->scan_rate > 0)
		line("a pass takes", "not known: ksmd sleeps too long for that; see -i");
	else if (isnan(d->pass_least))
		line("a pass takes", "not known%s",
		     d->scan_rate ? "" : ": no page was scanned meanwhile");
	else if (d->pass_most < d->pass_least * 1.05)
		line("a pass takes", "about %s at this rate", text_duration(d->pass_most));
	else
		line("a pass takes", "%s to %s at this rate", text_duration(d->pass_least),
		     text_duration(d->pass_most));
	if (!isnan(d->pass_by_settings))
		line("to hash all of it", "at least %s by the settings",
		     text_duration(d->pass_by_settings));
}

static void show_scanning(const struct snapshot *s, const struct derived *d)
{
	printf("\nScanning\n");
	line("passes completed", "%s", text_count(s->file[KSM_FULL_SCANS]));
	if (isnan(d->scan_rate))
		line("pages scanned", "%s", text_count(s->file[KSM_PAGES_SCANNED]));
	else
		line("pages scanned", "%s, %s a second %s", text_count(s->file[KSM_PAGES_SCANNED]),
		     text_count(figure_of(fmin(d->scan_rate + 0.5, 1e18))),
		     d->is_too_short ? "in that time only" : "now");
	show_pass(d);
	line("settings", "pages_to_scan %s, sleep_millisecs %s",
	     text_count(s->file[KSM_PAGES_TO_SCAN]), text_count(s->file[KSM_SLEEP_MILLISECS]));
	line("", "smart_scan %s, advisor_mode %s", text_count(s->file[KSM_SMART_SCAN]),
	     s->advisor_err ? "not known" : s->advisor);
}

/* Breaks @text between words, so that lines are no longer than WIDTH. */
static void show_item(const char *text)
{
	const char *lead = "  - ";
	size_t room = WIDTH - 4, len;

	while (*text) {
		len = strlen(text);
		if (len > room) {
			for (len = room; len && text[len] != ' '; len--)
				;
			len = len ? len : room;
		}
		printf("%s%.*s\n", lead, (int)len, text);
		text += len + strspn(text + len, " ");
		lead = "    ";
	}
}

static void show_hints(const struct snapshot *s, const struct derived *d)
{
	struct hint hints[MAX_HINTS];
	unsigned int nr = hints_find(hints, s, d);

	if (nr)
		printf("\nHints\n");
	for (unsigned int i = 0; i < nr; i++)
		show_item(hints[i].text);
}

static void show_unknown_one(bool *begun, const char *what, int err)
{
	if (!err)
		return;
	if (!*begun)
		printf("\nMissing\n");
	*begun = true;
	printf("  - %s: %s\n", what, reason(err));
}

static void show_unknown(const struct snapshot *s)
{
	bool begun = false;

	for (int file = 0; file < KSM_NR_FILES; file++)
		show_unknown_one(&begun, ksm_file_name(file), s->file[file].err);
	show_unknown_one(&begun, "advisor_mode", s->advisor_err);
	show_unknown_one(&begun, "/proc/meminfo", s->memory.err);
	if (s->ksmd.err == -ESRCH) {
		printf("%s  - ksmd: not to be seen in /proc, as in a container or with hidepid\n",
		       begun ? "" : "\nMissing\n");
		begun = true;
	} else {
		show_unknown_one(&begun, "CPU time of ksmd", s->cpu_ns.err);
	}
}

int show_report(double interval)
{
	struct derived derived;
	struct snapshot now;
	int status = measure(interval, &now, &derived);

	if (status)
		return status;
	show_state(&now);
	show_saved(&now, &derived);
	show_cost(&now, &derived);
	show_known(&derived);
	show_scanning(&now, &derived);
	show_hints(&now, &derived);
	show_unknown(&now);
	return EXIT_OK;
}
