// SPDX-License-Identifier: GPL-2.0-only
/*
 * merge_across_nodes: with 1 equal pages of two NUMA nodes share one frame, with 0
 * each node has a frame of its own, whatever the setting was before. Changing it is
 * refused while pages are shared. (Pages that move between nodes: ksm_numa_move.c.)
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include "ksm_numa.h"
#include "ksm_util.h"

#define PAGES	32
#define SEED	1000
#define OTHER	2000
#define ROUNDS	20

/* As in linux/kernel-page-flags.h, which cannot be had together with vm_util.h. */
#define KPF_ZERO_PAGE	BIT_ULL(24)

FIXTURE(nodes)
{
	struct ksm_test ksm;
	int node[2];
};

static bool keep_apart(void)
{
	return !ksm_set("merge_across_nodes", "0");
}

/* Pages that take part, all on one node and not yet touched. */
static char *map_on(int node)
{
	char *map = ksm_map_fenced(PAGES);

	if (!map || ksm_bind(map, PAGES, node, 0) || ksm_mergeable(map, PAGES))
		return NULL;
	return map;
}

/* Page i holds content number SEED + i * step. */
static char *fill_on(int node, uint64_t step)
{
	char *map = map_on(node);

	if (map)
		ksm_fill(map, PAGES, SEED, step);
	return map;
}

static size_t count_on(char *map, int node)
{
	return ksm_count_on(map, PAGES, node);
}

static size_t merged(char *map)
{
	return ksm_count_merged(getpid(), map, PAGES);
}

static size_t frames(char *map)
{
	return ksm_count_frames(getpid(), map, PAGES);
}

static size_t count_shared(char *a, char *b)
{
	return ksm_count_shared(a, b, PAGES);
}

FIXTURE_SETUP(nodes)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	if (ksm_get("merge_across_nodes") == KSM_NONE)
		SKIP(return, "this kernel has no merge_across_nodes (needs CONFIG_NUMA)");
	if (!ksm_find_two_nodes(self->node))
		SKIP(return, "needs two NUMA nodes with memory");
	ASSERT_TRUE(ksm_begin(&self->ksm));
}

/* Runs when the test's process is gone. */
FIXTURE_TEARDOWN_PARENT(nodes)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
	EXPECT_TRUE(ksm_counters_are_zero());
}

#define EXPECT_CONTENT(map, step) EXPECT_EQ(-1, ksm_first_wrong(map, PAGES, SEED, step))

TEST_F(nodes, with_1_equal_pages_of_two_nodes_share_a_frame)
{
	char *left = fill_on(self->node[0], 1), *right = fill_on(self->node[1], 1);

	ASSERT_NE(NULL, left);
	ASSERT_NE(NULL, right);
	ASSERT_EQ(PAGES, count_on(left, self->node[0]));
	ASSERT_EQ(PAGES, count_on(right, self->node[1]));
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_EQ(PAGES, count_shared(left, right));
	EXPECT_EQ(PAGES, frames(left));
	EXPECT_EQ(PAGES, merged(left));
	EXPECT_EQ(PAGES, ksm_get("pages_shared"));
	EXPECT_EQ(PAGES, ksm_get("pages_sharing"));
	EXPECT_CONTENT(left, 1);
	EXPECT_CONTENT(right, 1);
}

TEST_F(nodes, with_0_each_node_has_its_own_frame)
{
	char *left, *right;

	ASSERT_TRUE(keep_apart());
	left = fill_on(self->node[0], 0);
	right = fill_on(self->node[1], 0);
	ASSERT_NE(NULL, left);
	ASSERT_NE(NULL, right);
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_EQ(PAGES, merged(left));
	EXPECT_EQ(PAGES, merged(right));
	EXPECT_EQ(1, frames(left));
	EXPECT_EQ(1, frames(right));
	EXPECT_EQ(0, count_shared(left, right));
	EXPECT_EQ(PAGES, count_on(left, self->node[0]));
	EXPECT_EQ(PAGES, count_on(right, self->node[1]));
	EXPECT_EQ(2, ksm_get("pages_shared"));
	EXPECT_EQ(2 * PAGES - 2, ksm_get("pages_sharing"));
	EXPECT_CONTENT(left, 0);
	EXPECT_CONTENT(right, 0);
}

TEST_F(nodes, with_0_pages_without_a_twin_on_their_node_stay_alone)
{
	char *left, *right, *twin;

	ASSERT_TRUE(keep_apart());
	left = fill_on(self->node[0], 1);
	right = fill_on(self->node[1], 1);
	ASSERT_NE(NULL, left);
	ASSERT_NE(NULL, right);
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_EQ(0, ksm_get("pages_shared"));
	EXPECT_EQ(2 * PAGES, ksm_get("pages_unshared"));
	EXPECT_TRUE(ksm_stays(merged(left) + merged(right) == 0));

	twin = fill_on(self->node[1], 1);
	ASSERT_NE(NULL, twin);
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(PAGES, count_shared(twin, right));
	EXPECT_EQ(PAGES, count_on(twin, self->node[1]));
	EXPECT_EQ(0, merged(left));
	EXPECT_EQ(PAGES, ksm_get("pages_shared"));
	EXPECT_EQ(PAGES, ksm_get("pages_unshared"));
	EXPECT_CONTENT(left, 1);
	EXPECT_CONTENT(right, 1);
	EXPECT_CONTENT(twin, 1);
}

/* A page that a child maps as well is not merged itself, a copy of it may be. */
TEST_F(nodes, with_0_copies_made_for_forked_pages_stay_on_their_node)
{
	struct ksm_worker *worker = self->ksm.workers;

	ASSERT_TRUE(keep_apart());
	for (int i = 0; i < 2; i++) {
		char *map = map_on(self->node[i]);

		ASSERT_NE(NULL, map);
		ASSERT_EQ(0, ksm_unmergeable(map, PAGES));
		ksm_fill(map, PAGES, SEED, 0);
		ASSERT_TRUE(ksm_fork_worker(&self->ksm, i, map, PAGES));
		ASSERT_EQ(0, ksm_mergeable(map, PAGES));
		/* One that does not take part would keep the originals, and nothing be saved. */
		ASSERT_EQ(0, ksm_ask(&worker[i], ksm_job_advise, MADV_MERGEABLE, 0, 0));
	}
	ASSERT_TRUE(ksm_merge_all());
	for (int i = 0; i < 2; i++) {
		char *map = worker[i].map;

		EXPECT_EQ(PAGES, merged(map));
		EXPECT_EQ(1, frames(map));
		EXPECT_EQ(PAGES, count_on(map, self->node[i]));
		EXPECT_CONTENT(map, 0);
		EXPECT_EQ(-1, ksm_ask(&worker[i], ksm_job_first_wrong, SEED, 0, 0));
	}
	EXPECT_EQ(2, ksm_get("pages_shared"));
}

TEST_F(nodes, setting_takes_0_and_1_only)
{
	static const char * const bad[] = { "2", "-1", "x", " 1", "1 0", "0x1", "1.0", "\n" };

	for (long value = 0; value < 2; value++) {
		ASSERT_EQ(0, ksm_set_number("merge_across_nodes", value));
		for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
			EXPECT_EQ(-EINVAL, ksm_set("merge_across_nodes", bad[i]));
			EXPECT_EQ(value, ksm_get("merge_across_nodes"));
		}
	}
}

TEST_F(nodes, setting_cannot_change_while_pages_are_shared)
{
	for (long value = 0; value < 2; value++) {
		char *map = fill_on(self->node[1], value);
		char *twin = fill_on(self->node[1], value);

		ASSERT_NE(NULL, map);
		ASSERT_NE(NULL, twin);
		EXPECT_EQ(0, ksm_set_number("merge_across_nodes", value));
		ASSERT_TRUE(ksm_merge_all());
		ASSERT_EQ(PAGES, count_shared(map, twin));
		for (int run = 1; run >= 0; run--) {
			ASSERT_EQ(0, ksm_set_number("run", run));
			EXPECT_EQ(-EBUSY, ksm_set_number("merge_across_nodes", !value));
			EXPECT_EQ(-EINVAL, ksm_set("merge_across_nodes", "2"));
			EXPECT_EQ(0, ksm_set_number("merge_across_nodes", value));
			EXPECT_EQ(value, ksm_get("merge_across_nodes"));
		}
		EXPECT_EQ(PAGES, count_shared(map, twin));
		EXPECT_EQ(PAGES, merged(map));
		/* Sharing nothing any more is all that it takes. */
		ASSERT_EQ(0, ksm_set("run", "2"));
		EXPECT_EQ(0, ksm_set_number("merge_across_nodes", !value));
		EXPECT_EQ(!value, ksm_get("merge_across_nodes"));
		EXPECT_CONTENT(map, value);
		EXPECT_CONTENT(twin, value);
		ASSERT_EQ(0, munmap(map, PAGES * psize()));
		ASSERT_EQ(0, munmap(twin, PAGES * psize()));
	}
}

TEST_F(nodes, setting_can_change_when_the_sharing_ended_by_itself)
{
	char *map = fill_on(self->node[0], 0), *alone = map_on(self->node[1]);

	ASSERT_NE(NULL, map);
	ASSERT_NE(NULL, alone);
	ksm_fill(alone, PAGES, OTHER, 1);
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(1, ksm_get("pages_shared"));
	ASSERT_EQ(-EBUSY, ksm_set("merge_across_nodes", "0"));
	ASSERT_EQ(0, munmap(map, PAGES * psize()));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(0, ksm_get("pages_shared"));
	EXPECT_EQ(0, ksm_set("merge_across_nodes", "0"));
	EXPECT_EQ(0, ksm_get("merge_across_nodes"));
	EXPECT_EQ(-1, ksm_first_wrong(alone, PAGES, OTHER, 1));
}

TEST_F(nodes, candidates_filed_with_1_do_not_merge_across_nodes_with_0)
{
	char *left, *right, *twin;

	/* Which node's candidates come first must make no difference. */
	for (int first = 0; first < 2; first++) {
		ASSERT_EQ(0, ksm_set("merge_across_nodes", "1"));
		left = fill_on(self->node[first], 1);
		ASSERT_NE(NULL, left);
		ASSERT_TRUE(ksm_merge_all());
		ASSERT_EQ(PAGES, ksm_get("pages_unshared"));
		ASSERT_TRUE(keep_apart());
		right = fill_on(self->node[!first], 1);
		ASSERT_NE(NULL, right);
		ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
		EXPECT_EQ(2 * PAGES, ksm_get("pages_unshared"));
		EXPECT_TRUE(ksm_stays(merged(left) + merged(right) == 0));

		twin = fill_on(self->node[first], 1);
		ASSERT_NE(NULL, twin);
		ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
		EXPECT_EQ(PAGES, count_shared(left, twin));
		EXPECT_EQ(PAGES, count_on(left, self->node[first]));
		EXPECT_EQ(0, merged(right));
		EXPECT_CONTENT(left, 1);
		EXPECT_CONTENT(right, 1);
		EXPECT_CONTENT(twin, 1);
		ASSERT_EQ(0, ksm_set("run", "2"));
		ASSERT_EQ(0, munmap(left, PAGES * psize()));
		ASSERT_EQ(0, munmap(right, PAGES * psize()));
		ASSERT_EQ(0, munmap(twin, PAGES * psize()));
	}
}

TEST_F(nodes, candidates_filed_with_0_merge_across_nodes_with_1)
{
	char *left, *right;

	ASSERT_TRUE(keep_apart());
	left = fill_on(self->node[0], 1);
	right = fill_on(self->node[1], 1);
	ASSERT_NE(NULL, left);
	ASSERT_NE(NULL, right);
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(2 * PAGES, ksm_get("pages_unshared"));
	ASSERT_EQ(0, ksm_set("merge_across_nodes", "1"));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(PAGES, count_shared(left, right));
	EXPECT_EQ(PAGES, ksm_get("pages_shared"));
	EXPECT_EQ(PAGES, ksm_get("pages_sharing"));
	EXPECT_EQ(0, ksm_get("pages_unshared"));
	EXPECT_CONTENT(left, 1);
	EXPECT_CONTENT(right, 1);
}

TEST_F(nodes, setting_changed_again_and_again_holds_each_time)
{
	char *left = fill_on(self->node[0], 1), *right = fill_on(self->node[1], 1);

	ASSERT_NE(NULL, left);
	ASSERT_NE(NULL, right);
	ASSERT_EQ(0, ksm_set_number("sleep_millisecs", 0));
	for (unsigned int round = 0; round < ROUNDS; round++) {
		const bool across = round % 2;

		ASSERT_EQ(0, ksm_set("run", "2"));
		ASSERT_EQ(0, ksm_set_number("merge_across_nodes", across));
		/* Sometimes let go before candidates are filed, sometimes after. */
		ASSERT_EQ(0, ksm_set("run", "1"));
		ASSERT_TRUE(ksm_wait_passes(round % 3 ? KSM_MERGE_PASSES : 1));
		if (across && round % 3)
			EXPECT_EQ(PAGES, count_shared(left, right));
		if (!across)
			EXPECT_EQ(0, merged(left) + merged(right));
		EXPECT_CONTENT(left, 1);
		EXPECT_CONTENT(right, 1);
	}
}

static bool is_zero_page(char *addr)
{
	return ksm_page_flags(ksm_pfn(getpid(), addr)) & KPF_ZERO_PAGE;
}

TEST_F(nodes, with_0_empty_pages_of_all_nodes_become_the_zero_page)
{
	char *map;

	if (ksm_set("use_zero_pages", "1"))
		SKIP(return, "this kernel has no use_zero_pages");
	/* The second time after a change, which zero pages do not forbid. */
	for (long apart = 1; apart >= 0; apart--) {
		ASSERT_EQ(0, ksm_set_number("merge_across_nodes", !apart));
		for (long i = 0; i < 2; i++) {
			map = map_on(self->node[i]);
			ASSERT_NE(NULL, map);
			memset(map, 0, PAGES * psize());
			ASSERT_EQ(PAGES, count_on(map, self->node[i]));
			ASSERT_TRUE(ksm_merge_all());
			for (size_t j = 0; j < PAGES; j++)
				EXPECT_TRUE(is_zero_page(map + j * psize()));
			EXPECT_EQ((2 * !apart + i + 1) * PAGES, ksm_get("ksm_zero_pages"));
			for (size_t j = 0; j < PAGES * psize(); j++)
				ASSERT_EQ(0, map[j]);
		}
	}
	EXPECT_EQ(0, ksm_get("pages_shared"));
	ASSERT_EQ(0, ksm_set("run", "2"));
	EXPECT_EQ(0, ksm_get("ksm_zero_pages"));
	EXPECT_EQ(PAGES, count_on(map, self->node[1]));
}

TEST_F(nodes, with_0_empty_pages_merge_within_their_node_like_others)
{
	char *map[2];

	ASSERT_TRUE(keep_apart());
	for (int i = 0; i < 2; i++) {
		map[i] = map_on(self->node[i]);
		ASSERT_NE(NULL, map[i]);
		memset(map[i], 0, PAGES * psize());
	}
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_EQ(2, ksm_get("pages_shared"));
	EXPECT_EQ(2 * PAGES - 2, ksm_get("pages_sharing"));
	for (int i = 0; i < 2; i++) {
		EXPECT_EQ(PAGES, merged(map[i]));
		EXPECT_EQ(PAGES, count_on(map[i], self->node[i]));
		for (size_t j = 0; j < PAGES * psize(); j++)
			ASSERT_EQ(0, map[i][j]);
	}
}

TEST_HARNESS_MAIN
