// SPDX-License-Identifier: GPL-2.0-only
/*
 * Huge pages: one of their pages may merge, and only then is the huge page
 * split.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include "ksm_util.h"
#include "vm_util.h"

#define SEED	1000

#define KPF_ZERO_PAGE	BIT_ULL(24)

#define KHUGEPAGED	"/sys/kernel/mm/transparent_hugepage/khugepaged/"

FIXTURE(huge_page)
{
	struct ksm_test ksm;
	size_t size;
	size_t pages;
	char *map;	/* one huge page of pages that all differ, registered */
	char *small;	/* a registered page that is not part of it */
};

FIXTURE_SETUP(huge_page)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	self->size = read_pmd_pagesize();
	if (!self->size)
		SKIP(return, "this kernel has no transparent huge pages");
	self->map = ksm_map_huge(self->size);
	if (!self->map || !ksm_is_huge(self->map, self->size))
		SKIP(return, "no huge page to be had: memory may be fragmented");
	self->pages = self->size / psize();
	ksm_fill(self->map, self->pages, SEED, 1);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	self->small = ksm_map_registered(1);
	ASSERT_NE(NULL, self->small);
	ASSERT_EQ(0, ksm_mergeable(self->map, self->pages));
	ASSERT_TRUE(ksm_is_huge(self->map, self->size));
}

FIXTURE_TEARDOWN_PARENT(huge_page)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

TEST_F(huge_page, without_equal_pages_stays_whole)
{
	ksm_fill(self->small, 1, SEED - 1, 0);
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_TRUE(ksm_is_huge(self->map, self->size));
	EXPECT_EQ(0, ksm_get("pages_shared"));
	EXPECT_EQ(self->pages + 1, ksm_get("pages_unshared"));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, self->pages, SEED, 1));
}

TEST_F(huge_page, gives_the_one_page_that_has_a_twin)
{
	const size_t twin = 300 % self->pages;
	char *part = self->map + twin * psize();

	ksm_fill(self->small, 1, SEED + twin, 0);
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_EQ(1, ksm_get("pages_shared"));
	EXPECT_EQ(1, ksm_get("pages_sharing"));
	EXPECT_EQ(ksm_pfn(getpid(), self->small), ksm_pfn(getpid(), part));
	EXPECT_EQ(1, ksm_count_merged(getpid(), self->map, self->pages));
	EXPECT_FALSE(ksm_is_huge(self->map, self->size));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, self->pages, SEED, 1));

	/* Writing gives it a page of its own again, and only there. */
	ksm_fill(part, 1, SEED - 1, 0);
	EXPECT_EQ(-1, ksm_first_wrong(self->small, 1, SEED + twin, 0));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, twin, SEED, 1));
	EXPECT_EQ(-1, ksm_first_wrong(part, 1, SEED - 1, 0));
	EXPECT_EQ(-1, ksm_first_wrong(part + psize(), self->pages - twin - 1, SEED + twin + 1, 1));
}

TEST_F(huge_page, of_equal_pages_becomes_one_small_page)
{
	ksm_fill(self->map, self->pages / 2, SEED, 0);
	ksm_fill(self->map + self->size / 2, self->pages / 2, SEED + 1, 0);
	ksm_fill(self->small, 1, SEED - 1, 0);
	ASSERT_TRUE(ksm_is_huge(self->map, self->size));
	/* No more than two sharing groups of 256 sites each. */
	EXPECT_TRUE(ksm_merge_all());
	EXPECT_TRUE(ksm_wait_until(ksm_get("pages_sharing") == (long)self->pages - 2));
	EXPECT_EQ(2, ksm_count_frames(getpid(), self->map, self->pages));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, self->pages / 2, SEED, 0));
	EXPECT_EQ(-1, ksm_first_wrong(self->map + self->size / 2, self->pages / 2, SEED + 1, 0));
}

TEST_F(huge_page, merges_page_by_page_with_another)
{
	char *other = ksm_map_huge(self->size);

	if (!other || !ksm_is_huge(other, self->size))
		SKIP(return, "no second huge page to be had");
	ksm_fill(other, self->pages, SEED, 1);
	ksm_fill(self->small, 1, SEED - 1, 0);
	ASSERT_EQ(0, ksm_mergeable(other, self->pages));
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_TRUE(ksm_wait_until(ksm_get("pages_sharing") == (long)self->pages));
	EXPECT_EQ(self->pages, ksm_get("pages_shared"));
	for (size_t i = 0; i < self->pages; i++)
		EXPECT_EQ(ksm_pfn(getpid(), self->map + i * psize()),
			  ksm_pfn(getpid(), other + i * psize()));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, self->pages, SEED, 1));
	EXPECT_EQ(-1, ksm_first_wrong(other, self->pages, SEED, 1));
	ASSERT_EQ(0, ksm_set("run", "2"));
	EXPECT_EQ(0, ksm_count_merged(getpid(), self->map, self->pages));
	EXPECT_EQ(0, ksm_count_merged(getpid(), other, self->pages));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, self->pages, SEED, 1));
	EXPECT_EQ(-1, ksm_first_wrong(other, self->pages, SEED, 1));
}

/* How many zero pages are mapped in place of pages of one's own? */
static size_t count_zero_pages(const char *map, size_t pages)
{
	size_t count = 0;

	for (size_t i = 0; i < pages; i++) {
		unsigned long pfn = ksm_pfn(getpid(), map + i * psize());

		count += pfn && (ksm_page_flags(pfn) & KPF_ZERO_PAGE);
	}
	return count;
}

/* The second half is empty, and a page of the first has a twin. */
static void half_empty(FIXTURE_DATA(huge_page) *self)
{
	memset(self->map + self->size / 2, 0, self->size / 2);
	ksm_fill(self->small, 1, SEED + 3, 0);
}

static bool is_empty(const char *map, size_t size)
{
	return !*map && !memcmp(map, map + 1, size - 1);
}

TEST_F(huge_page, that_is_split_keeps_its_empty_pages_if_no_zero_pages_are_wanted)
{
	half_empty(self);
	ASSERT_EQ(0, ksm_set("use_zero_pages", "0"));
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_FALSE(ksm_is_huge(self->map, self->size));
	EXPECT_EQ(0, ksm_get("ksm_zero_pages"));
	EXPECT_EQ(0, count_zero_pages(self->map, self->pages));
	EXPECT_TRUE(ksm_wait_until(ksm_get("pages_sharing") == (long)self->pages / 2));
	EXPECT_EQ(2, ksm_get("pages_shared"));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, self->pages / 2, SEED, 1));
	EXPECT_TRUE(is_empty(self->map + self->size / 2, self->size / 2));
}

TEST_F(huge_page, that_is_split_has_all_its_zero_pages_counted)
{
	const long empty = self->pages / 2;

	half_empty(self);
	ASSERT_EQ(0, ksm_set("use_zero_pages", "1"));
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_TRUE(ksm_wait_until(ksm_get("ksm_zero_pages") == empty));
	EXPECT_EQ(empty, ksm_proc_stat(getpid(), "ksm_zero_pages"));
	EXPECT_EQ(empty, count_zero_pages(self->map, self->pages));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, self->pages / 2, SEED, 1));
	EXPECT_TRUE(is_empty(self->map + self->size / 2, self->size / 2));
	ASSERT_EQ(0, ksm_set("run", "2"));
	EXPECT_EQ(0, ksm_get("ksm_zero_pages"));
	EXPECT_EQ(0, count_zero_pages(self->map, self->pages));
	EXPECT_TRUE(is_empty(self->map + self->size / 2, self->size / 2));
}

/* A page that is nothing but zeroes, of the kernel's one huge page of these. */
static bool is_huge_zero(const char *map)
{
	const uint64_t wanted = KPF_ZERO_PAGE | KPF_THP;

	return (ksm_page_flags(ksm_pfn(getpid(), map)) & wanted) == wanted;
}

/* Nothing is known of pages that were given up, though something is there again. */
TEST_F(huge_page, that_is_given_up_and_read_again_shares_nothing)
{
	char *twins = ksm_map_registered(self->pages);

	ASSERT_NE(NULL, twins);
	ksm_fill(twins, self->pages, SEED, 1);
	ksm_fill(self->small, 1, SEED - 1, 0);
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_TRUE(ksm_wait_until(ksm_get("pages_sharing") == (long)self->pages));
	ASSERT_EQ(0, ksm_set("run", "0"));
	ASSERT_EQ(0, madvise(self->map, self->size, MADV_HUGEPAGE));
	ASSERT_EQ(0, madvise(self->map, self->size, MADV_DONTNEED));
	ASSERT_EQ(0, *(volatile char *)self->map);
	if (!is_huge_zero(self->map))
		SKIP(return, "no huge zero page was mapped");
	ASSERT_EQ(0, ksm_set("run", "1"));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(0, ksm_get("pages_sharing"));
	EXPECT_EQ(self->pages, ksm_get("pages_shared"));
	EXPECT_EQ(self->pages, ksm_proc_stat(getpid(), "ksm_merging_pages"));
	EXPECT_EQ(-1, ksm_first_wrong(twins, self->pages, SEED, 1));
}

/* Pages that somebody gave up by MADV_FREE, and perhaps uses again. */
FIXTURE(given_up)
{
	struct ksm_test ksm;
	char saved[32];		/* how long khugepaged sleeps */
	size_t size;
	size_t pages;
	char *map;
};

FIXTURE_SETUP(given_up)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	self->size = read_pmd_pagesize();
	if (!self->size ||
	    ksm_read_text(KHUGEPAGED "scan_sleep_millisecs", self->saved, sizeof(self->saved)))
		SKIP(return, "this kernel has no transparent huge pages");
	self->pages = self->size / psize();
	ASSERT_TRUE(ksm_begin(&self->ksm));
	self->map = ksm_map_pages(2 * self->pages);
	ASSERT_NE(NULL, self->map);
	self->map += -(uintptr_t)self->map % self->size;
	ASSERT_EQ(0, madvise(self->map, self->size, MADV_NOHUGEPAGE));
	ASSERT_EQ(0, ksm_mergeable(self->map, self->pages));
	ksm_fill(self->map, self->pages, SEED, 1);
	/* Uses the dirty bit. */
	ASSERT_EQ(0, ksm_set("smart_scan", "1"));
	ASSERT_EQ(0, ksm_set("run", "1"));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	ASSERT_EQ(self->pages, ksm_get("pages_unshared"));
	ASSERT_EQ(0, madvise(self->map, self->size, MADV_FREE));
	/* What waits on the way to the LRU list becomes so when a pass begins. */
	ASSERT_TRUE(ksm_wait_passes(2));
	if (ksm_smaps(getpid(), self->map, "LazyFree") * 1024 != (long)self->size)
		SKIP(return, "pages that were given up are gone");
}

FIXTURE_TEARDOWN_PARENT(given_up)
{
	if (self->saved[0])
		EXPECT_EQ(0, ksm_write_text(KHUGEPAGED "scan_sleep_millisecs", self->saved));
	EXPECT_TRUE(ksm_end(&self->ksm));
}

TEST_F(given_up, pages_that_are_used_again_become_a_huge_page)
{
	ksm_fill(self->map, self->pages, 2 * SEED, 1);
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	ASSERT_TRUE(ksm_wait_until(ksm_get("pages_volatile") == 0));
	ASSERT_EQ(0, ksm_set("run", "0"));
	ASSERT_EQ(0, madvise(self->map, self->size, MADV_HUGEPAGE));
	ASSERT_EQ(0, ksm_write_text(KHUGEPAGED "scan_sleep_millisecs", "10"));
	EXPECT_TRUE(ksm_wait_until(ksm_is_huge(self->map, self->size)));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, self->pages, 2 * SEED, 1));
}

TEST_F(given_up, pages_that_are_used_again_merge)
{
	char *twins = ksm_map_registered(self->pages);

	ASSERT_NE(NULL, twins);
	ksm_fill(twins, self->pages, 2 * SEED, 1);
	ksm_fill(self->map, self->pages, 2 * SEED, 1);
	EXPECT_TRUE(ksm_merge_all());
	EXPECT_TRUE(ksm_wait_until(ksm_get("pages_sharing") == (long)self->pages));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, self->pages, 2 * SEED, 1));
	EXPECT_EQ(-1, ksm_first_wrong(twins, self->pages, 2 * SEED, 1));
}

/* Its twin does not keep it, and nothing is known of it. */
TEST_F(given_up, page_is_left_alone)
{
	char *twins = ksm_map_registered(self->pages);

	ASSERT_NE(NULL, twins);
	ksm_fill(twins, self->pages, SEED, 1);
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(0, ksm_get("pages_sharing"));
	EXPECT_EQ(self->size, ksm_smaps(getpid(), self->map, "LazyFree") * 1024);
	EXPECT_EQ(-1, ksm_first_wrong(twins, self->pages, SEED, 1));
}

TEST_HARNESS_MAIN
