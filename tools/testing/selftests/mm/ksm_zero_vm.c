// SPDX-License-Identifier: GPL-2.0-only
/*
 * Zero pages that KSM has put in place of empty ones, and the rest of memory
 * management: every way in which they go away takes them off the count exactly,
 * huge pages are split for them and made out of them again, and the marks that
 * userfaultfd and soft-dirty tracking had on a page stay on what replaces it.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <setjmp.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include "ksm_util.h"
#include "vm_util.h"

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define PAGES	64
#define SEED	1000

/* As in linux/kernel-page-flags.h, which cannot be had together with vm_util.h. */
#define KPF_ZERO_PAGE	BIT_ULL(24)

static char *page(char *map, size_t index)
{
	return map + index * psize();
}

/* How many map the zero page, whoever has put it there? */
static size_t zeros(char *map, size_t pages)
{
	size_t count = 0;

	for (size_t i = 0; i < pages; i++) {
		unsigned long pfn = ksm_pfn(getpid(), page(map, i));

		count += pfn && (ksm_page_flags(pfn) & KPF_ZERO_PAGE);
	}
	return count;
}

static bool is_empty(const char *map, size_t pages)
{
	for (size_t i = 0; i < pages * psize(); i++)
		if (map[i])
			return false;
	return true;
}

#define EXPECT_COUNTED(number)							\
do {										\
	EXPECT_EQ((long)(number), ksm_proc_stat(getpid(), "ksm_zero_pages"));	\
	EXPECT_EQ((long)(number), ksm_get("ksm_zero_pages"));			\
} while (0)

/* Lets ksmd replace what is empty there, and stops it again. */
static bool replace_empty(char *map, size_t pages)
{
	return !ksm_mergeable(map, pages) && ksm_merge_all() && !ksm_set("run", "0");
}

/* Empty pages that do not go together with any others. */
static char *map_empty(size_t pages)
{
	char *map = ksm_map_fenced(pages);

	if (map)
		memset(map, 0, pages * psize());
	return map;
}

/* Ways for zero pages to go away. */
enum { OWN, DISCARDED, UNMAPPED };

FIXTURE(zero_pages)
{
	struct ksm_test ksm;
	char *map;	/* PAGES of them; ksmd is off */
};

FIXTURE_VARIANT(zero_pages)
{
	/* Makes some of them go; says where their content is now. */
	char *(*take)(char *from, size_t pages);
	int leaves;	/* pages of the owner's own, no pages, or no memory */
	bool all;	/* whatever it is asked for */
};

static char *take_by_write(char *from, size_t pages)
{
	return memset(from, 0, pages * psize());
}

static char *take_by_unmergeable(char *from, size_t pages)
{
	return ksm_unmergeable(from, pages) ? NULL : from;
}

static char *take_by_run_2(char *from, size_t pages)
{
	return ksm_set("run", "2") ? NULL : from;
}

static char *take_by_prctl(char *from, size_t pages)
{
	return ksm_set_merge_any(1) || ksm_set_merge_any(0) ? NULL : from;
}

static char *take_by_mlock(char *from, size_t pages)
{
	return mlock(from, pages * psize()) ? NULL : from;
}

static char *take_by_populate(char *from, size_t pages)
{
	return madvise(from, pages * psize(), MADV_POPULATE_WRITE) ? NULL : from;
}

static char *take_by_mremap(char *from, size_t pages)
{
	char *to = ksm_map_fenced(pages);

	if (!to || mremap(from, pages * psize(), pages * psize(),
			  MREMAP_MAYMOVE | MREMAP_FIXED, to) != to)
		return NULL;
	return to;
}

static char *take_by_munmap(char *from, size_t pages)
{
	return munmap(from, pages * psize()) ? NULL : from;
}

static char *take_by_dontneed(char *from, size_t pages)
{
	return madvise(from, pages * psize(), MADV_DONTNEED) ? NULL : from;
}

static char *take_by_mmap(char *from, size_t pages)
{
	char *map = mmap(from, pages * psize(), PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);

	return map == from ? from : NULL;
}

static char *take_by_mremap_onto(char *from, size_t pages)
{
	char *other = ksm_map_fenced(pages);

	if (!other || mremap(other, pages * psize(), pages * psize(),
			     MREMAP_MAYMOVE | MREMAP_FIXED, from) != from)
		return NULL;
	return from;
}

#define ADD_WAY(way, ...)						\
	FIXTURE_VARIANT_ADD(zero_pages, way) { .take = take_##way, __VA_ARGS__ }

ADD_WAY(by_write,	.leaves = OWN);
ADD_WAY(by_unmergeable,	.leaves = OWN);
ADD_WAY(by_run_2,	.leaves = OWN, .all = true);
ADD_WAY(by_prctl,	.leaves = OWN, .all = true);
ADD_WAY(by_mlock,	.leaves = OWN);
ADD_WAY(by_populate,	.leaves = OWN);
ADD_WAY(by_mremap,	.leaves = OWN);
ADD_WAY(by_dontneed,	.leaves = DISCARDED);
ADD_WAY(by_mmap,	.leaves = DISCARDED);
ADD_WAY(by_mremap_onto,	.leaves = DISCARDED);
ADD_WAY(by_munmap,	.leaves = UNMAPPED);

FIXTURE_SETUP(zero_pages)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	ASSERT_EQ(0, ksm_set("use_zero_pages", "1"));
	self->map = map_empty(PAGES);
	ASSERT_NE(NULL, self->map);
	ASSERT_TRUE(replace_empty(self->map, PAGES));
	ASSERT_EQ(PAGES, zeros(self->map, PAGES));
}

FIXTURE_TEARDOWN_PARENT(zero_pages)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
	EXPECT_EQ(0, ksm_get("ksm_zero_pages"));
}

/* First some, then the rest. */
TEST_F(zero_pages, leave_the_count_when_they_go)
{
	const size_t first[] = { 0, PAGES / 4 }, count[] = { PAGES / 4, PAGES / 4 * 3 };

	EXPECT_COUNTED(PAGES);
	for (unsigned int i = 0; i < 2; i++) {
		char *map = variant->take(page(self->map, first[i]), count[i]);

		ASSERT_NE(NULL, map);
		EXPECT_COUNTED(variant->all || i ? 0 : PAGES / 4 * 3);
		EXPECT_EQ(0, zeros(map, count[i]));
		EXPECT_EQ(variant->leaves == OWN ? count[i] : 0,
			  ksm_count_frames(getpid(), map, count[i]));
		if (variant->leaves != UNMAPPED)
			EXPECT_TRUE(is_empty(map, count[i]));
	}
}

/* The marks on pages that others look at. */
FIXTURE(marked)
{
	struct ksm_test ksm;
	char *map;	/* PAGES empty ones, registered; ksmd was never on */
};

FIXTURE_SETUP(marked)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	ASSERT_EQ(0, ksm_set("use_zero_pages", "1"));
	self->map = map_empty(PAGES);
	ASSERT_NE(NULL, self->map);
	ASSERT_EQ(0, ksm_mergeable(self->map, PAGES));
}

FIXTURE_TEARDOWN_PARENT(marked)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
	EXPECT_EQ(0, ksm_get("ksm_zero_pages"));
}

/* How many of the pages have a bit set in their pagemap entries? */
static size_t with_bit(char *map, size_t pages, uint64_t bit)
{
	size_t count = 0;

	for (size_t i = 0; i < pages; i++)
		count += (ksm_pagemap(getpid(), page(map, i)) & bit) != 0;
	return count;
}

TEST_F(marked, soft_dirty_page_stays_so_and_no_other_becomes_so)
{
	const size_t half = PAGES / 2;
	char *upper = page(self->map, half);

	if (!softdirty_supported())
		SKIP(return, "this kernel does not track soft-dirty pages");
	clear_softdirty();
	memset(upper, 0, half * psize());
	ASSERT_EQ(0, with_bit(self->map, half, PM_SOFT_DIRTY));
	ASSERT_EQ(half, with_bit(upper, half, PM_SOFT_DIRTY));
	ASSERT_TRUE(replace_empty(self->map, PAGES));
	EXPECT_COUNTED(PAGES);
	EXPECT_EQ(PAGES, zeros(self->map, PAGES));
	EXPECT_EQ(0, with_bit(self->map, half, PM_SOFT_DIRTY));
	EXPECT_EQ(half, with_bit(upper, half, PM_SOFT_DIRTY));
	/* To clear them again does not hide who has put the zero page there. */
	clear_softdirty();
	EXPECT_EQ(0, with_bit(self->map, PAGES, PM_SOFT_DIRTY));
	EXPECT_COUNTED(PAGES);
	ksm_fill(self->map, 1, SEED, 0);
	EXPECT_EQ(1, with_bit(self->map, PAGES, PM_SOFT_DIRTY));
	EXPECT_COUNTED(PAGES - 1);
	EXPECT_EQ(-1, ksm_first_wrong(self->map, 1, SEED, 0));
	EXPECT_TRUE(is_empty(page(self->map, 1), PAGES - 1));
}

/* A userfaultfd on @pages of @map, or -1 if the kernel has not what is asked for. */
static int open_uffd(char *map, size_t pages, uint64_t features, bool write_protect)
{
	struct uffdio_api api = { .api = UFFD_API, .features = features };
	int fd = syscall(__NR_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return -1;
	if (!ioctl(fd, UFFDIO_API, &api) &&
	    !uffd_register(fd, map, pages * psize(), !write_protect, write_protect, false))
		return fd;
	close(fd);
	return -1;
}

static int write_protect(int fd, char *map, size_t pages, bool on)
{
	struct uffdio_writeprotect protect = {
		.range = { .start = (uintptr_t)map, .len = pages * psize() },
		.mode = on ? UFFDIO_WRITEPROTECT_MODE_WP : 0,
	};

	return ioctl(fd, UFFDIO_WRITEPROTECT, &protect) ? -errno : 0;
}

static sigjmp_buf after_bus_error;

static void bus_error(int number)
{
	siglongjmp(after_bus_error, 1);
}

/* Is the userfaultfd, which answers by SIGBUS, asked before it can be written? */
static bool is_protected(char *page)
{
	bool caught = true;

	signal(SIGBUS, bus_error);
	if (!sigsetjmp(after_bus_error, 1)) {
		*(volatile char *)page = 0;
		caught = false;
	}
	signal(SIGBUS, SIG_DFL);
	return caught;
}

TEST_F(marked, page_that_userfaultfd_protects_stays_protected)
{
	const size_t half = PAGES / 2;
	char *upper = page(self->map, half);
	int fd;

	fd = open_uffd(self->map, PAGES,
		       UFFD_FEATURE_PAGEFAULT_FLAG_WP | UFFD_FEATURE_SIGBUS, true);
	if (fd < 0)
		SKIP(return, "this kernel has no userfaultfd that protects pages");
	ASSERT_EQ(0, write_protect(fd, self->map, half, true));
	ASSERT_EQ(half, with_bit(self->map, half, PM_UFFD_WP));
	ASSERT_TRUE(replace_empty(self->map, PAGES));
	EXPECT_COUNTED(PAGES);
	EXPECT_EQ(half, with_bit(self->map, half, PM_UFFD_WP));
	EXPECT_EQ(0, with_bit(upper, half, PM_UFFD_WP));
	EXPECT_TRUE(is_protected(self->map));
	EXPECT_FALSE(is_protected(upper));
	EXPECT_COUNTED(PAGES - 1);

	/* Unmerging is no write. */
	ASSERT_EQ(0, ksm_unmergeable(self->map, PAGES));
	EXPECT_COUNTED(0);
	EXPECT_EQ(PAGES, ksm_count_frames(getpid(), self->map, PAGES));
	EXPECT_EQ(half, with_bit(self->map, half, PM_UFFD_WP));
	EXPECT_TRUE(is_protected(self->map));

	/* Taking the protection away is none, either. */
	ASSERT_TRUE(replace_empty(self->map, PAGES));
	ASSERT_EQ(0, write_protect(fd, self->map, half, false));
	EXPECT_EQ(0, with_bit(self->map, PAGES, PM_UFFD_WP));
	EXPECT_COUNTED(PAGES);
	EXPECT_FALSE(is_protected(self->map));
	EXPECT_COUNTED(PAGES - 1);
	EXPECT_TRUE(is_empty(self->map, PAGES));
	close(fd);
}

TEST_F(marked, page_that_userfaultfd_moves_leaves_the_count)
{
	const size_t half = PAGES / 2;
	char *to = ksm_map_fenced(PAGES);
	struct uffdio_move move = {
		.src = (uintptr_t)self->map,
		.dst = (uintptr_t)to,
		.len = half * psize(),
	};
	int fd;

	ASSERT_NE(NULL, to);
	fd = open_uffd(to, PAGES, UFFD_FEATURE_MOVE, false);
	if (fd < 0)
		SKIP(return, "this kernel has no userfaultfd that moves pages");
	ASSERT_TRUE(replace_empty(self->map, PAGES));
	ASSERT_EQ(0, ioctl(fd, UFFDIO_MOVE, &move));
	EXPECT_EQ((long)(half * psize()), move.move);
	/* A zero page still, but not one that saves anything. */
	EXPECT_EQ(half, zeros(to, PAGES));
	EXPECT_EQ(0, ksm_count_present(getpid(), self->map, half));
	EXPECT_COUNTED(half);
	EXPECT_TRUE(is_empty(to, half));
	ksm_fill(to, half, SEED, 1);
	EXPECT_COUNTED(half);
	EXPECT_EQ(-1, ksm_first_wrong(to, half, SEED, 1));
	ASSERT_EQ(0, munmap(to, PAGES * psize()));
	EXPECT_COUNTED(half);
	EXPECT_TRUE(is_empty(self->map, PAGES));
	close(fd);
}

FIXTURE(huge_page)
{
	struct ksm_test ksm;
	size_t size;
	size_t pages;
	char *map;	/* room for one, aligned; nothing there yet */
};

/*
 * Others who split a huge page replace its empty pages by the zero page, but for locked
 * memory, and nobody counts that. KSM does so one by one, and counts them.
 */
FIXTURE_VARIANT(huge_page)
{
	bool locked;
};

FIXTURE_VARIANT_ADD(huge_page, unlocked)	{ .locked = false };
FIXTURE_VARIANT_ADD(huge_page, locked)		{ .locked = true };

FIXTURE_SETUP(huge_page)
{
	const char *missing = ksm_missing();
	char *map;

	if (missing)
		SKIP(return, "%s", missing);
	self->size = read_pmd_pagesize();
	if (!self->size)
		SKIP(return, "this kernel has no transparent huge pages");
	self->pages = self->size / psize();
	ASSERT_TRUE(ksm_begin(&self->ksm));
	ASSERT_EQ(0, ksm_set("use_zero_pages", "1"));
	map = ksm_map_pages(2 * self->pages);
	ASSERT_NE(NULL, map);
	self->map = (char *)(((uintptr_t)map + self->size - 1) & ~(self->size - 1));
}

FIXTURE_TEARDOWN_PARENT(huge_page)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
	EXPECT_EQ(0, ksm_get("ksm_zero_pages"));
}

TEST_F(huge_page, gives_the_one_page_that_is_empty)
{
	const size_t empty = 300 % self->pages;
	char *part = page(self->map, empty);

	ASSERT_EQ(0, madvise(self->map, self->size, MADV_HUGEPAGE));
	ksm_fill(self->map, self->pages, SEED, 1);
	memset(part, 0, psize());
	ASSERT_TRUE(!variant->locked || !mlock(self->map, self->size));
	if (!ksm_is_huge(self->map, self->size))
		SKIP(return, "no huge page to be had: memory may be fragmented");
	/* Or khugepaged puts together again what was split. */
	ASSERT_EQ(0, madvise(self->map, self->size, MADV_NOHUGEPAGE));
	ASSERT_TRUE(replace_empty(self->map, self->pages));
	EXPECT_COUNTED(1);
	EXPECT_EQ(1, zeros(part, 1));
	EXPECT_EQ(1, zeros(self->map, self->pages));
	EXPECT_FALSE(ksm_is_huge(self->map, self->size));
	EXPECT_TRUE(is_empty(part, 1));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, empty, SEED, 1));
	ksm_fill(part, 1, SEED + empty, 0);
	EXPECT_COUNTED(0);
	EXPECT_EQ(-1, ksm_first_wrong(self->map, self->pages, SEED, 1));
}

/* Of every eight pages, one holds something and the others are empty. */
TEST_F(huge_page, made_out_of_zero_pages_takes_them_off_the_count)
{
	const size_t used = self->pages / 8;

	ASSERT_EQ(0, madvise(self->map, self->size, MADV_NOHUGEPAGE));
	memset(self->map, 0, self->size);
	for (size_t i = 0; i < used; i++)
		ksm_fill(page(self->map, i * 8), 1, SEED + i, 0);
	ASSERT_TRUE(!variant->locked || !mlock(self->map, self->size));
	ASSERT_TRUE(replace_empty(self->map, self->pages));
	EXPECT_COUNTED(self->pages - used);
	ASSERT_EQ(0, madvise(self->map, self->size, MADV_HUGEPAGE));
	if (madvise(self->map, self->size, MADV_COLLAPSE))
		SKIP(return, "no huge page to be had: %s", strerror(errno));
	EXPECT_TRUE(ksm_is_huge(self->map, self->size));
	EXPECT_COUNTED(0);
	EXPECT_EQ(0, zeros(self->map, self->pages));
	/* And is split for them again, and khugepaged leaves it so. */
	ASSERT_EQ(0, madvise(self->map, self->size, MADV_NOHUGEPAGE));
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_EQ(self->pages - used, zeros(self->map, self->pages));
	EXPECT_COUNTED(self->pages - used);
	for (size_t i = 0; i < used; i++) {
		EXPECT_EQ(-1, ksm_first_wrong(page(self->map, i * 8), 1, SEED + i, 0));
		EXPECT_TRUE(is_empty(page(self->map, i * 8 + 1), 7));
	}
}

TEST_HARNESS_MAIN
