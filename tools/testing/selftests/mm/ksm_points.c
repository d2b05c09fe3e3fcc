// SPDX-License-Identifier: GPL-2.0-only
/*
 * Races that CONFIG_KSM_DEBUG makes likely: at points in the engine it waits, or pretends
 * that a step that may fail did. Each test has the one point on that it is about.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "ksm_numa.h"
#include "ksm_util.h"

#define POINTS	"/sys/kernel/debug/ksm/points"
#define SEED	7000

FIXTURE(points)
{
	struct ksm_test ksm;
};

FIXTURE_SETUP(points)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	if (access(POINTS, W_OK))
		SKIP(return, "this kernel has no points (CONFIG_KSM_DEBUG)");
	ASSERT_TRUE(ksm_begin(&self->ksm));
}

FIXTURE_TEARDOWN_PARENT(points)
{
	if (!access(POINTS, W_OK))
		EXPECT_EQ(0, ksm_write_text(POINTS, "0 0"));
	EXPECT_TRUE(ksm_end(&self->ksm));
}

/* How often a point did something. */
static long acted(const char *point)
{
	char text[2000], *line, *rest = text;
	long passed, times;

	if (ksm_read_text(POINTS, text, sizeof(text)))
		return -1;
	while ((line = strsep(&rest, "\n"))) {
		if (!strncmp(line, point, strlen(point)) &&
		    sscanf(line + strlen(point), " %ld %ld", &passed, &times) == 2)
			return times;
	}
	return -1;
}

static bool switch_on(const char *point)
{
	char text[64];

	snprintf(text, sizeof(text), "%d 3 %s", SEED, point);
	return !ksm_write_text(POINTS, text);
}

/*
 * Two page tables: the first maps a page in each entry, twice each, and nothing is in the
 * second. A walk that is told to stop in the first must go on there.
 */
TEST_F(points, a_walk_that_was_stopped_goes_on_where_it_was)
{
	size_t table = psize() / sizeof(void *), half = table / 2;
	char *map = ksm_map_pages(3 * table);
	long before;

	ASSERT_NE(NULL, map);
	map += -(uintptr_t)map % (table * psize());
	/* Fails where there are no huge pages. */
	madvise(map, 2 * table * psize(), MADV_NOHUGEPAGE);
	ASSERT_EQ(0, ksm_mergeable(map, 2 * table));
	ksm_fill(map, half, SEED, 1);
	ksm_fill(map + half * psize(), half, SEED, 1);
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_TRUE(ksm_wait_until(ksm_get("pages_sharing") == (long)half));
	before = ksm_get("full_scans");
	ASSERT_TRUE(switch_on("batch_full"));
	ASSERT_TRUE(ksm_wait_until(ksm_get("full_scans") >= before + 4 &&
				   acted("batch_full") >= 16));
	EXPECT_EQ(half, ksm_get("pages_sharing"));
	EXPECT_EQ(half, ksm_get("pages_shared"));
	EXPECT_EQ(table, ksm_count_merged(getpid(), map, table));
	EXPECT_TRUE(ksm_check());
	EXPECT_EQ(-1, ksm_first_wrong(map, half, SEED, 1));
	EXPECT_EQ(-1, ksm_first_wrong(map + half * psize(), half, SEED, 1));
}

/*
 * While merged pages move from node to node, new ones are looked for in the forest: a
 * page on its way must not be taken for one that is gone.
 */
TEST_F(points, a_merged_page_that_moves_is_not_taken_for_gone)
{
	const unsigned int rounds = 8, moves = 16;
	const size_t pages = 128;
	char *map, *fresh;
	int node[2];

	if (!ksm_find_two_nodes(node))
		SKIP(return, "needs two NUMA nodes with memory");
	map = ksm_map_registered(2 * pages);
	ASSERT_NE(NULL, map);
	ksm_fill(map, pages, SEED, 1);
	ksm_fill(map + pages * psize(), pages, SEED, 1);
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(pages, ksm_get("pages_shared"));
	ASSERT_EQ(0, ksm_set_number("sleep_millisecs", 0));
	ASSERT_TRUE(switch_on("migrate"));
	for (unsigned int round = 0; round < rounds; round++) {
		fresh = ksm_map_registered(pages);
		ASSERT_NE(NULL, fresh);
		ksm_fill(fresh, pages, SEED, 1);
		/* Some may stay: ksmd holds pages for a moment. */
		for (unsigned int i = 0; i < moves; i++)
			ksm_bind(map, pages, node[i % 2], MPOL_MF_MOVE_ALL);
		EXPECT_EQ(-1, ksm_first_wrong(fresh, pages, SEED, 1));
		ASSERT_EQ(0, munmap(fresh, pages * psize()));
	}
	EXPECT_GT(acted("migrate"), 0);
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(pages, ksm_get("pages_shared"));
	EXPECT_EQ(pages, ksm_get("pages_sharing"));
	EXPECT_EQ(2 * pages, ksm_count_merged(getpid(), map, 2 * pages));
	EXPECT_EQ(-1, ksm_first_wrong(map, pages, SEED, 1));
	EXPECT_EQ(-1, ksm_first_wrong(map + pages * psize(), pages, SEED, 1));
}

TEST_HARNESS_MAIN
