// SPDX-License-Identifier: GPL-2.0-only
/*
 * Which pages of a virtual machine have changed. KVM tells which ones the guest
 * has touched, and page tables which ones the host has written to. Pages that
 * neither did are passed over; those that were only read merge as others do; and
 * a page that was written to is found by a new twin, however long it was at rest.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <pthread.h>
#include "ksm_guest.h"
#include "ksm_util.h"

#define PAGES		256
#define SEED		10000
#define OTHER		20000
#define THIRD		30000

/* After so many passes memory that nobody touches is as quiet as it ever will be. */
#define LONG_PASSES	24

/* Passes in which pages that were passed over are counted. */
#define COUNT_PASSES	32

/* To merge a page of a guest that runs takes an interrupt or two on a CPU that may be busy. */
#define FEW_PAGES	16

/* Some pages are looked at in each pass, whatever is known of them; most are not. */
#define MOST_PERCENT	80
#define FEW_PERCENT	40

/*
 * The guest's @pages of memory are all different, and have settled long ago. So
 * many pages of the host, at @twin, are registered, but empty.
 */
FIXTURE(settled_guest)
{
	struct ksm_test ksm;
	struct ksm_guest guest;
	char *ram;
	char *twin;
	size_t pages;
};

FIXTURE_VARIANT(settled_guest)
{
	bool huge;
	bool late;
};

FIXTURE_VARIANT_ADD(settled_guest, of_small_pages) {
};

/* It has settled before KVM was there. */
FIXTURE_VARIANT_ADD(settled_guest, in_memory_of_before) {
	.late = true,
};

FIXTURE_VARIANT_ADD(settled_guest, of_a_huge_page) {
	.huge = true,
};

static char *page(char *map, size_t index)
{
	return map + index * psize();
}

static size_t merged(char *map, size_t pages)
{
	return ksm_count_merged(getpid(), map, pages);
}

static bool is_merged(char *map, char *other)
{
	unsigned long pfn = ksm_pfn(getpid(), map);

	return pfn && pfn == ksm_pfn(getpid(), other);
}

static size_t count_twins(char *map, char *other, size_t pages)
{
	size_t count = 0;

	for (size_t i = 0; i < pages; i++)
		count += is_merged(page(map, i), page(other, i));
	return count;
}

/* How many of a hundred pages of @pages are passed over in a pass; -1 if none ended. */
static long percent_skipped(size_t pages, unsigned int passes)
{
	long skipped = ksm_get("pages_skipped"), full_scans = ksm_get("full_scans");

	if (!ksm_wait_passes(passes))
		return -1;
	skipped = ksm_get("pages_skipped") - skipped;
	full_scans = ksm_get("full_scans") - full_scans;
	return skipped * 100 / (full_scans * (long)pages);
}

/* A huge page in a mapping of its own, not put together again once it is split. */
static char *map_huge(size_t size)
{
	char *map = mmap(NULL, 2 * size, PROT_READ | PROT_WRITE,
			 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (map == MAP_FAILED)
		return NULL;
	map = (char *)(((uintptr_t)map + size - 1) & ~(size - 1));
	if (madvise(map, size, MADV_HUGEPAGE))
		return NULL;
	*(volatile char *)map = 1;
	if (madvise(map, size, MADV_NOHUGEPAGE) ||
	    ksm_smaps(getpid(), map, "AnonHugePages") * 1024 != (long)size)
		return NULL;
	return map;
}

FIXTURE_SETUP(settled_guest)
{
	const char *missing = ksm_missing() ?: guest_missing(&self->guest);

	if (missing)
		SKIP(return, "%s", missing);
	self->pages = variant->huge ? read_pmd_pagesize() / psize() : PAGES;
	if (!self->pages)
		SKIP(return, "this kernel has no transparent huge pages");
	self->ram = variant->huge ? map_huge(self->pages * psize()) : ksm_map_fenced(PAGES);
	if (variant->huge && !self->ram)
		SKIP(return, "no huge page to be had: memory may be fragmented");
	self->guest.ram = self->ram;
	self->twin = ksm_map_fenced(self->pages);
	ASSERT_TRUE(self->ram && self->twin);

	ASSERT_TRUE(ksm_begin(&self->ksm));
	ASSERT_EQ(0, ksm_set("smart_scan", "1"));
	ASSERT_EQ(0, ksm_mergeable(self->ram, self->pages));
	ASSERT_EQ(0, ksm_mergeable(self->twin, self->pages));
	if (variant->late)
		ksm_fill(self->ram, PAGES, SEED, 1);
	else
		ASSERT_TRUE(guest_create(&self->guest, self->pages) &&
			    guest_fills(&self->guest, 0, self->pages, SEED, 1));
	ASSERT_EQ(0, ksm_set("run", "1"));
	ASSERT_TRUE(ksm_wait_passes(LONG_PASSES));
	ASSERT_EQ((long)self->pages, ksm_get("pages_unshared"));
	if (variant->late)
		ASSERT_TRUE(guest_create(&self->guest, PAGES));
}

FIXTURE_TEARDOWN_PARENT(settled_guest)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
	EXPECT_EQ(0, ksm_get("pages_shared"));
	EXPECT_EQ(0, ksm_get("pages_sharing"));
}

/* Guest and host agree that the guest's memory is what it was, but for one page perhaps. */
#define EXPECT_OTHERS_UNHARMED(self, index)						\
do {											\
	size_t __rest = (index) + 1;							\
											\
	EXPECT_EQ(-1, guest_first_wrong(&(self)->guest, 0, index, SEED, 1));		\
	EXPECT_EQ(-1, ksm_first_wrong((self)->ram, index, SEED, 1));			\
	EXPECT_EQ(-1, guest_first_wrong(&(self)->guest, __rest,				\
					(self)->pages - __rest, SEED + __rest, 1));	\
	EXPECT_EQ(-1, ksm_first_wrong(page((self)->ram, __rest),			\
				      (self)->pages - __rest, SEED + __rest, 1));	\
} while (0)

TEST_F(settled_guest, is_passed_over_while_nobody_touches_it)
{
	long skipped;

	EXPECT_GT(percent_skipped(self->pages, COUNT_PASSES), MOST_PERCENT);
	ASSERT_EQ(0, ksm_set("smart_scan", "0"));
	ASSERT_TRUE(ksm_wait_passes(1));
	skipped = ksm_get("pages_skipped");
	ASSERT_TRUE(ksm_wait_passes(LONG_PASSES));
	EXPECT_EQ(skipped, ksm_get("pages_skipped"));
	ASSERT_EQ(0, ksm_set("smart_scan", "1"));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_GT(percent_skipped(self->pages, COUNT_PASSES), MOST_PERCENT);
	EXPECT_EQ(0, merged(self->ram, self->pages));
	EXPECT_EQ(-1, guest_first_wrong(&self->guest, 0, self->pages, SEED, 1));
	EXPECT_EQ(-1, ksm_first_wrong(self->ram, self->pages, SEED, 1));
}

TEST_F(settled_guest, is_found_by_new_twins)
{
	ksm_fill(self->twin, self->pages, SEED, 1);
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(self->pages, count_twins(self->ram, self->twin, self->pages));
	EXPECT_EQ(-1, guest_first_wrong(&self->guest, 0, self->pages, SEED, 1));
	EXPECT_EQ(-1, ksm_first_wrong(self->ram, self->pages, SEED, 1));
	EXPECT_EQ(-1, ksm_first_wrong(self->twin, self->pages, SEED, 1));
}

/* @write changes page @i of the guest's memory, which has twins for before and after that. */
#define EXPECT_CHANGE_IS_SEEN(self, i, write)						\
do {											\
	char *__now = page((self)->twin, 0), *__before = page((self)->twin, 1);	\
											\
	ksm_fill(__now, 1, OTHER, 0);							\
	ASSERT_TRUE(write);								\
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));					\
	EXPECT_TRUE(is_merged(page((self)->ram, i), __now));				\
	ksm_fill(__before, 1, SEED + (i), 0);						\
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));					\
	EXPECT_EQ(1, merged((self)->ram, (self)->pages));				\
	EXPECT_TRUE(is_merged(page((self)->ram, i), __now));				\
	EXPECT_EQ(-1, guest_first_wrong(&(self)->guest, i, 1, OTHER, 0));		\
	EXPECT_EQ(-1, ksm_first_wrong(page((self)->ram, i), 1, OTHER, 0));		\
	EXPECT_EQ(-1, ksm_first_wrong(__now, 1, OTHER, 0));				\
	EXPECT_EQ(-1, ksm_first_wrong(__before, 1, SEED + (i), 0));			\
	EXPECT_OTHERS_UNHARMED(self, i);						\
} while (0)

TEST_F(settled_guest, page_that_the_guest_writes_merges_with_its_new_twin)
{
	EXPECT_CHANGE_IS_SEEN(self, 100, guest_fills(&self->guest, 100, 1, OTHER, 0));
}

TEST_F(settled_guest, page_that_the_host_writes_merges_with_its_new_twin)
{
	EXPECT_CHANGE_IS_SEEN(self, 100, (ksm_fill(page(self->ram, 100), 1, OTHER, 0), true));
}

TEST_F(settled_guest, page_in_use_does_not_hide_a_change_of_its_neighbour)
{
	for (unsigned int i = 0; i < COUNT_PASSES / 2; i++) {
		ASSERT_TRUE(guest_reads(&self->guest, 100, 1));
		ASSERT_TRUE(ksm_wait_passes(1));
	}
	EXPECT_CHANGE_IS_SEEN(self, 101, guest_fills(&self->guest, 101, 1, OTHER, 0) &&
			      guest_reads(&self->guest, 100, 1));
}

TEST_F(settled_guest, pages_merge_all_at_once_and_rest_and_change_again)
{
	for (uint64_t seed = OTHER; seed <= THIRD; seed += THIRD - OTHER) {
		ASSERT_TRUE(guest_fills(&self->guest, 0, self->pages, seed, 1));
		ksm_fill(self->twin, self->pages, seed, 1);
		ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
		EXPECT_EQ(self->pages, count_twins(self->ram, self->twin, self->pages));
		EXPECT_EQ(-1, guest_first_wrong(&self->guest, 0, self->pages, seed, 1));
		EXPECT_EQ(-1, ksm_first_wrong(self->twin, self->pages, seed, 1));
		ASSERT_TRUE(ksm_wait_passes(LONG_PASSES));
	}
}

/* It is the guest's last breath: nobody can be asked afterwards what it touched. */
TEST_F(settled_guest, page_written_last_merges_when_the_machine_is_gone)
{
	char *at = page(self->ram, 100);

	ASSERT_EQ(0, ksm_set("run", "0"));
	ASSERT_TRUE(guest_fills(&self->guest, 100, 1, OTHER, 0));
	ASSERT_TRUE(guest_destroy(&self->guest));
	ksm_fill(self->twin, 1, OTHER, 0);
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_TRUE(is_merged(at, self->twin));
	EXPECT_EQ(1, merged(self->ram, self->pages));
	EXPECT_EQ(-1, ksm_first_wrong(self->twin, 1, OTHER, 0));
	EXPECT_EQ(-1, ksm_first_wrong(self->ram, 100, SEED, 1));
	EXPECT_EQ(-1, ksm_first_wrong(at, 1, OTHER, 0));
	EXPECT_EQ(-1, ksm_first_wrong(page(at, 1), self->pages - 101, SEED + 101, 1));
}

/* ---- a guest that is busy reading ---- */

struct reader {
	struct ksm_guest *guest;
	size_t pages;
	bool stop;
	bool failed;
};

static void *keep_reading(void *data)
{
	struct reader *reader = data;

	while (!__atomic_load_n(&reader->stop, __ATOMIC_RELAXED) && !reader->failed)
		reader->failed = !guest_touches(reader->guest, 0, reader->pages);
	return NULL;
}

static bool join_reader(struct reader *reader, pthread_t thread)
{
	__atomic_store_n(&reader->stop, true, __ATOMIC_RELAXED);
	return !pthread_join(thread, NULL) && !reader->failed;
}

TEST_F(settled_guest, merges_while_it_reads_in_all_its_memory_all_the_time)
{
	struct reader reader = { .guest = &self->guest, .pages = self->pages };
	pthread_t thread;
	long percent;

	/* Slow enough for the guest to be through its memory in each pass. */
	ASSERT_EQ(0, ksm_set("sleep_millisecs", "100"));
	ASSERT_EQ(0, pthread_create(&thread, NULL, keep_reading, &reader));
	percent = percent_skipped(self->pages, LONG_PASSES / 2);
	EXPECT_GE(percent, 0);
	EXPECT_LT(percent, FEW_PERCENT);

	/* What has settled, and then what the host changes under its eyes. */
	for (uint64_t seed = SEED; seed <= OTHER; seed += OTHER - SEED) {
		if (seed != SEED)
			ksm_fill(self->ram, FEW_PAGES, seed, 1);
		ksm_fill(self->twin, FEW_PAGES, seed, 1);
		ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
		EXPECT_EQ(FEW_PAGES, merged(self->ram, self->pages));
		EXPECT_EQ(FEW_PAGES, count_twins(self->ram, self->twin, FEW_PAGES));
		EXPECT_EQ(-1, ksm_first_wrong(self->ram, FEW_PAGES, seed, 1));
		EXPECT_EQ(-1, ksm_first_wrong(self->twin, FEW_PAGES, seed, 1));
	}
	ASSERT_TRUE(join_reader(&reader, thread));
	EXPECT_EQ(-1, guest_first_wrong(&self->guest, 0, FEW_PAGES, OTHER, 1));
	EXPECT_EQ(-1, guest_first_wrong(&self->guest, FEW_PAGES, self->pages - FEW_PAGES,
					SEED + FEW_PAGES, 1));
	EXPECT_EQ(-1, ksm_first_wrong(page(self->ram, FEW_PAGES), self->pages - FEW_PAGES,
				      SEED + FEW_PAGES, 1));
}

TEST_HARNESS_MAIN
