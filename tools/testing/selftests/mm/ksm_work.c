// SPDX-License-Identifier: GPL-2.0-only
/*
 * How much ksmd does, pass by pass: how many pages it hashes, how many steps it
 * goes down its trees, how many pairs of pages it compares, how many dirty bits it
 * hands over. It counts work and not time, so it is the same on any machine.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include "ksm_util.h"
#include "vm_util.h"

#define DEBUGFS	"/sys/kernel/debug"
#define COUNTS	DEBUGFS "/ksm/work"

#define PAGES	2048
#define SEED	1000
#define OTHER	2000000

/* Settled pages that are hashed again in a pass that is in a hurry, and in another. */
#define REFRESHED	(PAGES / KSM_REFRESH_PASSES)
#define REFRESHED_CALM	(PAGES / KSM_REFRESH_CALM)

/*
 * That a checksum was seen before is told by 16 bits for a page, that it is wanted
 * by one. Wrong answers cost candidates for two passes and hashes, of which less
 * than ten are to be expected here.
 */
#define WRONG		(PAGES / 32)

/* Something else holds a page for a moment: it looks changed and is hashed anew. */
#define HELD		2

/* After so many passes wrong answers, too, are forgotten. */
#define SETTLE_PASSES	6

#define STEADY_PASSES	8

/* What was done, or has been done since boot. */
struct work {
	long hashed;
	long steps;
	long compared;
	long handed_over;
};

static void read_work(struct work *work)
{
	work->hashed = ksm_number_in(COUNTS, "pages_hashed");
	work->steps = ksm_number_in(COUNTS, "tree_steps");
	work->compared = ksm_number_in(COUNTS, "pages_compared");
	work->handed_over = ksm_number_in(COUNTS, "dirty_bits_handed_over");
}

/* Lets ksmd make one pass; what it did in it. */
static bool one_pass(struct work *did)
{
	struct work before, after;

	read_work(&before);
	if (!ksm_one_pass())
		return false;
	read_work(&after);
	*did = (struct work){
		.hashed = after.hashed - before.hashed,
		.steps = after.steps - before.steps,
		.compared = after.compared - before.compared,
		.handed_over = after.handed_over - before.handed_over,
	};
	return before.hashed >= 0 && before.steps >= 0 && before.compared >= 0 &&
	       before.handed_over >= 0;
}

/* Why there is nothing to read, or NULL. */
static const char *mount_debugfs(bool *mounted)
{
	if (!access(COUNTS, F_OK))
		return NULL;
	/* sys/mount.h cannot be had together with vm_util.h. */
	*mounted = access(DEBUGFS "/.", X_OK) == 0 &&
		   !syscall(__NR_mount, "debugfs", DEBUGFS, "debugfs", 0, NULL);
	return access(COUNTS, R_OK) ?
	       "this kernel does not count KSM's work (CONFIG_DEBUG_FS, " COUNTS ")" : NULL;
}

FIXTURE(work)
{
	struct ksm_test ksm;
	bool mounted;
	char *map;
};

FIXTURE_VARIANT(work)
{
	/* Fills pages that all differ. */
	void (*fill)(char *map);
	bool (*is_right)(char *map);
};

static uint64_t *last_word(char *map, size_t page)
{
	return (uint64_t *)(map + (page + 1) * psize()) - 1;
}

static void fill_different(char *map)
{
	ksm_fill(map, PAGES, SEED, 1);
}

static bool different_are_right(char *map)
{
	return ksm_first_wrong(map, PAGES, SEED, 1) == -1;
}

/* Equal but for the last eight bytes. */
static void fill_alike(char *map)
{
	ksm_fill(map, PAGES, SEED, 0);
	for (size_t i = 0; i < PAGES; i++)
		*last_word(map, i) = i;
}

/* Spoils it: they are equal afterwards. */
static bool alike_are_right(char *map)
{
	char *equal = ksm_map_pages(1);
	bool right = equal;

	if (equal)
		ksm_fill(equal, 1, SEED, 0);
	for (size_t i = 0; right && i < PAGES; i++) {
		right = *last_word(map, i) == i;
		*last_word(map, i) = *last_word(equal, 0);
	}
	return right && ksm_first_wrong(map, PAGES, SEED, 0) == -1;
}

FIXTURE_VARIANT_ADD(work, different)
{
	.fill = fill_different,
	.is_right = different_are_right,
};

FIXTURE_VARIANT_ADD(work, alike)
{
	.fill = fill_alike,
	.is_right = alike_are_right,
};

/* No huge pages: those have one dirty bit for all. */
static char *map_small(size_t pages)
{
	char *map = ksm_map_pages(pages);

	if (map)
		madvise(map, pages * psize(), MADV_NOHUGEPAGE);
	return map && !ksm_mergeable(map, pages) ? map : NULL;
}

FIXTURE_SETUP(work)
{
	const char *missing = ksm_missing() ?: mount_debugfs(&self->mounted);

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	self->map = map_small(PAGES);
	ASSERT_NE(NULL, self->map);
	variant->fill(self->map);
}

FIXTURE_TEARDOWN_PARENT(work)
{
	if (self->mounted)
		EXPECT_EQ(0, syscall(__NR_umount2, DEBUGFS, 0));
	EXPECT_TRUE(ksm_end(&self->ksm));
}

/* With change told by the dirty bit. */
static const char *use_dirty_bit(void)
{
	return ksm_no_dirty_bit() ?: ksm_set("smart_scan", "1") ? "no smart_scan" : NULL;
}

TEST_F(work, on_pages_without_a_twin_is_to_hash_each_once)
{
	const char *why = use_dirty_bit();
	struct work did;

	if (why)
		SKIP(return, "%s", why);
	/* The first pass reads no page. */
	ASSERT_TRUE(one_pass(&did));
	EXPECT_EQ(0, did.hashed);
	EXPECT_EQ(0, did.steps);
	EXPECT_EQ(0, did.compared);
	EXPECT_EQ(PAGES, did.handed_over);
	/* The second hashes all. Trees are empty but for what looked seen before. */
	ASSERT_TRUE(one_pass(&did));
	EXPECT_GE(did.hashed, PAGES);
	EXPECT_LE(did.hashed, PAGES + WRONG);
	EXPECT_LE(did.steps, 4 * WRONG);
	EXPECT_EQ(0, did.compared);
	EXPECT_LE(did.handed_over, HELD);
	EXPECT_TRUE(variant->is_right(self->map));
}

TEST_F(work, on_settled_pages_is_to_refresh_a_few)
{
	const char *why = use_dirty_bit();
	struct work did;
	long hashed = 0;

	if (why)
		SKIP(return, "%s", why);
	ASSERT_TRUE(ksm_pass_by(2));
	for (unsigned int i = 2; i < SETTLE_PASSES; i++) {
		ASSERT_TRUE(one_pass(&did));
		EXPECT_LE(did.hashed, REFRESHED_CALM + WRONG);
		EXPECT_EQ(0, did.compared);
	}
	for (unsigned int i = 0; i < STEADY_PASSES; i++) {
		ASSERT_TRUE(one_pass(&did));
		EXPECT_LE(did.hashed, REFRESHED_CALM + HELD);
		/* What is refreshed looks for partners in trees that are empty. */
		EXPECT_EQ(0, did.steps);
		EXPECT_EQ(0, did.compared);
		EXPECT_LE(did.handed_over, HELD);
		hashed += did.hashed;
	}
	EXPECT_GE(hashed, STEADY_PASSES * REFRESHED);
	EXPECT_TRUE(variant->is_right(self->map));
}

/* With smart_scan off nothing is passed over, and no dirty bit touched. */
TEST_F(work, without_smart_scan_is_to_hash_each_page_in_each_pass)
{
	struct work did;

	ASSERT_EQ(0, ksm_set("smart_scan", "0"));
	for (unsigned int i = 0; i < SETTLE_PASSES + STEADY_PASSES; i++) {
		ASSERT_TRUE(one_pass(&did));
		EXPECT_GE(did.hashed, PAGES);
		EXPECT_LE(did.hashed, PAGES + (i < SETTLE_PASSES ? WRONG : 0));
		EXPECT_EQ(0, did.compared);
		EXPECT_EQ(0, did.handed_over);
	}
	EXPECT_TRUE(variant->is_right(self->map));
}

/* Visits to a page that changes all the time: three at once, then after 1 s, 2 s, 4 s ... */
static long visits_in(uint64_t millisecs)
{
	long visits = 3;

	for (uint64_t wait = 1000; millisecs >= wait; wait *= 2) {
		millisecs -= wait;
		visits++;
	}
	return visits;
}

TEST_F(work, on_pages_rewritten_all_the_time_is_to_look_less_and_less_often)
{
	const char *why = use_dirty_bit();
	struct work did;
	long handed_over = 0;
	uint64_t start;

	if (why)
		SKIP(return, "%s", why);
	start = ksm_now_millisecs();
	for (unsigned int i = 0; i < STEADY_PASSES; i++) {
		variant->fill(self->map);
		ASSERT_TRUE(one_pass(&did));
		EXPECT_EQ(0, did.hashed);
		EXPECT_EQ(0, did.steps);
		EXPECT_EQ(0, did.compared);
		if (i < 2)
			EXPECT_EQ(PAGES, did.handed_over);
		handed_over += did.handed_over;
	}
	EXPECT_LE(handed_over, visits_in(ksm_now_millisecs() - start) * PAGES);
	EXPECT_TRUE(variant->is_right(self->map));
}

/* A new page that is equal to a settled one: those two are hashed, and who looked like it. */
TEST_F(work, for_one_late_twin_is_not_a_pass_over_all)
{
	const char *why = use_dirty_bit();
	struct work did;
	char *twin;

	if (why)
		SKIP(return, "%s", why);
	ASSERT_TRUE(ksm_pass_by(SETTLE_PASSES));
	twin = map_small(1);
	ASSERT_NE(NULL, twin);
	memcpy(twin, self->map + 5 * psize(), psize());
	ASSERT_TRUE(one_pass(&did));
	EXPECT_LE(did.hashed, REFRESHED_CALM + HELD);
	EXPECT_LE(did.handed_over, 1 + HELD);
	ASSERT_TRUE(one_pass(&did));
	EXPECT_EQ(1, ksm_get("pages_sharing"));
	EXPECT_LE(did.hashed, REFRESHED_CALM + WRONG);
	/* Each lookup finds a tree of one node at most, and there are few lookups. */
	EXPECT_LE(did.steps, WRONG);
	EXPECT_EQ(1, did.compared);
	EXPECT_EQ(0, memcmp(twin, self->map + 5 * psize(), psize()));
	EXPECT_TRUE(variant->is_right(self->map));
}

/* Groups of equal pages, all in one process or each page of a group in another. */
FIXTURE(twins)
{
	struct ksm_test ksm;
	bool mounted;
	char *map;
};

FIXTURE_VARIANT(twins)
{
	long fold;		/* pages of a group */
	unsigned int workers;	/* 0: all are the test's own; else a divisor of @fold */
};

FIXTURE_VARIANT_ADD(twins, two)			{ .fold = 2 };
FIXTURE_VARIANT_ADD(twins, sixteen)		{ .fold = 16 };
FIXTURE_VARIANT_ADD(twins, two_processes)	{ .fold = 2, .workers = 2 };
FIXTURE_VARIANT_ADD(twins, four_processes)	{ .fold = 16, .workers = 4 };

/* One part of the pages: the content of page i is number i modulo the groups. */
static void fill_groups(char *map, size_t pages, size_t groups)
{
	for (size_t i = 0; i < pages; i++)
		ksm_fill(map + i * psize(), 1, SEED + i % groups, 0);
}

static long job_fill_groups(struct ksm_worker *worker, long groups, long unused, long unused2)
{
	madvise(worker->map, worker->pages * psize(), MADV_NOHUGEPAGE);
	fill_groups(worker->map, worker->pages, groups);
	return ksm_mergeable(worker->map, worker->pages);
}

static long job_wrong_group(struct ksm_worker *worker, long groups, long unused, long unused2)
{
	for (size_t i = 0; i < worker->pages; i++)
		if (ksm_first_wrong(worker->map + i * psize(), 1, SEED + i % groups, 0) != -1)
			return i;
	return -1;
}

FIXTURE_SETUP(twins)
{
	const char *missing = ksm_missing() ?: mount_debugfs(&self->mounted) ?: ksm_no_dirty_bit();
	struct ksm_worker *worker = self->ksm.workers;

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	ASSERT_EQ(0, ksm_set("smart_scan", "1"));
	for (unsigned int i = 0; i < variant->workers; i++) {
		ASSERT_TRUE(ksm_fork_worker(&self->ksm, i, NULL, PAGES / variant->workers));
		ASSERT_EQ(0, ksm_ask(&worker[i], job_fill_groups, PAGES / variant->fold, 0, 0));
	}
	if (!variant->workers) {
		self->map = map_small(PAGES);
		ASSERT_NE(NULL, self->map);
		fill_groups(self->map, PAGES, PAGES / variant->fold);
	}
}

FIXTURE_TEARDOWN_PARENT(twins)
{
	if (self->mounted)
		EXPECT_EQ(0, syscall(__NR_umount2, DEBUGFS, 0));
	EXPECT_TRUE(ksm_end(&self->ksm));
}

/* The index of a page that is not as it was filled, or -1. */
static long wrong_group(FIXTURE_DATA(twins) *self, const FIXTURE_VARIANT(twins) *variant)
{
	struct ksm_worker own = { .map = self->map, .pages = PAGES };
	const size_t groups = PAGES / variant->fold;
	long wrong = variant->workers ? -1 : job_wrong_group(&own, groups, 0, 0);

	for (unsigned int i = 0; i < variant->workers && wrong == -1; i++)
		wrong = ksm_ask(&self->ksm.workers[i], job_wrong_group, groups, 0, 0);
	return wrong;
}

/*
 * A page is looked for in both forests, and may be entered in one and taken out
 * of it, the first of a group also as stable: six ways down a tree for each
 * page. A tree is for 4 MiB of memory; even of 16 trees, the fewest there are, each
 * has 64 groups here, and a way down a balanced tree of so many is six nodes long.
 */
#define STEPS	(6 * 6)

TEST_F(twins, are_compared_once_for_each_page_saved)
{
	const long groups = PAGES / variant->fold, saved = PAGES - groups;
	struct work did;

	ASSERT_TRUE(one_pass(&did));
	EXPECT_EQ(0, did.hashed);
	EXPECT_EQ(0, did.compared);
	EXPECT_EQ(PAGES, did.handed_over);
	/*
	 * Each page, the first of a group twice, for it had settled before its twin
	 * was met, and the candidate that is made a merged page once more.
	 */
	ASSERT_TRUE(one_pass(&did));
	EXPECT_EQ(saved, ksm_get("pages_sharing"));
	EXPECT_GE(did.hashed, PAGES);
	EXPECT_LE(did.hashed, PAGES + 2 * groups + WRONG);
	EXPECT_LE(did.steps, PAGES * STEPS);
	EXPECT_GE(did.compared, saved);
	EXPECT_LE(did.compared, saved + HELD);
	EXPECT_EQ(-1, wrong_group(self, variant));
}

TEST_F(twins, that_are_merged_are_not_looked_at_again)
{
	struct work did;

	ASSERT_TRUE(ksm_pass_by(SETTLE_PASSES));
	EXPECT_EQ(PAGES - PAGES / variant->fold, ksm_get("pages_sharing"));
	for (unsigned int i = 0; i < STEADY_PASSES; i++) {
		ASSERT_TRUE(one_pass(&did));
		EXPECT_EQ(0, did.hashed);
		EXPECT_EQ(0, did.steps);
		EXPECT_EQ(0, did.compared);
		EXPECT_EQ(0, did.handed_over);
	}
	EXPECT_EQ(-1, wrong_group(self, variant));
}

TEST_HARNESS_MAIN
