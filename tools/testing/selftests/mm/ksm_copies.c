// SPDX-License-Identifier: GPL-2.0-only
/*
 * The copies of a page that max_page_sharing asks for, as memory like any other:
 * all mappings of each are found when it is to be swapped out, also those of forked
 * children, which share under no limit; what comes back is whole, and is
 * merged again to the limit.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include "ksm_util.h"
#include "vm_util.h"

#define SEED	1000
#define OTHER	5000
#define GROUP	"/sys/fs/cgroup/ksm_copies"

/* Pages of each worker, all equal, and how many may share one. */
#define PAGES	16
#define LIMIT	8
#define WORKERS	4
#define COPIES	(WORKERS * PAGES / LIMIT)

FIXTURE(copies)
{
	struct ksm_test ksm;
};

FIXTURE_VARIANT(copies)
{
	unsigned long prune_millisecs;
};

FIXTURE_VARIANT_ADD(copies, pruned_at_once)	{ .prune_millisecs = 0 };
FIXTURE_VARIANT_ADD(copies, pruned_hourly)	{ .prune_millisecs = 3600000 };

/* A memory cgroup of the test's own, so that only its memory is reclaimed. */
static void enter_group(void)
{
	char text[32];

	if (mkdir(GROUP, 0755) && errno != EEXIST)
		return;
	snprintf(text, sizeof(text), "%d", getpid());
	ksm_write_text(GROUP "/cgroup.procs", text);
}

/* By how many places is a frame mapped? */
static uint64_t map_count(unsigned long pfn)
{
	uint64_t count = 0;
	int fd;

	fd = open("/proc/kpagecount", O_RDONLY);
	if (fd < 0)
		return 0;
	if (pread(fd, &count, sizeof(count), pfn * sizeof(count)) != sizeof(count))
		count = 0;
	close(fd);
	return count;
}

/* How many of their pages are merged, and mapped by just so many places? */
static size_t shared_by(struct ksm_worker *worker, unsigned int count, uint64_t places)
{
	size_t found = 0;

	for (unsigned int i = 0; i < count; i++)
		for (size_t j = 0; j < PAGES; j++) {
			char *at = worker[i].map + j * psize();

			found += ksm_count_merged(worker[i].pid, at, 1) &&
				 map_count(ksm_pfn(worker[i].pid, at)) == places;
		}
	return found;
}

#define EXPECT_FULL_COPIES(worker, count)					\
do {										\
	const long __copies = (count) * PAGES / LIMIT;				\
										\
	EXPECT_EQ((count) * PAGES, shared_by(worker, count, LIMIT));		\
	EXPECT_EQ(__copies, ksm_get("pages_shared"));				\
	EXPECT_EQ(__copies * (LIMIT - 1), ksm_get("pages_sharing"));		\
	EXPECT_EQ(1, ksm_get("stable_node_chains"));				\
	EXPECT_EQ(__copies, ksm_get("stable_node_dups"));			\
} while (0)

#define EXPECT_ALL_HOLD(worker, count, seed, step)				\
do {										\
	for (unsigned int __i = 0; __i < (count); __i++)			\
		EXPECT_EQ(-1, ksm_ask(&(worker)[__i], ksm_job_first_wrong, seed, step, 0)); \
} while (0)

static struct ksm_test *workers_of;

static long job_fork(struct ksm_worker *worker, long who, long unused, long unused2)
{
	return ksm_fork_worker(workers_of, who, worker->map, worker->pages);
}

/* Each worker gets a child, whose pages nobody knows of but by its parent's. */
static bool fork_children(struct ksm_test *test)
{
	for (unsigned int i = 0; i < WORKERS; i++)
		if (ksm_ask(&test->workers[i], job_fork, WORKERS + i, 0, 0) != 1)
			return false;
	return true;
}

FIXTURE_SETUP(copies)
{
	const char *missing = ksm_missing();
	struct ksm_worker *worker = self->ksm.workers;

	if (missing)
		SKIP(return, "%s", missing);
	enter_group();
	workers_of = &self->ksm;
	ASSERT_TRUE(ksm_begin(&self->ksm));
	ASSERT_EQ(0, ksm_set_number("max_page_sharing", LIMIT));
	ASSERT_EQ(0, ksm_set_number("stable_node_chains_prune_millisecs",
				    variant->prune_millisecs));
	for (unsigned int i = 0; i < WORKERS; i++) {
		ASSERT_TRUE(ksm_fork_worker(&self->ksm, i, NULL, PAGES));
		ASSERT_EQ(0, ksm_ask(&worker[i], ksm_job_fill, SEED, 0, 0));
		ASSERT_EQ(0, ksm_ask(&worker[i], ksm_job_advise, MADV_MERGEABLE, 0, 0));
	}
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_FULL_COPIES(worker, WORKERS);
}

FIXTURE_TEARDOWN_PARENT(copies)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
	EXPECT_EQ(0, ksm_get("stable_node_chains"));
	EXPECT_EQ(0, ksm_get("stable_node_dups"));
	rmdir(GROUP);
}

/* Why nothing can be swapped out here, or NULL. */
static const char *no_swapping(void)
{
	char text[256];

	if (access(GROUP "/memory.reclaim", W_OK))
		return "no memory.reclaim: needs cgroup2 with the memory controller";
	if (ksm_read_text("/proc/swaps", text, sizeof(text)) || !strchr(text, '/'))
		return "no swap is on";
	return NULL;
}

static size_t present(struct ksm_worker *worker, unsigned int count)
{
	size_t pages = 0;

	for (unsigned int i = 0; i < count; i++)
		pages += ksm_count_present(worker[i].pid, worker[i].map, PAGES);
	return pages;
}

/* Asks for more and more until nothing of theirs is in memory. */
static bool swap_out(struct ksm_worker *worker, unsigned int count)
{
	return ksm_wait_until((ksm_write_text(GROUP "/memory.reclaim", "16M"),
			       !present(worker, count)));
}

TEST_F(copies, are_swapped_out_and_forgotten_and_come_back_whole)
{
	struct ksm_worker *worker = self->ksm.workers;
	const char *why = no_swapping();

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, ksm_set("run", "0"));
	ASSERT_TRUE(swap_out(worker, WORKERS));
	/* ksmd looks while they are away. */
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_TRUE(ksm_wait_until(!ksm_get("pages_shared")));
	EXPECT_EQ(0, ksm_get("pages_sharing"));
	EXPECT_EQ(0, ksm_get("stable_node_chains"));
	EXPECT_EQ(0, ksm_get("stable_node_dups"));
	EXPECT_EQ(0, present(worker, WORKERS));
	EXPECT_ALL_HOLD(worker, WORKERS, SEED, 0);
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_FULL_COPIES(worker, WORKERS);
	EXPECT_ALL_HOLD(worker, WORKERS, SEED, 0);
}

TEST_F(copies, come_back_from_swap_before_ksmd_knows)
{
	struct ksm_worker *worker = self->ksm.workers;
	const char *why = no_swapping();

	if (why)
		SKIP(return, "%s", why);
	for (unsigned int round = 0; round < 3; round++) {
		ASSERT_EQ(0, ksm_set("run", "0"));
		ASSERT_TRUE(swap_out(worker, WORKERS));
		EXPECT_ALL_HOLD(worker, WORKERS, SEED, 0);
		ASSERT_TRUE(ksm_merge_all());
		EXPECT_FULL_COPIES(worker, WORKERS);
		EXPECT_ALL_HOLD(worker, WORKERS, SEED, 0);
	}
}

static bool kept[PAGES];

/* Writes to all pages but one of each copy; how many are those? */
static long job_keep_one_of_each(struct ksm_worker *worker, long a, long b, long c)
{
	long count = 0;

	for (size_t i = 0; i < PAGES; i++) {
		char *at = worker->map + i * psize();
		size_t before = 0;

		for (size_t j = 0; j < i; j++)
			before += ksm_pfn(getpid(), worker->map + j * psize()) ==
				  ksm_pfn(getpid(), at);
		kept[i] = !before;
		count += kept[i];
	}
	for (size_t i = 0; i < PAGES; i++)
		if (!kept[i])
			ksm_fill(worker->map + i * psize(), 1, OTHER + i, 0);
	return count;
}

static long job_first_lost(struct ksm_worker *worker, long a, long b, long c)
{
	for (size_t i = 0; i < PAGES; i++)
		if (ksm_first_wrong(worker->map + i * psize(), 1,
				    kept[i] ? SEED : OTHER + i, 0) != -1)
			return i;
	return -1;
}

static long job_page_out(struct ksm_worker *worker, long a, long b, long c)
{
	return madvise(worker->map, PAGES * psize(), MADV_PAGEOUT) ? -errno : 0;
}

/* The advice is not for pages that several share. */
TEST_F(copies, are_paged_out_by_advice_of_the_last_that_maps_them)
{
	struct ksm_worker *worker = self->ksm.workers;
	const char *why = no_swapping();
	long copies;

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, ksm_set("run", "0"));
	for (unsigned int i = 1; i < WORKERS; i++)
		ASSERT_TRUE(ksm_end_worker(&worker[i]));
	copies = ksm_ask(&worker[0], job_keep_one_of_each, 0, 0, 0);
	ASSERT_GE(copies, PAGES / LIMIT);
	EXPECT_EQ(copies, ksm_count_merged(worker->pid, worker->map, PAGES));
	EXPECT_TRUE(ksm_wait_until((ksm_ask(&worker[0], job_page_out, 0, 0, 0),
				    !present(worker, 1))));
	EXPECT_EQ(-1, ksm_ask(&worker[0], job_first_lost, 0, 0, 0));
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_EQ(1, ksm_get("pages_shared"));
	EXPECT_EQ(copies - 1, ksm_get("pages_sharing"));
	EXPECT_EQ(PAGES - copies, ksm_get("pages_unshared"));
	EXPECT_EQ(-1, ksm_ask(&worker[0], job_first_lost, 0, 0, 0));
}

TEST_F(copies, are_found_for_swapping_with_all_forked_children)
{
	struct ksm_worker *worker = self->ksm.workers;
	const char *why = no_swapping();

	if (why)
		SKIP(return, "%s", why);
	ASSERT_TRUE(fork_children(&self->ksm));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(2 * WORKERS * PAGES, shared_by(worker, 2 * WORKERS, 2 * LIMIT));
	ASSERT_EQ(0, ksm_set("run", "0"));
	ASSERT_TRUE(swap_out(worker, 2 * WORKERS));
	EXPECT_ALL_HOLD(worker, 2 * WORKERS, SEED, 0);
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_FULL_COPIES(worker, 2 * WORKERS);
	EXPECT_ALL_HOLD(worker, 2 * WORKERS, SEED, 0);
}

TEST_F(copies, keep_forked_children_apart_from_writers)
{
	struct ksm_worker *worker = self->ksm.workers, *child = worker + WORKERS;

	ASSERT_TRUE(fork_children(&self->ksm));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	ASSERT_EQ(0, ksm_ask(&child[0], ksm_job_fill, OTHER, 1, 0));
	ASSERT_EQ(0, ksm_ask(&worker[1], ksm_job_fill, OTHER + PAGES, 1, 0));
	for (unsigned int round = 0; round < 2; round++) {
		EXPECT_ALL_HOLD(&worker[0], 1, SEED, 0);
		EXPECT_ALL_HOLD(&worker[1], 1, OTHER + PAGES, 1);
		EXPECT_ALL_HOLD(&worker[2], 2, SEED, 0);
		EXPECT_ALL_HOLD(&child[0], 1, OTHER, 1);
		EXPECT_ALL_HOLD(&child[1], 3, SEED, 0);
		ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	}
}

TEST_F(copies, are_counted_for_children_that_outlive_their_parents)
{
	struct ksm_worker *worker = self->ksm.workers, *child = worker + WORKERS;

	ASSERT_TRUE(fork_children(&self->ksm));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	for (unsigned int i = 0; i < WORKERS; i++)
		ASSERT_TRUE(ksm_end_worker(&worker[i]));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_FULL_COPIES(child, WORKERS);
	EXPECT_EQ(-EBUSY, ksm_set_number("max_page_sharing", LIMIT + 1));
	EXPECT_ALL_HOLD(child, WORKERS, SEED, 0);
}

TEST_HARNESS_MAIN
