// SPDX-License-Identifier: GPL-2.0-only
/*
 * Merged pages that move to another NUMA node while merge_across_nodes is 0 belong to
 * the new node from then on: new equal pages there find them, those of the old node do
 * not. Copies that meet on one node live on side by side, and nothing is lost when
 * pages move back and forth while ksmd runs.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <linux/mempolicy.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include "ksm_numa.h"
#include "ksm_util.h"

#define PAGES	32
#define SEED	1000
#define OTHER	2000
#define ROUNDS	30

/* Two places of the test's on each of two nodes that hold the same. */
enum { A, B, PLACES };

FIXTURE(moved)
{
	struct ksm_test ksm;
	int node[2];
	char *map[2][PLACES];	/* [node] */
};

static size_t count_on(char *map, int node)
{
	return ksm_count_on(map, PAGES, node);
}

static size_t merged(char *map)
{
	return ksm_count_merged(getpid(), map, PAGES);
}

static size_t count_shared(char *a, char *b)
{
	return ksm_count_shared(a, b, PAGES);
}

/* All pages of a place and of whoever shares them; how many are there afterwards? */
static size_t by_move_pages(char *map, int from, int to)
{
	void *pages[PAGES];
	int nodes[PAGES], status[PAGES];

	for (size_t i = 0; i < PAGES; i++) {
		pages[i] = map + i * psize();
		nodes[i] = to;
	}
	syscall(SYS_move_pages, 0, PAGES, pages, nodes, status, MPOL_MF_MOVE_ALL);
	return count_on(map, to);
}

/* The policy goes with the pages. */
static size_t by_mbind(char *map, int from, int to)
{
	ksm_bind(map, PAGES, to, MPOL_MF_MOVE_ALL);
	return count_on(map, to);
}

/* All that the test has on that node. */
static size_t by_migrate_pages(char *map, int from, int to)
{
	unsigned long from_mask = 1UL << from, to_mask = 1UL << to;

	syscall(SYS_migrate_pages, 0, 8 * sizeof(from_mask), &from_mask, &to_mask);
	return count_on(map, to);
}

FIXTURE_VARIANT(moved)
{
	size_t (*move)(char *map, int from, int to);
};

FIXTURE_VARIANT_ADD(moved, move_pages) { .move = by_move_pages };
FIXTURE_VARIANT_ADD(moved, mbind) { .move = by_mbind };
FIXTURE_VARIANT_ADD(moved, migrate_pages) { .move = by_migrate_pages };

/* Different pages, each with one twin in every other such place. */
static char *fill_on(int node)
{
	char *map = ksm_map_fenced(PAGES);

	if (!map || ksm_bind(map, PAGES, node, 0) || ksm_mergeable(map, PAGES))
		return NULL;
	ksm_fill(map, PAGES, SEED, 1);
	return map;
}

FIXTURE_SETUP(moved)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	if (ksm_get("merge_across_nodes") == KSM_NONE)
		SKIP(return, "this kernel has no merge_across_nodes (needs CONFIG_NUMA)");
	if (!ksm_find_two_nodes(self->node))
		SKIP(return, "needs two NUMA nodes with memory");
	ASSERT_TRUE(ksm_begin(&self->ksm));
	ASSERT_EQ(0, ksm_set("merge_across_nodes", "0"));
}

/* Runs when the test's process is gone. */
FIXTURE_TEARDOWN_PARENT(moved)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
	EXPECT_TRUE(ksm_counters_are_zero());
}

#define EXPECT_CONTENT(map) EXPECT_EQ(-1, ksm_first_wrong(map, PAGES, SEED, 1))

#define EXPECT_MERGED(a, b)						\
do {									\
	EXPECT_EQ(PAGES, count_shared(a, b));				\
	EXPECT_EQ(PAGES, merged(a));					\
	EXPECT_CONTENT(a);						\
	EXPECT_CONTENT(b);						\
} while (0)

/* Two merged places on the node with that index, ksmd off afterwards. */
static bool merge_two(int node, char *map[PLACES])
{
	map[A] = fill_on(node);
	map[B] = fill_on(node);
	return map[A] && map[B] && ksm_merge_all() && !ksm_set("run", "0") &&
	       count_shared(map[A], map[B]) == PAGES && count_on(map[A], node) == PAGES;
}

TEST_F(moved, page_is_found_on_its_new_node_only)
{
	char *there, *here[PLACES], **map = self->map[0];
	const int old = self->node[0], new = self->node[1];

	ASSERT_TRUE(merge_two(old, map));
	ASSERT_TRUE(ksm_wait_until(variant->move(map[A], old, new) == PAGES));
	EXPECT_MERGED(map[A], map[B]);
	EXPECT_EQ(PAGES, ksm_get("pages_shared"));
	EXPECT_EQ(PAGES, ksm_get("pages_sharing"));

	there = fill_on(new);
	here[A] = fill_on(old);
	ASSERT_NE(NULL, there);
	ASSERT_NE(NULL, here[A]);
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_MERGED(there, map[A]);
	EXPECT_MERGED(there, map[B]);
	EXPECT_EQ(PAGES, count_on(map[A], new));
	EXPECT_EQ(0, merged(here[A]));
	EXPECT_EQ(PAGES, count_on(here[A], old));
	EXPECT_EQ(PAGES, ksm_get("pages_unshared"));
	EXPECT_EQ(PAGES, ksm_get("pages_shared"));
	EXPECT_EQ(2 * PAGES, ksm_get("pages_sharing"));

	/* The old node may have a frame of its own again. */
	here[B] = fill_on(old);
	ASSERT_NE(NULL, here[B]);
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_MERGED(here[A], here[B]);
	EXPECT_EQ(0, count_shared(here[A], there));
	EXPECT_EQ(PAGES, count_on(here[A], old));
	EXPECT_EQ(2 * PAGES, ksm_get("pages_shared"));
	EXPECT_EQ(3 * PAGES, ksm_get("pages_sharing"));
	EXPECT_MERGED(there, map[B]);
}

TEST_F(moved, page_is_still_found_after_it_came_back)
{
	char *twin, **map = self->map[0];
	const int old = self->node[0], new = self->node[1];

	ASSERT_TRUE(merge_two(old, map));
	for (int i = 0; i < 2; i++) {
		ASSERT_TRUE(ksm_wait_until(variant->move(map[A], old, new) == PAGES));
		ASSERT_TRUE(ksm_wait_until(variant->move(map[A], new, old) == PAGES));
		/* The second time ksmd has seen it in between. */
		ASSERT_TRUE(ksm_merge_all());
	}
	twin = fill_on(old);
	ASSERT_NE(NULL, twin);
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_MERGED(twin, map[A]);
	EXPECT_MERGED(twin, map[B]);
	EXPECT_EQ(PAGES, ksm_get("pages_shared"));
	EXPECT_EQ(2 * PAGES, ksm_get("pages_sharing"));
}

/* Its nodes differ from where it was filed as a candidate. */
TEST_F(moved, candidate_merges_where_it_is_now)
{
	char *map = fill_on(self->node[0]), *there, *here;
	const int old = self->node[0], new = self->node[1];

	ASSERT_NE(NULL, map);
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(PAGES, ksm_get("pages_unshared"));
	ASSERT_EQ(0, ksm_set("run", "0"));
	ASSERT_TRUE(ksm_wait_until(variant->move(map, old, new) == PAGES));
	here = fill_on(old);
	there = fill_on(new);
	ASSERT_NE(NULL, here);
	ASSERT_NE(NULL, there);
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_MERGED(map, there);
	EXPECT_EQ(PAGES, count_on(map, new));
	EXPECT_EQ(0, merged(here));
	EXPECT_CONTENT(here);
	EXPECT_EQ(PAGES, ksm_get("pages_unshared"));
}

/* How many pages of a place are merged with the page in one of two others? */
static size_t count_shared_with_either(char *map, char *one, char *other)
{
	return count_shared(map, one) + count_shared(map, other);
}

TEST_F(moved, copies_that_meet_on_a_node_live_on_side_by_side)
{
	char *there, *here, *(*map)[PLACES] = self->map;
	const int old = self->node[0], new = self->node[1];

	ASSERT_TRUE(merge_two(old, map[0]));
	ASSERT_TRUE(merge_two(new, map[1]));
	ASSERT_EQ(2 * PAGES, ksm_get("pages_shared"));
	ASSERT_TRUE(ksm_wait_until(variant->move(map[0][A], old, new) == PAGES));
	EXPECT_MERGED(map[0][A], map[0][B]);
	EXPECT_MERGED(map[1][A], map[1][B]);
	EXPECT_EQ(2 * PAGES, ksm_get("pages_shared"));
	EXPECT_EQ(2 * PAGES, ksm_get("pages_sharing"));

	here = fill_on(old);
	there = fill_on(new);
	ASSERT_NE(NULL, here);
	ASSERT_NE(NULL, there);
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_EQ(0, merged(here));
	EXPECT_EQ(PAGES, count_shared_with_either(there, map[0][A], map[1][A]));
	EXPECT_MERGED(map[0][A], map[0][B]);
	EXPECT_MERGED(map[1][A], map[1][B]);
	EXPECT_EQ(5 * PAGES, ksm_get("pages_shared") + ksm_get("pages_sharing"));

	/* Each of them can go without the other. */
	for (int i = 0; i < PLACES; i++) {
		ksm_fill(map[0][i], PAGES, OTHER + i * PAGES, 1);
		EXPECT_MERGED(map[1][A], map[1][B]);
		EXPECT_CONTENT(there);
		EXPECT_EQ(-1, ksm_first_wrong(map[0][i], PAGES, OTHER + i * PAGES, 1));
	}
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(3 * PAGES, ksm_get("pages_shared") + ksm_get("pages_sharing"));
	EXPECT_EQ(3 * PAGES, merged(map[1][A]) + merged(map[1][B]) + merged(there));
	EXPECT_CONTENT(here);
}

/* Where each of the two groups is bound to be in a round: all four cases. */
static int home(unsigned int round, unsigned int group)
{
	return (group ? round / 2 : round) % 2;
}

TEST_F(moved, back_and_forth_while_ksmd_runs_loses_nothing)
{
	char *twin[2], *(*map)[PLACES] = self->map;

	for (int i = 0; i < 2; i++)
		ASSERT_TRUE(merge_two(self->node[i], map[i]));
	ASSERT_EQ(0, ksm_set_number("sleep_millisecs", 0));
	ASSERT_EQ(0, ksm_set("run", "1"));
	for (unsigned int round = 0; round < ROUNDS; round++) {
		char *fresh = fill_on(self->node[round % 2]);

		ASSERT_NE(NULL, fresh);
		for (unsigned int i = 0; i < 2; i++) {
			int to = home(round, i);

			/* Some may stay: ksmd holds pages for a moment. */
			variant->move(map[i][A], self->node[!to], self->node[to]);
			EXPECT_MERGED(map[i][A], map[i][B]);
		}
		/* Merged or not yet. */
		EXPECT_CONTENT(fresh);
		ASSERT_EQ(0, munmap(fresh, PAGES * psize()));
	}
	ASSERT_EQ(0, ksm_set_number("sleep_millisecs", 1));
	for (int i = 0; i < 2; i++)
		ASSERT_TRUE(ksm_wait_until(by_move_pages(map[i][A], self->node[!i],
							 self->node[i]) == PAGES));
	for (int i = 0; i < 2; i++) {
		twin[i] = fill_on(self->node[i]);
		ASSERT_NE(NULL, twin[i]);
	}
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	for (int i = 0; i < 2; i++) {
		EXPECT_EQ(PAGES, count_on(twin[i], self->node[i]));
		EXPECT_MERGED(twin[i], map[i][A]);
		EXPECT_MERGED(twin[i], map[i][B]);
	}
	EXPECT_EQ(2 * PAGES, ksm_get("pages_shared"));
	EXPECT_EQ(4 * PAGES, ksm_get("pages_sharing"));
	EXPECT_EQ(0, ksm_get("pages_unshared"));
}

TEST_F(moved, unmerging_is_complete_wherever_the_pages_are)
{
	char *(*map)[PLACES] = self->map;

	for (int i = 0; i < 2; i++)
		ASSERT_TRUE(merge_two(self->node[i], map[i]));
	ASSERT_TRUE(ksm_wait_until(variant->move(map[1][A], self->node[1],
						 self->node[0]) == PAGES));
	ASSERT_EQ(0, ksm_set("run", "2"));
	EXPECT_EQ(0, ksm_get("pages_shared"));
	EXPECT_EQ(0, ksm_get("pages_sharing"));
	for (int i = 0; i < 2; i++) {
		for (int j = 0; j < PLACES; j++) {
			EXPECT_EQ(0, merged(map[i][j]));
			EXPECT_CONTENT(map[i][j]);
		}
		EXPECT_EQ(0, count_shared(map[i][A], map[i][B]));
	}
	EXPECT_EQ(0, ksm_set("merge_across_nodes", "1"));
}

TEST_HARNESS_MAIN
