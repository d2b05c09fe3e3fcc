// SPDX-License-Identifier: GPL-2.0-only
/*
 * What merges and what does not, and what writing to merged pages does. Each test
 * checks the content of every page it filled, not only counters.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include "ksm_util.h"
#include "vm_util.h"

#define PAGES	16
#define SEED	1000

/* Content numbers for each test's own use, far from each other. */
#define OTHER	2000

FIXTURE(merging)
{
	struct ksm_test ksm;
};

FIXTURE_SETUP(merging)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
}

FIXTURE_TEARDOWN_PARENT(merging)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

static char *page(char *map, size_t index)
{
	return map + index * psize();
}

static unsigned long pfn(char *map, size_t index)
{
	return ksm_pfn(getpid(), page(map, index));
}

static bool is_merged(char *map, size_t index)
{
	return ksm_count_merged(getpid(), page(map, index), 1) == 1;
}

#define EXPECT_COUNTERS(shared, sharing, unshared)			\
do {									\
	EXPECT_EQ(shared, ksm_get("pages_shared"));			\
	EXPECT_EQ(sharing, ksm_get("pages_sharing"));			\
	EXPECT_EQ(unshared, ksm_get("pages_unshared"));			\
	EXPECT_EQ(0, ksm_get("pages_volatile"));			\
} while (0)

TEST_F(merging, equal_pages_of_one_process_become_one_page)
{
	char *map = ksm_map_registered(PAGES);

	ASSERT_NE(NULL, map);
	ksm_fill(map, PAGES, SEED, 0);
	ASSERT_EQ(PAGES, ksm_count_frames(getpid(), map, PAGES));
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_COUNTERS(1, PAGES - 1, 0);
	EXPECT_EQ(1, ksm_count_frames(getpid(), map, PAGES));
	EXPECT_EQ(PAGES, ksm_count_merged(getpid(), map, PAGES));
	EXPECT_EQ(-1, ksm_first_wrong(map, PAGES, SEED, 0));
}

TEST_F(merging, merged_pages_are_not_exclusive_to_a_mapping)
{
	char *map = ksm_map_registered(2);

	ASSERT_NE(NULL, map);
	ksm_fill(map, 2, SEED, 0);
	EXPECT_TRUE(ksm_pagemap(getpid(), map) & PM_MMAP_EXCLUSIVE);
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_TRUE(is_merged(map, 0));
	EXPECT_FALSE(ksm_pagemap(getpid(), map) & PM_MMAP_EXCLUSIVE);
	EXPECT_FALSE(ksm_pagemap(getpid(), page(map, 1)) & PM_MMAP_EXCLUSIVE);
}

TEST_F(merging, equal_pages_of_several_processes_become_one_page)
{
	const unsigned int count = 4;
	struct ksm_worker *worker = self->ksm.workers;

	for (unsigned int i = 0; i < count; i++) {
		ASSERT_TRUE(ksm_fork_worker(&self->ksm, i, NULL, PAGES));
		ASSERT_EQ(0, ksm_ask(&worker[i], ksm_job_fill, SEED, 1, 0));
		ASSERT_EQ(0, ksm_ask(&worker[i], ksm_job_advise, MADV_MERGEABLE, 0, 0));
	}
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_COUNTERS(PAGES, PAGES * (count - 1), 0);
	for (unsigned int i = 0; i < count; i++) {
		EXPECT_EQ(PAGES, ksm_count_merged(worker[i].pid, worker[i].map, PAGES));
		for (size_t j = 0; j < PAGES; j++)
			EXPECT_EQ(ksm_pfn(worker[0].pid, page(worker[0].map, j)),
				  ksm_pfn(worker[i].pid, page(worker[i].map, j)));
		EXPECT_EQ(-1, ksm_ask(&worker[i], ksm_job_first_wrong, SEED, 1, 0));
	}
}

TEST_F(merging, different_pages_stay_apart)
{
	char *map = ksm_map_registered(PAGES);

	ASSERT_NE(NULL, map);
	ksm_fill(map, PAGES, SEED, 1);
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_COUNTERS(0, 0, PAGES);
	EXPECT_EQ(PAGES, ksm_count_frames(getpid(), map, PAGES));
	EXPECT_EQ(0, ksm_count_merged(getpid(), map, PAGES));
	EXPECT_EQ(-1, ksm_first_wrong(map, PAGES, SEED, 1));
}

TEST_F(merging, unregistered_pages_stay_apart)
{
	char *registered = ksm_map_registered(2);
	char *map = ksm_map_pages(PAGES);

	ASSERT_NE(NULL, registered);
	ASSERT_NE(NULL, map);
	ksm_fill(registered, 2, SEED, 0);
	ksm_fill(map, PAGES, SEED, 0);
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_COUNTERS(1, 1, 0);
	EXPECT_EQ(PAGES, ksm_count_frames(getpid(), map, PAGES));
	EXPECT_EQ(0, ksm_count_merged(getpid(), map, PAGES));
}

TEST_F(merging, untouched_memory_stays_untouched)
{
	char *map = ksm_map_registered(PAGES);

	ASSERT_NE(NULL, map);
	/* The first half is read, and so maps the kernel's zero page. */
	force_read_pages(map, PAGES / 2, psize());
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_COUNTERS(0, 0, 0);
	EXPECT_LE(ksm_count_frames(getpid(), map, PAGES), 1);
	EXPECT_EQ(0, ksm_count_present(getpid(), page(map, PAGES / 2), PAGES / 2));
	for (size_t i = 0; i < PAGES * psize(); i++)
		ASSERT_EQ(0, map[i]);
}

TEST_F(merging, empty_pages_merge_like_any_other)
{
	char *map = ksm_map_registered(PAGES);

	ASSERT_NE(NULL, map);
	memset(map, 0, PAGES * psize());
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_COUNTERS(1, PAGES - 1, 0);
	EXPECT_EQ(PAGES, ksm_count_merged(getpid(), map, PAGES));
	for (size_t i = 0; i < PAGES * psize(); i++)
		ASSERT_EQ(0, map[i]);
}

/* 256 pages of 64 contents, in an order that has no order. */
TEST_F(merging, mixture_merges_exactly_by_content)
{
	const size_t pages = 256, contents = 64;
	size_t count[64] = { 0 }, shared = 0, sharing = 0, unshared = 0;
	unsigned long frame[64] = { 0 };
	unsigned int of[256], random = 1;
	char *map = ksm_map_registered(pages);

	ASSERT_NE(NULL, map);
	for (size_t i = 0; i < pages; i++) {
		random = random * 1103515245 + 12345;
		of[i] = (random >> 16) % contents;
		of[i] = of[i] % 4 ? of[i] : of[i] * of[i] % contents;
		count[of[i]]++;
		ksm_fill(page(map, i), 1, SEED + of[i], 0);
	}
	for (size_t i = 0; i < contents; i++) {
		shared += count[i] > 1;
		sharing += count[i] > 1 ? count[i] - 1 : 0;
		unshared += count[i] == 1;
	}
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_COUNTERS(shared, sharing, unshared);
	for (size_t i = 0; i < pages; i++) {
		if (!frame[of[i]])
			frame[of[i]] = pfn(map, i);
		EXPECT_EQ(frame[of[i]], pfn(map, i));
		EXPECT_EQ(count[of[i]] > 1, is_merged(map, i));
		EXPECT_EQ(-1, ksm_first_wrong(page(map, i), 1, SEED + of[i], 0));
	}
}

/* Free memory in kilobytes, with what waits in the lists of each CPU. */
static long free_memory(void)
{
	long number, pages = 0;
	char line[256];
	FILE *zones;

	zones = fopen("/proc/zoneinfo", "r");
	while (zones && fgets(line, sizeof(line), zones)) {
		if (sscanf(line, " pages free %ld", &number) == 1 ||
		    sscanf(line, " count: %ld", &number) == 1)
			pages += number;
	}
	if (zones)
		fclose(zones);
	return pages * (psize() / 1024);
}

TEST_F(merging, memory_is_really_freed)
{
	const size_t contents = 64, copies = 64;
	const long saved = contents * (copies - 1) * psize() / 1024;
	char *map = ksm_map_registered(contents * copies);
	long before, anon_before;

	ASSERT_NE(NULL, map);
	for (size_t i = 0; i < copies; i++)
		ksm_fill(page(map, i * contents), contents, SEED, 1);
	before = free_memory();
	anon_before = ksm_meminfo("AnonPages");
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_COUNTERS(contents, contents * (copies - 1), 0);
	EXPECT_EQ(contents, ksm_count_frames(getpid(), map, contents * copies));
	/* Metadata takes a little of it. */
	EXPECT_GE(free_memory() - before, saved * 9 / 10);
	EXPECT_LE(ksm_meminfo("AnonPages"), anon_before - saved * 9 / 10);
	for (size_t i = 0; i < copies; i++)
		EXPECT_EQ(-1, ksm_first_wrong(page(map, i * contents), contents, SEED, 1));
}

TEST_F(merging, late_twin_joins_the_merged_page)
{
	char *map = ksm_map_registered(4);

	ASSERT_NE(NULL, map);
	ksm_fill(map, 2, SEED, 0);
	ksm_fill(page(map, 2), 2, OTHER, 1);
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_COUNTERS(1, 1, 2);
	ksm_fill(page(map, 2), 1, SEED, 0);
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_COUNTERS(1, 2, 1);
	EXPECT_EQ(pfn(map, 0), pfn(map, 2));
	EXPECT_EQ(-1, ksm_first_wrong(map, 3, SEED, 0));
	EXPECT_EQ(-1, ksm_first_wrong(page(map, 3), 1, OTHER + 1, 0));
}

/* Unique for many passes, then it finds a partner. */
TEST_F(merging, late_twin_merges_with_an_old_unshared_page)
{
	char *map = ksm_map_registered(2);

	ASSERT_NE(NULL, map);
	ksm_fill(map, 2, SEED, 1);
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_TRUE(ksm_wait_passes(3 * KSM_MERGE_PASSES));
	EXPECT_COUNTERS(0, 0, 2);
	ksm_fill(page(map, 1), 1, SEED, 0);
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_COUNTERS(1, 1, 0);
	EXPECT_EQ(pfn(map, 0), pfn(map, 1));
	EXPECT_EQ(-1, ksm_first_wrong(map, 2, SEED, 0));
}

/*
 * The page that is found as the partner of its neighbour waits in the same
 * batch, and must still be known as a merged one when its turn comes. The next
 * pass would find it anyway, so the neighbour leaves before that.
 */
TEST_F(merging, partner_in_the_same_batch_stays_known)
{
	char *map = ksm_map_registered(2);

	ASSERT_NE(NULL, map);
	ksm_fill(map, 2, SEED, 1);
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_COUNTERS(0, 0, 2);
	ASSERT_EQ(0, ksm_set("run", "0"));
	ksm_fill(map, 1, SEED + 1, 0);
	/* ksmd sleeps after each pass. */
	ASSERT_EQ(0, ksm_set("sleep_millisecs", "500"));
	ASSERT_EQ(0, ksm_set("run", "1"));
	ASSERT_TRUE(ksm_wait_until(is_merged(map, 0)));
	ASSERT_EQ(0, ksm_set("run", "0"));
	EXPECT_COUNTERS(1, 1, 0);

	ksm_fill(map, 1, SEED + 2, 0);
	ASSERT_EQ(0, ksm_set("sleep_millisecs", "0"));
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_COUNTERS(1, 0, 1);
	EXPECT_TRUE(is_merged(map, 1));
	EXPECT_EQ(-1, ksm_first_wrong(map, 2, SEED + 2, -1));
}

TEST_F(merging, merged_pages_rest_over_many_passes)
{
	char *map = ksm_map_registered(PAGES);
	unsigned long frame;

	ASSERT_NE(NULL, map);
	ksm_fill(map, PAGES, SEED, 0);
	ASSERT_TRUE(ksm_merge_all());
	frame = pfn(map, 0);
	ASSERT_TRUE(ksm_wait_passes(20));
	EXPECT_COUNTERS(1, PAGES - 1, 0);
	EXPECT_EQ(1, ksm_count_frames(getpid(), map, PAGES));
	EXPECT_EQ(frame, pfn(map, 0));
	EXPECT_EQ(-1, ksm_first_wrong(map, PAGES, SEED, 0));
}

TEST_F(merging, read_only_memory_merges_and_can_be_written_later)
{
	char *map = ksm_map_registered(PAGES);

	ASSERT_NE(NULL, map);
	ksm_fill(map, PAGES, SEED, 0);
	ASSERT_EQ(0, mprotect(map, PAGES * psize(), PROT_READ));
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_COUNTERS(1, PAGES - 1, 0);
	ASSERT_EQ(0, mprotect(map, PAGES * psize(), PROT_READ | PROT_WRITE));
	EXPECT_EQ(PAGES, ksm_count_merged(getpid(), map, PAGES));
	ksm_fill(map, 1, OTHER, 0);
	EXPECT_EQ(-1, ksm_first_wrong(map, 1, OTHER, 0));
	EXPECT_EQ(-1, ksm_first_wrong(page(map, 1), PAGES - 1, SEED, 0));
}

static int file_of(const char *content, size_t size)
{
	int fd = memfd_create("ksm_merge", 0);

	if (fd >= 0 && write(fd, content, size) != (ssize_t)size) {
		close(fd);
		return -1;
	}
	return fd;
}

TEST_F(merging, private_copies_of_file_pages_merge_and_the_file_does_not)
{
	char *content = ksm_map_pages(PAGES);
	unsigned long frames;
	char *map;
	int fd;

	ASSERT_NE(NULL, content);
	ksm_fill(content, PAGES, SEED, 0);
	fd = file_of(content, PAGES * psize());
	ASSERT_GE(fd, 0);
	map = mmap(NULL, PAGES * psize(), PROT_READ | PROT_WRITE, MAP_PRIVATE, fd, 0);
	ASSERT_NE(MAP_FAILED, map);
	ASSERT_EQ(0, ksm_mergeable(map, PAGES));
	/* The first half gets copies of its own, which are equal. */
	ksm_fill(map, PAGES / 2, OTHER, 0);
	force_read_pages(map, PAGES, psize());
	frames = ksm_count_frames(getpid(), page(map, PAGES / 2), PAGES / 2);
	EXPECT_EQ(PAGES / 2, frames);
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_COUNTERS(1, PAGES / 2 - 1, 0);
	EXPECT_EQ(PAGES / 2, ksm_count_merged(getpid(), map, PAGES));
	EXPECT_EQ(frames, ksm_count_frames(getpid(), page(map, PAGES / 2), PAGES / 2));
	EXPECT_EQ(-1, ksm_first_wrong(map, PAGES / 2, OTHER, 0));
	EXPECT_EQ(-1, ksm_first_wrong(page(map, PAGES / 2), PAGES / 2, SEED, 0));
	EXPECT_EQ((ssize_t)(PAGES * psize()), pread(fd, content, PAGES * psize(), 0));
	EXPECT_EQ(-1, ksm_first_wrong(content, PAGES, SEED, 0));
}

/* Only one byte is not the same. */
FIXTURE(one_byte)
{
	struct ksm_test ksm;
};

FIXTURE_VARIANT(one_byte)
{
	long offset;	/* from the end if negative */
};

FIXTURE_VARIANT_ADD(one_byte, first)		{ .offset = 0 };
FIXTURE_VARIANT_ADD(one_byte, second)		{ .offset = 1 };
FIXTURE_VARIANT_ADD(one_byte, inside)		{ .offset = 1234 };
FIXTURE_VARIANT_ADD(one_byte, end_of_half)	{ .offset = 2047 };
FIXTURE_VARIANT_ADD(one_byte, start_of_half)	{ .offset = 2048 };
FIXTURE_VARIANT_ADD(one_byte, eighth_from_last)	{ .offset = -8 };
FIXTURE_VARIANT_ADD(one_byte, last)		{ .offset = -1 };

FIXTURE_SETUP(one_byte)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
}

FIXTURE_TEARDOWN_PARENT(one_byte)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

TEST_F(one_byte, keeps_two_pages_apart_until_it_is_equal)
{
	size_t offset = variant->offset + (variant->offset < 0 ? psize() : 0);
	char *map = ksm_map_registered(3);

	ASSERT_NE(NULL, map);
	/* The third is a twin of the first, and shows when ksmd got round. */
	ksm_fill(map, 3, SEED, 0);
	page(map, 1)[offset] ^= 0x40;
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_COUNTERS(1, 1, 1);
	EXPECT_EQ(pfn(map, 0), pfn(map, 2));
	EXPECT_NE(pfn(map, 0), pfn(map, 1));
	EXPECT_FALSE(is_merged(map, 1));
	EXPECT_EQ(0, ksm_first_wrong(page(map, 1), 1, SEED, 0));

	page(map, 1)[offset] ^= 0x40;
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_COUNTERS(1, 2, 0);
	EXPECT_EQ(1, ksm_count_frames(getpid(), map, 3));
	EXPECT_EQ(-1, ksm_first_wrong(map, 3, SEED, 0));
}

/* A crowd of pages that only this byte tells apart. */
TEST_F(one_byte, tells_many_look_alikes_apart)
{
	size_t offset = variant->offset + (variant->offset < 0 ? psize() : 0);
	const size_t pages = 128;
	char *map = ksm_map_registered(pages);
	char original;

	ASSERT_NE(NULL, map);
	ksm_fill(map, pages, SEED, 0);
	original = map[offset];
	for (size_t i = 0; i < pages; i++)
		page(map, i)[offset] = i / 2;
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_COUNTERS(pages / 2, pages / 2, 0);
	for (size_t i = 0; i < pages; i++) {
		EXPECT_EQ(pfn(map, i - i % 2), pfn(map, i));
		EXPECT_EQ((char)(i / 2), page(map, i)[offset]);
	}
	EXPECT_EQ(pages / 2, ksm_count_frames(getpid(), map, pages));
	for (size_t i = 0; i < pages; i++)
		page(map, i)[offset] = original;
	EXPECT_EQ(-1, ksm_first_wrong(map, pages, SEED, 0));
}

/* A page that a device or the kernel may write to behind the page tables' back. */
FIXTURE(pinned_page)
{
	struct ksm_test ksm;
	int fd;
};

FIXTURE_VARIANT(pinned_page)
{
	int (*pin)(char *page);		/* -errno, or what to close to unpin */
	const char *by;
};

static int pin_pipe[2];

static int pin_by_vmsplice(char *page)
{
	struct iovec part = { .iov_base = page, .iov_len = psize() };

	if (pipe(pin_pipe))
		return -errno;
	if (vmsplice(pin_pipe[1], &part, 1, 0) != (ssize_t)psize())
		return -errno;
	close(pin_pipe[1]);
	return pin_pipe[0];
}

static int pin_by_io_uring(char *page)
{
	struct iovec part = { .iov_base = page, .iov_len = psize() };
	struct io_uring_params params = { 0 };
	int fd = syscall(__NR_io_uring_setup, 1, &params);

	if (fd < 0)
		return -errno;
	if (syscall(__NR_io_uring_register, fd, IORING_REGISTER_BUFFERS, &part, 1))
		return -errno;
	return fd;
}

FIXTURE_VARIANT_ADD(pinned_page, by_vmsplice)
{
	.pin = pin_by_vmsplice,
	.by = "vmsplice",
};

FIXTURE_VARIANT_ADD(pinned_page, by_io_uring)
{
	.pin = pin_by_io_uring,
	.by = "io_uring",
};

FIXTURE_SETUP(pinned_page)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
}

FIXTURE_TEARDOWN_PARENT(pinned_page)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

TEST_F(pinned_page, is_not_merged_until_it_is_unpinned)
{
	char *map = ksm_map_registered(3);
	unsigned long frame;

	ASSERT_NE(NULL, map);
	ksm_fill(map, 3, SEED, 0);
	self->fd = variant->pin(page(map, 1));
	if (self->fd == -ENOSYS)
		SKIP(return, "this kernel has no %s", variant->by);
	ASSERT_GE(self->fd, 0);
	frame = pfn(map, 1);
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_EQ(frame, pfn(map, 1));
	EXPECT_FALSE(is_merged(map, 1));
	EXPECT_EQ(1, ksm_get("pages_shared"));
	EXPECT_EQ(1, ksm_get("pages_sharing"));
	EXPECT_EQ(pfn(map, 0), pfn(map, 2));

	/* The mapping and the pin must still mean the same page. */
	ksm_fill(page(map, 1), 1, OTHER, 0);
	EXPECT_EQ(frame, pfn(map, 1));
	ksm_fill(page(map, 1), 1, SEED, 0);

	ASSERT_EQ(0, close(self->fd));
	EXPECT_TRUE(ksm_wait_until(is_merged(map, 1)));
	EXPECT_EQ(1, ksm_count_frames(getpid(), map, 3));
	EXPECT_EQ(-1, ksm_first_wrong(map, 3, SEED, 0));
}

TEST_HARNESS_MAIN
