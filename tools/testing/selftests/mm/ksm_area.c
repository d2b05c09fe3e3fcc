// SPDX-License-Identifier: GPL-2.0-only
/*
 * Areas that are moved, grown, protected or given advice on while their pages are
 * merged: they hold what they held, the process that shares the pages notices
 * nothing, and the counters are exact in the end.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include "ksm_util.h"
#include "vm_util.h"

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP	4
#endif
#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ	22
#define MADV_POPULATE_WRITE	23
#endif

#define PAGES	32
#define BYTES	(PAGES * (size_t)psize())
#define ROUNDS	100
#define SEED	1000
#define OTHER	2000

/* The worker that shares the pages, one that comes later, and a child. */
enum { TWIN, NEWCOMER, CHILD };

FIXTURE(area)
{
	struct ksm_test ksm;
	char *map;	/* PAGES, each different, each merged with the twin's */
};

static char *page(char *map, size_t index)
{
	return map + index * psize();
}

static size_t merged(char *map, size_t pages)
{
	return ksm_count_merged(getpid(), map, pages);
}

static bool is_empty(const char *map, size_t pages)
{
	for (size_t i = 0; i < pages * psize(); i++)
		if (map[i])
			return false;
	return true;
}

static bool start(struct ksm_test *test, unsigned int who)
{
	struct ksm_worker *worker = &test->workers[who];

	return ksm_fork_worker(test, who, NULL, PAGES) &&
	       !ksm_ask(worker, ksm_job_fill, SEED, 1, 0) &&
	       !ksm_ask(worker, ksm_job_advise, MADV_MERGEABLE, 0, 0);
}

static bool is_sharing(long sharing)
{
	return ksm_get("pages_sharing") == sharing && ksm_get("pages_shared") == PAGES &&
	       ksm_get("pages_volatile") == 0;
}

/* In the end @sharing pages are saved by PAGES merged ones, and no counter is left over. */
#define EXPECT_SHARING(sharing)						\
do {									\
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));			\
	EXPECT_TRUE(ksm_wait_until(is_sharing(sharing)));		\
	EXPECT_EQ((long)(sharing), ksm_get("pages_sharing"));		\
	EXPECT_EQ(PAGES, ksm_get("pages_shared"));			\
	EXPECT_EQ(0, ksm_get("pages_volatile"));			\
} while (0)

#define EXPECT_HELD(map)						\
do {									\
	EXPECT_EQ(-1, ksm_first_wrong(map, PAGES, SEED, 1));		\
	EXPECT_EQ(-1, ksm_ask(&self->ksm.workers[TWIN], ksm_job_first_wrong, SEED, 1, 0)); \
} while (0)

FIXTURE_SETUP(area)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	ASSERT_TRUE(start(&self->ksm, TWIN));
	self->map = ksm_map_fenced(PAGES);
	ASSERT_NE(NULL, self->map);
	ASSERT_EQ(0, ksm_mergeable(self->map, PAGES));
	ksm_fill(self->map, PAGES, SEED, 1);
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(PAGES, merged(self->map, PAGES));
	EXPECT_SHARING(PAGES);
}

FIXTURE_TEARDOWN_PARENT(area)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

TEST_F(area, grows_and_has_to_move)
{
	char *map = mremap(self->map, BYTES, 2 * BYTES, MREMAP_MAYMOVE);

	ASSERT_NE(MAP_FAILED, map);
	ASSERT_NE(self->map, map);
	EXPECT_HELD(map);
	EXPECT_TRUE(is_empty(page(map, PAGES), PAGES));
	EXPECT_TRUE(ksm_vma_is_mergeable(getpid(), map));
	EXPECT_SHARING(PAGES);
	/* The new part is registered, too. */
	ksm_fill(page(map, PAGES), PAGES, SEED, 1);
	EXPECT_SHARING(2 * PAGES);
	EXPECT_EQ(2 * PAGES, merged(map, 2 * PAGES));
	EXPECT_EQ(-1, ksm_first_wrong(page(map, PAGES), PAGES, SEED, 1));
	EXPECT_HELD(map);
}

TEST_F(area, grows_where_it_is)
{
	ASSERT_EQ(0, munmap(page(self->map, PAGES / 2), BYTES / 2));
	EXPECT_SHARING(PAGES / 2);
	ASSERT_EQ(self->map, mremap(self->map, BYTES / 2, BYTES, 0));
	EXPECT_TRUE(is_empty(page(self->map, PAGES / 2), PAGES / 2));
	ksm_fill(page(self->map, PAGES / 2), PAGES / 2, SEED + PAGES / 2, 1);
	EXPECT_SHARING(PAGES);
	EXPECT_EQ(PAGES, merged(self->map, PAGES));
	EXPECT_HELD(self->map);
}

TEST_F(area, moves_and_leaves_an_empty_one_behind)
{
	char *map = mremap(self->map, BYTES, BYTES, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, NULL);

	if (map == MAP_FAILED && errno == EINVAL)
		SKIP(return, "this kernel has no MREMAP_DONTUNMAP");
	ASSERT_NE(MAP_FAILED, map);
	ASSERT_NE(self->map, map);
	EXPECT_EQ(0, ksm_count_present(getpid(), self->map, PAGES));
	EXPECT_HELD(map);
	EXPECT_TRUE(is_empty(self->map, PAGES));
	EXPECT_SHARING(PAGES);
	ksm_fill(self->map, PAGES, SEED, 1);
	EXPECT_SHARING(2 * PAGES);
	EXPECT_HELD(map);
	EXPECT_HELD(self->map);
}

TEST_F(area, moves_onto_another_whose_pages_are_merged)
{
	char *over = ksm_map_fenced(PAGES);

	ASSERT_NE(NULL, over);
	ASSERT_EQ(0, ksm_mergeable(over, PAGES));
	ksm_fill(over, PAGES, OTHER, 0);
	EXPECT_TRUE(ksm_wait_until(ksm_get("pages_sharing") == 2 * PAGES - 1));
	EXPECT_EQ(PAGES, merged(over, PAGES));
	ASSERT_EQ(over, mremap(self->map, BYTES, BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, over));
	EXPECT_HELD(over);
	EXPECT_SHARING(PAGES);
	EXPECT_EQ(PAGES, merged(over, PAGES));
	EXPECT_EQ(0, ksm_get("pages_unshared"));
	EXPECT_HELD(over);
}

TEST_F(area, moves_to_and_fro_while_ksmd_races)
{
	char *place[2] = { self->map, ksm_map_fenced(PAGES) };

	ASSERT_NE(NULL, place[1]);
	ASSERT_EQ(0, ksm_set_number("sleep_millisecs", 0));
	for (unsigned int round = 0; round < ROUNDS; round++) {
		char *from = place[round % 2], *to = place[(round + 1) % 2];

		/* ksmd is now before, in the middle of, or after merging. */
		ASSERT_TRUE(ksm_wait_until(merged(from, PAGES) >= round % 3 * PAGES / 2));
		ASSERT_EQ(to, mremap(from, BYTES, BYTES, MREMAP_MAYMOVE | MREMAP_FIXED, to));
		ASSERT_EQ(-1, ksm_first_wrong(to, PAGES, SEED, 1));
	}
	EXPECT_SHARING(PAGES);
	EXPECT_EQ(PAGES, merged(place[ROUNDS % 2], PAGES));
	EXPECT_HELD(place[ROUNDS % 2]);
}

TEST_F(area, can_be_closed_and_opened_again)
{
	ASSERT_EQ(0, mprotect(self->map, BYTES, PROT_NONE));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	ASSERT_EQ(0, mprotect(self->map, BYTES, PROT_READ | PROT_WRITE));
	EXPECT_HELD(self->map);
	EXPECT_SHARING(PAGES);
	ksm_fill(self->map, PAGES / 2, OTHER, 1);
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES / 2, OTHER, 1));
	EXPECT_SHARING(PAGES / 2);
	ksm_fill(self->map, PAGES / 2, SEED, 1);
	EXPECT_SHARING(PAGES);
	EXPECT_HELD(self->map);
}

TEST_F(area, is_unmerged_while_it_is_closed)
{
	ASSERT_EQ(0, mprotect(self->map, BYTES, PROT_NONE));
	ASSERT_EQ(0, ksm_set("run", "2"));
	EXPECT_EQ(0, merged(self->map, PAGES));
	EXPECT_EQ(0, ksm_get("pages_shared"));
	ASSERT_EQ(0, mprotect(self->map, BYTES, PROT_READ | PROT_WRITE));
	EXPECT_HELD(self->map);
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_SHARING(PAGES);

	ASSERT_EQ(0, mprotect(self->map, BYTES, PROT_NONE));
	ASSERT_EQ(0, ksm_unmergeable(self->map, PAGES));
	EXPECT_EQ(0, merged(self->map, PAGES));
	EXPECT_EQ(PAGES, ksm_count_frames(getpid(), self->map, PAGES));
	ASSERT_EQ(0, mprotect(self->map, BYTES, PROT_READ | PROT_WRITE));
	EXPECT_SHARING(0);
	EXPECT_HELD(self->map);
}

TEST_F(area, can_be_split_into_pages_and_joined)
{
	for (unsigned int round = 0; round < 3; round++) {
		for (size_t i = 0; i < PAGES; i += 2)
			ASSERT_EQ(0, mprotect(page(self->map, i), psize(), PROT_READ));
		ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
		EXPECT_EQ(PAGES, merged(self->map, PAGES));
		EXPECT_SHARING(PAGES);
		ASSERT_EQ(0, mprotect(self->map, BYTES, PROT_READ | PROT_WRITE));
		ksm_fill(page(self->map, round), 1, OTHER, 0);
		ksm_fill(page(self->map, round), 1, SEED + round, 0);
	}
	EXPECT_SHARING(PAGES);
	for (size_t i = 0; i < PAGES; i += 2)
		ASSERT_EQ(0, munmap(page(self->map, i), psize()));
	EXPECT_SHARING(PAGES / 2);
	for (size_t i = 1; i < PAGES; i += 2)
		EXPECT_EQ(-1, ksm_first_wrong(page(self->map, i), 1, SEED + i, 0));
	EXPECT_EQ(-1, ksm_ask(&self->ksm.workers[TWIN], ksm_job_first_wrong, SEED, 1, 0));
}

TEST_F(area, is_read_in_and_made_writable_ahead)
{
	ASSERT_EQ(0, ksm_set("run", "0"));
	if (madvise(self->map, BYTES, MADV_POPULATE_READ))
		SKIP(return, "this kernel has no MADV_POPULATE_READ");
	EXPECT_EQ(PAGES, merged(self->map, PAGES));
	ASSERT_EQ(0, madvise(self->map, BYTES, MADV_POPULATE_WRITE));
	EXPECT_EQ(0, merged(self->map, PAGES));
	EXPECT_HELD(self->map);
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_SHARING(PAGES);
	EXPECT_HELD(self->map);
}

TEST_F(area, is_empty_for_a_child_when_told_so)
{
	struct ksm_worker *child = &self->ksm.workers[CHILD];

	ASSERT_EQ(0, madvise(self->map, BYTES, MADV_WIPEONFORK));
	ASSERT_TRUE(ksm_fork_worker(&self->ksm, CHILD, self->map, PAGES));
	EXPECT_EQ(0, ksm_count_present(child->pid, child->map, PAGES));
	EXPECT_EQ(PAGES, merged(self->map, PAGES));
	EXPECT_SHARING(PAGES);
	EXPECT_EQ(0, ksm_ask(child, ksm_job_fill, SEED, 1, 0));
	EXPECT_SHARING(2 * PAGES);
	EXPECT_EQ(-1, ksm_ask(child, ksm_job_first_wrong, SEED, 1, 0));
	EXPECT_HELD(self->map);
}

/* Does each page hold what it held, or nothing? */
static bool is_old_or_empty(char *map)
{
	for (size_t i = 0; i < PAGES; i++)
		if (ksm_first_wrong(page(map, i), 1, SEED + i, 0) != -1 &&
		    !is_empty(page(map, i), 1))
			return false;
	return true;
}

static bool has_swap(void)
{
	char text[256];

	return !ksm_read_text("/proc/swaps", text, sizeof(text)) && strchr(text, '/');
}

/* Advice that a kernel without swap may refuse. */
static bool advise(char *map, int advice)
{
	return !madvise(map, BYTES, advice) || errno == EINVAL;
}

TEST_F(area, given_up_by_one_owner_is_kept_for_the_other)
{
	for (unsigned int round = 0; round < 5; round++) {
		ASSERT_EQ(0, madvise(self->map, BYTES, MADV_FREE));
		ASSERT_TRUE(advise(self->map, MADV_PAGEOUT));
		ASSERT_EQ(0, ksm_ask(&self->ksm.workers[TWIN], ksm_job_advise, MADV_PAGEOUT,
				     0, 0));
		EXPECT_TRUE(is_old_or_empty(self->map));
		ksm_fill(self->map, PAGES, SEED, 1);
		EXPECT_HELD(self->map);
		EXPECT_SHARING(PAGES);
	}
}

/* The last owner of merged pages gives them up; who joins then must never lose them. */
TEST_F(area, given_up_by_its_last_owner_is_kept_for_a_newcomer)
{
	struct ksm_worker *newcomer = &self->ksm.workers[NEWCOMER];

	ASSERT_EQ(0, madvise(self->map, BYTES, MADV_DONTFORK));
	ASSERT_TRUE(ksm_end_worker(&self->ksm.workers[TWIN]));
	ASSERT_EQ(PAGES, merged(self->map, PAGES));
	ASSERT_EQ(0, madvise(self->map, BYTES, MADV_FREE));
	ASSERT_TRUE(start(&self->ksm, NEWCOMER));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	for (unsigned int round = 0; round < 5; round++) {
		ASSERT_TRUE(advise(self->map, MADV_PAGEOUT));
		EXPECT_EQ(-1, ksm_ask(newcomer, ksm_job_first_wrong, SEED, 1, 0));
		ASSERT_EQ(0, madvise(self->map, BYTES, MADV_FREE));
		ASSERT_EQ(0, ksm_ask(newcomer, ksm_job_advise, MADV_PAGEOUT, 0, 0));
		EXPECT_EQ(-1, ksm_ask(newcomer, ksm_job_first_wrong, SEED, 1, 0));
		EXPECT_TRUE(is_old_or_empty(self->map));
	}
	ksm_fill(self->map, PAGES, SEED, 1);
	EXPECT_SHARING(PAGES);
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 1));
	EXPECT_EQ(-1, ksm_ask(newcomer, ksm_job_first_wrong, SEED, 1, 0));
}

/* A merged page that may be dropped is nobody's partner; its newcomers find each other. */
TEST_F(area, given_up_by_its_last_owner_does_not_keep_newcomers_apart)
{
	struct ksm_worker *newcomer = &self->ksm.workers[NEWCOMER];
	struct ksm_worker *child = &self->ksm.workers[CHILD];

	ASSERT_EQ(0, madvise(self->map, BYTES, MADV_DONTFORK));
	ASSERT_TRUE(ksm_end_worker(&self->ksm.workers[TWIN]));
	ASSERT_EQ(0, madvise(self->map, BYTES, MADV_FREE));
	ASSERT_TRUE(ksm_wait_passes(1));
	ASSERT_TRUE(start(&self->ksm, NEWCOMER));
	ASSERT_TRUE(start(&self->ksm, CHILD));
	ASSERT_TRUE(ksm_wait_passes(2 * KSM_MERGE_PASSES));
	EXPECT_EQ(PAGES, ksm_count_merged(newcomer->pid, newcomer->map, PAGES));
	EXPECT_EQ(PAGES, ksm_count_merged(child->pid, child->map, PAGES));
	EXPECT_LE(PAGES, ksm_get("pages_sharing"));
	EXPECT_TRUE(is_old_or_empty(self->map));
	EXPECT_EQ(-1, ksm_ask(newcomer, ksm_job_first_wrong, SEED, 1, 0));
	EXPECT_EQ(-1, ksm_ask(child, ksm_job_first_wrong, SEED, 1, 0));
}

TEST_F(area, said_to_be_cold_holds_what_it_held_while_ksmd_races)
{
	static const int advice[] = { MADV_COLD, MADV_PAGEOUT, MADV_NORMAL };
	struct ksm_worker *twin = &self->ksm.workers[TWIN];

	if (!has_swap())
		SKIP(return, "no swap is on");
	ASSERT_EQ(0, ksm_set_number("sleep_millisecs", 0));
	for (unsigned int round = 0; round < ROUNDS; round++) {
		ASSERT_EQ(0, madvise(self->map, BYTES, advice[round % 3]));
		ASSERT_EQ(0, ksm_ask(twin, ksm_job_advise, advice[round / 3 % 3], 0, 0));
		/* Written pages have no other owner, and can be paged out. */
		if (round % 4 == 1)
			ksm_fill(self->map, PAGES, SEED, 1);
		if (round % 8 == 3)
			ASSERT_EQ(0, ksm_ask(twin, ksm_job_fill, SEED, 1, 0));
		if (round % 4 == 0)
			EXPECT_HELD(self->map);
	}
	EXPECT_HELD(self->map);
	EXPECT_SHARING(PAGES);
	EXPECT_EQ(PAGES, merged(self->map, PAGES));
	EXPECT_HELD(self->map);
}

/* Pages that one page table maps, where it is 4 KiB of entries of 8 bytes or larger. */
#define TABLE		(2UL << 20)

/*
 * Empty pages that take the place of full ones, with the page tables of those, are empty
 * for the process, too: no TLB still knows the old ones. ksmd has no part in it.
 */
TEST(moved_onto_the_pages_of_a_whole_table_leaves_none_of_them)
{
	char *map = mmap(NULL, 6 * TABLE, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	char *full = (char *)(((uintptr_t)map + TABLE - 1) & ~(TABLE - 1));
	char *sparse = full + 3 * TABLE;
	size_t wrong = 0;

	ASSERT_NE(MAP_FAILED, map);
	madvise(map, 6 * TABLE, MADV_NOHUGEPAGE);
	memset(full, 1, TABLE);
	*sparse = 2;
	/* Nothing beside it keeps its page table. */
	if (full > map)
		ASSERT_EQ(0, munmap(map, full - map));
	ASSERT_EQ(0, munmap(full + TABLE, 2 * TABLE));
	ASSERT_EQ(full, mremap(sparse, TABLE, TABLE, MREMAP_MAYMOVE | MREMAP_FIXED, full));
	EXPECT_EQ(2, *full);
	for (size_t at = psize(); at < TABLE; at += psize())
		wrong += full[at] != 0;
	EXPECT_EQ(0, wrong);
	munmap(full, TABLE);
	munmap(sparse + TABLE, map + 6 * TABLE - (sparse + TABLE));
}

TEST_HARNESS_MAIN
