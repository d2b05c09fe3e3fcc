// SPDX-License-Identifier: GPL-2.0-only
/*
 * Merged pages in family: fork before and after merging, exec, and exit at any
 * moment. When the last is gone, nothing of KSM's is left.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include "ksm_util.h"
#include "vm_util.h"

#define PAGES	16
#define SEED	1000
#define OTHER	2000

FIXTURE(family)
{
	struct ksm_test ksm;
};

FIXTURE_SETUP(family)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
}

FIXTURE_TEARDOWN_PARENT(family)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

/* A worker's own child goes on with the same memory. */
static struct ksm_test *family;

static long job_fork(struct ksm_worker *worker, long who, long unused, long unused2)
{
	return ksm_fork_worker(family, who, worker->map, worker->pages);
}

/* Worker 0 with PAGES equal and merged pages, and no child yet. */
static bool merged_parent(struct ksm_test *test)
{
	struct ksm_worker *parent = &test->workers[0];

	family = test;
	return ksm_fork_worker(test, 0, NULL, PAGES) &&
	       !ksm_ask(parent, ksm_job_fill, SEED, 0, 0) &&
	       !ksm_ask(parent, ksm_job_advise, MADV_MERGEABLE, 0, 0) &&
	       ksm_merge_all() && ksm_get("pages_sharing") == PAGES - 1;
}

static size_t merged(struct ksm_worker *worker)
{
	return ksm_count_merged(worker->pid, worker->map, worker->pages);
}

static long wrong(struct ksm_worker *worker, long seed, long step)
{
	return ksm_ask(worker, ksm_job_first_wrong, seed, step, 0);
}

TEST_F(family, child_of_a_merged_parent_maps_the_same_page)
{
	struct ksm_worker *worker = self->ksm.workers;

	ASSERT_TRUE(merged_parent(&self->ksm));
	ASSERT_EQ(0, ksm_set("run", "0"));
	ASSERT_EQ(1, ksm_ask(&worker[0], job_fork, 1, 0, 0));
	EXPECT_EQ(-1, wrong(&worker[1], SEED, 0));
	EXPECT_EQ(PAGES, merged(&worker[1]));
	EXPECT_EQ(ksm_pfn(worker[0].pid, worker[0].map),
		  ksm_pfn(worker[1].pid, worker[1].map));
	EXPECT_TRUE(ksm_vma_is_mergeable(worker[1].pid, worker[1].map));
}

TEST_F(family, child_of_a_merged_parent_is_counted_once_ksmd_has_seen_it)
{
	struct ksm_worker *worker = self->ksm.workers;

	ASSERT_TRUE(merged_parent(&self->ksm));
	ASSERT_EQ(1, ksm_ask(&worker[0], job_fork, 1, 0, 0));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(1, ksm_get("pages_shared"));
	EXPECT_EQ(2 * PAGES - 1, ksm_get("pages_sharing"));
	EXPECT_EQ(PAGES, ksm_proc_stat(worker[1].pid, "ksm_merging_pages"));
	EXPECT_EQ(-1, wrong(&worker[0], SEED, 0));
	EXPECT_EQ(-1, wrong(&worker[1], SEED, 0));
	ASSERT_TRUE(ksm_end_worker(&worker[1]));
	EXPECT_TRUE(ksm_wait_until(ksm_get("pages_sharing") == PAGES - 1));
	EXPECT_EQ(1, ksm_get("pages_shared"));
	EXPECT_EQ(-1, wrong(&worker[0], SEED, 0));
}

TEST_F(family, childs_write_is_its_own)
{
	struct ksm_worker *worker = self->ksm.workers;

	ASSERT_TRUE(merged_parent(&self->ksm));
	ASSERT_EQ(1, ksm_ask(&worker[0], job_fork, 1, 0, 0));
	ASSERT_EQ(0, ksm_ask(&worker[1], ksm_job_fill, OTHER, 1, 0));
	EXPECT_EQ(-1, wrong(&worker[1], OTHER, 1));
	EXPECT_EQ(-1, wrong(&worker[0], SEED, 0));
	EXPECT_EQ(PAGES, merged(&worker[0]));
	EXPECT_EQ(0, merged(&worker[1]));
}

TEST_F(family, parents_write_is_its_own)
{
	struct ksm_worker *worker = self->ksm.workers;

	ASSERT_TRUE(merged_parent(&self->ksm));
	ASSERT_EQ(1, ksm_ask(&worker[0], job_fork, 1, 0, 0));
	ASSERT_EQ(0, ksm_ask(&worker[0], ksm_job_fill, OTHER, 1, 0));
	EXPECT_EQ(-1, wrong(&worker[0], OTHER, 1));
	EXPECT_EQ(-1, wrong(&worker[1], SEED, 0));
	EXPECT_EQ(PAGES, merged(&worker[1]));
	EXPECT_EQ(0, merged(&worker[0]));
	/* What only the child is left of is still found by a newcomer. */
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(1, ksm_get("pages_shared"));
	EXPECT_EQ(PAGES - 1, ksm_get("pages_sharing"));
}

TEST_F(family, childs_unmerge_is_its_own)
{
	struct ksm_worker *worker = self->ksm.workers;

	ASSERT_TRUE(merged_parent(&self->ksm));
	ASSERT_EQ(0, ksm_set("run", "0"));
	ASSERT_EQ(1, ksm_ask(&worker[0], job_fork, 1, 0, 0));
	/* ksmd has never seen the child: only its page tables tell. */
	ASSERT_EQ(0, ksm_ask(&worker[1], ksm_job_advise, MADV_UNMERGEABLE, 0, 0));
	EXPECT_EQ(0, merged(&worker[1]));
	EXPECT_EQ(PAGES, ksm_count_frames(worker[1].pid, worker[1].map, PAGES));
	EXPECT_EQ(PAGES, merged(&worker[0]));
	EXPECT_EQ(-1, wrong(&worker[0], SEED, 0));
	EXPECT_EQ(-1, wrong(&worker[1], SEED, 0));
}

TEST_F(family, run_2_unmerges_children_that_ksmd_has_never_seen)
{
	struct ksm_worker *worker = self->ksm.workers;

	ASSERT_TRUE(merged_parent(&self->ksm));
	ASSERT_EQ(0, ksm_set("run", "0"));
	ASSERT_EQ(1, ksm_ask(&worker[0], job_fork, 1, 0, 0));
	ASSERT_EQ(1, ksm_ask(&worker[1], job_fork, 2, 0, 0));
	ASSERT_EQ(0, ksm_set("run", "2"));
	for (unsigned int i = 0; i < 3; i++) {
		EXPECT_EQ(0, merged(&worker[i]));
		EXPECT_EQ(PAGES, ksm_count_frames(worker[i].pid, worker[i].map, PAGES));
		EXPECT_EQ(-1, wrong(&worker[i], SEED, 0));
	}
	EXPECT_EQ(0, ksm_get("pages_shared"));
	EXPECT_EQ(0, ksm_get("pages_sharing"));
}

TEST_F(family, grandchildren_outlive_the_others)
{
	struct ksm_worker *worker = self->ksm.workers;

	ASSERT_TRUE(merged_parent(&self->ksm));
	ASSERT_EQ(1, ksm_ask(&worker[0], job_fork, 1, 0, 0));
	ASSERT_EQ(1, ksm_ask(&worker[1], job_fork, 2, 0, 0));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(3 * PAGES - 1, ksm_get("pages_sharing"));
	ASSERT_TRUE(ksm_end_worker(&worker[0]));
	EXPECT_EQ(-1, wrong(&worker[1], SEED, 0));
	ASSERT_TRUE(ksm_end_worker(&worker[1]));
	EXPECT_EQ(-1, wrong(&worker[2], SEED, 0));
	EXPECT_EQ(PAGES, merged(&worker[2]));
	EXPECT_TRUE(ksm_wait_until(ksm_get("pages_sharing") == PAGES - 1));
	ASSERT_EQ(0, ksm_ask(&worker[2], ksm_job_fill, OTHER, 0, 0));
	EXPECT_EQ(-1, wrong(&worker[2], OTHER, 0));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(1, ksm_get("pages_shared"));
	EXPECT_EQ(PAGES - 1, ksm_get("pages_sharing"));
}

TEST_F(family, child_forked_before_merging_keeps_its_content)
{
	struct ksm_worker *worker = self->ksm.workers;

	family = &self->ksm;
	ASSERT_TRUE(ksm_fork_worker(&self->ksm, 0, NULL, PAGES));
	ASSERT_EQ(0, ksm_ask(&worker[0], ksm_job_fill, SEED, 0, 0));
	ASSERT_EQ(0, ksm_ask(&worker[0], ksm_job_advise, MADV_MERGEABLE, 0, 0));
	ASSERT_EQ(1, ksm_ask(&worker[0], job_fork, 1, 0, 0));
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_EQ(PAGES, merged(&worker[0]));
	EXPECT_EQ(PAGES, merged(&worker[1]));
	EXPECT_EQ(1, ksm_get("pages_shared"));
	EXPECT_EQ(2 * PAGES - 1, ksm_get("pages_sharing"));
	ASSERT_EQ(0, ksm_ask(&worker[1], ksm_job_fill, OTHER, 1, 0));
	EXPECT_EQ(-1, wrong(&worker[0], SEED, 0));
	EXPECT_EQ(-1, wrong(&worker[1], OTHER, 1));
}

/* Parent and child share each page by fork alone, and no two are equal. */
TEST_F(family, pages_shared_by_fork_keep_their_content)
{
	struct ksm_worker *worker = self->ksm.workers;

	family = &self->ksm;
	ASSERT_TRUE(ksm_fork_worker(&self->ksm, 0, NULL, PAGES));
	ASSERT_EQ(0, ksm_ask(&worker[0], ksm_job_fill, SEED, 1, 0));
	ASSERT_EQ(0, ksm_ask(&worker[0], ksm_job_advise, MADV_MERGEABLE, 0, 0));
	ASSERT_EQ(1, ksm_ask(&worker[0], job_fork, 1, 0, 0));
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_EQ(-1, wrong(&worker[0], SEED, 1));
	EXPECT_EQ(-1, wrong(&worker[1], SEED, 1));
	/* No memory may be spent on that. */
	for (size_t i = 0; i < PAGES; i++)
		EXPECT_EQ(ksm_pfn(worker[0].pid, worker[0].map + i * psize()),
			  ksm_pfn(worker[1].pid, worker[1].map + i * psize()));
	/* When both write the same, that merges. */
	ASSERT_EQ(0, ksm_ask(&worker[0], ksm_job_fill, OTHER, 1, 0));
	ASSERT_EQ(0, ksm_ask(&worker[1], ksm_job_fill, OTHER, 1, 0));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(PAGES, ksm_get("pages_shared"));
	EXPECT_EQ(PAGES, ksm_get("pages_sharing"));
	EXPECT_EQ(-1, wrong(&worker[0], OTHER, 1));
	EXPECT_EQ(-1, wrong(&worker[1], OTHER, 1));
}

/* Strangers to each other and to the test have the same PAGES different pages. */
static bool fill_and_register(struct ksm_worker *worker)
{
	return !ksm_ask(worker, ksm_job_fill, SEED, 1, 0) &&
	       !ksm_ask(worker, ksm_job_advise, MADV_MERGEABLE, 0, 0) &&
	       ksm_wait_passes(KSM_MERGE_PASSES);
}

TEST_F(family, inherited_mappings_are_visited_once)
{
	struct ksm_worker *worker = self->ksm.workers;

	ASSERT_TRUE(merged_parent(&self->ksm));
	ASSERT_EQ(1, ksm_ask(&worker[0], job_fork, 1, 0, 0));
	ASSERT_EQ(1, ksm_ask(&worker[1], job_fork, 2, 0, 0));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(3 * PAGES - 1, ksm_get("pages_sharing"));
	EXPECT_TRUE(ksm_check());
	/* The one in the middle writes, which merges with the others' again. */
	ASSERT_EQ(0, ksm_ask(&worker[1], ksm_job_fill, OTHER, 0, 0));
	EXPECT_TRUE(ksm_check());
	ASSERT_EQ(0, ksm_ask(&worker[1], ksm_job_fill, SEED, 0, 0));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(3 * PAGES - 1, ksm_get("pages_sharing"));
	EXPECT_TRUE(ksm_check());
	ASSERT_TRUE(ksm_end_worker(&worker[0]));
	EXPECT_TRUE(ksm_wait_until(ksm_get("pages_sharing") == 2 * PAGES - 1));
	EXPECT_TRUE(ksm_check());
	EXPECT_EQ(-1, wrong(&worker[1], SEED, 0));
	EXPECT_EQ(-1, wrong(&worker[2], SEED, 0));
}

/*
 * The kernel gives the anon_vma of a process that is gone to a grandchild of that. Children
 * of the grandchild descend from it then, and not from the process between.
 */
TEST_F(family, mappings_of_an_anon_vma_that_is_used_again_are_visited_once)
{
	static const unsigned int merges[] = { 0, 5, 3, 4, 1 };
	struct ksm_worker *worker = self->ksm.workers;

	family = &self->ksm;
	ASSERT_TRUE(ksm_fork_worker(&self->ksm, 0, NULL, PAGES));
	ASSERT_TRUE(ksm_fork_worker(&self->ksm, 1, NULL, PAGES));
	ASSERT_EQ(0, ksm_ask(&worker[1], ksm_job_fill, OTHER, 1, 0));
	ASSERT_EQ(1, ksm_ask(&worker[1], job_fork, 2, 0, 0));
	ASSERT_EQ(1, ksm_ask(&worker[2], job_fork, 3, 0, 0));
	ASSERT_TRUE(ksm_end_worker(&worker[2]));
	ASSERT_EQ(1, ksm_ask(&worker[3], job_fork, 4, 0, 0));
	ASSERT_EQ(1, ksm_ask(&worker[4], job_fork, 5, 0, 0));
	ASSERT_EQ(0, ksm_set("run", "1"));
	for (unsigned int i = 0; i < 5; i++) {
		ASSERT_TRUE(fill_and_register(&worker[merges[i]]));
		EXPECT_EQ(i * PAGES, ksm_get("pages_sharing"));
		EXPECT_TRUE(ksm_check());
	}
	EXPECT_EQ(PAGES, ksm_get("pages_shared"));
	ASSERT_TRUE(ksm_end_worker(&worker[3]));
	EXPECT_TRUE(ksm_check());
	EXPECT_EQ(-1, wrong(&worker[4], SEED, 1));
	EXPECT_EQ(-1, wrong(&worker[5], SEED, 1));
}

/* Worker 0 is a stranger, 1 a parent, 2 and 3 its children, 4 a child of 3. */
FIXTURE(kin)
{
	struct ksm_test ksm;
};

/* In which order relatives merge, and in which they exit. */
FIXTURE_VARIANT(kin)
{
	unsigned int merges[5];
	unsigned int exits[5];
};

FIXTURE_VARIANT_ADD(kin, parent_first) { { 0, 1, 2, 3, 4 }, { 1, 2, 3, 4, 0 } };
FIXTURE_VARIANT_ADD(kin, parent_last) { { 0, 4, 3, 2, 1 }, { 1, 3, 2, 4, 0 } };
FIXTURE_VARIANT_ADD(kin, parent_last_and_leaves_last) { { 0, 2, 4, 3, 1 }, { 4, 3, 2, 1, 0 } };
FIXTURE_VARIANT_ADD(kin, parent_between) { { 4, 0, 1, 2, 3 }, { 2, 4, 1, 0, 3 } };

FIXTURE_SETUP(kin)
{
	const char *missing = ksm_missing();
	struct ksm_worker *worker = self->ksm.workers;

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	family = &self->ksm;
	ASSERT_TRUE(ksm_fork_worker(&self->ksm, 0, NULL, PAGES));
	ASSERT_TRUE(ksm_fork_worker(&self->ksm, 1, NULL, PAGES));
	ASSERT_EQ(0, ksm_ask(&worker[1], ksm_job_fill, OTHER, 1, 0));
	ASSERT_EQ(1, ksm_ask(&worker[1], job_fork, 2, 0, 0));
	ASSERT_EQ(1, ksm_ask(&worker[1], job_fork, 3, 0, 0));
	ASSERT_EQ(1, ksm_ask(&worker[3], job_fork, 4, 0, 0));
	ASSERT_EQ(0, ksm_set("run", "1"));
}

FIXTURE_TEARDOWN_PARENT(kin)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

static bool lives(const unsigned int *exits, unsigned int gone, unsigned int who)
{
	for (unsigned int i = gone; i < 5; i++)
		if (exits[i] == who)
			return true;
	return false;
}

TEST_F(kin, pages_that_each_wrote_itself_are_visited_once)
{
	struct ksm_worker *worker = self->ksm.workers;

	for (unsigned int i = 0; i < 5; i++) {
		ASSERT_TRUE(fill_and_register(&worker[variant->merges[i]]));
		EXPECT_EQ(i * PAGES, ksm_get("pages_sharing"));
		EXPECT_TRUE(ksm_check());
	}
	EXPECT_EQ(PAGES, ksm_get("pages_shared"));
	for (unsigned int i = 0; i < 4; i++) {
		ASSERT_TRUE(ksm_end_worker(&worker[variant->exits[i]]));
		EXPECT_TRUE(ksm_wait_until(ksm_get("pages_sharing") == (3 - i) * PAGES));
		EXPECT_EQ(PAGES, ksm_get("pages_shared"));
		EXPECT_TRUE(ksm_check());
		for (unsigned int who = 0; who < 5; who++)
			if (lives(variant->exits, i + 1, who))
				EXPECT_EQ(-1, wrong(&worker[who], SEED, 1));
	}
}

/* They do not wait for room at a page that has as many sites as it may. */
TEST_F(family, forked_mappings_of_a_full_page_are_passed_over)
{
	struct ksm_worker *worker = self->ksm.workers;
	const unsigned int children = 8;
	long scanned, skipped;

	ASSERT_EQ(0, ksm_set_number("max_page_sharing", 2));
	family = &self->ksm;
	ASSERT_TRUE(ksm_fork_worker(&self->ksm, 0, NULL, PAGES));
	ASSERT_EQ(0, ksm_ask(&worker[0], ksm_job_fill, SEED, 0, 0));
	ASSERT_EQ(0, ksm_ask(&worker[0], ksm_job_advise, MADV_MERGEABLE, 0, 0));
	ASSERT_TRUE(ksm_pass_by(KSM_MERGE_PASSES));
	ASSERT_EQ(PAGES / 2, ksm_get("pages_shared"));
	for (unsigned int i = 1; i <= children; i++)
		ASSERT_EQ(1, ksm_ask(&worker[0], job_fork, i, 0, 0));
	ASSERT_TRUE(ksm_pass_by(KSM_MERGE_PASSES));
	scanned = ksm_get("pages_scanned");
	skipped = ksm_get("pages_skipped");
	ASSERT_TRUE(ksm_one_pass());
	EXPECT_EQ((children + 1) * PAGES, ksm_get("pages_scanned") - scanned);
	EXPECT_EQ((children + 1) * PAGES, ksm_get("pages_skipped") - skipped);
	EXPECT_EQ(PAGES / 2, ksm_get("pages_shared"));
	EXPECT_EQ((children + 1) * PAGES - PAGES / 2, ksm_get("pages_sharing"));
	EXPECT_EQ(PAGES, ksm_proc_stat(worker[children].pid, "ksm_merging_pages"));
	EXPECT_TRUE(ksm_check());
}

#define MANY	8192

/* So many different pages, each of them twice. */
static long job_fill_twins(struct ksm_worker *worker, long unused, long unused2, long unused3)
{
	ksm_fill(worker->map, MANY, SEED, 1);
	ksm_fill(worker->map + MANY * psize(), MANY, SEED, 1);
	return 0;
}

/*
 * A child maps what its parent has merged, and ksmd never sees it: each place of the
 * parent's leaves an heir. None is of use when the child is gone.
 */
TEST_F_TIMEOUT(family, heirs_go_soon_after_the_last_relative, 120)
{
	struct ksm_worker *worker = self->ksm.workers;
	char *map = ksm_map_registered(1);
	long profit;

	ASSERT_NE(NULL, map);
	ksm_fill(map, 1, SEED - 1, 0);
	family = &self->ksm;
	ASSERT_TRUE(ksm_fork_worker(&self->ksm, 0, NULL, 2 * MANY));
	ASSERT_EQ(0, ksm_ask(&worker[0], job_fill_twins, 0, 0, 0));
	ASSERT_EQ(0, ksm_ask(&worker[0], ksm_job_advise, MADV_MERGEABLE, 0, 0));
	ASSERT_TRUE(ksm_pass_by(KSM_MERGE_PASSES));
	ASSERT_EQ(MANY, ksm_get("pages_shared"));
	ASSERT_EQ(1, ksm_ask(&worker[0], job_fork, 1, 0, 0));
	ASSERT_TRUE(ksm_end_worker(&worker[0]));
	ASSERT_TRUE(ksm_wait_until(!ksm_get("pages_shared"))) {
		TH_LOG("%ld are shared, by %ld", ksm_get("pages_shared"),
		       ksm_get("pages_sharing"));
	}
	EXPECT_TRUE(ksm_check());
	ASSERT_TRUE(ksm_end_worker(&worker[1]));

	/* A pass is one turn of ksmd here. Metadata counts as loss. */
	ASSERT_TRUE(ksm_pass_by(3));
	profit = ksm_get("general_profit");
	ASSERT_TRUE(ksm_pass_by(3 * KSM_MERGE_PASSES));
	EXPECT_EQ(profit, ksm_get("general_profit"));
}

/* Set in the environment of the program that replaces a worker. */
#define AFTER_EXEC "KSM_FORK_AFTER_EXEC"

/* After exec: are two equal pages merged, and keep their content? */
static void __attribute__((constructor)) merge_after_exec(void)
{
	bool good;
	char *map;

	if (!getenv(AFTER_EXEC))
		return;
	map = ksm_map_pages(2);
	ksm_fill(map, 2, SEED, 0);
	good = ksm_wait_until(ksm_count_merged(getpid(), map, 2) == 2) &&
	       ksm_count_frames(getpid(), map, 2) == 1 &&
	       ksm_first_wrong(map, 2, SEED, 0) == -1;
	_exit(!good);
}

static long job_exec(struct ksm_worker *worker, long merge_any, long unused, long unused2)
{
	char *const arguments[] = { "ksm_fork", NULL };
	char *const environment[] = { AFTER_EXEC "=1", NULL };

	if (merge_any && ksm_set_merge_any(1))
		return -errno;
	execve("/proc/self/exe", arguments, environment);
	return -errno;
}

TEST_F(family, exec_gives_merged_pages_back_and_the_new_program_merges)
{
	struct ksm_worker *worker = self->ksm.workers;
	int status;

	ASSERT_TRUE(merged_parent(&self->ksm));
	ASSERT_EQ(1, ksm_ask(&worker[0], job_fork, 1, 0, 0));
	ASSERT_TRUE(ksm_fork_worker(&self->ksm, 2, NULL, PAGES));
	ASSERT_EQ(0, ksm_ask(&worker[2], ksm_job_fill, SEED, 0, 0));
	ASSERT_EQ(0, ksm_ask(&worker[2], ksm_job_advise, MADV_MERGEABLE, 0, 0));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	ASSERT_EQ(3 * PAGES - 1, ksm_get("pages_sharing"));

	ASSERT_EQ(0, ksm_send(&worker[2], job_exec, 1, 0, 0));
	ASSERT_EQ(worker[2].pid, waitpid(worker[2].pid, &status, 0));
	worker[2].pid = 0;
	EXPECT_EQ(0, status);
	EXPECT_TRUE(ksm_wait_until(ksm_get("pages_sharing") == 2 * PAGES - 1));
	EXPECT_EQ(1, ksm_get("pages_shared"));
	EXPECT_EQ(-1, wrong(&worker[0], SEED, 0));
	EXPECT_EQ(-1, wrong(&worker[1], SEED, 0));
}

/*
 * Objects in use in the slab caches whose names begin with ksm, KSM_NONE if none
 * is shown. Caches that were merged with others of their size (no slab_nomerge on
 * the command line) have no line of their own.
 */
static long ksm_objects(void)
{
	char path[NAME_MAX + 64], line[256], name[64];
	long active, sum = KSM_NONE;
	struct dirent *entry;
	FILE *slabinfo;
	DIR *slabs;

	/* Free objects that CPUs keep at hand look as if they were in use. */
	slabs = opendir("/sys/kernel/slab");
	while (slabs && (entry = readdir(slabs))) {
		if (strncmp(entry->d_name, "ksm", 3))
			continue;
		snprintf(path, sizeof(path), "/sys/kernel/slab/%s/shrink", entry->d_name);
		slabinfo = fopen(path, "w");
		if (slabinfo) {
			fputs("1", slabinfo);
			fclose(slabinfo);
		}
	}
	if (slabs)
		closedir(slabs);

	slabinfo = fopen("/proc/slabinfo", "r");
	while (slabinfo && fgets(line, sizeof(line), slabinfo)) {
		if (sscanf(line, "%63s %ld", name, &active) == 2 && !strncmp(name, "ksm", 3))
			sum = (sum == KSM_NONE ? 0 : sum) + active;
	}
	if (slabinfo)
		fclose(slabinfo);
	return sum;
}

static bool all_counters_are_zero(void)
{
	return !ksm_get("pages_shared") && !ksm_get("pages_sharing") &&
	       !ksm_get("pages_unshared") && !ksm_get("pages_volatile") &&
	       !ksm_get("general_profit");
}

TEST_F(family, counters_are_zero_when_all_are_gone)
{
	struct ksm_worker *worker = self->ksm.workers;

	ASSERT_TRUE(merged_parent(&self->ksm));
	ASSERT_EQ(1, ksm_ask(&worker[0], job_fork, 1, 0, 0));
	ASSERT_EQ(1, ksm_ask(&worker[1], job_fork, 2, 0, 0));
	ASSERT_EQ(0, ksm_ask(&worker[2], ksm_job_fill, OTHER, 1, 0));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(PAGES, ksm_get("pages_unshared"));
	for (unsigned int i = 0; i < 3; i++)
		ASSERT_TRUE(ksm_end_worker(&worker[i]));
	EXPECT_TRUE(ksm_wait_until(all_counters_are_zero())) {
		TH_LOG("shared %ld sharing %ld unshared %ld volatile %ld profit %ld",
		       ksm_get("pages_shared"), ksm_get("pages_sharing"),
		       ksm_get("pages_unshared"), ksm_get("pages_volatile"),
		       ksm_get("general_profit"));
	}
}

TEST_F(family, slab_caches_are_empty_when_all_are_gone)
{
	struct ksm_worker *worker = self->ksm.workers;

	if (ksm_objects() == KSM_NONE)
		SKIP(return, "no ksm* in /proc/slabinfo (boot with slab_nomerge)");
	ASSERT_TRUE(merged_parent(&self->ksm));
	ASSERT_EQ(1, ksm_ask(&worker[0], job_fork, 1, 0, 0));
	ASSERT_EQ(0, ksm_ask(&worker[1], ksm_job_fill, OTHER, 1, 0));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_GT(ksm_objects(), 0);
	ASSERT_TRUE(ksm_end_worker(&worker[0]));
	ASSERT_TRUE(ksm_end_worker(&worker[1]));
	EXPECT_TRUE(ksm_wait_until(ksm_objects() == 0)) {
		TH_LOG("%ld objects are left", ksm_objects());
	}
}

/* Lives for a while that depends on @number, with children, and exits. */
static void live_and_die(unsigned int number)
{
	char *map = ksm_map_registered(PAGES);

	if (!map)
		_exit(1);
	ksm_fill(map, PAGES, SEED, number % 2);
	if (number % 5 == 0)
		ksm_set_merge_any(1);
	if (number % 3 == 0 && fork() == 0) {
		if (number % 2)
			ksm_fill(map, PAGES / 2, OTHER, 0);
		_exit(ksm_first_wrong(map + PAGES / 2 * psize(), PAGES / 2,
				      SEED + PAGES / 2 * (number % 2), number % 2) != -1);
	}
	for (unsigned int spin = 0; spin < number % 20; spin++) {
		if (ksm_first_wrong(map, PAGES, SEED, number % 2) != -1)
			_exit(1);
		if (number % 7 == 0)
			ksm_pause();
	}
	if (number % 4 == 0)
		munmap(map, PAGES / 2 * psize());
	_exit(0);
}

TEST_F(family, exit_at_any_moment_leaves_nothing)
{
	const unsigned int lives = 400, at_once = 8;
	char *map = ksm_map_registered(PAGES);
	unsigned int running = 0, bad = 0;
	int status;

	/* Pages that stay, for the others to merge with. */
	ASSERT_NE(NULL, map);
	ksm_fill(map, PAGES, SEED, 0);
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(0, ksm_set_number("sleep_millisecs", 0));
	for (unsigned int i = 0; i < lives; i++) {
		pid_t pid = fork();

		ASSERT_GE(pid, 0);
		if (!pid)
			live_and_die(i);
		running++;
		while (running >= at_once && wait(&status) > 0) {
			bad += status != 0;
			running--;
		}
	}
	/* Grandchildren too: the test is their subreaper. */
	while (wait(&status) > 0)
		bad += status != 0;
	EXPECT_EQ(0, bad);
	EXPECT_TRUE(ksm_wait_until(ksm_get("pages_sharing") == PAGES - 1));
	EXPECT_EQ(PAGES, ksm_count_merged(getpid(), map, PAGES));
	EXPECT_EQ(-1, ksm_first_wrong(map, PAGES, SEED, 0));
	ASSERT_EQ(0, munmap(map, PAGES * psize()));
	EXPECT_TRUE(ksm_wait_until(all_counters_are_zero()));
}

TEST_HARNESS_MAIN
