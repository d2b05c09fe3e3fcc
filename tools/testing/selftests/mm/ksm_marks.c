// SPDX-License-Identifier: GPL-2.0-only
/*
 * What other features keep in page tables outlives merging and unmerging, and nothing of
 * it comes into being by them: protection keys, guard pages, write tracking by
 * PAGEMAP_SCAN, minor faults for a monitor, marks of pages that are swapped out,
 * accessed and dirty bits, execute permission. ksm_uffd.c and ksm_zero_vm.c have the
 * marks of userfaultfd and soft-dirty tracking on pages in memory, ksm_flags.c what is
 * kept in VMAs.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include "ksm_util.h"
#include "vm_util.h"

#ifndef MADV_GUARD_INSTALL
#define MADV_GUARD_INSTALL	102
#define MADV_GUARD_REMOVE	103
#endif

#define PAGES	16
#define BYTES	((size_t)PAGES * psize())
#define SEED	1000
#define OTHER	2000
#define GROUP	"/sys/fs/cgroup/ksm_marks"

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

static size_t marked(char *map, size_t pages, uint64_t bit)
{
	return ksm_count_marked(getpid(), map, pages, bit);
}

/* Whether the kernel, on behalf of the test, may read from or write to an address. */
static bool may_read(char *at)
{
	int pipe_fd[2];
	bool done;

	if (pipe(pipe_fd))
		return false;
	done = write(pipe_fd[1], at, 1) == 1;
	close(pipe_fd[0]);
	close(pipe_fd[1]);
	return done;
}

static bool may_write(char *at)
{
	int fd = open("/dev/zero", O_RDONLY);
	bool done = fd >= 0 && read(fd, at, 1) == 1;

	close(fd);
	return done;
}

/* PAGES equal pages, registered, that will share a page of theirs or the zero page. */
FIXTURE(marks)
{
	struct ksm_test ksm;
	char *map;
};

FIXTURE_VARIANT(marks)
{
	bool empty;
};

FIXTURE_VARIANT_ADD(marks, on_merged_pages)	{ .empty = false };
FIXTURE_VARIANT_ADD(marks, on_zero_pages)	{ .empty = true };

static void fill(char *map, size_t pages, bool empty)
{
	if (empty)
		memset(map, 0, pages * psize());
	else
		ksm_fill(map, pages, SEED, 0);
}

/* The first page that does not hold what fill() has put there, or -1. */
static long first_wrong(char *map, size_t pages, bool empty)
{
	if (!empty)
		return ksm_first_wrong(map, pages, SEED, 0);
	for (size_t i = 0; i < pages * psize(); i++)
		if (map[i])
			return i / psize();
	return -1;
}

FIXTURE_SETUP(marks)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	ASSERT_EQ(0, ksm_set_number("use_zero_pages", variant->empty));
	self->map = ksm_map_fenced(PAGES);
	ASSERT_NE(NULL, self->map);
	fill(self->map, PAGES, variant->empty);
	ASSERT_EQ(0, ksm_mergeable(self->map, PAGES));
}

FIXTURE_TEARDOWN_PARENT(marks)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

/* Two protection keys, one for each half: each allows something else. */
static int rights(char *map)
{
	char *half = page(map, PAGES / 2);

	return may_read(map) | may_write(map) << 1 | may_read(half) << 2 | may_write(half) << 3;
}

TEST_F(marks, of_protection_keys_let_in_those_who_have_the_key)
{
	int lower = pkey_alloc(0, 0), upper = pkey_alloc(0, 0);
	char *half = page(self->map, PAGES / 2);

	if (upper < 0)
		SKIP(return, "no protection keys here");
	ASSERT_EQ(0, pkey_mprotect(self->map, BYTES / 2, PROT_READ | PROT_WRITE, lower));
	ASSERT_EQ(0, pkey_mprotect(half, BYTES / 2, PROT_READ | PROT_WRITE, upper));
	pkey_set(lower, PKEY_DISABLE_ACCESS);
	pkey_set(upper, PKEY_DISABLE_WRITE);
	ASSERT_EQ(4, rights(self->map));
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(1, frames(self->map, PAGES));
	EXPECT_EQ(4, rights(self->map));
	EXPECT_EQ(lower, ksm_smaps(getpid(), self->map, "ProtectionKey"));
	EXPECT_EQ(upper, ksm_smaps(getpid(), half, "ProtectionKey"));
	ASSERT_EQ(0, ksm_unmergeable(self->map, PAGES));
	ASSERT_EQ(PAGES, frames(self->map, PAGES));
	EXPECT_EQ(4, rights(self->map));

	ASSERT_EQ(0, ksm_mergeable(self->map, PAGES));
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(1, frames(self->map, PAGES));
	pkey_set(lower, 0);
	EXPECT_EQ(-1, first_wrong(self->map, PAGES, variant->empty));
	EXPECT_TRUE(may_write(self->map));
	EXPECT_EQ(0, self->map[0]);
	EXPECT_EQ(-1, first_wrong(page(self->map, 1), PAGES - 1, variant->empty));
}

/* Each second page is a guard. */
static bool guards_stand(char *map)
{
	for (size_t i = 0; i < PAGES; i++) {
		if (may_read(page(map, i)) != !(i % 2))
			return false;
		if (marked(page(map, i), 1, PM_GUARD_REGION) != i % 2)
			return false;
	}
	return true;
}

/* The pages between the guards share one frame, or have one each. */
#define EXPECT_GUARDED(want)							\
do {										\
	EXPECT_EQ(want, frames(self->map, PAGES));				\
	EXPECT_TRUE(guards_stand(self->map));					\
} while (0)

TEST_F(marks, of_guard_pages_keep_everybody_out)
{
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(1, frames(self->map, PAGES));
	for (size_t i = 1; i < PAGES; i += 2)
		if (madvise(page(self->map, i), psize(), MADV_GUARD_INSTALL))
			SKIP(return, "this kernel has no guard pages");
	EXPECT_GUARDED(1);
	ASSERT_EQ(0, ksm_set("run", "2"));
	EXPECT_GUARDED(PAGES / 2);
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_GUARDED(1);
	ASSERT_EQ(0, ksm_unmergeable(self->map, PAGES));
	EXPECT_GUARDED(PAGES / 2);
	ASSERT_EQ(0, madvise(self->map, BYTES, MADV_GUARD_REMOVE));
	for (size_t i = 0; i < PAGES; i++)
		EXPECT_EQ(-1, first_wrong(page(self->map, i), 1, variant->empty || i % 2));
}

/*
 * How many pages have one of these categories; with @protect those count as not
 * written to from then on. -errno.
 */
static long scan(char *map, uint64_t categories, bool protect)
{
	struct page_region regions[PAGES];
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.flags = PM_SCAN_CHECK_WPASYNC | (protect ? PM_SCAN_WP_MATCHING : 0),
		.start = (uintptr_t)map,
		.end = (uintptr_t)map + BYTES,
		.vec = (uintptr_t)regions,
		.vec_len = PAGES,
		.category_anyof_mask = categories,
		.return_mask = categories,
	};
	int fd = open("/proc/self/pagemap", O_RDONLY);
	int found = ioctl(fd, PAGEMAP_SCAN, &arg);
	long pages = found < 0 ? -errno : 0;

	close(fd);
	for (int i = 0; i < found; i++)
		pages += (regions[i].end - regions[i].start) / psize();
	return pages;
}

TEST_F(marks, of_a_scan_that_protects_tell_of_writes_only)
{
	if (ksm_open_uffd(self->map, PAGES, UFFD_FEATURE_WP_ASYNC, UFFDIO_REGISTER_MODE_WP) < 0)
		SKIP(return, "this kernel cannot track writes this way");
	ASSERT_EQ(PAGES, scan(self->map, PAGE_IS_WRITTEN, true));
	ASSERT_EQ(0, scan(self->map, PAGE_IS_WRITTEN, true));
	for (unsigned int round = 0; round < 3; round++) {
		ASSERT_TRUE(ksm_merge_all());
		ASSERT_EQ(1, frames(self->map, PAGES));
		EXPECT_EQ(0, scan(self->map, PAGE_IS_WRITTEN, true));
		EXPECT_EQ(variant->empty ? PAGES : 0, scan(self->map, PAGE_IS_PFNZERO, false));
		/* To protect what is merged does not part it. */
		EXPECT_EQ(PAGES, scan(self->map, PAGE_IS_PRESENT, true));
		EXPECT_EQ(1, frames(self->map, PAGES));
		fill(page(self->map, round), 2, variant->empty);
		EXPECT_EQ(2, scan(self->map, PAGE_IS_WRITTEN, true));
		EXPECT_EQ(0, scan(self->map, PAGE_IS_WRITTEN, false));
		ASSERT_EQ(0, ksm_set("run", "2"));
		EXPECT_EQ(PAGES, frames(self->map, PAGES));
		EXPECT_EQ(0, scan(self->map, PAGE_IS_WRITTEN, true));
		EXPECT_EQ(0, scan(self->map, PAGE_IS_PFNZERO, false));
	}
	/* What was written before it merges was written. */
	fill(self->map, PAGES / 2, variant->empty);
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(1, frames(self->map, PAGES));
	EXPECT_EQ(PAGES / 2, scan(self->map, PAGE_IS_WRITTEN, true));
	EXPECT_EQ(-1, first_wrong(self->map, PAGES, variant->empty));
}

/* A private mapping of a file in memory, whose pages are the file's until written to. */
static char *map_shmem(void)
{
	int fd = memfd_create("ksm_marks", 0);
	char *map;

	if (fd < 0 || ftruncate(fd, BYTES))
		return NULL;
	map = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	close(fd);
	return map == MAP_FAILED ? NULL : map;
}

TEST_F(marks, of_a_monitor_of_minor_faults_stay)
{
	struct uffdio_continue answer;
	char *map = map_shmem();
	int fd;

	ASSERT_NE(NULL, map);
	fill(map, PAGES, variant->empty);
	fd = ksm_open_uffd(map, PAGES, UFFD_FEATURE_MINOR_SHMEM | UFFD_FEATURE_SIGBUS,
			   UFFDIO_REGISTER_MODE_MINOR);
	if (fd < 0)
		SKIP(return, "this kernel has no minor faults for userfaultfd");
	ASSERT_EQ(0, ksm_mergeable(map, PAGES));
	ASSERT_TRUE(ksm_merge_all());
	/* Zero pages are for anonymous mappings. */
	EXPECT_EQ(PAGES, merged(map, PAGES));
	EXPECT_EQ(1, frames(map, PAGES));
	ASSERT_EQ(0, madvise(page(map, 3), psize(), MADV_DONTNEED));
	EXPECT_FALSE(may_read(page(map, 3)));
	ASSERT_EQ(0, ksm_set("run", "2"));
	EXPECT_EQ(PAGES - 1, frames(map, PAGES));
	EXPECT_FALSE(may_read(page(map, 3)));
	answer = (struct uffdio_continue) {
		.range = { .start = (uintptr_t)page(map, 3), .len = psize() },
	};
	ASSERT_EQ(0, ioctl(fd, UFFDIO_CONTINUE, &answer));
	EXPECT_TRUE(may_read(page(map, 3)));
	EXPECT_EQ(-1, first_wrong(page(map, 3), 1, true));
	EXPECT_EQ(-1, first_wrong(map, 3, variant->empty));
	EXPECT_EQ(-1, first_wrong(page(map, 4), PAGES - 4, variant->empty));
	close(fd);
}

/* PAGES equal pages. */
FIXTURE(pages)
{
	struct ksm_test ksm;
	char *map;
};

FIXTURE_SETUP(pages)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	self->map = ksm_map_fenced(PAGES);
	ASSERT_NE(NULL, self->map);
	ksm_fill(self->map, PAGES, SEED, 0);
	ASSERT_EQ(0, ksm_mergeable(self->map, PAGES));
}

FIXTURE_TEARDOWN_PARENT(pages)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
	rmdir(GROUP);
}

static long referenced_pages(char *map)
{
	return ksm_smaps(getpid(), map, "Referenced") * 1024 / psize();
}

/*
 * To clear accessed bits flushes no TLB, and an entry that is cached sets no bit; to
 * clear soft-dirty bits does, where there are any.
 */
static bool forget_accesses(void)
{
	return !ksm_write_text("/proc/self/clear_refs", "1") &&
	       !ksm_write_text("/proc/self/clear_refs", "4");
}

/* To look at a page is no access, and to look for writes takes no access away. */
TEST_F(pages, that_are_looked_at_are_accessed_by_their_owner_only)
{
	if (!forget_accesses())
		SKIP(return, "this kernel has no clear_refs");
	for (unsigned int round = 0; round < 4; round++) {
		const bool equal = round % 2, smart = round / 2;

		ASSERT_EQ(0, ksm_set_number("smart_scan", smart));
		ksm_fill(self->map, PAGES, equal ? SEED : OTHER, !equal);
		ASSERT_TRUE(ksm_merge_all());
		/* Pages that changed just now may be left alone for some passes. */
		ASSERT_TRUE(ksm_wait_until(frames(self->map, PAGES) == (equal ? 1 : PAGES)));
		EXPECT_EQ(PAGES, referenced_pages(self->map));
		ASSERT_TRUE(forget_accesses());
		ASSERT_EQ(0, referenced_pages(self->map));
		ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
		EXPECT_EQ(0, referenced_pages(self->map));
		FORCE_READ(*page(self->map, 5));
		ksm_fill(page(self->map, 6), 1, equal ? SEED : OTHER + 6, 0);
		ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
		EXPECT_EQ(2, referenced_pages(self->map));
	}
}

#ifdef __x86_64__
/* Whether a call of the code at an address, in a child, comes back. */
static bool may_run(char *at)
{
	int status;
	pid_t child = fork();

	if (!child) {
		((void (*)(void))(uintptr_t)at)();
		_exit(0);
	}
	return child > 0 && waitpid(child, &status, 0) == child && status == 0;
}

TEST_F(pages, that_hold_code_run_only_where_that_is_allowed)
{
	char *half = page(self->map, PAGES / 2);

	memset(self->map, 0xc3, BYTES);	/* ret */
	ASSERT_EQ(0, mprotect(half, BYTES / 2, PROT_READ | PROT_EXEC));
	if (may_run(self->map))
		SKIP(return, "this machine runs code wherever it is");
	for (unsigned int round = 0; round < 2; round++) {
		ASSERT_TRUE(ksm_merge_all());
		ASSERT_EQ(1, frames(self->map, PAGES));
		EXPECT_FALSE(may_run(self->map));
		EXPECT_TRUE(may_run(half));
		EXPECT_FALSE(may_write(half));
		ASSERT_EQ(0, ksm_set("run", "2"));
		ASSERT_EQ(PAGES, frames(self->map, PAGES));
		EXPECT_FALSE(may_run(self->map));
		EXPECT_TRUE(may_run(half));
		EXPECT_FALSE(may_write(half));
	}
}
#endif

/* A memory cgroup of the test's own, so that only its memory is reclaimed. */
static const char *enter_group(void)
{
	char text[256];

	if (ksm_read_text("/proc/swaps", text, sizeof(text)) || !strchr(text, '/'))
		return "no swap is on";
	if (mkdir(GROUP, 0755) && errno != EEXIST)
		return "no memory.reclaim: needs cgroup2 with the memory controller";
	snprintf(text, sizeof(text), "%d", getpid());
	if (ksm_write_text(GROUP "/cgroup.procs", text) || access(GROUP "/memory.reclaim", W_OK))
		return "no memory.reclaim: needs cgroup2 with the memory controller";
	return NULL;
}

static bool swap_out(char *map)
{
	return ksm_wait_until((ksm_write_text(GROUP "/memory.reclaim", "16M"),
			       ksm_count_present(getpid(), map, PAGES) == 0));
}

/* Only the dirty bit says that they were written to after that. */
TEST_F(pages, that_were_freed_lazily_and_written_to_are_not_lost)
{
	const char *why = enter_group();

	if (why)
		SKIP(return, "%s", why);
	ASSERT_EQ(0, ksm_set("smart_scan", "1"));
	ASSERT_EQ(0, madvise(self->map, BYTES, MADV_DONTNEED));
	ksm_fill(self->map, PAGES, OTHER, 1);
	ASSERT_EQ(0, madvise(self->map, BYTES, MADV_FREE));
	ksm_fill(self->map, PAGES, OTHER, 1);
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(0, ksm_set("run", "0"));
	ASSERT_TRUE(swap_out(self->map));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, OTHER, 1));
}

#define EXPECT_HALVES_MARKED(map)						\
do {										\
	char *__map = (map), *__half = page(__map, PAGES / 2);			\
										\
	EXPECT_EQ(PAGES / 2, marked(__map, PAGES / 2, PM_UFFD_WP));		\
	EXPECT_EQ(0, marked(__map, PAGES / 2, PM_SOFT_DIRTY));			\
	EXPECT_EQ(0, marked(__half, PAGES / 2, PM_UFFD_WP));			\
	EXPECT_EQ(PAGES / 2, marked(__half, PAGES / 2, PM_SOFT_DIRTY));	\
} while (0)

TEST_F(pages, that_are_swapped_out_merged_keep_the_marks_of_each_place)
{
	struct uffdio_writeprotect protect = {
		.range = { .start = (uintptr_t)self->map, .len = BYTES / 2 },
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};
	const char *why;
	int fd;

	if (!softdirty_supported())
		SKIP(return, "this kernel does not track soft-dirty pages");
	why = enter_group();
	if (why)
		SKIP(return, "%s", why);
	/* Charged to the group. */
	ASSERT_EQ(0, madvise(self->map, BYTES, MADV_DONTNEED));
	ksm_fill(self->map, PAGES, SEED, 0);
	fd = ksm_open_uffd(self->map, PAGES, UFFD_FEATURE_PAGEFAULT_FLAG_WP,
			   UFFDIO_REGISTER_MODE_WP);
	if (fd < 0)
		SKIP(return, "this kernel has no userfaultfd that protects pages");
	clear_softdirty();
	ksm_fill(page(self->map, PAGES / 2), PAGES / 2, SEED, 0);
	ASSERT_EQ(0, ioctl(fd, UFFDIO_WRITEPROTECT, &protect));
	for (unsigned int round = 0; round < 2; round++) {
		ASSERT_TRUE(ksm_merge_all());
		ASSERT_EQ(1, frames(self->map, PAGES));
		EXPECT_HALVES_MARKED(self->map);
		ASSERT_EQ(0, ksm_set("run", "0"));
		ASSERT_TRUE(swap_out(self->map));
		EXPECT_EQ(PAGES, marked(self->map, PAGES, PM_SWAP));
		EXPECT_HALVES_MARKED(self->map);
		EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 0));
		EXPECT_EQ(PAGES, ksm_count_present(getpid(), self->map, PAGES));
		EXPECT_HALVES_MARKED(self->map);
	}
}

TEST_HARNESS_MAIN
