// SPDX-License-Identifier: GPL-2.0-only
/*
 * Flags of VMAs that belong to others outlive registration, merging and unmerging, by
 * madvise() and by prctl(), and do what they are for: a sealed VMA stays sealed, and
 * memory that is locked on fault is not filled. ksm_marks.c has what is kept in page
 * tables.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include "ksm_util.h"
#include "vm_util.h"

#define PAGES	16
#define BYTES	((size_t)PAGES * psize())
#define SEED	1000

static char *page(char *map, size_t index)
{
	return map + index * psize();
}

static size_t frames(char *map, size_t pages)
{
	return ksm_count_frames(getpid(), map, pages);
}

/* A VMA with neighbours that it cannot be joined with. */
static char *map_alone(int flags)
{
	char *map = mmap(NULL, BYTES + 2 * psize(), PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);

	if (map == MAP_FAILED || mprotect(map, psize(), PROT_NONE) ||
	    mprotect(page(map, PAGES + 1), psize(), PROT_NONE))
		return NULL;
	return page(map, 1);
}

/* Flags of a VMA, one for each variant, beside those that each has. */
FIXTURE(kept)
{
	struct ksm_test ksm;
	char *map;
	char before[128];
};

FIXTURE_VARIANT(kept)
{
	const char *flag;		/* as VmFlags says it, or NULL: is not there */
	int mmap_flags;
	int advice;
	const char *(*prepare)(char *map);	/* NULL, or why not */
};

static const char *lock_on_fault(char *map)
{
	return mlock2(map, BYTES, MLOCK_ONFAULT) ? "cannot lock memory on fault" : NULL;
}

static const char *make_sealed(char *map)
{
	return syscall(__NR_mseal, map, BYTES, 0) ? "this kernel cannot seal memory" : NULL;
}

static const char *clear_tracked(char *map)
{
	if (!softdirty_supported())
		return "this kernel does not track soft-dirty pages";
	clear_softdirty();
	return NULL;
}

static const char *watch(char *map, uint64_t features, uint64_t mode)
{
	if (ksm_open_uffd(map, PAGES, features, mode) < 0)
		return "this kernel has no such userfaultfd";
	return NULL;
}

static const char *watch_missing(char *map)
{
	return watch(map, 0, UFFDIO_REGISTER_MODE_MISSING);
}

static const char *watch_writes(char *map)
{
	return watch(map, UFFD_FEATURE_PAGEFAULT_FLAG_WP, UFFDIO_REGISTER_MODE_WP);
}

static const char *watch_all(char *map)
{
	return watch(map, UFFD_FEATURE_RWP, UFFDIO_REGISTER_MODE_RWP);
}

FIXTURE_VARIANT_ADD(kept, accounted) { .flag = "ac" };
FIXTURE_VARIANT_ADD(kept, not_reserved) { .flag = "nr", .mmap_flags = MAP_NORESERVE };
FIXTURE_VARIANT_ADD(kept, growing_down) { .flag = "gd", .mmap_flags = MAP_GROWSDOWN };
FIXTURE_VARIANT_ADD(kept, sequential) { .flag = "sr", .advice = MADV_SEQUENTIAL };
FIXTURE_VARIANT_ADD(kept, random) { .flag = "rr", .advice = MADV_RANDOM };
FIXTURE_VARIANT_ADD(kept, not_for_children) { .flag = "dc", .advice = MADV_DONTFORK };
FIXTURE_VARIANT_ADD(kept, empty_for_children) { .flag = "wf", .advice = MADV_WIPEONFORK };
FIXTURE_VARIANT_ADD(kept, not_dumped) { .flag = "dd", .advice = MADV_DONTDUMP };
FIXTURE_VARIANT_ADD(kept, huge) { .flag = "hg", .advice = MADV_HUGEPAGE };
FIXTURE_VARIANT_ADD(kept, never_huge) { .flag = "nh", .advice = MADV_NOHUGEPAGE };
FIXTURE_VARIANT_ADD(kept, locked_on_fault) { .flag = "lf", .prepare = lock_on_fault };
FIXTURE_VARIANT_ADD(kept, sealed) { .flag = "sl", .prepare = make_sealed };
FIXTURE_VARIANT_ADD(kept, not_soft_dirty) { .flag = NULL, .prepare = clear_tracked };
FIXTURE_VARIANT_ADD(kept, uffd_missing) { .flag = "um", .prepare = watch_missing };
FIXTURE_VARIANT_ADD(kept, uffd_write) { .flag = "uw", .prepare = watch_writes };
FIXTURE_VARIANT_ADD(kept, uffd_read_write) { .flag = "ur", .prepare = watch_all };

/* VmFlags without what tells that the VMA is registered. */
static bool flags_of(char *map, char *text, size_t size)
{
	char *at;

	if (!ksm_vma_flags(getpid(), map, text, size))
		return false;
	at = strstr(text, " mg ");
	if (at)
		memmove(at, at + 3, strlen(at + 3) + 1);
	return true;
}

static bool has_flag(const char *flags, const char *flag)
{
	char word[8];

	snprintf(word, sizeof(word), " %s ", flag);
	return strstr(flags, word);
}

#define EXPECT_FLAGS(map, flags)						\
do {										\
	char __now[sizeof(flags)];						\
										\
	EXPECT_TRUE(flags_of(map, __now, sizeof(__now)));			\
	EXPECT_STREQ(flags, __now);						\
} while (0)

FIXTURE_SETUP(kept)
{
	const char *why = ksm_missing();

	if (why)
		SKIP(return, "%s", why);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	self->map = map_alone(variant->mmap_flags);
	ASSERT_NE(NULL, self->map);
	ksm_fill(self->map, PAGES, SEED, 0);
	if (variant->advice && madvise(self->map, BYTES, variant->advice))
		SKIP(return, "this kernel has no such advice");
	why = variant->prepare ? variant->prepare(self->map) : NULL;
	if (why)
		SKIP(return, "%s", why);
	ASSERT_TRUE(flags_of(self->map, self->before, sizeof(self->before)));
	ASSERT_EQ(true, !variant->flag || has_flag(self->before, variant->flag));
	ASSERT_EQ(false, !variant->flag && has_flag(self->before, "sd"));
}

FIXTURE_TEARDOWN_PARENT(kept)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

TEST_F(kept, through_madvise)
{
	ASSERT_EQ(0, ksm_mergeable(self->map, PAGES));
	EXPECT_TRUE(ksm_vma_is_mergeable(getpid(), self->map));
	EXPECT_FLAGS(self->map, self->before);
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(1, frames(self->map, PAGES));
	EXPECT_FLAGS(self->map, self->before);
	ASSERT_EQ(0, ksm_set("run", "2"));
	ASSERT_EQ(PAGES, frames(self->map, PAGES));
	EXPECT_FLAGS(self->map, self->before);
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(0, ksm_unmergeable(self->map, PAGES));
	ASSERT_EQ(PAGES, frames(self->map, PAGES));
	EXPECT_FALSE(ksm_vma_is_mergeable(getpid(), self->map));
	EXPECT_FLAGS(self->map, self->before);
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 0));
}

TEST_F(kept, through_prctl)
{
	ASSERT_EQ(0, ksm_set_merge_any(1));
	EXPECT_TRUE(ksm_vma_is_mergeable(getpid(), self->map));
	EXPECT_FLAGS(self->map, self->before);
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(1, frames(self->map, PAGES));
	EXPECT_FLAGS(self->map, self->before);
	ASSERT_EQ(0, ksm_set_merge_any(0));
	ASSERT_EQ(PAGES, frames(self->map, PAGES));
	EXPECT_FALSE(ksm_vma_is_mergeable(getpid(), self->map));
	EXPECT_FLAGS(self->map, self->before);
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 0));
}

/* PAGES equal pages of a registered VMA. */
FIXTURE(flagged)
{
	struct ksm_test ksm;
	char *map;
};

FIXTURE_SETUP(flagged)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	self->map = map_alone(0);
	ASSERT_NE(NULL, self->map);
	ksm_fill(self->map, PAGES, SEED, 0);
	ASSERT_EQ(0, ksm_mergeable(self->map, PAGES));
}

FIXTURE_TEARDOWN_PARENT(flagged)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

TEST_F(flagged, as_sealed_cannot_be_given_up_when_merged)
{
	if (make_sealed(self->map))
		SKIP(return, "this kernel cannot seal memory");
	for (unsigned int round = 0; round < 2; round++) {
		ASSERT_TRUE(ksm_merge_all());
		ASSERT_EQ(PAGES, ksm_count_merged(getpid(), self->map, PAGES));
		EXPECT_EQ(-1, munmap(self->map, BYTES));
		EXPECT_EQ(EPERM, errno);
		EXPECT_EQ(-1, mprotect(self->map, BYTES, PROT_READ));
		EXPECT_EQ(EPERM, errno);
		ASSERT_EQ(0, ksm_unmergeable(self->map, PAGES));
		EXPECT_EQ(PAGES, frames(self->map, PAGES));
		EXPECT_EQ(-1, munmap(self->map, BYTES));
		ASSERT_EQ(0, ksm_mergeable(self->map, PAGES));
	}
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 0));
}

/* mlockall(MCL_ONFAULT): neither does KSM fill what was never touched. */
TEST_F(flagged, as_locked_on_fault_keeps_its_holes)
{
	char flags[128], *map;

	ASSERT_EQ(0, ksm_set_merge_any(1));
	ASSERT_EQ(0, mlockall(MCL_CURRENT | MCL_FUTURE | MCL_ONFAULT));
	map = map_alone(0);
	ASSERT_NE(NULL, map);
	ASSERT_TRUE(ksm_vma_is_mergeable(getpid(), map));
	ASSERT_TRUE(flags_of(map, flags, sizeof(flags)));
	ASSERT_TRUE(has_flag(flags, "lf"));
	for (size_t i = 0; i < PAGES; i += 2)
		ksm_fill(page(map, i), 1, SEED, 0);
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_EQ(PAGES / 2, ksm_count_merged(getpid(), map, PAGES));
	EXPECT_EQ(PAGES / 2, ksm_count_present(getpid(), map, PAGES));
	EXPECT_FLAGS(map, flags);
	ASSERT_EQ(0, ksm_unmergeable(map, PAGES / 2));
	ASSERT_EQ(0, ksm_set_merge_any(0));
	EXPECT_EQ(PAGES / 2, frames(map, PAGES));
	EXPECT_EQ(PAGES / 2, ksm_count_present(getpid(), map, PAGES));
	EXPECT_FLAGS(map, flags);
	for (size_t i = 0; i < PAGES; i += 2)
		EXPECT_EQ(-1, ksm_first_wrong(page(map, i), 1, SEED, 0));
}

TEST_HARNESS_MAIN
