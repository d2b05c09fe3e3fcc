// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory of a virtual machine. KVM keeps page tables of its own for the guest,
 * and learns only from MMU notifiers that a page was replaced or may not be
 * written to any more. So whatever happens to a merged page, what the host
 * writes the guest must read, and the other way round.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <sys/stat.h>
#include "ksm_guest.h"
#include "ksm_util.h"

#define PAGES	64
#define SEED	1000
#define OTHER	2000
#define GROUP	"/sys/fs/cgroup/ksm_kvm"

/* After so many passes nothing is left of how pages came to be. */
#define SETTLE_PASSES	6

/* The guest's memory is registered, and so is @twin, which is the host's own. */
FIXTURE(guest)
{
	struct ksm_test ksm;
	struct ksm_guest guest;
	char *ram;
	char *twin;
};

FIXTURE_VARIANT(guest)
{
	const char *smart_scan;
};

FIXTURE_VARIANT_ADD(guest, is_hashed_in_each_pass) {
	.smart_scan = "0",
};

FIXTURE_VARIANT_ADD(guest, is_asked_what_it_touched) {
	.smart_scan = "1",
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

static size_t frames(char *map, size_t pages)
{
	return ksm_count_frames(getpid(), map, pages);
}

static bool is_empty(const char *map, size_t pages)
{
	for (size_t i = 0; i < pages * psize(); i++)
		if (map[i])
			return false;
	return true;
}

static bool guest_sees_nothing(struct ksm_guest *guest, size_t first, size_t pages)
{
	return guest_reads(guest, first, pages) && is_empty(guest->window, pages);
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

/* ---- swap ---- */

/* Why pages cannot be swapped out here, or NULL. The test is in a group of its own then. */
static const char *no_swapping(void)
{
	char text[32];

	if (ksm_meminfo("SwapTotal") <= 0)
		return "needs swap";
	snprintf(text, sizeof(text), "%d", getpid());
	if ((mkdir(GROUP, 0755) && errno != EEXIST) ||
	    ksm_write_text(GROUP "/cgroup.procs", text) ||
	    access(GROUP "/memory.reclaim", W_OK))
		return "needs memory.reclaim of a memory cgroup";
	return NULL;
}

/* Asking for more than there is fails in the end, and that is meant. */
static bool swap_out(char *map, size_t pages)
{
	return ksm_wait_until((ksm_write_text(GROUP "/memory.reclaim", "16M"),
			       !ksm_count_present(getpid(), map, pages)));
}

/* ---- tests ---- */

FIXTURE_SETUP(guest)
{
	const char *missing = ksm_missing() ?: guest_missing(&self->guest);

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	ASSERT_EQ(0, ksm_set("smart_scan", variant->smart_scan));
	ASSERT_TRUE(guest_create(&self->guest, PAGES));
	self->ram = self->guest.ram;
	self->twin = ksm_map_fenced(PAGES);
	ASSERT_NE(NULL, self->twin);
	ASSERT_EQ(0, ksm_mergeable(self->ram, PAGES));
	ASSERT_EQ(0, ksm_mergeable(self->twin, PAGES));
}

/* The guest and its memory are gone by now. */
FIXTURE_TEARDOWN_PARENT(guest)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
	EXPECT_EQ(0, ksm_get("pages_shared"));
	EXPECT_EQ(0, ksm_get("pages_sharing"));
	EXPECT_EQ(0, ksm_get("ksm_zero_pages"));
	rmdir(GROUP);
}

/* Guest and host have the same PAGES different pages, written by each itself. */
static bool merge_twins(struct ksm_guest *guest, char *twin)
{
	ksm_fill(twin, PAGES, SEED, 1);
	if (!guest_fills(guest, 0, PAGES, SEED, 1) || !ksm_merge_all() || ksm_set("run", "0"))
		return false;
	for (size_t i = 0; i < PAGES; i++)
		if (!pfn(twin, i) || pfn(twin, i) != pfn(guest->ram, i))
			return false;
	return true;
}

#define EXPECT_UNHARMED(self)							\
do {										\
	EXPECT_EQ(-1, guest_first_wrong(&(self)->guest, 0, PAGES, SEED, 1));	\
	EXPECT_EQ(-1, ksm_first_wrong((self)->ram, PAGES, SEED, 1));		\
	EXPECT_EQ(-1, ksm_first_wrong((self)->twin, PAGES, SEED, 1));		\
} while (0)

/* Guest and host mean the same pages: what either writes the other reads. */
#define EXPECT_ONE_MEMORY(self)							\
do {										\
	ASSERT_TRUE(guest_fills(&(self)->guest, 0, PAGES, OTHER, 1));		\
	EXPECT_EQ(-1, ksm_first_wrong((self)->ram, PAGES, OTHER, 1));		\
	ksm_fill((self)->ram, PAGES, OTHER, 3);					\
	EXPECT_EQ(-1, guest_first_wrong(&(self)->guest, 0, PAGES, OTHER, 3));	\
	EXPECT_EQ(-1, ksm_first_wrong((self)->twin, PAGES, SEED, 1));		\
} while (0)

TEST_F(guest, equal_pages_become_one_page_and_reading_leaves_it_at_that)
{
	ASSERT_TRUE(guest_fills(&self->guest, 0, PAGES, SEED, 0));
	ASSERT_EQ(PAGES, frames(self->ram, PAGES));
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_EQ(1, frames(self->ram, PAGES));
	EXPECT_EQ(PAGES, merged(self->ram, PAGES));
	EXPECT_EQ(-1, guest_first_wrong(&self->guest, 0, PAGES, SEED, 0));
	EXPECT_EQ(1, frames(self->ram, PAGES));
	EXPECT_EQ(1, ksm_get("pages_shared"));
	EXPECT_EQ(PAGES - 1, ksm_get("pages_sharing"));
	EXPECT_EQ(-1, ksm_first_wrong(self->ram, PAGES, SEED, 0));
}

TEST_F(guest, pages_merge_with_pages_of_the_host)
{
	ASSERT_TRUE(merge_twins(&self->guest, self->twin));
	EXPECT_EQ(PAGES, ksm_get("pages_shared"));
	EXPECT_EQ(PAGES, ksm_get("pages_sharing"));
	EXPECT_UNHARMED(self);
	EXPECT_EQ(PAGES, merged(self->ram, PAGES));
	EXPECT_EQ(PAGES, merged(self->twin, PAGES));
}

TEST_F(guest, write_gives_a_copy_and_the_twin_keeps_its_bytes)
{
	long before = ksm_vmstat("cow_ksm");

	ASSERT_TRUE(merge_twins(&self->guest, self->twin));
	ASSERT_EQ(-1, guest_first_wrong(&self->guest, 0, PAGES, SEED, 1));
	for (size_t i = 0; i < PAGES; i += 2) {
		ASSERT_TRUE(guest_fills(&self->guest, i, 1, OTHER + i, 0));
		EXPECT_NE(pfn(self->twin, i), pfn(self->ram, i));
		EXPECT_EQ(pfn(self->twin, i + 1), pfn(self->ram, i + 1));
	}
	EXPECT_EQ(before + PAGES / 2, ksm_vmstat("cow_ksm"));
	EXPECT_EQ(PAGES / 2, merged(self->ram, PAGES));
	EXPECT_EQ(-1, ksm_first_wrong(self->twin, PAGES, SEED, 1));
	for (size_t i = 0; i < PAGES; i++) {
		uint64_t seed = i % 2 ? SEED + i : OTHER + i;

		EXPECT_EQ(-1, ksm_first_wrong(page(self->ram, i), 1, seed, 0));
		EXPECT_EQ(-1, guest_first_wrong(&self->guest, i, 1, seed, 0));
	}
}

TEST_F(guest, write_of_one_word_is_a_write_of_one_word)
{
	const size_t words = psize() / sizeof(uint32_t);
	const size_t places[] = { 0, 1, words / 2, words - 1 };

	ASSERT_TRUE(merge_twins(&self->guest, self->twin));
	for (size_t i = 0; i < 4; i++) {
		uint32_t *word = (uint32_t *)page(self->ram, i) + places[i];
		uint32_t was = *word;

		*(uint32_t *)self->guest.window = ~was;
		ASSERT_TRUE(guest_copies(&self->guest, GUEST_RAM + ((char *)word - self->ram),
					 GUEST_WINDOW, sizeof(*word)));
		EXPECT_EQ(~was, *word);
		EXPECT_NE(pfn(self->twin, i), pfn(self->ram, i));
		*word = was;
	}
	EXPECT_UNHARMED(self);
}

TEST_F(guest, writes_alone_make_pages_equal_and_different)
{
	ksm_fill(self->twin, PAGES, SEED, 1);
	ASSERT_TRUE(ksm_merge_all());
	for (unsigned int round = 0; round < 3; round++) {
		ASSERT_TRUE(guest_fills(&self->guest, 0, PAGES, OTHER + round, PAGES));
		ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
		EXPECT_EQ(0, merged(self->ram, PAGES));
		EXPECT_EQ(-1, guest_first_wrong(&self->guest, 0, PAGES, OTHER + round, PAGES));
		ASSERT_TRUE(guest_fills(&self->guest, 0, PAGES, SEED, 1));
		ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
		EXPECT_EQ(PAGES, merged(self->ram, PAGES));
		EXPECT_UNHARMED(self);
	}
}

TEST_F(guest, never_reads_or_writes_a_page_that_merging_replaced)
{
	/* After writing, the guest has all its pages mapped for writing. */
	ASSERT_TRUE(merge_twins(&self->guest, self->twin));
	ASSERT_TRUE(reuse_freed_memory());
	EXPECT_UNHARMED(self);
	EXPECT_ONE_MEMORY(self);
}

TEST_F(guest, never_reads_or_writes_a_page_that_unmerging_replaced)
{
	ASSERT_TRUE(merge_twins(&self->guest, self->twin));
	EXPECT_UNHARMED(self);
	ASSERT_EQ(0, ksm_unmergeable(self->ram, PAGES));
	EXPECT_EQ(0, merged(self->ram, PAGES));
	/* The merged pages have no other user then. */
	ASSERT_EQ(0, ksm_unmergeable(self->twin, PAGES));
	ASSERT_TRUE(reuse_freed_memory());
	EXPECT_UNHARMED(self);
	EXPECT_ONE_MEMORY(self);
}

TEST_F(guest, goes_on_after_everything_was_unmerged)
{
	ASSERT_TRUE(merge_twins(&self->guest, self->twin));
	EXPECT_UNHARMED(self);
	ASSERT_EQ(0, ksm_set("run", "2"));
	EXPECT_EQ(0, merged(self->ram, PAGES));
	ASSERT_TRUE(reuse_freed_memory());
	EXPECT_UNHARMED(self);
	EXPECT_ONE_MEMORY(self);
	EXPECT_EQ(0, ksm_get("pages_shared"));
}

TEST_F(guest, reads_what_the_host_writes_to_merged_pages)
{
	ASSERT_TRUE(merge_twins(&self->guest, self->twin));
	EXPECT_UNHARMED(self);
	ksm_fill(self->ram, PAGES, OTHER, 1);
	EXPECT_EQ(-1, guest_first_wrong(&self->guest, 0, PAGES, OTHER, 1));
	EXPECT_EQ(-1, ksm_first_wrong(self->twin, PAGES, SEED, 1));
	EXPECT_ONE_MEMORY(self);
}

TEST_F(guest, finds_discarded_pages_empty)
{
	ASSERT_TRUE(merge_twins(&self->guest, self->twin));
	EXPECT_UNHARMED(self);
	ASSERT_EQ(0, madvise(self->ram, PAGES * psize(), MADV_DONTNEED));
	EXPECT_TRUE(guest_sees_nothing(&self->guest, 0, PAGES));
	EXPECT_EQ(-1, ksm_first_wrong(self->twin, PAGES, SEED, 1));
	EXPECT_ONE_MEMORY(self);
}

/*
 * No dirty bit tells of what a guest writes: the next pass sees another checksum, the
 * one after that the same again.
 */
TEST_F(guest, writes_to_settled_pages_which_merge_two_passes_later)
{
	const size_t half = PAGES / 2;

	ASSERT_EQ(0, ksm_set("smart_scan", "1"));
	ASSERT_TRUE(guest_fills(&self->guest, 0, PAGES, SEED, 1));
	ksm_fill(self->twin, PAGES, OTHER, 1);
	ASSERT_TRUE(ksm_pass_by(SETTLE_PASSES));
	ASSERT_EQ(2 * PAGES, ksm_get("pages_unshared"));
	ASSERT_TRUE(guest_fills(&self->guest, 0, half, OTHER, 1));
	ASSERT_TRUE(ksm_pass_by(2));
	for (size_t i = 0; i < half; i++)
		EXPECT_EQ(pfn(self->twin, i), pfn(self->ram, i));
	EXPECT_EQ(half, ksm_get("pages_sharing"));
	EXPECT_EQ(0, merged(page(self->ram, half), half));
	EXPECT_EQ(-1, guest_first_wrong(&self->guest, 0, half, OTHER, 1));
	EXPECT_EQ(-1, guest_first_wrong(&self->guest, half, half, SEED + half, 1));
	EXPECT_EQ(-1, ksm_first_wrong(self->twin, PAGES, OTHER, 1));
}

TEST_F(guest, reads_swapped_pages_back)
{
	const char *why = no_swapping();

	if (why)
		SKIP(return, "%s", why);
	ASSERT_TRUE(merge_twins(&self->guest, self->twin));
	EXPECT_UNHARMED(self);
	ASSERT_TRUE(swap_out(self->ram, PAGES));
	ASSERT_TRUE(reuse_freed_memory());
	EXPECT_UNHARMED(self);
	/* What is read back merges again, and is written to out of swap. */
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_EQ(PAGES, merged(self->ram, PAGES));
	ASSERT_EQ(0, ksm_set("run", "0"));
	ASSERT_TRUE(swap_out(self->ram, PAGES));
	EXPECT_ONE_MEMORY(self);
}

TEST_F(guest, shares_merged_pages_with_a_forked_process)
{
	struct ksm_worker *worker = self->ksm.workers;

	ASSERT_TRUE(merge_twins(&self->guest, self->twin));
	EXPECT_UNHARMED(self);
	ASSERT_TRUE(ksm_fork_worker(&self->ksm, 0, self->ram, PAGES));
	EXPECT_EQ(pfn(self->ram, 0), ksm_pfn(worker->pid, worker->map));
	EXPECT_ONE_MEMORY(self);
	EXPECT_EQ(-1, ksm_ask(worker, ksm_job_first_wrong, SEED, 1, 0));
	ASSERT_EQ(0, ksm_ask(worker, ksm_job_fill, OTHER, 7, 0));
	EXPECT_EQ(-1, guest_first_wrong(&self->guest, 0, PAGES, OTHER, 3));
}

TEST_F(guest, reads_and_writes_the_zero_page_as_any_other)
{
	if (ksm_set("use_zero_pages", "1"))
		SKIP(return, "this kernel has no use_zero_pages");
	memset(self->guest.window, 0, PAGES * psize());
	ASSERT_TRUE(guest_copies(&self->guest, GUEST_RAM, GUEST_WINDOW, PAGES * psize()));
	ksm_fill(self->twin, PAGES, SEED, 1);
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(0, ksm_set("run", "0"));
	EXPECT_EQ(PAGES, ksm_get("ksm_zero_pages"));
	EXPECT_TRUE(guest_sees_nothing(&self->guest, 0, PAGES));
	EXPECT_EQ(PAGES, ksm_get("ksm_zero_pages"));
	for (size_t i = 0; i < PAGES / 2; i++) {
		ASSERT_TRUE(guest_fills(&self->guest, i, 1, OTHER + i, 0));
		EXPECT_EQ(PAGES - i - 1, ksm_get("ksm_zero_pages"));
	}
	EXPECT_EQ(-1, ksm_first_wrong(self->ram, PAGES / 2, OTHER, 1));
	EXPECT_TRUE(guest_sees_nothing(&self->guest, PAGES / 2, PAGES / 2));
	EXPECT_ONE_MEMORY(self);
	EXPECT_EQ(0, ksm_get("ksm_zero_pages"));
}

TEST_HARNESS_MAIN
