// SPDX-License-Identifier: GPL-2.0-only
/*
 * The scan-time advisor: how many pages to scan between two sleeps, so that a
 * pass takes the time that the administrator wants, within limits of CPU time.
 *
 * A pass over P pages takes P * c of CPU time, c for each page, and P / n
 * sleeps s when n pages are scanned between two of them. With what the last
 * pass took, both c and s are known as they really are, and n for any wanted
 * time follows:
 *
 *   n = P * s / (target - P * c)       for the target time
 *   n = s * u / (c * (1 - u))          for a share u of one CPU, at most
 */
#include <linux/math64.h>
#include <linux/sched/cputime.h>
#include <linux/timekeeping.h>
#include <trace/events/ksm.h>

#include "ksm.h"

enum ksm_advisor_mode ksm_advisor_mode = KSM_ADVISOR_NONE;
unsigned int ksm_advisor_max_cpu = 70;
unsigned int ksm_advisor_min_pages = 500;
unsigned int ksm_advisor_max_pages = 30000;
unsigned long ksm_advisor_target_secs = 200;

/* A pass of a year is as good as none; keeps what is computed in range. */
#define KSM_ADVISOR_MAX_SECS	(366ULL * 24 * 60 * 60)

/* What the pass under way began with; ksm_control. */
static struct {
	u64 wall_ns;
	u64 cpu_ns;
	bool known;
} begun;

/**
 * ksm_advisor_set_mode - switch the advisor on or off
 * @mode: which
 *
 * Context: ksm_control held.
 */
void ksm_advisor_set_mode(enum ksm_advisor_mode mode)
{
	lockdep_assert_held(&ksm_control);
	if (ksm_advisor_mode == mode)
		return;
	WRITE_ONCE(ksm_advisor_mode, mode);
	if (mode == KSM_ADVISOR_NONE)
		WRITE_ONCE(ksm_pages_to_scan, KSM_PAGES_TO_SCAN);
	else
		WRITE_ONCE(ksm_pages_to_scan, max(READ_ONCE(ksm_advisor_min_pages), 1U));
	begun.known = false;
}

static void note_start(void)
{
	begun.wall_ns = ktime_get_ns();
	begun.cpu_ns = task_sched_runtime(current);
	begun.known = true;
}

/**
 * ksm_advisor_begin_pass - a pass begins
 *
 * Context: ksmd, ksm_control held.
 */
void ksm_advisor_begin_pass(void)
{
	if (!begun.known)
		note_start();
}

/**
 * ksm_advisor_forget_pass - ksmd was idle: how long the pass took tells nothing
 *
 * Context: ksm_control held.
 */
void ksm_advisor_forget_pass(void)
{
	begun.known = false;
}

static u64 scale(unsigned int pages, u64 num, u64 den)
{
	return div64_u64(num, den) < UINT_MAX ? mul_u64_u64_div_u64(pages, num, den) : UINT_MAX;
}

/**
 * ksm_advise - how many pages to scan between two sleeps
 * @pages: scanned between two sleeps in the last pass
 * @wall_ns: how long that pass took, in nanoseconds
 * @cpu_ns: CPU time of it, in nanoseconds
 *
 * The number of turns drops out when all is seen per turn of the last pass:
 * with T turns, P = T * pages, P * c = cpu_ns and T * s = wall_ns - cpu_ns.
 *
 * Context: ksm_control held.
 * Return: the number, within the limits that are set.
 */
unsigned int ksm_advise(unsigned int pages, u64 wall_ns, u64 cpu_ns)
{
	u64 target_secs = min(READ_ONCE(ksm_advisor_target_secs), KSM_ADVISOR_MAX_SECS);
	u64 target_ns = target_secs * NSEC_PER_SEC;
	u64 max_ns = KSM_ADVISOR_MAX_SECS * NSEC_PER_SEC;
	u64 slept_ns = min(wall_ns > cpu_ns ? wall_ns - cpu_ns : 0, max_ns);
	u64 max_cpu = min(READ_ONCE(ksm_advisor_max_cpu), 99U);
	u64 max_pages = READ_ONCE(ksm_advisor_max_pages);
	u64 most, want = UINT_MAX;

	/* A clock of ticks may have seen nothing of a short pass. */
	cpu_ns = clamp(cpu_ns, (u64)NSEC_PER_USEC, max_ns);
	if (target_ns > cpu_ns)
		want = scale(pages, slept_ns, target_ns - cpu_ns);
	/* Halfway there each time, so that one odd pass does little harm. */
	want = (min(want, max_pages) + pages + 1) / 2;

	most = scale(pages, slept_ns * max_cpu, cpu_ns * (100 - max_cpu));
	want = min3(want, most, max_pages);
	/* At 0 no pass would end, and no further advice come. */
	return max3(want, (u64)READ_ONCE(ksm_advisor_min_pages), 1ULL);
}

/**
 * ksm_advisor_end_pass - set the speed of the next pass by that of the last
 *
 * From end to end, so that the sleep after a pass is counted.
 *
 * Context: ksmd, ksm_control held.
 */
void ksm_advisor_end_pass(void)
{
	u64 wall_ns = ktime_get_ns() - begun.wall_ns;
	u64 cpu_ns = task_sched_runtime(current) - begun.cpu_ns;
	bool known = begun.known;
	unsigned int pages;

	note_start();
	if (ksm_advisor_mode == KSM_ADVISOR_NONE || !known)
		return;
	pages = ksm_advise(ksm_pages_to_scan, wall_ns, cpu_ns);
	WRITE_ONCE(ksm_pages_to_scan, pages);
	trace_ksm_advisor(div_u64(wall_ns, NSEC_PER_SEC), pages,
			  div64_u64(cpu_ns * 100, max(wall_ns, 1ULL)));
}
