// SPDX-License-Identifier: GPL-2.0-only
/*
 * A device that works on merged memory. It keeps a copy of the process's page
 * tables, which it must give up when a page is merged or unmerged. It can take
 * pages into memory of its own, which the CPU cannot see: merged pages stay
 * where they are, and what is there is not merged until it comes back. The
 * device is the kernel's test_hmm.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <sys/mman.h>
#include "ksm_device.h"
#include "ksm_util.h"

#define PAGES	32
#define SEED	1000
#define OTHER	2000

/* @map and @twin are registered. */
FIXTURE(device)
{
	struct ksm_test ksm;
	struct ksm_device device;
	char *map;
	char *twin;
};

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

static bool is_empty(const char *map, size_t pages)
{
	for (size_t i = 0; i < pages * psize(); i++)
		if (map[i])
			return false;
	return true;
}

static bool device_sees_nothing(struct ksm_device *device, char *map, size_t pages)
{
	return device_reads(device, map, pages) && is_empty(device->buffer, pages);
}

/* Gives freed pages new content: whoever maps one still would not read the old. */
static bool reuse_freed_memory(void)
{
	const size_t pages = 2048;
	char *map = ksm_map_pages(pages);

	if (!map)
		return false;
	memset(map, 0xee, pages * psize());
	return !munmap(map, pages * psize());
}

/* ---- tests ---- */

FIXTURE_SETUP(device)
{
	const char *missing = ksm_missing() ?: device_missing(&self->device);

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	self->map = ksm_map_fenced(PAGES);
	self->twin = ksm_map_fenced(PAGES);
	ASSERT_TRUE(self->map && self->twin);
	ASSERT_EQ(0, ksm_mergeable(self->map, PAGES));
	ASSERT_EQ(0, ksm_mergeable(self->twin, PAGES));
}

/* The process, its memory and its use of the device are gone by now. */
FIXTURE_TEARDOWN_PARENT(device)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
	EXPECT_EQ(0, ksm_get("pages_shared"));
	EXPECT_EQ(0, ksm_get("pages_sharing"));
	EXPECT_EQ(0, ksm_get("pages_unshared"));
	EXPECT_EQ(0, ksm_get("ksm_zero_pages"));
}

/* PAGES different pages, each with a twin; the device had all mapped for writing before. */
static bool merge_twins(struct ksm_device *device, char *map, char *twin)
{
	if (!device_fills(device, map, PAGES, SEED, 1) ||
	    !device_fills(device, twin, PAGES, SEED, 1) ||
	    !ksm_merge_all() || ksm_set("run", "0"))
		return false;
	for (size_t i = 0; i < PAGES; i++)
		if (!pfn(map, i) || pfn(map, i) != pfn(twin, i))
			return false;
	return true;
}

#define MERGE_TWINS(self)							\
	ASSERT_TRUE(merge_twins(&(self)->device, (self)->map, (self)->twin))

#define EXPECT_UNHARMED(self)							\
do {										\
	struct ksm_device *device = &(self)->device;				\
										\
	EXPECT_EQ(-1, ksm_first_wrong((self)->map, PAGES, SEED, 1));		\
	EXPECT_EQ(-1, ksm_first_wrong((self)->twin, PAGES, SEED, 1));		\
	EXPECT_EQ(-1, device_first_wrong(device, (self)->map, PAGES, SEED, 1));	\
	EXPECT_EQ(-1, device_first_wrong(device, (self)->twin, PAGES, SEED, 1));	\
} while (0)

/* What device or CPU writes to one page the other reads, and the twin never does. */
#define EXPECT_ONE_MEMORY(self)							\
do {										\
	struct ksm_device *device = &(self)->device;				\
										\
	ASSERT_TRUE(device_fills(device, (self)->map, PAGES, OTHER, 1));	\
	EXPECT_EQ(-1, ksm_first_wrong((self)->map, PAGES, OTHER, 1));		\
	ksm_fill((self)->map, PAGES, OTHER, 3);					\
	EXPECT_EQ(-1, device_first_wrong(device, (self)->map, PAGES, OTHER, 3));	\
	EXPECT_EQ(-1, ksm_first_wrong((self)->twin, PAGES, SEED, 1));		\
} while (0)

TEST_F(device, reads_merged_pages_and_leaves_them_merged)
{
	MERGE_TWINS(self);
	ASSERT_TRUE(reuse_freed_memory());
	EXPECT_UNHARMED(self);
	EXPECT_EQ(PAGES, merged(self->map, PAGES));
	EXPECT_EQ(PAGES, merged(self->twin, PAGES));
	EXPECT_EQ(PAGES, ksm_get("pages_sharing"));
}

TEST_F(device, write_gives_a_copy_and_the_twin_keeps_its_bytes)
{
	long before = ksm_vmstat("cow_ksm");

	MERGE_TWINS(self);
	for (size_t i = 0; i < PAGES; i += 2) {
		ASSERT_TRUE(device_fills(&self->device, page(self->map, i), 1, OTHER + i, 0));
		EXPECT_NE(pfn(self->twin, i), pfn(self->map, i));
		EXPECT_EQ(-1, ksm_first_wrong(page(self->map, i), 1, OTHER + i, 0));
	}
	EXPECT_EQ(before + PAGES / 2, ksm_vmstat("cow_ksm"));
	EXPECT_EQ(PAGES / 2, merged(self->map, PAGES));
	EXPECT_EQ(-1, ksm_first_wrong(self->twin, PAGES, SEED, 1));
	EXPECT_EQ(-1, device_first_wrong(&self->device, self->twin, PAGES, SEED, 1));
	EXPECT_ONE_MEMORY(self);
}

TEST_F(device, never_reads_or_writes_a_page_that_unmerging_replaced)
{
	MERGE_TWINS(self);
	EXPECT_UNHARMED(self);
	ASSERT_EQ(0, ksm_unmergeable(self->map, PAGES));
	ASSERT_EQ(0, ksm_unmergeable(self->twin, PAGES));
	ASSERT_TRUE(reuse_freed_memory());
	EXPECT_UNHARMED(self);
	EXPECT_ONE_MEMORY(self);
}

TEST_F(device, finds_discarded_pages_empty)
{
	MERGE_TWINS(self);
	EXPECT_UNHARMED(self);
	ASSERT_EQ(0, madvise(self->map, PAGES * psize(), MADV_DONTNEED));
	EXPECT_TRUE(device_sees_nothing(&self->device, self->map, PAGES));
	EXPECT_ONE_MEMORY(self);
}

TEST_F(device, gets_a_copy_for_exclusive_use)
{
	MERGE_TWINS(self);
	ASSERT_EQ(0, device_asked(&self->device, HMM_DMIRROR_EXCLUSIVE, self->map, PAGES,
				  self->device.buffer));
	EXPECT_EQ(-1, ksm_first_wrong(self->device.buffer, PAGES, SEED, 1));
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_EQ(0, ksm_get("pages_sharing"));
	EXPECT_UNHARMED(self);
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(PAGES, ksm_get("pages_sharing"));
	EXPECT_UNHARMED(self);
	EXPECT_ONE_MEMORY(self);
}

TEST_F(device, takes_zero_pages_and_they_are_counted_exactly)
{
	const size_t some = PAGES / 2;

	if (ksm_set("use_zero_pages", "1"))
		SKIP(return, "this kernel has no use_zero_pages");
	memset(self->map, 0, PAGES * psize());
	ksm_fill(self->twin, PAGES, SEED, 1);
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(0, ksm_set("run", "0"));
	ASSERT_EQ(PAGES, ksm_get("ksm_zero_pages"));
	EXPECT_TRUE(device_sees_nothing(&self->device, self->map, PAGES));
	EXPECT_EQ(PAGES, ksm_get("ksm_zero_pages"));

	ASSERT_TRUE(device_takes_all(&self->device, self->map, some));
	EXPECT_TRUE(is_empty(self->device.buffer, some));
	EXPECT_EQ(PAGES - some, ksm_get("ksm_zero_pages"));
	EXPECT_EQ(PAGES - some, ksm_proc_stat(getpid(), "ksm_zero_pages"));
	EXPECT_TRUE(is_empty(self->map, PAGES));
	EXPECT_EQ(PAGES - some, ksm_get("ksm_zero_pages"));
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_EQ(PAGES, ksm_get("ksm_zero_pages"));
	ASSERT_EQ(0, ksm_set("run", "0"));
	EXPECT_ONE_MEMORY(self);
	EXPECT_EQ(0, ksm_get("ksm_zero_pages"));
}

TEST_F(device, leaves_merged_pages_in_the_memory_of_the_cpu)
{
	struct ksm_worker *worker = self->ksm.workers;

	MERGE_TWINS(self);
	ASSERT_TRUE(ksm_fork_worker(&self->ksm, 0, self->map, PAGES));
	for (size_t i = 0; i < PAGES; i++)
		EXPECT_FALSE(device_takes(&self->device, page(self->map, i), self->device.buffer));
	EXPECT_EQ(0, device_has(&self->device, self->map, PAGES));
	EXPECT_EQ(PAGES, merged(self->map, PAGES));
	EXPECT_EQ(PAGES, merged(self->twin, PAGES));
	EXPECT_EQ(PAGES, ksm_count_merged(worker->pid, self->map, PAGES));
	EXPECT_UNHARMED(self);
	EXPECT_ONE_MEMORY(self);
	EXPECT_EQ(-1, ksm_ask(worker, ksm_job_first_wrong, SEED, 1, 0));
}

TEST_F(device, takes_pages_that_were_unmerged_and_gives_them_back_to_merge)
{
	MERGE_TWINS(self);
	for (unsigned int round = 0; round < 3; round++) {
		ASSERT_EQ(0, ksm_unmergeable(self->map, PAGES));
		ASSERT_TRUE(device_takes_all(&self->device, self->map, PAGES));
		EXPECT_EQ(-1, ksm_first_wrong(self->device.buffer, PAGES, SEED, 1));
		EXPECT_EQ(0, ksm_count_present(getpid(), self->map, PAGES));
		ASSERT_TRUE(reuse_freed_memory());
		if (round)
			ASSERT_TRUE(device_gives_back(&self->device, self->map, PAGES));
		EXPECT_UNHARMED(self);
		ASSERT_EQ(0, ksm_mergeable(self->map, PAGES));
		ASSERT_TRUE(ksm_merge_all());
		ASSERT_EQ(0, ksm_set("run", "0"));
		EXPECT_EQ(PAGES, merged(self->map, PAGES));
		EXPECT_EQ(PAGES, ksm_get("pages_shared"));
		EXPECT_EQ(PAGES, ksm_get("pages_sharing"));
	}
	EXPECT_UNHARMED(self);
	EXPECT_ONE_MEMORY(self);
}

TEST_F(device, takes_of_a_mixture_what_is_not_merged)
{
	MERGE_TWINS(self);
	for (size_t i = 0; i < PAGES; i += 2)
		ksm_fill(page(self->map, i), 1, SEED + i, 0);
	EXPECT_EQ(PAGES / 2, merged(self->map, PAGES));
	/* All at once: it says that it could not take all. */
	EXPECT_TRUE(ksm_wait_until((device_asked(&self->device, HMM_DMIRROR_MIGRATE_TO_DEV,
						 self->map, PAGES, self->device.buffer),
				    device_has(&self->device, self->map, PAGES) == PAGES / 2)));
	for (size_t i = 0; i < PAGES; i++)
		EXPECT_EQ(i % 2, merged(page(self->map, i), 1));
	EXPECT_UNHARMED(self);
	EXPECT_ONE_MEMORY(self);
}

/* Registered pages with twins, which are in the device's memory before ksmd sees them. */
#define TAKE_BEFORE_MERGING(self)						\
do {										\
	ASSERT_TRUE(device_fills(&(self)->device, (self)->map, PAGES, SEED, 1));	\
	ksm_fill((self)->twin, PAGES, SEED, 1);					\
	ASSERT_TRUE(device_takes_all(&(self)->device, (self)->map, PAGES));	\
	ASSERT_TRUE(reuse_freed_memory());					\
} while (0)

TEST_F(device, memory_is_no_partner_for_equal_pages_of_the_cpu)
{
	TAKE_BEFORE_MERGING(self);
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_EQ(PAGES, device_has(&self->device, self->map, PAGES));
	EXPECT_EQ(0, ksm_get("pages_shared"));
	EXPECT_EQ(PAGES, ksm_get("pages_unshared"));
	EXPECT_UNHARMED(self);
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(PAGES, merged(self->map, PAGES));
	EXPECT_UNHARMED(self);
	EXPECT_ONE_MEMORY(self);
}

TEST_F(device, takes_pages_that_wait_for_a_partner)
{
	ASSERT_TRUE(device_fills(&self->device, self->map, PAGES, SEED, 1));
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(PAGES, ksm_get("pages_unshared"));
	/* ksmd may hold one at the moment, and so it is tried again. */
	ASSERT_TRUE(device_takes_all(&self->device, self->map, PAGES));
	ksm_fill(self->twin, PAGES, SEED, 1);
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(0, ksm_get("pages_shared"));
	EXPECT_EQ(PAGES, ksm_get("pages_unshared"));
	EXPECT_UNHARMED(self);
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(PAGES, ksm_get("pages_sharing"));
	EXPECT_UNHARMED(self);
}

TEST_F(device, memory_is_left_alone_by_unmerging)
{
	TAKE_BEFORE_MERGING(self);
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(0, ksm_unmergeable(self->map, PAGES));
	EXPECT_EQ(PAGES, device_has(&self->device, self->map, PAGES));
	ASSERT_EQ(0, ksm_mergeable(self->map, PAGES));
	ASSERT_EQ(0, ksm_set("run", "2"));
	EXPECT_EQ(PAGES, device_has(&self->device, self->map, PAGES));
	EXPECT_EQ(0, ksm_get("pages_unshared"));
	EXPECT_UNHARMED(self);
	EXPECT_ONE_MEMORY(self);
}

TEST_F(device, memory_comes_back_when_the_device_is_closed)
{
	TAKE_BEFORE_MERGING(self);
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(0, close(self->device.fd));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(PAGES, merged(self->map, PAGES));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 1));
	EXPECT_EQ(-1, ksm_first_wrong(self->twin, PAGES, SEED, 1));
}

/* A device has no accessed bit to show: "not touched" would be no answer. */
TEST_F(device, writes_to_pages_at_rest_are_seen)
{
	long skipped;

	ASSERT_EQ(0, ksm_set("smart_scan", "1"));
	ASSERT_TRUE(device_fills(&self->device, self->map, PAGES, SEED, 1));
	skipped = ksm_get("pages_skipped");
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_TRUE(ksm_wait_passes(3 * KSM_MERGE_PASSES));
	EXPECT_EQ(skipped, ksm_get("pages_skipped"));
	ASSERT_TRUE(device_fills(&self->device, self->map, PAGES, OTHER, 1));
	ksm_fill(self->twin, PAGES, OTHER, 1);
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(PAGES, merged(self->map, PAGES));
	EXPECT_EQ(-1, device_first_wrong(&self->device, self->map, PAGES, OTHER, 1));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, OTHER, 1));
	EXPECT_EQ(-1, ksm_first_wrong(self->twin, PAGES, OTHER, 1));
}

/* What is given up is gone with its memory map, at once. */
TEST_F(device, memory_can_go_before_ksmd_has_noticed)
{
	TAKE_BEFORE_MERGING(self);
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(0, ksm_set("run", "0"));
	ASSERT_EQ(0, madvise(self->map, PAGES / 2 * psize(), MADV_DONTNEED));
	ASSERT_EQ(0, device_asked(&self->device, HMM_DMIRROR_RELEASE, self->map, PAGES, NULL));
	EXPECT_EQ(0, device_has(&self->device, self->map, PAGES));
	ksm_fill(self->map, PAGES / 2, SEED, 1);
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_EQ(PAGES, merged(self->map, PAGES));
	EXPECT_EQ(PAGES, ksm_get("pages_sharing"));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 1));
	EXPECT_EQ(-1, ksm_first_wrong(self->twin, PAGES, SEED, 1));
}

TEST_HARNESS_MAIN
