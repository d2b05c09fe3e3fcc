// SPDX-License-Identifier: GPL-2.0-only
/*
 * Whoever moves a page or takes it away must find all its mappings: swapping,
 * migration, compaction and memory failure on merged pages. Two of the four
 * processes that map each page here were forked after merging, while ksmd was off, so
 * KSM knows nothing of them but their parents.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <linux/mempolicy.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include "ksm_util.h"
#include "vm_util.h"

#ifndef MADV_SOFT_OFFLINE
#define MADV_SOFT_OFFLINE 101
#endif

#define PAGES	32
#define SEED	1000
#define OTHER	2000
#define GROUP	"/sys/fs/cgroup/ksm_rmap"

enum { PARENT, STRANGER, CHILD, GRANDCHILD, FAMILY, NEWCOMER = FAMILY };

FIXTURE(family)
{
	struct ksm_test ksm;
	bool has_group;
};

/* A memory cgroup of the test's own, so that only its memory is reclaimed. */
static bool enter_group(void)
{
	char text[32];

	if (mkdir(GROUP, 0755) && errno != EEXIST)
		return false;
	snprintf(text, sizeof(text), "%d", getpid());
	ksm_write_text(GROUP "/cgroup.procs", text);
	return !access(GROUP "/memory.reclaim", W_OK);
}

static struct ksm_test *workers_of;

static long job_fork(struct ksm_worker *worker, long who, long unused, long unused2)
{
	return ksm_fork_worker(workers_of, who, worker->map, worker->pages);
}

static bool start_merging(struct ksm_test *test, unsigned int who)
{
	struct ksm_worker *worker = &test->workers[who];

	return ksm_fork_worker(test, who, NULL, PAGES) &&
	       !ksm_ask(worker, ksm_job_fill, SEED, 1, 0) &&
	       !ksm_ask(worker, ksm_job_advise, MADV_MERGEABLE, 0, 0);
}

/* PAGES merged pages, each mapped by all four. */
static bool merge_family(struct ksm_test *test)
{
	workers_of = test;
	return start_merging(test, PARENT) && start_merging(test, STRANGER) &&
	       ksm_merge_all() && ksm_get("pages_sharing") == PAGES &&
	       !ksm_set("run", "0") &&
	       ksm_ask(&test->workers[PARENT], job_fork, CHILD, 0, 0) == 1 &&
	       ksm_ask(&test->workers[CHILD], job_fork, GRANDCHILD, 0, 0) == 1;
}

static size_t present(struct ksm_worker *worker)
{
	return ksm_count_present(worker->pid, worker->map, PAGES);
}

static size_t present_anywhere(struct ksm_worker *worker)
{
	return present(&worker[PARENT]) + present(&worker[STRANGER]) +
	       present(&worker[CHILD]) + present(&worker[GRANDCHILD]);
}

static unsigned long pfn(struct ksm_worker *worker, size_t index)
{
	return ksm_pfn(worker->pid, worker->map + index * psize());
}

/* Do all four map one and the same merged page at @index? */
static bool is_one_page(struct ksm_worker *worker, size_t index)
{
	unsigned long frame = pfn(&worker[PARENT], index);

	for (unsigned int i = 0; i < FAMILY; i++)
		if (!frame || pfn(&worker[i], index) != frame ||
		    !ksm_count_merged(worker[i].pid, worker[i].map + index * psize(), 1))
			return false;
	return true;
}

static size_t count_one_pages(struct ksm_worker *worker)
{
	size_t count = 0;

	for (size_t i = 0; i < PAGES; i++)
		count += is_one_page(worker, i);
	return count;
}

static long wrong(struct ksm_worker *worker)
{
	return ksm_ask(worker, ksm_job_first_wrong, SEED, 1, 0);
}

#define EXPECT_FAMILY_UNHARMED(worker)					\
do {									\
	EXPECT_EQ(-1, wrong(&(worker)[PARENT]));			\
	EXPECT_EQ(-1, wrong(&(worker)[STRANGER]));			\
	EXPECT_EQ(-1, wrong(&(worker)[CHILD]));				\
	EXPECT_EQ(-1, wrong(&(worker)[GRANDCHILD]));			\
} while (0)

FIXTURE_SETUP(family)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	self->has_group = enter_group();
	ASSERT_TRUE(ksm_begin(&self->ksm));
	ASSERT_TRUE(merge_family(&self->ksm));
	ASSERT_EQ(PAGES, count_one_pages(self->ksm.workers));
}

FIXTURE_TEARDOWN_PARENT(family)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
	rmdir(GROUP);
}

/* Why nothing can be swapped out here, or NULL. */
static const char *no_swapping(bool has_group)
{
	char text[256];

	if (!has_group)
		return "no memory.reclaim: needs cgroup2 with the memory controller";
	if (ksm_read_text("/proc/swaps", text, sizeof(text)) || !strchr(text, '/'))
		return "no swap is on";
	return NULL;
}

/* Asks for more and more until nothing of the family's is in memory. */
static bool swap_out(struct ksm_worker *worker)
{
	return ksm_wait_until((ksm_write_text(GROUP "/memory.reclaim", "16M"),
			       !present_anywhere(worker)));
}

TEST_F(family, merged_page_survives_swapout)
{
	struct ksm_worker *worker = self->ksm.workers;
	const char *why = no_swapping(self->has_group);

	if (why)
		SKIP(return, "%s", why);
	ASSERT_TRUE(swap_out(worker));
	for (unsigned int i = 0; i < FAMILY; i++)
		for (size_t j = 0; j < PAGES; j++)
			EXPECT_TRUE(ksm_pagemap(worker[i].pid, worker[i].map + j * psize()) &
				    PM_SWAP);
	EXPECT_FAMILY_UNHARMED(worker);
	/* And is merged again, in all four. */
	ASSERT_EQ(0, ksm_set("run", "1"));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(PAGES, count_one_pages(worker));
	EXPECT_EQ(PAGES, ksm_get("pages_shared"));
	EXPECT_EQ((FAMILY - 1) * PAGES, ksm_get("pages_sharing"));
	EXPECT_FAMILY_UNHARMED(worker);
}

TEST_F(family, swapped_page_is_copied_for_a_stranger_and_counted)
{
	struct ksm_worker *worker = self->ksm.workers;
	long before = ksm_vmstat("ksm_swpin_copy");
	const char *why = no_swapping(self->has_group);

	if (why)
		SKIP(return, "%s", why);
	ASSERT_NE(KSM_NONE, before);
	ASSERT_TRUE(swap_out(worker));
	/* The family's own page first; it is then no longer a merged one. */
	EXPECT_EQ(-1, wrong(&worker[PARENT]));
	EXPECT_EQ(-1, wrong(&worker[CHILD]));
	EXPECT_EQ(before, ksm_vmstat("ksm_swpin_copy"));
	EXPECT_EQ(-1, wrong(&worker[STRANGER]));
	EXPECT_EQ(before + PAGES, ksm_vmstat("ksm_swpin_copy"));
	EXPECT_EQ(-1, wrong(&worker[GRANDCHILD]));
	for (size_t i = 0; i < PAGES; i++)
		EXPECT_NE(pfn(&worker[PARENT], i), pfn(&worker[STRANGER], i));
}

/* Does the stranger map an ordinary page of the parent's? */
static size_t count_shared_with_stranger(struct ksm_worker *worker)
{
	size_t count = 0;

	for (size_t i = 0; i < PAGES; i++)
		count += pfn(&worker[PARENT], i) == pfn(&worker[STRANGER], i);
	return count;
}

#define HUGE_16	"/sys/kernel/mm/transparent_hugepage/hugepages-16kB/enabled"

/* Where slots lie side by side one large folio for several could come back. */
TEST_F(family, swapped_pages_come_back_small_for_strangers)
{
	struct ksm_worker *worker = self->ksm.workers;
	const char *why = no_swapping(self->has_group);
	char text[64];

	if (why)
		SKIP(return, "%s", why);
	if (ksm_read_text(HUGE_16, text, sizeof(text)) || !strstr(text, "[never]"))
		SKIP(return, "needs hugepages-16kB, which are off");
	for (unsigned int round = 0; round < 8; round++) {
		bool out = swap_out(worker);
		size_t shared;

		ASSERT_EQ(0, ksm_write_text(HUGE_16, "always"));
		EXPECT_EQ(-1, wrong(&worker[PARENT]));
		shared = count_shared_with_stranger(worker);
		EXPECT_EQ(-1, wrong(&worker[STRANGER]));
		shared += count_shared_with_stranger(worker);
		ASSERT_EQ(0, ksm_write_text(HUGE_16, "never"));
		ASSERT_TRUE(out);
		ASSERT_EQ(0, shared);
		EXPECT_FAMILY_UNHARMED(worker);
		ASSERT_TRUE(ksm_merge_all());
		ASSERT_TRUE(ksm_wait_until(count_one_pages(worker) == PAGES));
		ASSERT_EQ(0, ksm_set("run", "0"));
	}
}

TEST_F(family, swapped_page_can_be_written_by_each)
{
	struct ksm_worker *worker = self->ksm.workers;
	const char *why = no_swapping(self->has_group);

	if (why)
		SKIP(return, "%s", why);
	for (unsigned int writer = 0; writer < FAMILY; writer++) {
		ASSERT_TRUE(swap_out(worker));
		ASSERT_EQ(0, ksm_ask(&worker[writer], ksm_job_fill, OTHER, writer + 1, 0));
		for (unsigned int i = 0; i < FAMILY; i++)
			EXPECT_EQ(-1, ksm_ask(&worker[i], ksm_job_first_wrong,
					      i <= writer ? OTHER : SEED,
					      i <= writer ? i + 1 : 1, 0));
	}
}

static long job_unmap(struct ksm_worker *worker, long unused, long unused2, long unused3)
{
	return munmap(worker->map, worker->pages * psize()) ? -errno : 0;
}

TEST_F(family, swapped_page_outlives_its_parent)
{
	struct ksm_worker *worker = self->ksm.workers;
	const char *why = no_swapping(self->has_group);

	if (why)
		SKIP(return, "%s", why);
	ASSERT_TRUE(swap_out(worker));
	ASSERT_TRUE(ksm_end_worker(&worker[PARENT]));
	EXPECT_EQ(-1, wrong(&worker[GRANDCHILD]));
	ASSERT_TRUE(ksm_end_worker(&worker[CHILD]));
	EXPECT_EQ(-1, wrong(&worker[STRANGER]));
	EXPECT_EQ(-1, wrong(&worker[GRANDCHILD]));
}

/* Whom KSM knows of by its parent only is still found when the parent is gone. */
static void lose_parent(struct __test_metadata *_metadata, struct ksm_test *test, bool has_group)
{
	struct ksm_worker *worker = test->workers;
	const char *why = no_swapping(has_group);

	EXPECT_TRUE(ksm_check());
	EXPECT_EQ(PAGES, ksm_count_merged(worker[CHILD].pid, worker[CHILD].map, PAGES));
	if (!why)
		EXPECT_TRUE(ksm_wait_until((ksm_write_text(GROUP "/memory.reclaim", "16M"),
					    !present(&worker[STRANGER]) &&
					    !present(&worker[CHILD]) &&
					    !present(&worker[GRANDCHILD]))));
	EXPECT_EQ(-1, wrong(&worker[STRANGER]));
	EXPECT_EQ(-1, wrong(&worker[CHILD]));
	EXPECT_EQ(-1, wrong(&worker[GRANDCHILD]));
}

TEST_F(family, children_are_found_when_their_parent_exits)
{
	ASSERT_TRUE(ksm_end_worker(&self->ksm.workers[PARENT]));
	lose_parent(_metadata, &self->ksm, self->has_group);
}

TEST_F(family, children_are_found_when_their_parent_unmaps)
{
	ASSERT_EQ(0, ksm_ask(&self->ksm.workers[PARENT], job_unmap, 0, 0, 0));
	lose_parent(_metadata, &self->ksm, self->has_group);
}

TEST_F(family, children_are_found_when_their_parent_unmerges)
{
	ASSERT_EQ(0, ksm_ask(&self->ksm.workers[PARENT], ksm_job_advise, MADV_UNMERGEABLE, 0, 0));
	lose_parent(_metadata, &self->ksm, self->has_group);
}

TEST_F(family, unmerging_is_complete_for_swapped_pages)
{
	struct ksm_worker *worker = self->ksm.workers;
	const char *why = no_swapping(self->has_group);

	if (why)
		SKIP(return, "%s", why);
	ASSERT_TRUE(swap_out(worker));
	ASSERT_EQ(0, ksm_ask(&worker[CHILD], ksm_job_advise, MADV_UNMERGEABLE, 0, 0));
	EXPECT_EQ(0, ksm_count_merged(worker[CHILD].pid, worker[CHILD].map, PAGES));
	ASSERT_EQ(0, ksm_set("run", "2"));
	EXPECT_FAMILY_UNHARMED(worker);
	for (unsigned int i = 0; i < FAMILY; i++)
		EXPECT_EQ(0, ksm_count_merged(worker[i].pid, worker[i].map, PAGES));
	EXPECT_EQ(0, ksm_get("pages_shared"));
}

static long job_page_out(struct ksm_worker *worker, long unused, long unused2, long unused3)
{
	return madvise(worker->map, worker->pages * psize(), MADV_PAGEOUT) ? -errno : 0;
}

TEST_F(family, last_mapping_can_be_paged_out_by_madvise)
{
	struct ksm_worker *worker = self->ksm.workers;
	const char *why = no_swapping(self->has_group);

	if (why)
		SKIP(return, "%s", why);
	ASSERT_TRUE(ksm_end_worker(&worker[PARENT]));
	ASSERT_TRUE(ksm_end_worker(&worker[CHILD]));
	ASSERT_TRUE(ksm_end_worker(&worker[GRANDCHILD]));
	EXPECT_EQ(PAGES, ksm_count_merged(worker[STRANGER].pid, worker[STRANGER].map, PAGES));
	EXPECT_TRUE(ksm_wait_until((ksm_ask(&worker[STRANGER], job_page_out, 0, 0, 0),
				    !present(&worker[STRANGER]))));
	EXPECT_EQ(-1, wrong(&worker[STRANGER]));
}

static long job_lock(struct ksm_worker *worker, long lock, long unused, long unused2)
{
	if (lock)
		return mlock(worker->map, worker->pages * psize()) ? -errno : 0;
	return munlock(worker->map, worker->pages * psize()) ? -errno : 0;
}

TEST_F(family, locked_page_stays_and_is_free_to_go_when_unlocked)
{
	struct ksm_worker *worker = self->ksm.workers;
	const char *why = no_swapping(self->has_group);
	long before = ksm_meminfo("Mlocked");

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, ksm_ask(&worker[CHILD], job_lock, 1, 0, 0));
	EXPECT_GT(ksm_meminfo("Mlocked"), before);
	EXPECT_TRUE(ksm_stays((ksm_write_text(GROUP "/memory.reclaim", "16M"),
			       present(&worker[CHILD]) == PAGES)));
	EXPECT_FAMILY_UNHARMED(worker);
	ASSERT_EQ(0, ksm_ask(&worker[CHILD], job_lock, 0, 0, 0));
	EXPECT_TRUE(ksm_wait_until(ksm_meminfo("Mlocked") == before));
	EXPECT_TRUE(swap_out(worker));
	EXPECT_FAMILY_UNHARMED(worker);
}

/* Why nothing can be moved to another node here, or NULL. */
static const char *no_nodes(void)
{
	if (access("/sys/devices/system/node/node1", F_OK))
		return "needs two NUMA nodes";
	return NULL;
}

/* Moves all pages of a process; how many are on @node afterwards? */
static size_t move_to(struct ksm_worker *worker, int node)
{
	void *pages[PAGES];
	int nodes[PAGES], status[PAGES];
	size_t count = 0;

	for (size_t i = 0; i < PAGES; i++) {
		pages[i] = worker->map + i * psize();
		nodes[i] = node;
		status[i] = -1;
	}
	if (syscall(SYS_move_pages, worker->pid, PAGES, pages, nodes, status,
		    MPOL_MF_MOVE_ALL) < 0)
		return 0;
	for (size_t i = 0; i < PAGES; i++)
		count += status[i] == node;
	return count;
}

TEST_F(family, migration_moves_all_mappings_and_keeps_the_page_merged)
{
	struct ksm_worker *worker = self->ksm.workers;
	const char *why = no_nodes();

	if (why)
		SKIP(return, "%s", why);
	for (unsigned int round = 0; round < 2 * FAMILY; round++) {
		unsigned long before[PAGES], moved = 0;

		for (size_t i = 0; i < PAGES; i++)
			before[i] = pfn(&worker[PARENT], i);
		ASSERT_EQ(PAGES, move_to(&worker[round % FAMILY], round % 2));
		for (size_t i = 0; i < PAGES; i++)
			moved += pfn(&worker[PARENT], i) != before[i];
		/* Some were there already in the first round only. */
		EXPECT_TRUE(!round || moved == PAGES);
		EXPECT_EQ(PAGES, count_one_pages(worker));
		EXPECT_FAMILY_UNHARMED(worker);
	}
	/* A newcomer finds the page where it is now. */
	ASSERT_TRUE(start_merging(&self->ksm, NEWCOMER));
	ASSERT_EQ(0, ksm_set("run", "1"));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(PAGES, count_one_pages(worker));
	for (size_t i = 0; i < PAGES; i++)
		EXPECT_EQ(pfn(&worker[PARENT], i), pfn(&worker[NEWCOMER], i));
	EXPECT_EQ(PAGES, ksm_get("pages_shared"));
	EXPECT_EQ(FAMILY * PAGES, ksm_get("pages_sharing"));
	EXPECT_EQ(-1, wrong(&worker[NEWCOMER]));
}

TEST_F(family, migrate_pages_moves_a_whole_process)
{
	struct ksm_worker *worker = self->ksm.workers;
	unsigned long from = 1, to = 2;
	const char *why = no_nodes();

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(PAGES, move_to(&worker[PARENT], 0));
	ASSERT_EQ(0, syscall(SYS_migrate_pages, worker[GRANDCHILD].pid, 8 * sizeof(from),
			     &from, &to));
	EXPECT_EQ(PAGES, count_one_pages(worker));
	EXPECT_EQ(PAGES, move_to(&worker[STRANGER], 1));
	EXPECT_FAMILY_UNHARMED(worker);
}

TEST_F(family, migration_back_and_forth_while_ksmd_runs_loses_nothing)
{
	struct ksm_worker *worker = self->ksm.workers;
	const char *why = no_nodes();

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, ksm_set_number("sleep_millisecs", 0));
	ASSERT_EQ(0, ksm_set("run", "1"));
	for (unsigned int round = 0; round < 20; round++) {
		/* ksmd may hold a reference for a moment, so some may stay. */
		move_to(&worker[round % FAMILY], round % 2);
		if (round % 5 == 0)
			ASSERT_EQ(0, ksm_ask(&worker[STRANGER], ksm_job_fill, SEED, 1, 0));
		EXPECT_FAMILY_UNHARMED(worker);
	}
	EXPECT_TRUE(ksm_wait_until(count_one_pages(worker) == PAGES));
	EXPECT_FAMILY_UNHARMED(worker);
}

TEST_F(family, compaction_keeps_the_page_merged)
{
	struct ksm_worker *worker = self->ksm.workers;
	unsigned long pfn[PAGES];
	size_t moved = 0;

	if (access("/proc/sys/vm/compact_memory", W_OK))
		SKIP(return, "this kernel has no memory compaction");
	for (size_t i = 0; i < PAGES; i++)
		pfn[i] = ksm_pfn(worker[PARENT].pid, worker[PARENT].map + i * psize());
	ASSERT_EQ(0, ksm_write_text("/proc/sys/vm/compact_memory", "1"));
	for (size_t i = 0; i < PAGES; i++)
		moved += ksm_pfn(worker[PARENT].pid, worker[PARENT].map + i * psize()) != pfn[i];
	EXPECT_EQ(PAGES, count_one_pages(worker));
	EXPECT_FAMILY_UNHARMED(worker);
	if (!moved)
		SKIP(return, "compaction left all pages where they were");
	TH_LOG("%zu of %d pages moved", moved, PAGES);
}

static sigjmp_buf after_bus_error;

static void bus_error(int number)
{
	siglongjmp(after_bus_error, 1);
}

/* Advises on one page; 1 if a SIGBUS came. */
static long job_advise_page(struct ksm_worker *worker, long index, long advice, long unused)
{
	signal(SIGBUS, bus_error);
	if (sigsetjmp(after_bus_error, 1))
		return 1;
	return madvise(worker->map + index * psize(), psize(), advice) ? -errno : 0;
}

/* How many pages give SIGBUS, and which was the last of them? */
static long job_find_lost(struct ksm_worker *worker, long unused, long unused2, long unused3)
{
	volatile long lost = 0, last = 0;

	signal(SIGBUS, bus_error);
	for (volatile size_t i = 0; i < worker->pages; i++) {
		if (sigsetjmp(after_bus_error, 1)) {
			lost++;
			last = i;
		} else {
			FORCE_READ(worker->map[i * psize()]);
		}
	}
	return lost * PAGES + last;
}

TEST_F(family, soft_offlined_page_moves_in_all_mappings)
{
	struct ksm_worker *worker = self->ksm.workers;
	unsigned long frame = pfn(&worker[PARENT], 7);
	long result;

	result = ksm_ask(&worker[CHILD], job_advise_page, 7, MADV_SOFT_OFFLINE, 0);
	if (result == -EINVAL)
		SKIP(return, "this kernel cannot handle memory failure");
	ASSERT_EQ(0, result);
	EXPECT_EQ(PAGES, count_one_pages(worker));
	EXPECT_NE(frame, pfn(&worker[PARENT], 7));
	EXPECT_TRUE(ksm_page_flags(frame) & KPF_HWPOISON);
	for (unsigned int i = 0; i < FAMILY; i++)
		EXPECT_EQ(0, ksm_ask(&worker[i], job_find_lost, 0, 0, 0));
	EXPECT_FAMILY_UNHARMED(worker);
	unpoison_memory(frame);
}

TEST_F(family, poisoned_page_is_lost_to_all_and_only_that_page)
{
	struct ksm_worker *worker = self->ksm.workers;
	unsigned long frame = pfn(&worker[PARENT], 7);
	long result;

	result = ksm_ask(&worker[STRANGER], job_advise_page, 7, MADV_HWPOISON, 0);
	if (result == -EINVAL)
		SKIP(return, "this kernel cannot handle memory failure");
	ASSERT_GE(result, 0);
	EXPECT_TRUE(ksm_page_flags(frame) & KPF_HWPOISON);
	for (unsigned int i = 0; i < FAMILY; i++) {
		EXPECT_EQ(PAGES + 7, ksm_ask(&worker[i], job_find_lost, 0, 0, 0));
		EXPECT_EQ(PAGES - 1, ksm_count_merged(worker[i].pid, worker[i].map, PAGES));
	}

	/* New pages of the same content merge, but not with the lost one. */
	ASSERT_TRUE(start_merging(&self->ksm, NEWCOMER));
	ASSERT_TRUE(start_merging(&self->ksm, NEWCOMER + 1));
	ASSERT_EQ(0, ksm_set("run", "1"));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(PAGES, ksm_count_merged(worker[NEWCOMER].pid, worker[NEWCOMER].map, PAGES));
	EXPECT_EQ(pfn(&worker[NEWCOMER], 7), pfn(&worker[NEWCOMER + 1], 7));
	EXPECT_NE(frame, pfn(&worker[NEWCOMER], 7));
	EXPECT_EQ(pfn(&worker[PARENT], 8), pfn(&worker[NEWCOMER], 8));
	EXPECT_EQ(-1, wrong(&worker[NEWCOMER]));
	EXPECT_EQ(-1, wrong(&worker[NEWCOMER + 1]));
	EXPECT_EQ(PAGES, ksm_get("pages_shared"));
}

TEST_HARNESS_MAIN
