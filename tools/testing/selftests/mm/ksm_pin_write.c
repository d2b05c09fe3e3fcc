// SPDX-License-Identifier: GPL-2.0-only
/*
 * What is written to memory without a page fault, by io_uring into a registered
 * buffer or by a disk read with O_DIRECT, arrives where the process reads it, and
 * nowhere else: before, while and after the pages merge, and while ksmd races.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>
#include <sys/stat.h>
#include "ksm_ring.h"
#include "ksm_util.h"
#include "vm_util.h"

#define PAGES		8
#define ROUNDS		200
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

/* The file's content: pages of content @seed, @seed + @step and so on. */
static bool put_in_file(int file, uint64_t seed, uint64_t step)
{
	char *content = ksm_map_pages(PAGES);
	bool done;

	ksm_fill(content, PAGES, seed, step);
	done = pwrite(file, content, PAGES * psize(), 0) == (ssize_t)(PAGES * psize());
	munmap(content, PAGES * psize());
	return done;
}

FIXTURE(fixed_buffer)
{
	struct ksm_test ksm;
	struct ksm_ring ring;
	int file;
	char *map;	/* 3 * PAGES; the buffer is the first third */
};

FIXTURE_SETUP(fixed_buffer)
{
	const char *missing = ksm_missing();
	int error;

	if (missing)
		SKIP(return, "%s", missing);
	error = ksm_ring_open(&self->ring);
	if (error == -ENOSYS)
		SKIP(return, "this kernel has no io_uring, or no io_uring of 2019 or later");
	ASSERT_EQ(0, error);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	self->file = memfd_create("ksm_pin_write", 0);
	ASSERT_GE(self->file, 0);
	self->map = ksm_map_registered(3 * PAGES);
	ASSERT_NE(NULL, self->map);
}

FIXTURE_TEARDOWN_PARENT(fixed_buffer)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

TEST_F(fixed_buffer, written_by_io_uring_is_seen_by_the_process_only)
{
	char *map = self->map;

	ksm_fill(map, 3 * PAGES, SEED, 0);
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(1, frames(map, 3 * PAGES));
	ASSERT_EQ(0, ksm_ring_pin(&self->ring, map, PAGES));
	for (unsigned int round = 0; round < 5; round++) {
		ASSERT_TRUE(put_in_file(self->file, OTHER + round, round));
		ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
		ASSERT_EQ(0, ksm_ring_read(&self->ring, self->file, map, PAGES));
		EXPECT_EQ(-1, ksm_first_wrong(map, PAGES, OTHER + round, round));
		EXPECT_EQ(0, merged(map, PAGES));
	}
	EXPECT_EQ(-1, ksm_first_wrong(page(map, PAGES), 2 * PAGES, SEED, 0));
	EXPECT_EQ(1, frames(page(map, PAGES), 2 * PAGES));
	EXPECT_EQ(0, ksm_ring_unpin(&self->ring));
}

/* What ksmd knew of the pages is old by then: no page table says that they changed. */
TEST_F(fixed_buffer, merges_by_what_was_written_through_the_pin)
{
	char *map = self->map;

	ksm_fill(map, PAGES, SEED, 1);
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(0, ksm_ring_pin(&self->ring, map, PAGES));
	ASSERT_TRUE(put_in_file(self->file, OTHER, 1));
	ASSERT_EQ(0, ksm_ring_read(&self->ring, self->file, map, PAGES));
	ASSERT_EQ(0, ksm_ring_unpin(&self->ring));
	/* One third is equal to what it was, another to what it is. */
	ksm_fill(page(map, PAGES), PAGES, SEED, 1);
	ksm_fill(page(map, 2 * PAGES), PAGES, OTHER, 1);
	EXPECT_TRUE(ksm_wait_until(merged(map, PAGES) == PAGES));
	for (size_t i = 0; i < PAGES; i++)
		EXPECT_EQ(pfn(map, 2 * PAGES + i), pfn(map, i));
	EXPECT_EQ(0, merged(page(map, PAGES), PAGES));
	EXPECT_EQ(-1, ksm_first_wrong(map, PAGES, OTHER, 1));
	EXPECT_EQ(-1, ksm_first_wrong(page(map, PAGES), PAGES, SEED, 1));
	EXPECT_EQ(-1, ksm_first_wrong(page(map, 2 * PAGES), PAGES, OTHER, 1));
}

/* The pin that began before ksmd came sees what is merged nearby, and stays itself. */
TEST_F(fixed_buffer, equal_to_its_neighbours_through_the_pin_stays_alone)
{
	char *map = self->map;

	ASSERT_EQ(0, ksm_ring_pin(&self->ring, map, PAGES));
	ksm_fill(page(map, PAGES), 2 * PAGES, SEED, 0);
	ASSERT_TRUE(put_in_file(self->file, SEED, 0));
	ASSERT_EQ(0, ksm_ring_read(&self->ring, self->file, map, PAGES));
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_TRUE(ksm_wait_passes(MANY_PASSES));
	EXPECT_EQ(0, merged(map, PAGES));
	EXPECT_EQ(2 * PAGES, merged(page(map, PAGES), 2 * PAGES));
	ASSERT_TRUE(put_in_file(self->file, OTHER, 0));
	ASSERT_EQ(0, ksm_ring_read(&self->ring, self->file, map, PAGES));
	EXPECT_EQ(-1, ksm_first_wrong(map, PAGES, OTHER, 0));
	EXPECT_EQ(-1, ksm_first_wrong(page(map, PAGES), 2 * PAGES, SEED, 0));
	EXPECT_EQ(0, ksm_ring_unpin(&self->ring));
}

/* Pins come and go while ksmd is before, in the middle of or after merging the pages. */
TEST_F(fixed_buffer, loses_no_write_while_ksmd_races)
{
	char *map = self->map;

	ksm_fill(map, 3 * PAGES, SEED, 0);
	ASSERT_EQ(0, ksm_set_number("sleep_millisecs", 0));
	ASSERT_EQ(0, ksm_set("run", "1"));
	for (unsigned int round = 0; round < ROUNDS; round++) {
		uint64_t seed = OTHER + round;

		ASSERT_TRUE(ksm_wait_until(merged(map, PAGES) >= round % 3 * PAGES / 2));
		ASSERT_TRUE(put_in_file(self->file, seed, 0));
		ASSERT_EQ(0, ksm_ring_pin(&self->ring, map, PAGES));
		ASSERT_EQ(0, ksm_ring_read(&self->ring, self->file, map, PAGES));
		ASSERT_EQ(-1, ksm_first_wrong(map, PAGES, seed, 0));
		ASSERT_EQ(0, ksm_ring_unpin(&self->ring));
		ksm_fill(page(map, PAGES), PAGES, seed, 0);
		ASSERT_EQ(-1, ksm_first_wrong(map, 2 * PAGES, seed, 0));
	}
	EXPECT_EQ(-1, ksm_first_wrong(page(map, 2 * PAGES), PAGES, SEED, 0));
	EXPECT_TRUE(ksm_wait_until(frames(map, 2 * PAGES) == 1));
	EXPECT_EQ(-1, ksm_first_wrong(map, 2 * PAGES, OTHER + ROUNDS - 1, 0));
}

/* A disk in memory, which can be read and written without the page cache. */
FIXTURE(direct)
{
	struct ksm_test ksm;
	int number;	/* of the disk, or -1 */
	int file;
	char *map;	/* 3 * PAGES; the first third is read to */
};

#define ZRAM "/sys/class/zram-control/"
#define DISK_SIZE (1UL << 20)

/* The number of a new disk, or -1. */
static int add_disk(void)
{
	char path[64], text[32];
	int number;

	if (ksm_read_text(ZRAM "hot_add", text, sizeof(text)))
		return -1;
	number = strtol(text, NULL, 10);
	snprintf(path, sizeof(path), "/sys/block/zram%d/disksize", number);
	write_num(path, DISK_SIZE);
	return number;
}

static int open_disk(int number)
{
	char path[64], text[32];
	unsigned int major, minor;
	int fd;

	snprintf(path, sizeof(path), "/sys/block/zram%d/dev", number);
	if (ksm_read_text(path, text, sizeof(text)) ||
	    sscanf(text, "%u:%u", &major, &minor) != 2)
		return -1;
	snprintf(path, sizeof(path), "/tmp/ksm_pin_write.%d", getpid());
	if (mknod(path, S_IFBLK | 0600, makedev(major, minor)))
		return -1;
	fd = open(path, O_RDWR | O_DIRECT);
	unlink(path);
	return fd;
}

FIXTURE_SETUP(direct)
{
	const char *missing = ksm_missing();

	self->number = -1;
	if (missing)
		SKIP(return, "%s", missing);
	if (access(ZRAM "hot_add", R_OK))
		SKIP(return, "this kernel has no zram to make a disk of");
	ASSERT_TRUE(ksm_begin(&self->ksm));
	self->number = add_disk();
	ASSERT_GE(self->number, 0);
	self->file = open_disk(self->number);
	ASSERT_GE(self->file, 0);
	self->map = ksm_map_registered(3 * PAGES);
	ASSERT_NE(NULL, self->map);
}

FIXTURE_TEARDOWN_PARENT(direct)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
	if (self->number >= 0)
		write_num(ZRAM "hot_remove", self->number);
}

static bool read_direct(int file, char *to)
{
	return pread(file, to, PAGES * psize(), 0) == (ssize_t)(PAGES * psize());
}

TEST_F(direct, read_into_merged_pages_reaches_the_reader_only)
{
	char *map = self->map;

	ASSERT_TRUE(put_in_file(self->file, OTHER, 1));
	ksm_fill(map, 3 * PAGES, SEED, 0);
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(1, frames(map, 3 * PAGES));
	ASSERT_EQ(0, ksm_set("run", "0"));
	ASSERT_TRUE(read_direct(self->file, map));
	EXPECT_EQ(0, merged(map, PAGES));
	EXPECT_EQ(PAGES, frames(map, PAGES));
	EXPECT_EQ(1, frames(page(map, PAGES), 2 * PAGES));
	EXPECT_EQ(-1, ksm_first_wrong(map, PAGES, OTHER, 1));
	EXPECT_EQ(-1, ksm_first_wrong(page(map, PAGES), 2 * PAGES, SEED, 0));
}

TEST_F(direct, write_from_merged_pages_writes_what_they_hold)
{
	char *map = self->map;

	ksm_fill(map, PAGES, SEED, 1);
	ksm_fill(page(map, PAGES), PAGES, SEED, 1);
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(2 * PAGES, merged(map, 2 * PAGES));
	ASSERT_EQ((ssize_t)(PAGES * psize()), pwrite(self->file, map, PAGES * psize(), 0));
	ASSERT_TRUE(read_direct(self->file, page(map, 2 * PAGES)));
	EXPECT_EQ(-1, ksm_first_wrong(page(map, 2 * PAGES), PAGES, SEED, 1));
	EXPECT_TRUE(ksm_wait_until(frames(map, 3 * PAGES) == PAGES));
	for (size_t i = 0; i < 3; i++)
		EXPECT_EQ(-1, ksm_first_wrong(page(map, i * PAGES), PAGES, SEED, 1));
}

TEST_F(direct, loses_no_read_while_ksmd_races)
{
	char *map = self->map;

	ksm_fill(map, 3 * PAGES, SEED, 0);
	ASSERT_EQ(0, ksm_set_number("sleep_millisecs", 0));
	ASSERT_EQ(0, ksm_set("run", "1"));
	for (unsigned int round = 0; round < ROUNDS; round++) {
		uint64_t seed = OTHER + round;

		ASSERT_TRUE(ksm_wait_until(merged(map, PAGES) >= round % 3 * PAGES / 2));
		ASSERT_TRUE(put_in_file(self->file, seed, 0));
		ASSERT_TRUE(read_direct(self->file, map));
		ASSERT_EQ(-1, ksm_first_wrong(map, PAGES, seed, 0));
		ksm_fill(page(map, PAGES), PAGES, seed, 0);
		ASSERT_EQ(-1, ksm_first_wrong(map, 2 * PAGES, seed, 0));
	}
	EXPECT_EQ(-1, ksm_first_wrong(page(map, 2 * PAGES), PAGES, SEED, 0));
	EXPECT_TRUE(ksm_wait_until(frames(map, 2 * PAGES) == 1));
	EXPECT_EQ(-1, ksm_first_wrong(map, 2 * PAGES, OTHER + ROUNDS - 1, 0));
}

TEST_HARNESS_MAIN
