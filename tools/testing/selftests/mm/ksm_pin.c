// SPDX-License-Identifier: GPL-2.0-only
/*
 * A page that somebody holds, such as io_uring, a pipe or a driver, may be read
 * and written without a page fault. It is never merged as long as it is held,
 * others that are equal to it merge meanwhile, and who pins a merged page gets
 * one of its own first: what is written through the pin is seen by the process
 * and by nobody else.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include "../../../../mm/gup_test.h"
#include "ksm_util.h"
#include "vm_util.h"

/* Not more than fit into a pipe. */
#define PAGES		8
#define MANY_PASSES	20
#define SEED		1000
#define OTHER		2000

static char *page(char *map, size_t index)
{
	return map + index * psize();
}

static unsigned long pfn(char *map, size_t index)
{
	return ksm_pfn(getpid(), page(map, index));
}

static size_t merged(char *map, size_t pages)
{
	return ksm_count_merged(getpid(), map, pages);
}

static size_t frames(char *map, size_t pages)
{
	return ksm_count_frames(getpid(), map, pages);
}

struct frames {
	unsigned long pfn[PAGES];
};

static struct frames frames_of(char *map)
{
	struct frames now;

	for (size_t i = 0; i < PAGES; i++)
		now.pfn[i] = pfn(map, i);
	return now;
}

static bool same_frames(char *map, const struct frames *before)
{
	struct frames now = frames_of(map);

	return !memcmp(&now, before, sizeof(now));
}

/* This and the others: -errno, or what to close to let go. */
static int hold_by_pipe(char *map, size_t pages)
{
	struct iovec part = { .iov_base = map, .iov_len = pages * psize() };
	int ends[2];

	if (pipe(ends))
		return -errno;
	if (vmsplice(ends[1], &part, 1, 0) != (ssize_t)part.iov_len)
		return -EIO;
	close(ends[1]);
	return ends[0];
}

static int pin_by_io_uring(char *map, size_t pages)
{
	struct iovec part = { .iov_base = map, .iov_len = pages * psize() };
	struct io_uring_params params = { 0 };
	int fd = syscall(__NR_io_uring_setup, 1, &params);

	if (fd < 0)
		return -errno;
	if (syscall(__NR_io_uring_register, fd, IORING_REGISTER_BUFFERS, &part, 1))
		return -errno;
	return fd;
}

static int pin_by_gup_test(char *map, size_t pages, unsigned int flags)
{
	struct pin_longterm_test pin = {
		.addr = (uintptr_t)map,
		.size = pages * psize(),
		.flags = flags,
	};
	int fd = open("/sys/kernel/debug/gup_test", O_RDWR);

	if (fd < 0)
		return -errno;
	if (ioctl(fd, PIN_LONGTERM_TEST_START, &pin))
		return -errno;
	return fd;
}

static int pin_to_read(char *map, size_t pages)
{
	return pin_by_gup_test(map, pages, 0);
}

static int pin_to_read_fast(char *map, size_t pages)
{
	return pin_by_gup_test(map, pages, PIN_LONGTERM_TEST_FLAG_USE_FAST);
}

static int pin_to_write(char *map, size_t pages)
{
	return pin_by_gup_test(map, pages, PIN_LONGTERM_TEST_FLAG_USE_WRITE);
}

static int pin_to_write_fast(char *map, size_t pages)
{
	return pin_by_gup_test(map, pages, PIN_LONGTERM_TEST_FLAG_USE_WRITE |
			       PIN_LONGTERM_TEST_FLAG_USE_FAST);
}

FIXTURE(held)
{
	struct ksm_test ksm;
	char *map;	/* 3 * PAGES */
	int fd;
};

FIXTURE_VARIANT(held)
{
	int (*hold)(char *map, size_t pages);
	const char *by;
	bool pins;	/* and does not only take references */
};

FIXTURE_VARIANT_ADD(held, by_pipe)
{
	.hold = hold_by_pipe,
	.by = "vmsplice",
};

FIXTURE_VARIANT_ADD(held, by_io_uring)
{
	.hold = pin_by_io_uring,
	.by = "io_uring",
	.pins = true,
};

FIXTURE_VARIANT_ADD(held, to_read)
{
	.hold = pin_to_read,
	.by = "debugfs with gup_test",
	.pins = true,
};

FIXTURE_VARIANT_ADD(held, to_read_fast)
{
	.hold = pin_to_read_fast,
	.by = "debugfs with gup_test",
	.pins = true,
};

FIXTURE_VARIANT_ADD(held, to_write)
{
	.hold = pin_to_write,
	.by = "debugfs with gup_test",
	.pins = true,
};

FIXTURE_VARIANT_ADD(held, to_write_fast)
{
	.hold = pin_to_write_fast,
	.by = "debugfs with gup_test",
	.pins = true,
};

/* Is what holds pages here? It is tried on a page of no interest. */
static bool can_hold(int (*hold)(char *map, size_t pages))
{
	char *map = ksm_map_pages(1);
	int fd = hold(map, 1);

	if (fd >= 0)
		close(fd);
	munmap(map, psize());
	return fd != -ENOSYS && fd != -ENOENT;
}

FIXTURE_SETUP(held)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	if (!can_hold(variant->hold))
		SKIP(return, "this kernel has no %s", variant->by);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	self->map = ksm_map_registered(3 * PAGES);
	ASSERT_NE(NULL, self->map);
}

FIXTURE_TEARDOWN_PARENT(held)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

/* Three equal thirds, of which one is held: do the others merge without it? */
static void hold_one_third(struct __test_metadata *_metadata, char *map, size_t third,
			   int (*hold)(char *map, size_t pages))
{
	char *held = page(map, third * PAGES);
	struct frames before;
	int fd;

	for (size_t i = 0; i < 3; i++)
		ksm_fill(page(map, i * PAGES), PAGES, SEED, 1);
	fd = hold(held, PAGES);
	ASSERT_GE(fd, 0);
	before = frames_of(held);
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_EQ(PAGES, ksm_get("pages_shared"));
	EXPECT_EQ(PAGES, ksm_get("pages_sharing"));
	ASSERT_TRUE(ksm_wait_passes(MANY_PASSES));
	EXPECT_EQ(0, merged(held, PAGES));
	EXPECT_TRUE(same_frames(held, &before));
	EXPECT_EQ(2 * PAGES, merged(map, 3 * PAGES));
	EXPECT_EQ(2 * PAGES, frames(map, 3 * PAGES));

	/* The mapping and the hold still mean the same pages. */
	ksm_fill(held, PAGES, OTHER, 1);
	EXPECT_TRUE(same_frames(held, &before));
	ksm_fill(held, PAGES, SEED, 1);
	EXPECT_TRUE(same_frames(held, &before));

	ASSERT_EQ(0, close(fd));
	EXPECT_TRUE(ksm_wait_until(merged(held, PAGES) == PAGES));
	EXPECT_TRUE(ksm_wait_until(ksm_get("pages_sharing") == 2 * PAGES));
	EXPECT_EQ(PAGES, ksm_get("pages_shared"));
	EXPECT_EQ(PAGES, frames(map, 3 * PAGES));
	for (size_t i = 0; i < 3; i++)
		EXPECT_EQ(-1, ksm_first_wrong(page(map, i * PAGES), PAGES, SEED, 1));
}

TEST_F(held, first_page_stays_alone_and_does_not_keep_others_apart)
{
	hold_one_third(_metadata, self->map, 0, variant->hold);
}

TEST_F(held, middle_page_stays_alone_and_does_not_keep_others_apart)
{
	hold_one_third(_metadata, self->map, 1, variant->hold);
}

TEST_F(held, last_page_stays_alone_and_does_not_keep_others_apart)
{
	hold_one_third(_metadata, self->map, 2, variant->hold);
}

TEST_F(held, equal_pages_stay_apart_until_both_are_free)
{
	char *map = self->map;
	int second;

	ksm_fill(map, 2, SEED, 0);
	self->fd = variant->hold(map, 1);
	ASSERT_GE(self->fd, 0);
	second = variant->hold(page(map, 1), 1);
	ASSERT_GE(second, 0);
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_TRUE(ksm_wait_passes(MANY_PASSES));
	EXPECT_EQ(0, merged(map, 2));
	EXPECT_EQ(2, frames(map, 2));
	ASSERT_EQ(0, close(self->fd));
	ASSERT_TRUE(ksm_wait_passes(MANY_PASSES));
	/* A lone page may count as merged once its partner fell away; it has none. */
	EXPECT_EQ(0, merged(page(map, 1), 1));
	EXPECT_EQ(2, frames(map, 2));
	EXPECT_EQ(0, ksm_get("pages_sharing"));
	ASSERT_EQ(0, close(second));
	EXPECT_TRUE(ksm_wait_until(merged(map, 2) == 2));
	EXPECT_EQ(1, frames(map, 2));
	EXPECT_EQ(-1, ksm_first_wrong(map, 2, SEED, 0));
}

/*
 * The second page waits for an equal one, and is held before ksmd gets to see that:
 * it comes to the first page, which is equal now, before it comes to the second.
 * Returns whether the hold came before they merged.
 */
static bool hold_who_waits(struct __test_metadata *_metadata, char *map, unsigned int seed,
			   unsigned int alone, unsigned int together,
			   int (*hold)(char *map, size_t pages))
{
	unsigned long frame;
	int fd;

	/* Checksums that were seen once are looked for. */
	ksm_fill(page(map, 2), 1, seed, 0);
	EXPECT_TRUE(ksm_pass_by(3));
	ksm_fill(page(map, 2), 1, seed + OTHER, 0);
	ksm_fill(page(map, 1), 1, seed, 0);
	EXPECT_TRUE(ksm_pass_by(alone));
	ksm_fill(map, 1, seed, 0);
	EXPECT_TRUE(ksm_pass_by(together));
	if (merged(map, 2))
		return false;
	fd = hold(page(map, 1), 1);
	frame = pfn(map, 1);
	EXPECT_GE(fd, 0);
	EXPECT_TRUE(ksm_pass_by(4));
	EXPECT_EQ(0, merged(page(map, 1), 1));
	EXPECT_EQ(frame, pfn(map, 1));
	EXPECT_EQ(0, close(fd));
	return true;
}

TEST_F(held, who_waits_for_a_partner_is_left_alone)
{
	unsigned int seed = SEED, held = 0;

	for (unsigned int alone = 0; alone < 5; alone++)
		for (unsigned int together = 0; together < 3; together++)
			held += hold_who_waits(_metadata, self->map, seed++, alone, together,
					       variant->hold);
	EXPECT_GT(held, 5);
}

/* Known as unique for long, then held, and only then it finds its equals. */
TEST_F(held, candidate_does_not_keep_late_twins_apart)
{
	char *map = self->map;
	unsigned long frame;

	ksm_fill(map, 3, SEED, 1);
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_TRUE(ksm_wait_passes(MANY_PASSES));
	EXPECT_EQ(3, ksm_get("pages_unshared"));
	self->fd = variant->hold(map, 1);
	ASSERT_GE(self->fd, 0);
	frame = pfn(map, 0);
	ksm_fill(page(map, 1), 2, SEED, 0);
	ASSERT_TRUE(ksm_wait_passes(MANY_PASSES));
	EXPECT_EQ(2, merged(page(map, 1), 2));
	EXPECT_EQ(pfn(map, 1), pfn(map, 2));
	EXPECT_EQ(0, merged(map, 1));
	EXPECT_EQ(frame, pfn(map, 0));
	ASSERT_EQ(0, close(self->fd));
	EXPECT_TRUE(ksm_wait_until(frames(map, 3) == 1));
	EXPECT_EQ(-1, ksm_first_wrong(map, 3, SEED, 0));
}

TEST_F(held, merged_page_becomes_the_own_one_of_who_pins_it)
{
	char *map = self->map;
	struct frames before;

	ksm_fill(map, 3 * PAGES, SEED, 0);
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(1, frames(map, 3 * PAGES));
	self->fd = variant->hold(map, PAGES);
	ASSERT_GE(self->fd, 0);
	before = frames_of(map);
	ASSERT_TRUE(ksm_wait_passes(MANY_PASSES));
	EXPECT_TRUE(same_frames(map, &before));
	/* A pipe may hold the merged page itself: it can only be read through that. */
	EXPECT_EQ(variant->pins ? 0 : PAGES, merged(map, PAGES));
	EXPECT_EQ(variant->pins ? PAGES : 1, frames(map, PAGES));
	EXPECT_EQ(2 * PAGES, merged(page(map, PAGES), 2 * PAGES));
	EXPECT_EQ(1, frames(page(map, PAGES), 2 * PAGES));

	ksm_fill(map, PAGES, OTHER, 1);
	EXPECT_EQ(variant->pins, same_frames(map, &before));
	EXPECT_EQ(-1, ksm_first_wrong(map, PAGES, OTHER, 1));
	EXPECT_EQ(-1, ksm_first_wrong(page(map, PAGES), 2 * PAGES, SEED, 0));
	ksm_fill(map, PAGES, SEED, 0);
	ASSERT_EQ(0, close(self->fd));
	EXPECT_TRUE(ksm_wait_until(frames(map, 3 * PAGES) == 1));
	EXPECT_EQ(-1, ksm_first_wrong(map, 3 * PAGES, SEED, 0));
}

TEST_F(held, page_stays_with_the_process_that_forks)
{
	struct ksm_worker *child = self->ksm.workers;
	char *map = self->map;
	struct frames before;

	ASSERT_EQ(0, madvise(page(map, PAGES), 2 * PAGES * psize(), MADV_DONTFORK));
	ksm_fill(map, PAGES, SEED, 1);
	ksm_fill(page(map, PAGES), PAGES, SEED, 1);
	self->fd = variant->hold(map, PAGES);
	ASSERT_GE(self->fd, 0);
	before = frames_of(map);
	ASSERT_TRUE(ksm_fork_worker(&self->ksm, 0, map, PAGES));
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_TRUE(ksm_wait_passes(MANY_PASSES));
	EXPECT_EQ(0, merged(map, PAGES));
	EXPECT_TRUE(same_frames(map, &before));
	/* Fork copies what is pinned, and the copies are free to merge. */
	EXPECT_EQ(variant->pins ? PAGES : 0, ksm_count_merged(child->pid, child->map, PAGES));
	ksm_fill(map, PAGES, OTHER, 1);
	EXPECT_EQ(variant->pins, same_frames(map, &before));
	EXPECT_EQ(-1, ksm_ask(child, ksm_job_first_wrong, SEED, 1, 0));
	EXPECT_EQ(-1, ksm_first_wrong(map, PAGES, OTHER, 1));
	EXPECT_EQ(-1, ksm_first_wrong(page(map, PAGES), PAGES, SEED, 1));
}

/* A huge page in a mapping of its own, or NULL. */
static char *map_huge(size_t size)
{
	char *map = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (map == MAP_FAILED)
		return NULL;
	map = (char *)(((uintptr_t)map + size - 1) & ~(size - 1));
	if (madvise(map, size, MADV_HUGEPAGE) || madvise(map, size, MADV_DONTFORK))
		return NULL;
	ksm_fill(map, size / psize(), SEED, 1);
	if (ksm_smaps(getpid(), map, "AnonHugePages") * 1024 != (long)size)
		return NULL;
	return map;
}

/* One of its pages is held, so it cannot be split, and none of them be merged. */
TEST_F(held, huge_page_does_not_keep_late_twins_apart)
{
	char *twins = page(self->map, PAGES);
	size_t pages = read_pmd_pagesize() / psize();
	char *huge = pages ? map_huge(pages * psize()) : NULL;

	if (!huge)
		SKIP(return, "no huge page to be had: no THP here, or memory is fragmented");
	ASSERT_EQ(0, ksm_mergeable(huge, pages));
	self->fd = variant->hold(page(huge, pages - 1), 1);
	ASSERT_GE(self->fd, 0);
	ASSERT_TRUE(ksm_merge_all());
	ksm_fill(twins, PAGES, SEED, 1);
	ksm_fill(page(twins, PAGES), PAGES, SEED, 1);
	ASSERT_TRUE(ksm_wait_passes(MANY_PASSES));
	EXPECT_EQ(2 * PAGES, merged(twins, 2 * PAGES));
	EXPECT_EQ(PAGES, frames(twins, 2 * PAGES));
	EXPECT_EQ(0, merged(huge, pages));
	ASSERT_EQ(0, close(self->fd));
	EXPECT_TRUE(ksm_wait_until(merged(huge, pages) == PAGES));
	EXPECT_EQ(pfn(twins, 0), pfn(huge, 0));
	EXPECT_EQ(-1, ksm_first_wrong(huge, pages, SEED, 1));
	EXPECT_EQ(-1, ksm_first_wrong(twins, PAGES, SEED, 1));
	EXPECT_EQ(-1, ksm_first_wrong(page(twins, PAGES), PAGES, SEED, 1));
}

/* What was spliced into a pipe stays what it was, whatever becomes of the process's page. */
FIXTURE(pipe_of_merged)
{
	struct ksm_test ksm;
	char *map;	/* 2 * PAGES equal pages, merged; the first half is in the pipe */
	int fd;
};

FIXTURE_SETUP(pipe_of_merged)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	self->map = ksm_map_registered(2 * PAGES);
	ASSERT_NE(NULL, self->map);
	ksm_fill(self->map, 2 * PAGES, SEED, 0);
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(1, frames(self->map, 2 * PAGES));
	self->fd = hold_by_pipe(self->map, PAGES);
	ASSERT_GE(self->fd, 0);
}

FIXTURE_TEARDOWN_PARENT(pipe_of_merged)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

static bool pipe_has_seed(int fd)
{
	char *copy = ksm_map_pages(PAGES);
	size_t done = 0;

	while (done < PAGES * psize()) {
		ssize_t got = read(fd, copy + done, PAGES * psize() - done);

		if (got <= 0)
			return false;
		done += got;
	}
	return ksm_first_wrong(copy, PAGES, SEED, 0) == -1;
}

TEST_F(pipe_of_merged, keeps_its_bytes_when_the_process_writes)
{
	ksm_fill(self->map, 2 * PAGES, OTHER, 1);
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_TRUE(pipe_has_seed(self->fd));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, 2 * PAGES, OTHER, 1));
}

TEST_F(pipe_of_merged, keeps_its_bytes_when_all_is_unmerged)
{
	ASSERT_EQ(0, ksm_set("run", "2"));
	EXPECT_EQ(0, merged(self->map, 2 * PAGES));
	EXPECT_EQ(2 * PAGES, frames(self->map, 2 * PAGES));
	EXPECT_EQ(0, ksm_get("pages_shared"));
	ksm_fill(self->map, 2 * PAGES, OTHER, 1);
	EXPECT_TRUE(pipe_has_seed(self->fd));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, 2 * PAGES, OTHER, 1));
}

TEST_F(pipe_of_merged, keeps_its_bytes_when_the_memory_is_unmapped)
{
	char *other = ksm_map_registered(PAGES);

	ASSERT_NE(NULL, other);
	ASSERT_EQ(0, munmap(self->map, 2 * PAGES * psize()));
	ksm_fill(other, PAGES, SEED, 0);
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(PAGES, merged(other, PAGES));
	EXPECT_TRUE(pipe_has_seed(self->fd));
	EXPECT_EQ(-1, ksm_first_wrong(other, PAGES, SEED, 0));
	ksm_fill(other, PAGES, OTHER, 0);
	EXPECT_EQ(-1, ksm_first_wrong(other, PAGES, OTHER, 0));
}

TEST_HARNESS_MAIN
