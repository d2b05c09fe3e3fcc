// SPDX-License-Identifier: GPL-2.0-only
/*
 * Pages that ksmd has passed over for long, as nobody wrote to them, are found when
 * an equal page comes, from wherever it comes, a stated number of passes later. Nor
 * does it matter whether they were swapped or forked meanwhile.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>
#include "ksm_settled.h"
#include "ksm_util.h"
#include "ksm_ways.h"

/* Lets no checksum count as seen before: equal pages settle, each for itself. */
#define DENY	"/sys/kernel/debug/ksm/deny_sightings"

FIXTURE(settled)
{
	struct ksm_test ksm;
	struct settled settled;
};

FIXTURE_SETUP(settled)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	ASSERT_EQ(0, ksm_set("smart_scan", "1"));
	/* For a process that comes later, but knows nothing of what is registered. */
	ASSERT_TRUE(ksm_fork_worker(&self->ksm, 1, NULL, PAGES));
	ASSERT_EQ(0, settled_create(&self->settled, &self->ksm, false));
	ASSERT_TRUE(settled_rest(&self->settled));
}

FIXTURE_TEARDOWN_PARENT(settled)
{
	if (!access(DENY, W_OK))
		EXPECT_EQ(0, ksm_write_text(DENY, "N"));
	EXPECT_TRUE(ksm_end(&self->ksm));
}

/* Two pages of the owner that nobody had an equal one of. */
TEST_F(settled, pages_that_get_the_same_new_content_merge)
{
	struct settled *settled = &self->settled;
	char *map = settled->owner->map, *content = ksm_map_pages(1);

	ASSERT_NE(NULL, content);
	ksm_fill(content, 1, SEED - 1, 0);
	for (size_t i = 2; i < 6; i++)
		ASSERT_EQ(0, ksm_write_by_process_vm(settled->owner, page(map, i), content));
	ASSERT_TRUE(ksm_pass_by(UNSEEN_PASSES));
	EXPECT_EQ(4, settled_merged(settled));
	EXPECT_EQ(1, ksm_count_frames(settled->owner->pid, page(map, 2), 4));
	EXPECT_EQ(3, ksm_get("pages_sharing"));
	for (size_t i = 2; i < 6; i++)
		ASSERT_EQ(0, ksm_write_by_process_vm(settled->owner, page(map, i),
						     page(settled->content, settled->pages + i)));
	EXPECT_EQ(-1, settled_wrong(settled, false));
}

static long job_fork(struct ksm_worker *worker, long who, long test, long unused)
{
	return ksm_fork_worker((struct ksm_test *)test, who, worker->map, worker->pages) ?
	       0 : -ECHILD;
}

TEST_F(settled, page_that_a_child_changes_merges_in_the_child)
{
	struct settled *settled = &self->settled, child = *settled;
	struct settled_way store = { .job = settled_job_store };

	ASSERT_EQ(0, ksm_ask(settled->owner, job_fork, 2, (long)&self->ksm, 0));
	child.owner = &self->ksm.workers[2];
	ASSERT_EQ(0, settled_change(&child, &store, false));
	ASSERT_TRUE(ksm_pass_by(DIRTY_PASSES));
	EXPECT_EQ(settled_nr_changed(&child), settled_with_twin(&child));
	EXPECT_EQ(settled_nr_changed(&child), settled_merged(&child));
	EXPECT_EQ(-1, settled_wrong(&child, true));
	EXPECT_EQ(0, settled_merged(settled));
	EXPECT_EQ(-1, settled_wrong(settled, false));
	/* Then in the parent: its pages are one with those of the child. */
	ASSERT_EQ(0, settled_change(settled, &store, false));
	ASSERT_TRUE(ksm_pass_by(DIRTY_PASSES));
	EXPECT_EQ(settled_nr_changed(settled), settled_with_twin(settled));
	EXPECT_EQ(-1, settled_wrong(&child, true));
	EXPECT_EQ(-1, settled_wrong(settled, true));
}

/*
 * ksmd keeps no list of settled pages, and may miss that two of them are equal. It is to
 * find out when their checksums are noted anew, in every so many passes.
 */
TEST_F(settled, pages_that_missed_each_other_merge_within_a_refresh)
{
	struct settled *settled = &self->settled;
	bool missed;
	char *map;

	if (access(DENY, W_OK))
		SKIP(return, "this kernel makes no pages miss (CONFIG_KSM_DEBUG, " DENY ")");
	map = ksm_map_registered(PAGES);
	ASSERT_NE(NULL, map);
	ksm_fill(map, PAGES, SEED, 1);
	ASSERT_EQ(0, ksm_write_text(DENY, "Y"));
	missed = ksm_pass_by(SETTLED_PASSES);
	ASSERT_EQ(0, ksm_write_text(DENY, "N"));
	ASSERT_TRUE(missed);
	ASSERT_EQ(0, settled_merged(settled));
	ASSERT_EQ(3 * PAGES, ksm_get("pages_unshared"));
	ASSERT_TRUE(ksm_pass_by(KSM_REFRESH_PASSES));
	EXPECT_EQ(PAGES, settled_merged(settled));
	EXPECT_EQ(PAGES, ksm_count_merged(getpid(), map, PAGES));
	EXPECT_EQ(0, ksm_count_merged(getpid(), settled->twin, PAGES));
	EXPECT_EQ(PAGES, ksm_get("pages_sharing"));
	EXPECT_EQ(-1, ksm_first_wrong(map, PAGES, SEED, 1));
	EXPECT_EQ(-1, settled_wrong(settled, false));
}

/* ---- nobody writes to settled pages, but a new one comes that is equal ---- */

TEST_F(settled, page_merges_with_a_new_equal_one)
{
	struct settled *settled = &self->settled;
	char *map = ksm_map_registered(PAGES);

	ASSERT_NE(NULL, map);
	ksm_fill(map, PAGES, SEED, 1);
	ASSERT_TRUE(ksm_pass_by(DIRTY_PASSES));
	EXPECT_EQ(PAGES, settled_merged(settled));
	EXPECT_EQ(PAGES, ksm_count_merged(getpid(), map, PAGES));
	EXPECT_EQ(0, ksm_count_merged(getpid(), settled->twin, PAGES));
	EXPECT_EQ(PAGES, ksm_get("pages_sharing"));
	EXPECT_EQ(-1, ksm_first_wrong(map, PAGES, SEED, 1));
	EXPECT_EQ(-1, settled_wrong(settled, false));
}

/* Old memory, and nothing but that it takes part is new. */
TEST_F(settled, page_merges_with_one_of_a_process_that_registers_late)
{
	struct ksm_worker *late = &self->ksm.workers[1];
	struct settled *settled = &self->settled;

	ASSERT_EQ(0, ksm_ask(late, ksm_job_fill, SEED, 1, 0));
	ASSERT_TRUE(ksm_pass_by(SETTLED_PASSES));
	ASSERT_EQ(0, ksm_ask(late, ksm_job_advise, MADV_MERGEABLE, 0, 0));
	ASSERT_TRUE(ksm_pass_by(DIRTY_PASSES));
	EXPECT_EQ(PAGES, settled_merged(settled));
	EXPECT_EQ(PAGES, ksm_count_merged(late->pid, late->map, PAGES));
	EXPECT_EQ(0, ksm_count_merged(getpid(), settled->twin, PAGES));
	EXPECT_EQ(PAGES, ksm_get("pages_sharing"));
	EXPECT_EQ(-1, ksm_ask(late, ksm_job_first_wrong, SEED, 1, 0));
	EXPECT_EQ(-1, settled_wrong(settled, false));
}

static long job_swap_all(struct ksm_worker *worker, long unused, long unused2, long unused3)
{
	for (size_t i = 0; i < worker->pages; i++) {
		char *at = page(worker->map, i);

		if (!settled_page_out(at) || !settled_page_in(at))
			return -EBUSY;
	}
	return 0;
}

/* What comes back from swap is clean from the first look on. */
TEST_F(settled, page_merges_with_a_new_one_that_comes_from_swap)
{
	struct ksm_worker *late = &self->ksm.workers[1];
	struct settled *settled = &self->settled;
	const char *missing = settled_no_swap();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_EQ(0, ksm_ask(late, ksm_job_fill, SEED, 1, 0));
	ASSERT_EQ(0, ksm_ask(late, job_swap_all, 0, 0, 0));
	ASSERT_EQ(0, ksm_ask(late, ksm_job_advise, MADV_MERGEABLE, 0, 0));
	ASSERT_TRUE(ksm_pass_by(DIRTY_PASSES));
	EXPECT_EQ(PAGES, settled_merged(settled));
	EXPECT_EQ(-1, ksm_ask(late, ksm_job_first_wrong, SEED, 1, 0));
	EXPECT_EQ(-1, settled_wrong(settled, false));
}

/* The settled page itself goes and comes back, unchanged, before its twin is there. */
TEST_F(settled, page_that_was_swapped_merges_with_a_new_equal_one)
{
	struct settled *settled = &self->settled;
	const char *missing = settled_no_swap();
	char *map;

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_EQ(0, ksm_ask(settled->owner, job_swap_all, 0, 0, 0));
	map = ksm_map_registered(PAGES);
	ASSERT_NE(NULL, map);
	ksm_fill(map, PAGES, SEED, 1);
	ASSERT_TRUE(ksm_pass_by(DIRTY_PASSES));
	EXPECT_EQ(PAGES, settled_merged(settled));
	EXPECT_EQ(PAGES, ksm_get("pages_sharing"));
	EXPECT_EQ(-1, ksm_first_wrong(map, PAGES, SEED, 1));
	EXPECT_EQ(-1, settled_wrong(settled, false));
}

TEST_HARNESS_MAIN
