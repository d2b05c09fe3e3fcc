// SPDX-License-Identifier: GPL-2.0-only
/*
 * How ksmd goes about its work: smart_scan lets unique pages rest and loses none
 * of them, the counters of work done never go back, pages_to_scan and
 * sleep_millisecs say how fast it is and nothing else does, run = 0 ends all
 * movement, and suspend finds ksmd willing to freeze whatever it is at.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include "ksm_util.h"
#include "vm_util.h"

#define PAGES	256
#define SEED	1000
#define OTHER	2000000

/* After so many passes a page that stayed unique rests as often as it ever will. */
#define LONG_PASSES	24

/* A page that rests is looked at once in so many passes, at least. */
#define REST_PASSES	8

#define HOUR		(3600 * 1000)

FIXTURE(scanning)
{
	struct ksm_test ksm;
};

FIXTURE_SETUP(scanning)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
}

FIXTURE_TEARDOWN_PARENT(scanning)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

static char *page(char *map, size_t index)
{
	return map + index * psize();
}

static size_t merged(char *map, size_t pages)
{
	return ksm_count_merged(getpid(), map, pages);
}

static char *map_filled(size_t pages, uint64_t seed, uint64_t step)
{
	char *map = ksm_map_registered(pages);

	if (map)
		ksm_fill(map, pages, seed, step);
	return map;
}

/* Unique pages which smart_scan lets rest; that they do shows in pages_skipped. */
FIXTURE(resting)
{
	struct ksm_test ksm;
	char *map;
};

FIXTURE_SETUP(resting)
{
	const char *missing = ksm_missing();
	long skipped;

	if (missing)
		SKIP(return, "%s", missing);
	if (ksm_get("smart_scan") == KSM_NONE)
		SKIP(return, "this kernel has no smart_scan");
	ASSERT_TRUE(ksm_begin(&self->ksm));
	ASSERT_EQ(0, ksm_set("smart_scan", "1"));
	self->map = map_filled(PAGES, SEED, 1);
	ASSERT_NE(NULL, self->map);
	skipped = ksm_get("pages_skipped");
	ASSERT_EQ(0, ksm_set("run", "1"));
	ASSERT_TRUE(ksm_wait_passes(LONG_PASSES));
	ASSERT_GT(ksm_get("pages_skipped"), skipped + PAGES);
}

FIXTURE_TEARDOWN_PARENT(resting)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

TEST_F(resting, unique_pages_are_skipped_more_and_more)
{
	long skipped = ksm_get("pages_skipped");

	EXPECT_TRUE(ksm_wait_until(ksm_get("pages_skipped") > skipped + 2 * PAGES));
	EXPECT_EQ(PAGES, ksm_get("pages_unshared"));
	EXPECT_EQ(PAGES, ksm_count_frames(getpid(), self->map, PAGES));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 1));
}

TEST_F(resting, smart_scan_0_looks_at_all_pages_again)
{
	long skipped;

	ASSERT_EQ(0, ksm_set("smart_scan", "0"));
	ASSERT_TRUE(ksm_wait_passes(1));
	skipped = ksm_get("pages_skipped");
	ASSERT_TRUE(ksm_wait_passes(LONG_PASSES));
	EXPECT_EQ(skipped, ksm_get("pages_skipped"));
	EXPECT_EQ(PAGES, ksm_get("pages_unshared"));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 1));
}

TEST_F(resting, page_is_found_by_a_new_twin)
{
	char *twins = map_filled(PAGES, SEED, 1);

	ASSERT_NE(NULL, twins);
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(PAGES, ksm_get("pages_shared"));
	EXPECT_EQ(PAGES, ksm_get("pages_sharing"));
	for (size_t i = 0; i < PAGES; i++)
		EXPECT_EQ(ksm_pfn(getpid(), page(self->map, i)),
			  ksm_pfn(getpid(), page(twins, i)));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 1));
	EXPECT_EQ(-1, ksm_first_wrong(twins, PAGES, SEED, 1));
}

TEST_F(resting, page_that_becomes_equal_to_another_merges)
{
	const size_t half = PAGES / 2;

	/* All rest: those that change, and those that they become equal to. */
	ksm_fill(page(self->map, half), half, SEED, 1);
	ASSERT_TRUE(ksm_wait_passes(REST_PASSES + KSM_MERGE_PASSES));
	EXPECT_EQ(half, ksm_get("pages_shared"));
	EXPECT_EQ(half, ksm_get("pages_sharing"));
	for (size_t i = 0; i < half; i++)
		EXPECT_EQ(ksm_pfn(getpid(), page(self->map, i)),
			  ksm_pfn(getpid(), page(self->map, half + i)));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, half, SEED, 1));
	EXPECT_EQ(-1, ksm_first_wrong(page(self->map, half), half, SEED, 1));
}

TEST_F(resting, page_that_becomes_equal_to_a_merged_one_merges)
{
	char *twins = map_filled(2, OTHER, 0);

	ASSERT_NE(NULL, twins);
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	ASSERT_EQ(2, merged(twins, 2));
	ksm_fill(self->map, 8, OTHER, 0);
	ASSERT_TRUE(ksm_wait_passes(REST_PASSES + KSM_MERGE_PASSES));
	EXPECT_EQ(1, ksm_get("pages_shared"));
	EXPECT_EQ(9, ksm_get("pages_sharing"));
	EXPECT_EQ(8, merged(self->map, 8));
	EXPECT_EQ(-1, ksm_first_wrong(twins, 2, OTHER, 0));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, 8, OTHER, 0));
	EXPECT_EQ(-1, ksm_first_wrong(page(self->map, 8), PAGES - 8, SEED + 8, 1));
}

TEST_F(resting, page_that_goes_away_is_forgotten)
{
	ASSERT_EQ(0, madvise(self->map, PAGES / 2 * psize(), MADV_DONTNEED));
	ASSERT_TRUE(ksm_wait_passes(REST_PASSES));
	EXPECT_EQ(PAGES / 2, ksm_get("pages_unshared"));
	EXPECT_EQ(-1, ksm_first_wrong(page(self->map, PAGES / 2), PAGES / 2,
				      SEED + PAGES / 2, 1));
}

TEST_F(scanning, smart_scan_0_skips_nothing)
{
	long skipped = ksm_get("pages_skipped");
	char *map = map_filled(PAGES, SEED, 1);

	if (skipped == KSM_NONE)
		SKIP(return, "this kernel has no pages_skipped");
	ASSERT_NE(NULL, map);
	ASSERT_EQ(0, ksm_set("run", "1"));
	ASSERT_TRUE(ksm_wait_passes(LONG_PASSES));
	EXPECT_EQ(skipped, ksm_get("pages_skipped"));
	EXPECT_EQ(PAGES, ksm_get("pages_unshared"));
	EXPECT_EQ(-1, ksm_first_wrong(map, PAGES, SEED, 1));
}

/* Did one of the two go back since it was last seen? */
static bool counters_went_back(long *scanned, long *scans)
{
	long scanned_now = ksm_get("pages_scanned"), scans_now = ksm_get("full_scans");
	bool back = scanned_now < *scanned || scans_now < *scans;

	*scanned = scanned_now;
	*scans = scans_now;
	return back;
}

TEST_F(scanning, counters_of_work_done_never_go_back)
{
	long first_scanned = ksm_get("pages_scanned"), scanned = first_scanned;
	long first_scans = ksm_get("full_scans"), scans = first_scans;
	char *map = map_filled(PAGES, SEED, 1);
	bool back = false;

	ASSERT_NE(NULL, map);
	for (unsigned int round = 1; round <= 5; round++) {
		ASSERT_TRUE(ksm_fork_worker(&self->ksm, round, map, PAGES));
		ASSERT_EQ(0, ksm_set("run", "1"));
		/* A process goes in the middle of it. */
		EXPECT_TRUE(ksm_wait_until((back |= counters_went_back(&scanned, &scans),
					    scans > first_scans + round)));
		EXPECT_TRUE(ksm_end_worker(&self->ksm.workers[round]));
		EXPECT_TRUE(ksm_wait_until((back |= counters_went_back(&scanned, &scans),
					    scans > first_scans + 2 * round)));
		ASSERT_EQ(0, ksm_set("run", "0"));
		back |= counters_went_back(&scanned, &scans);
	}
	EXPECT_FALSE(back);
	EXPECT_GE(scanned - first_scanned, (scans - first_scans - 1) * PAGES);
	EXPECT_EQ(-1, ksm_first_wrong(map, PAGES, SEED, 1));
}

TEST_F(scanning, pages_to_scan_and_sleep_bound_the_speed)
{
	const long batch = 20, turns = 10, sleep = 50;
	long scanned = ksm_get("pages_scanned");
	char *map = map_filled(2048, SEED, 1);
	uint64_t start;

	ASSERT_NE(NULL, map);
	ASSERT_EQ(0, ksm_set_number("pages_to_scan", batch));
	ASSERT_EQ(0, ksm_set_number("sleep_millisecs", sleep));
	start = ksm_tick_millisecs();
	ASSERT_EQ(0, ksm_set("run", "1"));
	ASSERT_TRUE(ksm_wait_until(ksm_get("pages_scanned") >= scanned + turns * batch));
	/* The first turn comes at once; a clock that ticks slowly may be one tick early. */
	EXPECT_GE(ksm_tick_millisecs() - start, (turns - 2) * sleep);
	ASSERT_EQ(0, ksm_set("run", "0"));
	EXPECT_EQ(0, (ksm_get("pages_scanned") - scanned) % batch);
	EXPECT_EQ(-1, ksm_first_wrong(map, 2048, SEED, 1));
}

/* Waits until ksmd has had its first turn of @batch pages and sleeps for an hour. */
static bool put_to_sleep(long batch)
{
	long scanned = ksm_get("pages_scanned");

	if (ksm_set_number("pages_to_scan", batch) || ksm_set_number("sleep_millisecs", HOUR) ||
	    ksm_set("run", "1"))
		return false;
	return ksm_wait_until(ksm_get("pages_scanned") == scanned + batch) &&
	       ksm_stays(ksm_get("pages_scanned") == scanned + batch);
}

TEST_F(scanning, new_sleep_millisecs_ends_a_long_sleep_and_lasts)
{
	const long batch = 20, turns = 6, sleep = 50;
	char *map = map_filled(2048, SEED, 1);
	uint64_t start;
	long scanned;

	ASSERT_NE(NULL, map);
	ASSERT_TRUE(put_to_sleep(batch));
	scanned = ksm_get("pages_scanned");
	start = ksm_tick_millisecs();
	ASSERT_EQ(0, ksm_set_number("sleep_millisecs", sleep));
	EXPECT_TRUE(ksm_wait_until(ksm_get("pages_scanned") >= scanned + turns * batch));
	/* On a machine that is held up some of the sleeps are short. */
	EXPECT_GE(ksm_tick_millisecs() - start, (turns - 2) * sleep / 2);
	/* And longer again: the short sleep that is under way is the last one. */
	ASSERT_EQ(0, ksm_set_number("sleep_millisecs", HOUR));
	scanned = ksm_get("pages_scanned");
	EXPECT_TRUE(ksm_stays(ksm_get("pages_scanned") <= scanned + 2 * batch));
	EXPECT_EQ(-1, ksm_first_wrong(map, 2048, SEED, 1));
}

/* A process that registers, by inheriting from this one, and ends. */
static bool fork_and_exit(void)
{
	pid_t pid = fork();
	int status;

	if (!pid)
		_exit(0);
	return pid > 0 && waitpid(pid, &status, 0) == pid && !status;
}

TEST_F(scanning, registrations_do_not_cut_a_long_sleep_short)
{
	struct ksm_worker *worker = self->ksm.workers;
	char *map;
	long scanned;

	/* Forked before this process registers. */
	ASSERT_TRUE(ksm_fork_worker(&self->ksm, 0, NULL, PAGES));
	ASSERT_EQ(0, ksm_ask(worker, ksm_job_fill, SEED, 1, 0));
	map = map_filled(PAGES, SEED, 1);
	ASSERT_NE(NULL, map);
	ASSERT_TRUE(put_to_sleep(20));
	scanned = ksm_get("pages_scanned");
	ASSERT_EQ(0, ksm_ask(worker, ksm_job_advise, MADV_MERGEABLE, 0, 0));
	for (unsigned int i = 0; i < 100; i++)
		ASSERT_TRUE(fork_and_exit());
	EXPECT_TRUE(ksm_stays(ksm_get("pages_scanned") == scanned));
	EXPECT_EQ(-1, ksm_ask(worker, ksm_job_first_wrong, SEED, 1, 0));
	EXPECT_EQ(-1, ksm_first_wrong(map, PAGES, SEED, 1));
}

TEST_F(scanning, registering_wakes_a_ksmd_that_has_nothing_to_do)
{
	long scans = ksm_get("full_scans");
	char *map;

	ASSERT_EQ(0, ksm_set("run", "1"));
	ASSERT_TRUE(ksm_stays(ksm_get("full_scans") == scans));
	map = map_filled(PAGES, SEED, 0);
	ASSERT_NE(NULL, map);
	EXPECT_TRUE(ksm_wait_until(merged(map, PAGES) == PAGES));
	EXPECT_EQ(-1, ksm_first_wrong(map, PAGES, SEED, 0));
}

TEST_F(scanning, passes_end_however_many_processes_register)
{
	long scans = ksm_get("full_scans");
	char *map = map_filled(PAGES / 2, SEED, 0);
	bool forked = true;

	ASSERT_NE(NULL, map);
	ASSERT_EQ(0, ksm_set_number("pages_to_scan", 50));
	ASSERT_EQ(0, ksm_set("run", "1"));
	EXPECT_TRUE(ksm_wait_until((forked &= fork_and_exit(),
				    ksm_get("full_scans") > scans + KSM_MERGE_PASSES)));
	EXPECT_TRUE(forked);
	/* A page that is being forked is left for later. */
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(PAGES / 2, merged(map, PAGES / 2));
	EXPECT_EQ(-1, ksm_first_wrong(map, PAGES / 2, SEED, 0));
}

static const char * const counters[] = {
	"pages_shared", "pages_sharing", "pages_unshared", "pages_volatile",
	"pages_scanned", "pages_skipped", "full_scans", "stable_node_chains",
	"stable_node_dups", "ksm_zero_pages", "general_profit",
};

static void note_counters(long value[ARRAY_SIZE(counters)])
{
	for (size_t i = 0; i < ARRAY_SIZE(counters); i++)
		value[i] = ksm_get(counters[i]);
}

static bool counters_are(const long value[ARRAY_SIZE(counters)])
{
	bool same = true;

	for (size_t i = 0; i < ARRAY_SIZE(counters); i++)
		same &= ksm_get(counters[i]) == value[i];
	return same;
}

/* How many pages ksmd goes on for when it is switched off in the middle of a pass. */
static long scanned_when_off(void)
{
	long scanned = ksm_get("pages_scanned");

	if (ksm_set("run", "1") || !ksm_wait_until(ksm_get("pages_scanned") != scanned))
		return LONG_MAX;
	scanned = ksm_get("pages_scanned");
	return ksm_set("run", "0") ? LONG_MAX : ksm_get("pages_scanned") - scanned;
}

TEST_F(scanning, run_0_stops_it_soon_and_nothing_moves_any_more)
{
	const long batch = 128;
	const size_t pages = 4096;
	char *map = map_filled(pages, SEED, 0);
	long value[ARRAY_SIZE(counters)];
	unsigned int tries = 1;
	size_t frames;

	ASSERT_NE(NULL, map);
	ASSERT_EQ(0, ksm_set_number("max_page_sharing", 1000));
	ASSERT_EQ(0, ksm_set_number("pages_to_scan", 256));
	ASSERT_EQ(0, ksm_set_number("sleep_millisecs", 0));
	ASSERT_EQ(0, ksm_set("run", "1"));
	/* In the middle of merging. */
	ASSERT_TRUE(ksm_wait_until(ksm_get("pages_sharing") > 10));
	ASSERT_EQ(0, ksm_set("run", "0"));
	note_counters(value);
	frames = ksm_count_frames(getpid(), map, pages);
	EXPECT_TRUE(ksm_stays(counters_are(value)));
	EXPECT_EQ(frames, ksm_count_frames(getpid(), map, pages));
	EXPECT_EQ(-1, ksm_first_wrong(map, pages, SEED, 0));
	/* Whoever was not scheduled between two looks tells nothing. */
	ASSERT_EQ(0, ksm_set_number("pages_to_scan", UINT_MAX));
	while (scanned_when_off() > 4 * batch && tries < 100)
		tries++;
	EXPECT_LT(tries, 100);
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_EQ(pages, merged(map, pages));
	EXPECT_EQ(-1, ksm_first_wrong(map, pages, SEED, 0));
}

/* Freezing as for suspend, and no further. */
#define PM_TEST		"/sys/power/pm_test"
#define PM_STATE	"/sys/power/state"
#define PM_DELAY	"/sys/module/suspend/parameters/pm_test_delay"

FIXTURE(suspend)
{
	struct ksm_test ksm;
	char level[32];
	char delay[32];
	const char *state;
};

/* The files of a choice read "one [chosen] other". */
static bool read_chosen(const char *path, char text[32])
{
	char all[128];

	return !ksm_read_text(path, all, sizeof(all)) &&
	       sscanf(all, "%*[^[][%31[^]]", text) + sscanf(all, "[%31[^]]", text) > 0;
}

FIXTURE_SETUP(suspend)
{
	const char *missing = ksm_missing();
	char states[128];

	if (missing)
		SKIP(return, "%s", missing);
	if (access(PM_TEST, F_OK))
		SKIP(return, "no " PM_TEST ": needs CONFIG_PM_DEBUG and CONFIG_SUSPEND");
	ASSERT_EQ(0, ksm_read_text(PM_STATE, states, sizeof(states)));
	self->state = strstr(states, "freeze") ? "freeze" : "mem";
	if (!strstr(states, self->state))
		SKIP(return, PM_STATE " has neither 'freeze' nor 'mem'");
	ASSERT_TRUE(ksm_begin(&self->ksm));
	ASSERT_TRUE(read_chosen(PM_TEST, self->level));
	ASSERT_EQ(0, ksm_read_text(PM_DELAY, self->delay, sizeof(self->delay)));
	ASSERT_EQ(0, ksm_write_text(PM_DELAY, "1"));
	ASSERT_EQ(0, ksm_write_text(PM_TEST, "freezer"));
}

FIXTURE_TEARDOWN_PARENT(suspend)
{
	if (self->delay[0]) {
		EXPECT_EQ(0, ksm_write_text(PM_TEST, self->level));
		EXPECT_EQ(0, ksm_write_text(PM_DELAY, self->delay));
	}
	EXPECT_TRUE(ksm_end(&self->ksm));
}

TEST_F(suspend, freezes_a_ksmd_that_runs_at_full_speed)
{
	const size_t pages = 4096;
	char *map = map_filled(pages, SEED, 1);
	char *twins = map_filled(pages, SEED, 1);
	long scanned;

	ASSERT_NE(NULL, map);
	ASSERT_NE(NULL, twins);
	ASSERT_EQ(0, ksm_set_number("sleep_millisecs", 0));
	ASSERT_EQ(0, ksm_set("run", "1"));
	for (unsigned int round = 0; round < 3; round++) {
		/* Some of it is merged anew in each round. */
		ksm_fill(twins, pages / 2, OTHER, 1);
		ksm_fill(twins, pages / 2, SEED, 1);
		EXPECT_EQ(0, ksm_write_text(PM_STATE, self->state));
		scanned = ksm_get("pages_scanned");
		EXPECT_TRUE(ksm_wait_until(ksm_get("pages_scanned") > scanned));
		EXPECT_EQ(-1, ksm_first_wrong(map, pages, SEED, 1));
		EXPECT_EQ(-1, ksm_first_wrong(twins, pages, SEED, 1));
	}
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(pages, ksm_get("pages_shared"));
	EXPECT_EQ(pages, ksm_get("pages_sharing"));
	EXPECT_EQ(-1, ksm_first_wrong(map, pages, SEED, 1));
	EXPECT_EQ(-1, ksm_first_wrong(twins, pages, SEED, 1));
}

TEST_F(suspend, freezes_a_ksmd_that_sleeps_and_one_that_is_off)
{
	char *map;

	/* Nobody registered, then a long sleep, then off. */
	ASSERT_EQ(0, ksm_set("run", "1"));
	EXPECT_EQ(0, ksm_write_text(PM_STATE, self->state));
	ASSERT_EQ(0, ksm_set("run", "0"));
	map = map_filled(PAGES, SEED, 0);
	ASSERT_NE(NULL, map);
	ASSERT_TRUE(put_to_sleep(20));
	EXPECT_EQ(0, ksm_write_text(PM_STATE, self->state));
	ASSERT_EQ(0, ksm_set("run", "0"));
	EXPECT_EQ(0, ksm_write_text(PM_STATE, self->state));
	EXPECT_EQ(0, ksm_get("pages_sharing"));
	ASSERT_EQ(0, ksm_set_number("sleep_millisecs", 1));
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_EQ(PAGES, merged(map, PAGES));
	EXPECT_EQ(-1, ksm_first_wrong(map, PAGES, SEED, 0));
}

TEST_HARNESS_MAIN
