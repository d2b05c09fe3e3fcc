// SPDX-License-Identifier: GPL-2.0-only
/*
 * Measures what KSM costs, inside the virtual machine. Prints lines
 * "figure NAME VALUE".
 *
 * usage: measure load WORKLOAD MIB PASSES SECONDS
 *        measure running PAGES PASSES SECONDS   programs that run already, with
 *                                               PAGES of anonymous memory
 *        measure writer MIB SECONDS             what a thread beside ksmd feels
 *        measure touch                          touches all free memory once
 *
 * PASSES and SECONDS: the least that the steady state is looked at.
 *
 * The scheduler's clock in UML goes in steps of 10 ms, too coarse for one pass.
 * So ksmd, which does not sleep here, gets a CPU of its own, on which nothing else
 * runs, and its CPU time is what the clock (exact to 1 us) says between two passes.
 * That is a little too much where ksmd waits, for the other CPU to empty its lists
 * of pages at the beginning of a pass. The steady state is long enough to have the
 * scheduler's sum as well (steady_sched_ns).
 */
#define _GNU_SOURCE
#include <err.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ksm.h"
#include "workload.h"
#include "writer.h"

#define LOOK_USECS	50	/* between two looks at a pass that counts alone */
#define LOOK_STEADY	2000
#define STEADY_FROM	5	/* passes before it is called steady */
#define MAX_TRACE	65536
#define MERGED_FULLY	0.999	/* of the most that was merged */

static void print(const char *figure, double value)
{
	printf("figure %s %.9g\n", figure, value);
	fflush(stdout);
}

/* ---- when it was merged ---- */

static struct stand trace[MAX_TRACE];
static unsigned int trace_len;

static void note(const struct stand *now)
{
	const struct stand *last = trace_len ? &trace[trace_len - 1] : NULL;

	if (trace_len < MAX_TRACE && (!last || last->merged != now->merged))
		trace[trace_len++] = *now;
}

/* Seconds from @begun until nearly all that was merged in the end was merged. */
static double seconds_to_merge(uint64_t begun)
{
	long most = 0;

	for (unsigned int i = 0; i < trace_len; i++)
		most = trace[i].merged > most ? trace[i].merged : most;
	for (unsigned int i = 0; i < trace_len; i++)
		if (trace[i].merged >= most * MERGED_FULLY)
			return (trace[i].ns - begun) / 1e9;
	return 0;
}

/* ---- passes ---- */

/* Waits until @passes more are complete and @seconds are over. */
static struct stand wait_passes(const struct stand *from, long passes, double seconds,
				unsigned int look_usecs)
{
	struct stand now;

	do {
		usleep(look_usecs);
		now = ksm_stand();
		note(&now);
	} while (now.passes - from->passes < passes || now.ns - from->ns < seconds * 1e9);
	return now;
}

/* Nanoseconds per pass; passes that end between two looks share their time. */
static double pass_ns(const struct stand *from, const struct stand *to)
{
	return (double)(to->ns - from->ns) / (to->passes - from->passes);
}

/* The first passes, each for itself; what they merged, and at what cost. */
static struct stand measure_first(struct stand begun, double pages)
{
	static const char *const names[] = { "pass1_ns", "pass2_ns", "pass3_ns" };
	struct stand from = begun, now;

	for (int i = 0; i < 3; i++) {
		now = wait_passes(&from, 1, 0, LOOK_USECS);
		print(names[i], pass_ns(&from, &now) / pages);
		from = now;
	}
	print("merged_pass3", now.merged);
	return now;
}

static void print_merging(uint64_t begun, double pages, long merged)
{
	double seconds = seconds_to_merge(begun);

	/* A page or two that meet by chance are no merging to be measured. */
	if (merged < pages / 100)
		return;
	print("merge_cpu_s", seconds);
	print("mib_per_cpu_s", merged * (PAGE_BYTES / 1048576.0) / seconds);
}

/*
 * What merging frees comes back to the free memory; the rest of the fall went
 * into metadata.
 */
static void print_metadata(long free_before, double pages, long merged)
{
	long used = free_before - settled_free_kib() + merged * (long)(PAGE_BYTES >> 10);

	print("metadata_bytes", used * 1024.0 / pages);
}

static void measure_steady(struct stand from, double pages, long least_passes, double seconds)
{
	uint64_t sched = ksm_sched_ns();
	struct stand now = wait_passes(&from, least_passes, seconds, LOOK_STEADY);
	long passes = now.passes - from.passes;

	sched = ksm_sched_ns() - sched;
	print("steady_ns", pass_ns(&from, &now) / pages);
	print("steady_sched_ns", (double)sched / passes / pages);
	print("steady_passes", passes);
	print("merged_end", now.merged);
}

static void measure_scan(double pages, long free_before, long passes, double seconds)
{
	struct stand begun = ksm_stand(), now;

	print("pages", pages);
	ksm_set("run", "1");
	now = measure_first(begun, pages);
	now = wait_passes(&now, STEADY_FROM - 3, 0, LOOK_USECS);
	print_merging(begun.ns, pages, now.merged);
	measure_steady(now, pages, passes, seconds);
	ksm_set("run", "0");
	now = ksm_stand();
	print_metadata(free_before, pages, now.merged);
}

/* ---- the ways to be called ---- */

static void measure_load(const char *name, unsigned long mib, long passes, double seconds)
{
	double pages;
	long before;

	touch_free_memory();
	pages = workload_start(workload_find(name), mib);
	before = settled_free_kib();
	workload_register();
	measure_scan(pages, before, passes, seconds);
	workload_stop();
}

static void print_writer(const char *where, const struct writer_times *t)
{
	char name[64];

	snprintf(name, sizeof(name), "write_p99_us_%s", where);
	print(name, t->write_p99 / 1000);
	snprintf(name, sizeof(name), "write_max_us_%s", where);
	print(name, t->write_max / 1000);
	snprintf(name, sizeof(name), "late_p99_us_%s", where);
	print(name, t->late_p99 / 1000);
	snprintf(name, sizeof(name), "late_max_us_%s", where);
	print(name, t->late_max / 1000);
}

/* From pass 1 on, over memory in which there is much to merge. */
static void measure_writer(unsigned long mib, double seconds)
{
	static const struct {
		const char *name;
		int cpu;
	} places[] = { { "off", -1 }, { "other", 1 }, { "same", 0 } };

	touch_free_memory();
	workload_start(workload_find("quiet"), mib);
	workload_register();
	for (unsigned int i = 0; i < sizeof(places) / sizeof(*places); i++) {
		struct writer_times times;

		writer_start(seconds);
		if (places[i].cpu >= 0) {
			ksm_run_on(places[i].cpu);
			ksm_set("run", "1");
		}
		times = writer_run();
		print_writer(places[i].name, &times);
		ksm_set("run", "2");
		ksm_set("run", "0");
	}
	workload_stop();
}

/* Before anything else that waits for the CPU, so that no pass is seen late. */
static void go_first(void)
{
	const struct sched_param param = { .sched_priority = 50 };

	if (sched_setscheduler(0, SCHED_FIFO | SCHED_RESET_ON_FORK, &param))
		err(1, "SCHED_FIFO");
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "touch")) {
		touch_free_memory();
		return 0;
	}
	ksm_open();
	ksm_run_on(1);
	run_on(0);
	go_first();
	ksm_set("sleep_millisecs", "0");
	ksm_set("pages_to_scan", "100000");
	print("mem_total_kib", meminfo_kib("MemTotal:"));
	if (argc == 6 && !strcmp(argv[1], "load"))
		measure_load(argv[2], atol(argv[3]), atol(argv[4]), atof(argv[5]));
	else if (argc == 5 && !strcmp(argv[1], "running"))
		measure_scan(atof(argv[2]), settled_free_kib(), atol(argv[3]), atof(argv[4]));
	else if (argc == 4 && !strcmp(argv[1], "writer"))
		measure_writer(atol(argv[2]), atof(argv[3]));
	else
		errx(2, "wrong arguments");
	return 0;
}
