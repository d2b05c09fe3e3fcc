// SPDX-License-Identifier: GPL-2.0-only
/*
 * max_page_sharing: no page frame is mapped by more places than that. Equal
 * pages beyond the limit get further copies of the page, which the counters of
 * chains and dups tell; a copy is filled up when it has room, and is off the
 * counters when it is empty. The page tables are asked who maps what.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include "ksm_util.h"
#include "vm_util.h"

#define SEED	1000
#define OTHER	5000

/* Pages of each worker, and the limit, where a test has no others. */
#define PAGES	16
#define LIMIT	8
#define WORKERS	4
#define COPIES	(WORKERS * PAGES / LIMIT)

/* Which frames back some pages of some processes; @most pages have one in common. */
struct tally {
	unsigned long pfns[2048];
	size_t pages, frames, most;
};

static char *page(char *map, size_t index)
{
	return map + index * psize();
}

static void add_pages(struct tally *tally, pid_t pid, char *map, size_t pages)
{
	for (size_t i = 0; i < pages; i++) {
		unsigned long pfn = ksm_pfn(pid, page(map, i));

		if (pfn)
			tally->pfns[tally->pages++] = pfn;
	}
}

static void count_frames(struct tally *tally)
{
	for (size_t i = 0; i < tally->pages; i++) {
		size_t before = 0, all = 0;

		for (size_t j = 0; j < tally->pages; j++) {
			all += tally->pfns[j] == tally->pfns[i];
			before += j < i && tally->pfns[j] == tally->pfns[i];
		}
		tally->frames += !before;
		tally->most = all > tally->most ? all : tally->most;
	}
}

static struct tally tally_workers(struct ksm_worker *worker, unsigned int count)
{
	struct tally tally = { 0 };

	for (unsigned int i = 0; i < count; i++)
		add_pages(&tally, worker[i].pid, worker[i].map, worker[i].pages);
	count_frames(&tally);
	return tally;
}

#define EXPECT_COUNTERS(shared, sharing, unshared)			\
do {									\
	EXPECT_EQ((long)(shared), ksm_get("pages_shared"));		\
	EXPECT_EQ((long)(sharing), ksm_get("pages_sharing"));		\
	EXPECT_EQ((long)(unshared), ksm_get("pages_unshared"));		\
} while (0)

#define EXPECT_CHAINS(chains, dups)					\
do {									\
	EXPECT_EQ((long)(chains), ksm_get("stable_node_chains"));	\
	EXPECT_EQ((long)(dups), ksm_get("stable_node_dups"));		\
} while (0)

/* One process, and more equal pages than may share one. */
FIXTURE(limit)
{
	struct ksm_test ksm;
};

FIXTURE_VARIANT(limit)
{
	size_t limit;
	size_t pages;
};

FIXTURE_VARIANT_ADD(limit, of_2)		{ .limit = 2, .pages = 16 };
FIXTURE_VARIANT_ADD(limit, of_2_and_one_over)	{ .limit = 2, .pages = 17 };
FIXTURE_VARIANT_ADD(limit, of_3)		{ .limit = 3, .pages = 200 };
FIXTURE_VARIANT_ADD(limit, just_reached)	{ .limit = 64, .pages = 64 };
FIXTURE_VARIANT_ADD(limit, passed_by_one)	{ .limit = 64, .pages = 65 };
FIXTURE_VARIANT_ADD(limit, passed_by_two)	{ .limit = 64, .pages = 66 };
FIXTURE_VARIANT_ADD(limit, of_256)		{ .limit = 256, .pages = 1000 };

FIXTURE_SETUP(limit)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	ASSERT_EQ(0, ksm_set_number("max_page_sharing", variant->limit));
}

FIXTURE_TEARDOWN_PARENT(limit)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
	EXPECT_CHAINS(0, 0);
}

/* One page that is left over waits for a partner. */
TEST_F(limit, holds_for_each_frame_and_all_copies_are_counted)
{
	const size_t left = variant->pages % variant->limit == 1;
	const size_t merged = variant->pages - left;
	const size_t copies = (merged + variant->limit - 1) / variant->limit;
	char *map = ksm_map_registered(variant->pages);

	ASSERT_NE(NULL, map);
	ksm_fill(map, variant->pages, SEED, 0);
	ASSERT_TRUE(ksm_merge_all());
	for (unsigned int round = 0; round < 2; round++) {
		struct tally tally = { 0 };

		add_pages(&tally, getpid(), map, variant->pages);
		count_frames(&tally);
		EXPECT_EQ(variant->pages, tally.pages);
		EXPECT_EQ(copies + left, tally.frames);
		EXPECT_EQ(variant->limit, tally.most);
		EXPECT_EQ(merged, ksm_count_merged(getpid(), map, variant->pages));
		EXPECT_EQ(merged, ksm_proc_stat(getpid(), "ksm_merging_pages"));
		EXPECT_COUNTERS(copies, merged - copies, left);
		EXPECT_CHAINS(copies > 1, copies > 1 ? copies : 0);
		ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	}
	EXPECT_EQ(-1, ksm_first_wrong(map, variant->pages, SEED, 0));
}

TEST_F(limit, holds_for_each_of_several_contents)
{
	const size_t contents = 4, pages = variant->pages / 2;
	const size_t left = pages % variant->limit == 1;
	const size_t copies = (pages - left + variant->limit - 1) / variant->limit;
	char *map[4];
	struct tally tally = { 0 };

	/* The last two differ in one byte only. */
	for (size_t i = 0; i < contents; i++) {
		map[i] = ksm_map_registered(pages);
		ASSERT_NE(NULL, map[i]);
		ksm_fill(map[i], pages, SEED + (i == 3 ? 2 : i), 0);
		for (size_t j = 0; i == 3 && j < pages; j++)
			page(map[i], j)[psize() - 1] ^= 1;
	}
	ASSERT_TRUE(ksm_merge_all());
	for (size_t i = 0; i < contents; i++)
		add_pages(&tally, getpid(), map[i], pages);
	count_frames(&tally);
	EXPECT_EQ(contents * (copies + left), tally.frames);
	EXPECT_LE(tally.most, variant->limit);
	EXPECT_COUNTERS(contents * copies, contents * (pages - left - copies), contents * left);
	EXPECT_CHAINS(copies > 1 ? contents : 0, copies > 1 ? contents * copies : 0);
	for (size_t j = 0; j < pages; j++)
		page(map[3], j)[psize() - 1] ^= 1;
	for (size_t i = 0; i < contents; i++)
		EXPECT_EQ(-1, ksm_first_wrong(map[i], pages, SEED + (i == 3 ? 2 : i), 0));
}

/* Some processes with equal pages, COPIES full copies of one page in all. */
FIXTURE(copies)
{
	struct ksm_test ksm;
	char *map;	/* a page of the test's own: ksmd has something to pass over */
};

FIXTURE_VARIANT(copies)
{
	unsigned long prune_millisecs;
};

FIXTURE_VARIANT_ADD(copies, pruned_at_once)	{ .prune_millisecs = 0 };
FIXTURE_VARIANT_ADD(copies, pruned_hourly)	{ .prune_millisecs = 3600000 };

FIXTURE_SETUP(copies)
{
	const char *missing = ksm_missing();
	struct ksm_worker *worker = self->ksm.workers;

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	ASSERT_EQ(0, ksm_set_number("max_page_sharing", LIMIT));
	ASSERT_EQ(0, ksm_set_number("stable_node_chains_prune_millisecs",
				    variant->prune_millisecs));
	for (unsigned int i = 0; i < WORKERS; i++) {
		ASSERT_TRUE(ksm_fork_worker(&self->ksm, i, NULL, PAGES));
		ASSERT_EQ(0, ksm_ask(&worker[i], ksm_job_fill, SEED, 0, 0));
		ASSERT_EQ(0, ksm_ask(&worker[i], ksm_job_advise, MADV_MERGEABLE, 0, 0));
	}
	self->map = ksm_map_registered(1);
	ASSERT_NE(NULL, self->map);
	ksm_fill(self->map, 1, OTHER, 0);
	ASSERT_TRUE(ksm_merge_all());
}

FIXTURE_TEARDOWN_PARENT(copies)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
	EXPECT_CHAINS(0, 0);
}

#define EXPECT_FULL_COPIES(worker)					\
do {									\
	struct tally __tally = tally_workers(worker, WORKERS);		\
									\
	EXPECT_EQ(COPIES, __tally.frames);				\
	EXPECT_EQ(LIMIT, __tally.most);					\
	EXPECT_COUNTERS(COPIES, COPIES * (LIMIT - 1), 1);		\
	EXPECT_CHAINS(1, COPIES);					\
} while (0)

#define EXPECT_ALL_HOLD(worker, count, seed, step)			\
do {									\
	for (unsigned int __i = 0; __i < (count); __i++)		\
		EXPECT_EQ(-1, ksm_ask(&(worker)[__i], ksm_job_first_wrong, seed, step, 0)); \
} while (0)

TEST_F(copies, are_full_across_processes)
{
	struct ksm_worker *worker = self->ksm.workers;

	EXPECT_FULL_COPIES(worker);
	for (unsigned int i = 0; i < WORKERS; i++)
		EXPECT_EQ(PAGES, ksm_proc_stat(worker[i].pid, "ksm_merging_pages"));
	EXPECT_ALL_HOLD(worker, WORKERS, SEED, 0);
}

TEST_F(copies, forbid_another_limit_until_all_are_unmerged)
{
	struct ksm_worker *worker = self->ksm.workers;
	struct tally tally;

	EXPECT_EQ(-EBUSY, ksm_set_number("max_page_sharing", LIMIT + 1));
	EXPECT_EQ(-EBUSY, ksm_set_number("max_page_sharing", LIMIT - 1));
	EXPECT_EQ(0, ksm_set_number("max_page_sharing", LIMIT));
	EXPECT_EQ(-EINVAL, ksm_set("max_page_sharing", "1"));
	EXPECT_EQ(-EINVAL, ksm_set("max_page_sharing", "0"));
	EXPECT_EQ(-EINVAL, ksm_set("max_page_sharing", "-1"));
	ASSERT_EQ(0, ksm_set("run", "0"));
	EXPECT_EQ(-EBUSY, ksm_set_number("max_page_sharing", LIMIT + 1));
	EXPECT_EQ(LIMIT, ksm_get("max_page_sharing"));
	EXPECT_FULL_COPIES(worker);

	ASSERT_EQ(0, ksm_set("run", "2"));
	EXPECT_CHAINS(0, 0);
	EXPECT_EQ(-EINVAL, ksm_set("max_page_sharing", "1"));
	EXPECT_EQ(0, ksm_set_number("max_page_sharing", LIMIT / 2));
	EXPECT_EQ(LIMIT / 2, ksm_get("max_page_sharing"));
	ASSERT_TRUE(ksm_merge_all());
	tally = tally_workers(worker, WORKERS);
	EXPECT_EQ(2 * COPIES, tally.frames);
	EXPECT_EQ(LIMIT / 2, tally.most);
	EXPECT_COUNTERS(2 * COPIES, COPIES * (LIMIT - 2), 1);
	EXPECT_CHAINS(1, 2 * COPIES);
	EXPECT_ALL_HOLD(worker, WORKERS, SEED, 0);
}

/*
 * Who merged the pages has unmerged them, and ksmd has not met the child that maps them
 * still: it is to share them under the limit that they have.
 */
TEST_F(limit, is_not_changed_under_pages_that_only_a_child_maps)
{
	struct ksm_worker *child = self->ksm.workers;
	char *map = ksm_map_registered(2);

	ASSERT_NE(NULL, map);
	ksm_fill(map, 2, SEED, 0);
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(0, ksm_set("run", "0"));
	ASSERT_TRUE(ksm_fork_worker(&self->ksm, 0, map, 2));
	ASSERT_EQ(0, ksm_unmergeable(map, 2));
	ASSERT_EQ(2, ksm_count_merged(child->pid, map, 2));
	EXPECT_EQ(0, ksm_get("pages_shared"));
	EXPECT_EQ(-EBUSY, ksm_set_number("max_page_sharing", variant->limit + 1));
	EXPECT_TRUE(ksm_check());
	EXPECT_TRUE(ksm_merge_all());
	EXPECT_COUNTERS(1, 1, 0);
	ASSERT_TRUE(ksm_end_worker(child));
	EXPECT_TRUE(ksm_wait_until(!ksm_set_number("max_page_sharing", variant->limit + 1)));
}

enum { WRITE, DISCARD, UNMAP, WAYS };

/* What a worker writes to its pages when they are to be unlike any others. */
static uint64_t own_content(size_t index)
{
	return OTHER + 1 + (uint64_t)getpid() * PAGES + index;
}

/* Gives up those of its pages that a frame backs, @max at most; how many? */
static long job_leave(struct ksm_worker *worker, long pfn, long max, long way)
{
	long done = 0;

	for (size_t i = 0; i < worker->pages && done < max; i++) {
		char *at = page(worker->map, i);

		if (ksm_pfn(getpid(), at) != (unsigned long)pfn)
			continue;
		if (way == WRITE)
			ksm_fill(at, 1, own_content(i), 0);
		else if (way == DISCARD ? madvise(at, psize(), MADV_DONTNEED) :
					  munmap(at, psize()))
			return -errno;
		done++;
	}
	return done;
}

/* Do the pages it has hold what they held, or what job_leave() wrote? */
static long job_first_odd(struct ksm_worker *worker, long unused, long unused2, long unused3)
{
	for (size_t i = 0; i < worker->pages; i++) {
		char *at = page(worker->map, i);

		if (ksm_pfn(getpid(), at) &&
		    ksm_first_wrong(at, 1, ksm_count_merged(getpid(), at, 1) ?
				    SEED : own_content(i), 0) != -1)
			return i;
	}
	return -1;
}

TEST_F(copies, with_room_are_used_again_by_new_equal_pages)
{
	struct ksm_worker *worker = self->ksm.workers;
	struct tally tally = tally_workers(worker, WORKERS);
	char *map = ksm_map_registered(4);
	unsigned long pfn = tally.pfns[0];
	long left = 0;

	ASSERT_NE(NULL, map);
	for (unsigned int i = 0; i < WORKERS && left < 3; i++)
		left += ksm_ask(&worker[i], job_leave, pfn, 3 - left, DISCARD);
	ASSERT_EQ(3, left);
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	tally = tally_workers(worker, WORKERS);
	EXPECT_EQ(COPIES, tally.frames);
	EXPECT_COUNTERS(COPIES, COPIES * (LIMIT - 1) - 3, 1);

	/* Three find room there, and the fourth finds none. */
	ksm_fill(map, 4, SEED, 0);
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	for (size_t i = 0; i < 4; i++)
		left -= ksm_pfn(getpid(), page(map, i)) == pfn;
	EXPECT_EQ(0, left);
	EXPECT_EQ(3, ksm_count_merged(getpid(), map, 4));
	EXPECT_COUNTERS(COPIES, COPIES * (LIMIT - 1), 2);
	EXPECT_CHAINS(1, COPIES);
	EXPECT_EQ(-1, ksm_first_wrong(map, 4, SEED, 0));
	for (unsigned int i = 0; i < WORKERS; i++)
		EXPECT_EQ(-1, ksm_ask(&worker[i], job_first_odd, 0, 0, 0));
}

/* The frame of any page that is merged still. */
static unsigned long merged_pfn(struct ksm_worker *worker)
{
	for (size_t i = 0; i < WORKERS * PAGES; i++) {
		pid_t pid = worker[i / PAGES].pid;
		char *at = page(worker[i / PAGES].map, i % PAGES);

		if (ksm_count_merged(pid, at, 1))
			return ksm_pfn(pid, at);
	}
	return 0;
}

TEST_F(copies, go_one_by_one_and_the_last_is_no_chain)
{
	struct ksm_worker *worker = self->ksm.workers;
	size_t unique = 1;

	for (long copies = COPIES - 1; copies >= 0; copies--) {
		unsigned long pfn = merged_pfn(worker);
		long left = 0;

		for (unsigned int i = 0; i < WORKERS; i++)
			left += ksm_ask(&worker[i], job_leave, pfn, PAGES, copies % WAYS);
		ASSERT_EQ(LIMIT, left);
		unique += copies % WAYS == WRITE ? LIMIT : 0;
		ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
		EXPECT_COUNTERS(copies, copies * (LIMIT - 1), unique);
		EXPECT_CHAINS(copies > 1, copies > 1 ? copies : 0);
		for (unsigned int i = 0; i < WORKERS; i++)
			EXPECT_EQ(-1, ksm_ask(&worker[i], job_first_odd, 0, 0, 0));
	}
	EXPECT_EQ(0, ksm_set_number("max_page_sharing", LIMIT + 1));
}

TEST_F(copies, go_with_their_processes)
{
	struct ksm_worker *worker = self->ksm.workers;

	for (unsigned int i = 0; i < WORKERS; i++) {
		EXPECT_ALL_HOLD(&worker[i], WORKERS - i, SEED, 0);
		ASSERT_TRUE(ksm_end_worker(&worker[i]));
	}
	EXPECT_TRUE(ksm_wait_until(!ksm_get("pages_shared")));
	EXPECT_COUNTERS(0, 0, 1);
	EXPECT_CHAINS(0, 0);
	EXPECT_EQ(-1, ksm_first_wrong(self->map, 1, OTHER, 0));
}

TEST_HARNESS_MAIN
