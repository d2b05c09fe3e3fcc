// SPDX-License-Identifier: GPL-2.0-only
/*
 * Unmerging is complete when the call returns: no page in its range is shared by
 * KSM, and each holds what it held. The page tables are asked, not the counters.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include "ksm_util.h"
#include "vm_util.h"

#define PAGES	64
#define SEED	1000

/* Enough for an unmerge to be interrupted. */
#define MANY	2048

FIXTURE(unmerging)
{
	struct ksm_test ksm;
	char *map;	/* PAGES equal pages, merged */
};

FIXTURE_SETUP(unmerging)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	self->map = ksm_map_fenced(PAGES);
	ASSERT_NE(NULL, self->map);
	ASSERT_EQ(0, ksm_mergeable(self->map, PAGES));
	ASSERT_EQ(0, madvise(self->map, PAGES * psize(), MADV_DONTFORK));
	ksm_fill(self->map, PAGES, SEED, 0);
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(1, ksm_count_frames(getpid(), self->map, PAGES));
}

FIXTURE_TEARDOWN_PARENT(unmerging)
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

static size_t frames(char *map, size_t pages)
{
	return ksm_count_frames(getpid(), map, pages);
}

TEST_F(unmerging, by_madvise_is_complete_and_lasts)
{
	ASSERT_EQ(0, ksm_unmergeable(self->map, PAGES));
	EXPECT_EQ(0, merged(self->map, PAGES));
	EXPECT_EQ(PAGES, frames(self->map, PAGES));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 0));
	EXPECT_FALSE(ksm_vma_is_mergeable(getpid(), self->map));
	/* Something must stay registered for ksmd to have passes. */
	ASSERT_NE(NULL, ksm_map_registered(1));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(0, merged(self->map, PAGES));
	EXPECT_EQ(0, ksm_get("pages_shared"));
	EXPECT_EQ(0, ksm_get("pages_sharing"));
	EXPECT_EQ(0, ksm_get("pages_unshared"));
}

TEST_F(unmerging, and_registering_again_merges_again)
{
	for (unsigned int round = 0; round < 3; round++) {
		ASSERT_EQ(0, ksm_unmergeable(self->map, PAGES));
		EXPECT_EQ(0, merged(self->map, PAGES));
		ASSERT_EQ(0, ksm_mergeable(self->map, PAGES));
		ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
		EXPECT_EQ(PAGES, merged(self->map, PAGES));
		EXPECT_EQ(PAGES - 1, ksm_get("pages_sharing"));
	}
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 0));
}

TEST_F(unmerging, part_of_a_range_leaves_the_rest_merged)
{
	const size_t from = 5, count = 20;

	ASSERT_EQ(0, ksm_unmergeable(page(self->map, from), count));
	EXPECT_EQ(0, merged(page(self->map, from), count));
	EXPECT_EQ(count, frames(page(self->map, from), count));
	EXPECT_EQ(from, merged(self->map, from));
	EXPECT_EQ(PAGES - from - count,
		  merged(page(self->map, from + count), PAGES - from - count));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(1, ksm_get("pages_shared"));
	EXPECT_EQ(PAGES - count - 1, ksm_get("pages_sharing"));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 0));
}

TEST_F(unmerging, range_with_a_gap_unmerges_both_sides)
{
	const size_t gap = 10;

	ASSERT_EQ(0, munmap(page(self->map, gap), psize()));
	EXPECT_EQ(-ENOMEM, ksm_unmergeable(self->map, PAGES));
	EXPECT_EQ(0, merged(self->map, PAGES));
	EXPECT_EQ(PAGES - 1, frames(self->map, PAGES));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, gap, SEED, 0));
	EXPECT_EQ(-1, ksm_first_wrong(page(self->map, gap + 1), PAGES - gap - 1, SEED, 0));
}

TEST_F(unmerging, works_on_memory_that_cannot_be_written)
{
	ASSERT_EQ(0, mprotect(self->map, PAGES / 2 * psize(), PROT_READ));
	ASSERT_EQ(0, ksm_unmergeable(self->map, PAGES));
	EXPECT_EQ(0, merged(self->map, PAGES));
	EXPECT_EQ(PAGES, frames(self->map, PAGES));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 0));
}

TEST_F(unmerging, works_on_memory_that_cannot_be_read)
{
	ASSERT_EQ(0, mprotect(self->map, PAGES * psize(), PROT_NONE));
	ASSERT_EQ(0, ksm_unmergeable(self->map, PAGES));
	EXPECT_EQ(0, merged(self->map, PAGES));
	ASSERT_EQ(0, mprotect(self->map, PAGES * psize(), PROT_READ | PROT_WRITE));
	EXPECT_EQ(PAGES, frames(self->map, PAGES));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 0));
}

TEST_F(unmerging, works_on_locked_memory)
{
	if (mlock(self->map, PAGES * psize()))
		SKIP(return, "mlock: %s", strerror(errno));
	/* It wrote to them all; they merge again. */
	ASSERT_TRUE(ksm_wait_until(merged(self->map, PAGES) == PAGES));
	ASSERT_EQ(0, ksm_set("run", "0"));
	ASSERT_EQ(0, ksm_unmergeable(self->map, PAGES));
	EXPECT_EQ(0, merged(self->map, PAGES));
	EXPECT_EQ(PAGES, frames(self->map, PAGES));
	EXPECT_EQ(PAGES, ksm_smaps(getpid(), self->map, "Locked") * 1024 / psize());
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 0));
}

TEST_F(unmerging, by_madvise_works_while_ksmd_is_off)
{
	ASSERT_EQ(0, ksm_set("run", "0"));
	EXPECT_EQ(PAGES, merged(self->map, PAGES));
	ASSERT_EQ(0, ksm_unmergeable(self->map, PAGES));
	EXPECT_EQ(0, merged(self->map, PAGES));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 0));
}

TEST_F(unmerging, leaves_other_processes_merged)
{
	struct ksm_worker *worker = self->ksm.workers;

	for (unsigned int i = 0; i < 2; i++) {
		ASSERT_TRUE(ksm_fork_worker(&self->ksm, i, NULL, PAGES));
		ASSERT_EQ(0, ksm_ask(&worker[i], ksm_job_fill, SEED, 0, 0));
		ASSERT_EQ(0, ksm_ask(&worker[i], ksm_job_advise, MADV_MERGEABLE, 0, 0));
	}
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	ASSERT_EQ(0, ksm_ask(&worker[0], ksm_job_advise, MADV_UNMERGEABLE, 0, 0));
	EXPECT_EQ(0, ksm_count_merged(worker[0].pid, worker[0].map, PAGES));
	EXPECT_EQ(PAGES, ksm_count_merged(worker[1].pid, worker[1].map, PAGES));
	EXPECT_EQ(PAGES, merged(self->map, PAGES));
	for (unsigned int i = 0; i < 2; i++)
		EXPECT_EQ(-1, ksm_ask(&worker[i], ksm_job_first_wrong, SEED, 0, 0));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 0));
}

TEST_F(unmerging, by_prctl_is_complete)
{
	char *other;

	ASSERT_EQ(0, ksm_set_merge_any(1));
	other = ksm_map_pages(PAGES);
	ASSERT_NE(NULL, other);
	ksm_fill(other, PAGES, SEED, 0);
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	ASSERT_EQ(PAGES, merged(other, PAGES));
	ASSERT_EQ(ksm_pfn(getpid(), self->map), ksm_pfn(getpid(), other));
	ASSERT_EQ(0, ksm_set_merge_any(0));
	EXPECT_EQ(0, merged(other, PAGES));
	EXPECT_EQ(PAGES, frames(other, PAGES));
	EXPECT_EQ(0, merged(self->map, PAGES));
	EXPECT_EQ(PAGES, frames(self->map, PAGES));
	EXPECT_EQ(-1, ksm_first_wrong(other, PAGES, SEED, 0));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 0));
	EXPECT_EQ(0, ksm_proc_stat(getpid(), "ksm_merging_pages"));
}

TEST_F(unmerging, by_run_2_is_complete_in_all_processes)
{
	const unsigned int count = 3;
	struct ksm_worker *worker = self->ksm.workers;

	for (unsigned int i = 0; i < count; i++) {
		ASSERT_TRUE(ksm_fork_worker(&self->ksm, i, NULL, PAGES));
		ASSERT_EQ(0, ksm_ask(&worker[i], ksm_job_fill, SEED + 1, i % 2, 0));
		ASSERT_EQ(0, ksm_ask(&worker[i], ksm_job_advise, MADV_MERGEABLE, 0, 0));
	}
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	ASSERT_EQ(3 * PAGES + 1 - 2, ksm_get("pages_sharing"));

	ASSERT_EQ(0, ksm_set("run", "2"));
	EXPECT_EQ(0, ksm_get("pages_shared"));
	EXPECT_EQ(0, ksm_get("pages_sharing"));
	EXPECT_EQ(2, ksm_get("run"));
	for (unsigned int i = 0; i < count; i++) {
		EXPECT_EQ(0, ksm_count_merged(worker[i].pid, worker[i].map, PAGES));
		EXPECT_EQ(PAGES, ksm_count_frames(worker[i].pid, worker[i].map, PAGES));
		EXPECT_EQ(-1, ksm_ask(&worker[i], ksm_job_first_wrong, SEED + 1, i % 2, 0));
	}
	EXPECT_EQ(0, merged(self->map, PAGES));
	EXPECT_EQ(PAGES, frames(self->map, PAGES));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 0));
}

TEST_F(unmerging, by_run_2_keeps_areas_registered)
{
	for (unsigned int round = 0; round < 3; round++) {
		ASSERT_EQ(0, ksm_set("run", "2"));
		EXPECT_EQ(0, merged(self->map, PAGES));
		EXPECT_TRUE(ksm_vma_is_mergeable(getpid(), self->map));
		EXPECT_TRUE(ksm_stays(merged(self->map, PAGES) == 0));
		ASSERT_TRUE(ksm_merge_all());
		EXPECT_EQ(PAGES, merged(self->map, PAGES));
		EXPECT_EQ(1, ksm_get("pages_shared"));
		EXPECT_EQ(PAGES - 1, ksm_get("pages_sharing"));
	}
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 0));
}

TEST_F(unmerging, by_run_2_passes_over_what_is_not_registered_any_more)
{
	char *other = ksm_map_registered(2);

	ASSERT_NE(NULL, other);
	ksm_fill(other, 2, SEED + 1, 0);
	ASSERT_EQ(0, ksm_unmergeable(self->map, PAGES));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(2, merged(other, 2));
	ASSERT_EQ(0, ksm_set("run", "2"));
	EXPECT_EQ(0, merged(other, 2));
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_EQ(2, merged(other, 2));
	EXPECT_EQ(0, merged(self->map, PAGES));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 0));
	EXPECT_EQ(-1, ksm_first_wrong(other, 2, SEED + 1, 0));
}

TEST_F(unmerging, munmap_of_merged_pages_gives_them_back)
{
	ASSERT_EQ(0, munmap(self->map, PAGES / 2 * psize()));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(1, ksm_get("pages_shared"));
	EXPECT_EQ(PAGES / 2 - 1, ksm_get("pages_sharing"));
	EXPECT_EQ(-1, ksm_first_wrong(page(self->map, PAGES / 2), PAGES / 2, SEED, 0));
	ASSERT_EQ(0, munmap(page(self->map, PAGES / 2), PAGES / 2 * psize()));
	ASSERT_NE(NULL, ksm_map_registered(1));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(0, ksm_get("pages_shared"));
	EXPECT_EQ(0, ksm_get("pages_sharing"));
	EXPECT_EQ(0, ksm_get("pages_unshared"));
}

TEST_F(unmerging, dontneed_empties_only_its_own_range)
{
	const size_t count = PAGES / 2;

	ASSERT_EQ(0, madvise(self->map, count * psize(), MADV_DONTNEED));
	EXPECT_EQ(0, ksm_count_present(getpid(), self->map, count));
	for (size_t i = 0; i < count * psize(); i++)
		ASSERT_EQ(0, self->map[i]);
	EXPECT_EQ(-1, ksm_first_wrong(page(self->map, count), PAGES - count, SEED, 0));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(PAGES - count - 1, ksm_get("pages_sharing"));
	/* Still registered: what is put there merges again. */
	ksm_fill(self->map, count, SEED, 0);
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(PAGES - 1, ksm_get("pages_sharing"));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 0));
}

TEST_F(unmerging, mremap_breaks_sharing_first_and_keeps_registration)
{
	char *to = ksm_map_fenced(PAGES);

	ASSERT_NE(NULL, to);
	ASSERT_EQ(0, ksm_set("run", "0"));
	ASSERT_EQ(to, mremap(self->map, PAGES * psize(), PAGES * psize(),
			     MREMAP_MAYMOVE | MREMAP_FIXED, to));
	EXPECT_EQ(0, merged(to, PAGES));
	EXPECT_EQ(PAGES, frames(to, PAGES));
	EXPECT_EQ(-1, ksm_first_wrong(to, PAGES, SEED, 0));
	EXPECT_TRUE(ksm_vma_is_mergeable(getpid(), to));
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_EQ(PAGES, merged(to, PAGES));
	EXPECT_EQ(1, ksm_get("pages_shared"));
	EXPECT_EQ(PAGES - 1, ksm_get("pages_sharing"));
	EXPECT_EQ(-1, ksm_first_wrong(to, PAGES, SEED, 0));
}

TEST_F(unmerging, mremap_onto_merged_pages_replaces_them)
{
	char *from = ksm_map_fenced(PAGES);

	ASSERT_NE(NULL, from);
	ksm_fill(from, PAGES, SEED + 1, 1);
	ASSERT_EQ(self->map, mremap(from, PAGES * psize(), PAGES * psize(),
				    MREMAP_MAYMOVE | MREMAP_FIXED, self->map));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED + 1, 1));
	EXPECT_EQ(0, merged(self->map, PAGES));
	ASSERT_NE(NULL, ksm_map_registered(1));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(0, ksm_get("pages_shared"));
	EXPECT_EQ(0, ksm_get("pages_sharing"));
}

TEST_F(unmerging, mremap_that_shrinks_leaves_the_rest_merged)
{
	ASSERT_EQ(self->map, mremap(self->map, PAGES * psize(), PAGES / 2 * psize(), 0));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES / 2, SEED, 0));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(PAGES / 2, merged(self->map, PAGES / 2));
	EXPECT_EQ(PAGES / 2 - 1, ksm_get("pages_sharing"));
}

TEST_F(unmerging, is_complete_each_time_while_ksmd_races)
{
	size_t wanted;

	ASSERT_EQ(0, ksm_set_number("sleep_millisecs", 0));
	for (unsigned int round = 0; round < 50; round++) {
		ASSERT_EQ(0, ksm_unmergeable(self->map, PAGES));
		ASSERT_EQ(0, merged(self->map, PAGES));
		ASSERT_EQ(PAGES, frames(self->map, PAGES));
		ASSERT_EQ(0, ksm_mergeable(self->map, PAGES));
		/* ksmd is now before, in the middle of, or after merging. */
		wanted = round % 3 * PAGES / 2;
		ASSERT_TRUE(ksm_wait_until(merged(self->map, PAGES) >= wanted));
		ASSERT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 0));
	}
}

/* Signals that come all the time. */
static volatile sig_atomic_t signals;

static void count_signal(int number)
{
	signals++;
}

static int signal_all_the_time(int flags)
{
	const struct itimerval often = {
		.it_interval.tv_usec = 500,
		.it_value.tv_usec = 500,
	};
	struct sigaction action = {
		.sa_handler = count_signal,
		.sa_flags = flags,
	};

	return sigaction(SIGALRM, &action, NULL) || setitimer(ITIMER_REAL, &often, NULL);
}

static void signal_no_more(void)
{
	const struct itimerval never = { 0 };

	setitimer(ITIMER_REAL, &never, NULL);
}

TEST_F(unmerging, by_madvise_is_complete_in_spite_of_signals)
{
	char *map = ksm_map_registered(MANY);

	ASSERT_NE(NULL, map);
	ksm_fill(map, MANY, SEED, 0);
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	ASSERT_EQ(0, signal_all_the_time(SA_RESTART));
	EXPECT_EQ(0, ksm_unmergeable(map, MANY));
	signal_no_more();
	EXPECT_EQ(0, merged(map, MANY));
	EXPECT_EQ(MANY, frames(map, MANY));
	EXPECT_EQ(-1, ksm_first_wrong(map, MANY, SEED, 0));
}

TEST_F(unmerging, by_madvise_is_complete_or_says_that_a_signal_came)
{
	char *map = ksm_map_registered(MANY);
	int result;

	ASSERT_NE(NULL, map);
	ksm_fill(map, MANY, SEED, 0);
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	ASSERT_EQ(0, signal_all_the_time(0));
	result = ksm_unmergeable(map, MANY);
	signal_no_more();
	if (result == -EINTR)
		result = ksm_unmergeable(map, MANY);
	EXPECT_EQ(0, result);
	EXPECT_EQ(0, merged(map, MANY));
	EXPECT_EQ(-1, ksm_first_wrong(map, MANY, SEED, 0));
}

TEST_F(unmerging, by_run_2_is_complete_or_says_that_a_signal_came)
{
	char *map = ksm_map_registered(MANY);
	int result;

	ASSERT_NE(NULL, map);
	ksm_fill(map, MANY, SEED, 0);
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	ASSERT_EQ(0, signal_all_the_time(0));
	result = ksm_set("run", "2");
	signal_no_more();
	if (result == -EINTR)
		result = ksm_set("run", "2");
	EXPECT_EQ(0, result);
	EXPECT_EQ(0, merged(map, MANY));
	EXPECT_EQ(0, merged(self->map, PAGES));
	EXPECT_EQ(-1, ksm_first_wrong(map, MANY, SEED, 0));
}

static long job_unmerge_and_die(struct ksm_worker *worker, long a, long b, long c)
{
	ksm_unmergeable(worker->map, worker->pages);
	return 0;
}

TEST_F(unmerging, process_can_be_killed_in_the_middle)
{
	struct ksm_worker *worker = self->ksm.workers;

	for (unsigned int i = 0; i < 8; i++) {
		ASSERT_TRUE(ksm_fork_worker(&self->ksm, i, NULL, MANY / 4));
		ASSERT_EQ(0, ksm_ask(&worker[i], ksm_job_fill, SEED, 0, 0));
		ASSERT_EQ(0, ksm_ask(&worker[i], ksm_job_advise, MADV_MERGEABLE, 0, 0));
	}
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	for (unsigned int i = 0; i < 8; i++) {
		ASSERT_EQ(0, ksm_send(&worker[i], job_unmerge_and_die, 0, 0, 0));
		/* A little later each time. */
		for (unsigned int spin = 0; spin < i; spin++)
			ksm_first_wrong(self->map, PAGES, SEED, 0);
		ASSERT_TRUE(ksm_end_worker(&worker[i]));
	}
	EXPECT_TRUE(ksm_wait_until(ksm_get("pages_sharing") == PAGES - 1));
	EXPECT_EQ(1, ksm_get("pages_shared"));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 0));
}

TEST_HARNESS_MAIN
