// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory that lives: ksmd takes its time where nothing happens and hurries where
 * something does, leaves pages alone that are written to again and again, and finds
 * equal pages in huge pages that are never clean.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include "ksm_util.h"
#include "vm_util.h"

#define SEED		1000
#define OTHER		2000000
#define COUNTS		"/sys/kernel/debug/ksm/work"

/* What back-off counts in: fifty sleeps of the default of these tests. */
#define UNIT_MILLISECS	50

static size_t merged(char *map, size_t pages)
{
	return ksm_count_merged(getpid(), map, pages);
}

FIXTURE(living)
{
	struct ksm_test ksm;
};

FIXTURE_SETUP(living)
{
	const char *missing = ksm_missing() ?: ksm_no_dirty_bit();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	ASSERT_EQ(0, ksm_set("smart_scan", "1"));
}

FIXTURE_TEARDOWN_PARENT(living)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

/* What was settled lately keeps ksmd in a hurry for some passes. */
#define HURRIED_PASSES	4

/* Pages that differ, all settled; ksmd is slow and in no hurry from then on. */
static char *map_settled(size_t pages, long pages_to_scan, long sleep)
{
	char *map = ksm_map_registered(pages);

	if (!map)
		return NULL;
	ksm_fill(map, pages, SEED, 1);
	if (!ksm_merge_all() || !ksm_wait_until(ksm_get("pages_unshared") == (long)pages) ||
	    !ksm_wait_passes(HURRIED_PASSES) ||
	    ksm_set_number("pages_to_scan", pages_to_scan) ||
	    ksm_set_number("sleep_millisecs", sleep))
		return NULL;
	return map;
}

TEST_F(living, pass_over_still_memory_takes_as_long_as_the_settings_say)
{
	const long pages = 4000, batch = 100, sleep = 10;
	char *map = map_settled(pages, batch, sleep);
	uint64_t start;
	long scans;

	ASSERT_NE(NULL, map);
	scans = ksm_get("full_scans");
	start = ksm_tick_millisecs();
	ASSERT_TRUE(ksm_wait_until(ksm_get("full_scans") >= scans + 3));
	EXPECT_GE(ksm_tick_millisecs() - start, 2 * pages / batch * sleep * 9 / 10);
	EXPECT_EQ(-1, ksm_first_wrong(map, pages, SEED, 1));
}

/* How often ksmd has gone to sleep. */
static long sleeps(void)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/status", ksm_ksmd());
	return ksm_number_in(path, "voluntary_ctxt_switches");
}

TEST_F(living, without_a_sleep_there_is_no_rest)
{
	const long pages = 4000, passes = 20;
	char *map = map_settled(pages, 1, 0);
	long scans, slept;

	ASSERT_NE(NULL, map);
	scans = ksm_get("full_scans");
	slept = sleeps();
	ASSERT_TRUE(ksm_wait_until(ksm_get("full_scans") > scans + passes));
	/* Each turn passes over 64 pages at most. */
	EXPECT_LT(sleeps() - slept, passes * pages / 64 / 8);
	EXPECT_EQ(-1, ksm_first_wrong(map, pages, SEED, 1));
}

/*
 * Settled memory of one process, and new pages of another, which is scanned first. A ksmd
 * that comes to them by chance hurries when that pass is over, and no sleep in it is
 * shorter than the settings say.
 */
#define CALM_PAGES	40960
#define CALM_TO_SCAN	100
#define CALM_SLEEP	100
#define CALM_PASS	(CALM_PAGES / CALM_TO_SCAN * CALM_SLEEP * 9 / 10)
#define CALM_TWINS	256

static void fill_and_wait(struct __test_metadata *_metadata, struct ksm_worker *late,
			  const char *map, bool is_offered)
{
	uint64_t start = ksm_now_millisecs();

	ASSERT_EQ(0, ksm_ask(late, ksm_job_fill, SEED, 1, 0));
	ASSERT_TRUE(is_offered || !ksm_ask(late, ksm_job_advise, MADV_MERGEABLE, 0, 0));
	EXPECT_TRUE(ksm_wait_until(ksm_count_merged(late->pid, late->map, CALM_TWINS) ==
				   CALM_TWINS));
	TH_LOG("merged after %llu ms", (unsigned long long)(ksm_now_millisecs() - start));
	EXPECT_LT(ksm_now_millisecs() - start, CALM_PASS);
	EXPECT_EQ(CALM_TWINS, ksm_count_merged(getpid(), map, CALM_PAGES));
	EXPECT_EQ(-1, ksm_first_wrong(map, CALM_PAGES, SEED, 1));
	EXPECT_EQ(-1, ksm_ask(late, ksm_job_first_wrong, SEED, 1, 0));
}

TEST_F(living, offering_memory_ends_the_rest)
{
	struct ksm_worker *late = &self->ksm.workers[0];
	char *map;

	ASSERT_TRUE(ksm_fork_worker(&self->ksm, 0, NULL, CALM_TWINS));
	map = map_settled(CALM_PAGES, CALM_TO_SCAN, CALM_SLEEP);
	ASSERT_NE(NULL, map);
	fill_and_wait(_metadata, late, map, false);
}

TEST_F(living, memory_that_grows_ends_the_rest)
{
	struct ksm_worker *late = &self->ksm.workers[0];
	char *map;

	ASSERT_TRUE(ksm_fork_worker(&self->ksm, 0, NULL, CALM_TWINS));
	ASSERT_EQ(0, ksm_ask(late, ksm_job_advise, MADV_MERGEABLE, 0, 0));
	map = map_settled(CALM_PAGES, CALM_TO_SCAN, CALM_SLEEP);
	ASSERT_NE(NULL, map);
	fill_and_wait(_metadata, late, map, true);
}

/* Pages of two places, alike in both, that are rewritten every few milliseconds. */
struct restless {
	char *map;
	size_t pages;		/* in each place */
	uint64_t last;		/* when they were rewritten */
	unsigned int gaps;	/* how often they were left alone for so long as to be scanned */
	uint64_t content;
};

static void rewrite(struct restless *restless)
{
	uint64_t now = ksm_now_millisecs();

	if (now - restless->last < 20)
		return;
	restless->content += restless->pages;
	for (unsigned int i = 0; i < 2; i++)
		ksm_fill(restless->map + i * restless->pages * psize(), restless->pages,
			 restless->content, 1);
	restless->gaps += ksm_now_millisecs() - restless->last > UNIT_MILLISECS;
	restless->last = now;
}

TEST_F(living, pages_rewritten_soon_are_left_alone_until_they_come_to_rest)
{
	struct restless restless = { .pages = 64, .content = OTHER };
	const uint64_t end = ksm_now_millisecs() + 3000;
	long copies = ksm_vmstat("cow_ksm");

	restless.map = ksm_map_registered(2 * restless.pages);
	ASSERT_NE(NULL, restless.map);
	rewrite(&restless);
	restless.gaps = 0;
	ASSERT_EQ(0, ksm_set("run", "1"));
	ASSERT_TRUE(ksm_wait_until((rewrite(&restless), ksm_now_millisecs() > end)));
	/* Each of them once or twice, and again only if the machine was held up. */
	EXPECT_LE(ksm_vmstat("cow_ksm") - copies,
		  (long)(2 * restless.pages * (2 + restless.gaps)));
	EXPECT_TRUE(ksm_wait_until(merged(restless.map, 2 * restless.pages) ==
				   2 * restless.pages));
	for (unsigned int i = 0; i < 2; i++)
		EXPECT_EQ(-1, ksm_first_wrong(restless.map + i * restless.pages * psize(),
					      restless.pages, restless.content, 1));
}

TEST_F(living, still_pages_beside_restless_ones_merge)
{
	struct restless restless = { .pages = 64, .content = OTHER };
	const size_t pages = 256;
	char *still = ksm_map_registered(2 * pages);

	restless.map = ksm_map_registered(2 * restless.pages);
	ASSERT_NE(NULL, restless.map);
	ASSERT_NE(NULL, still);
	ksm_fill(still, pages, SEED, 1);
	ksm_fill(still + pages * psize(), pages, SEED, 1);
	ASSERT_EQ(0, ksm_set("run", "1"));
	EXPECT_TRUE(ksm_wait_until((rewrite(&restless), merged(still, 2 * pages) == 2 * pages)));
	EXPECT_EQ(-1, ksm_first_wrong(still, pages, SEED, 1));
	EXPECT_EQ(-1, ksm_first_wrong(still + pages * psize(), pages, SEED, 1));
}

/* Two huge pages; the first words of their first pages never stay the same. */
FIXTURE(hot_huge)
{
	struct ksm_test ksm;
	size_t size;
	size_t pages;
	char *map[2];
	uint64_t turn;
};

FIXTURE_SETUP(hot_huge)
{
	const char *missing = ksm_missing() ?: ksm_no_dirty_bit();

	if (missing)
		SKIP(return, "%s", missing);
	self->size = read_pmd_pagesize();
	if (!self->size)
		SKIP(return, "this kernel has no transparent huge pages");
	self->pages = self->size / psize();
	for (unsigned int i = 0; i < 2; i++) {
		self->map[i] = ksm_map_huge(self->size);
		if (!self->map[i] || !ksm_is_huge(self->map[i], self->size))
			SKIP(return, "no huge page to be had: memory may be fragmented");
	}
	ASSERT_TRUE(ksm_begin(&self->ksm));
	ASSERT_EQ(0, ksm_set("smart_scan", "1"));
}

FIXTURE_TEARDOWN_PARENT(hot_huge)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

static void heat(FIXTURE_DATA(hot_huge) *self)
{
	for (unsigned int i = 0; i < 2; i++)
		*(volatile uint64_t *)self->map[i] = ++self->turn;
}

/* All pages but the first, which is hot. */
static long first_wrong_still(FIXTURE_DATA(hot_huge) *self, unsigned int which, uint64_t seed)
{
	return ksm_first_wrong(self->map[which] + psize(), self->pages - 1, seed + 1, 1);
}

static size_t merged_still(FIXTURE_DATA(hot_huge) *self)
{
	return merged(self->map[0], self->pages) + merged(self->map[1], self->pages);
}

TEST_F(hot_huge, merges_all_pages_but_the_hot_one)
{
	for (unsigned int i = 0; i < 2; i++) {
		ksm_fill(self->map[i], self->pages, SEED, 1);
		ASSERT_EQ(0, ksm_mergeable(self->map[i], self->pages));
	}
	ASSERT_EQ(0, ksm_set("run", "1"));
	EXPECT_TRUE(ksm_wait_until((heat(self), merged_still(self) == 2 * (self->pages - 1))));
	EXPECT_EQ(-1, first_wrong_still(self, 0, SEED));
	EXPECT_EQ(-1, first_wrong_still(self, 1, SEED));
}

/* Rounds over the pages of a huge page: the first ones at once, then 50 ms, 100 ms ... apart. */
static long rounds_in(uint64_t millisecs)
{
	long rounds = 2;

	for (uint64_t wait = UNIT_MILLISECS; millisecs >= wait; wait *= 2) {
		millisecs -= wait;
		rounds++;
	}
	return rounds;
}

TEST_F(hot_huge, without_a_partner_stays_whole_and_is_hashed_less_and_less_often)
{
	long hashed = ksm_number_in(COUNTS, "pages_hashed"), scans = ksm_get("full_scans");
	uint64_t start = ksm_now_millisecs();

	if (hashed < 0)
		SKIP(return, "this kernel does not count KSM's work (" COUNTS ")");
	for (unsigned int i = 0; i < 2; i++) {
		ksm_fill(self->map[i], self->pages, i ? OTHER : SEED, 1);
		ASSERT_EQ(0, ksm_mergeable(self->map[i], self->pages));
	}
	ASSERT_EQ(0, ksm_set("run", "1"));
	ASSERT_TRUE(ksm_wait_until((heat(self), ksm_get("full_scans") > scans + 50)));
	hashed = ksm_number_in(COUNTS, "pages_hashed") - hashed;
	EXPECT_LE(hashed, rounds_in(ksm_now_millisecs() - start) * 2 * (long)self->pages);
	EXPECT_TRUE(ksm_is_huge(self->map[0], self->size));
	EXPECT_TRUE(ksm_is_huge(self->map[1], self->size));
	EXPECT_EQ(-1, first_wrong_still(self, 0, SEED));
	EXPECT_EQ(-1, first_wrong_still(self, 1, OTHER));
}

TEST_F(hot_huge, is_found_by_a_late_twin_of_one_of_its_pages)
{
	const size_t which = self->pages / 3;
	long scans = ksm_get("full_scans");
	char *twin = ksm_map_pages(1);

	ASSERT_NE(NULL, twin);
	for (unsigned int i = 0; i < 2; i++) {
		ksm_fill(self->map[i], self->pages, i ? OTHER : SEED, 1);
		ASSERT_EQ(0, ksm_mergeable(self->map[i], self->pages));
	}
	ASSERT_EQ(0, ksm_set("run", "1"));
	ASSERT_TRUE(ksm_wait_until((heat(self), ksm_get("full_scans") > scans + 20)));
	ksm_fill(twin, 1, SEED + which, 0);
	ASSERT_EQ(0, ksm_mergeable(twin, 1));
	EXPECT_TRUE(ksm_wait_until((heat(self), merged(twin, 1) == 1)));
	EXPECT_EQ(1, merged(self->map[0], self->pages));
	EXPECT_TRUE(ksm_is_huge(self->map[1], self->size));
	EXPECT_EQ(-1, first_wrong_still(self, 0, SEED));
}

TEST_HARNESS_MAIN
