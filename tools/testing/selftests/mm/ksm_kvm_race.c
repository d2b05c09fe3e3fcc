// SPDX-License-Identifier: GPL-2.0-only
/*
 * A virtual machine that uses its memory while ksmd merges it as fast as it can:
 * no write of guest or host is lost, and none is seen that was not made.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <pthread.h>
#include "ksm_guest.h"
#include "ksm_util.h"

#define PAGES		32
#define SEED		1000
#define CONTENTS	4
#define EMPTY		CONTENTS	/* a discarded page holds this */

/* Enough has happened when merged pages were copied so many times. */
#define ENOUGH_COPIES	500

/* ksmd runs; @twin is the host's own and has one page of each content. */
FIXTURE(busy_guest)
{
	struct ksm_test ksm;
	struct ksm_guest guest;
	char *ram;
	char *twin;
};

FIXTURE_VARIANT(busy_guest)
{
	const char *smart_scan;
};

FIXTURE_VARIANT_ADD(busy_guest, is_hashed_in_each_pass) {
	.smart_scan = "0",
};

FIXTURE_VARIANT_ADD(busy_guest, is_asked_what_it_touched) {
	.smart_scan = "1",
};

FIXTURE_SETUP(busy_guest)
{
	const char *missing = ksm_missing() ?: guest_missing(&self->guest);

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	ASSERT_EQ(0, ksm_set("smart_scan", variant->smart_scan));
	ASSERT_TRUE(guest_create(&self->guest, PAGES));
	self->ram = self->guest.ram;
	self->twin = ksm_map_fenced(CONTENTS);
	ASSERT_NE(NULL, self->twin);
	ASSERT_EQ(0, ksm_mergeable(self->ram, PAGES));
	ASSERT_EQ(0, ksm_mergeable(self->twin, CONTENTS));
	ksm_fill(self->twin, CONTENTS, SEED, 1);
	ASSERT_EQ(0, ksm_set_number("sleep_millisecs", 0));
	ASSERT_EQ(0, ksm_set("run", "1"));
}

FIXTURE_TEARDOWN_PARENT(busy_guest)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
	EXPECT_EQ(0, ksm_get("pages_shared"));
	EXPECT_EQ(0, ksm_get("pages_sharing"));
}

static char *page(char *map, size_t index)
{
	return map + index * psize();
}

static bool page_holds(const char *map, unsigned int content)
{
	if (content != EMPTY)
		return ksm_first_wrong(map, 1, SEED + content, 0) == -1;
	for (size_t i = 0; i < psize(); i++)
		if (map[i])
			return false;
	return true;
}

/* One step on page @i; *@holds is what it must hold before, and then after it. */
static bool step_on(struct ksm_guest *guest, unsigned int what, size_t i, unsigned int content,
		    unsigned char *holds)
{
	char *at = page(guest->ram, i);

	switch (what) {
	case 0:
	case 1:
		return guest_reads(guest, i, 1) && page_holds(guest->window, *holds);
	case 2:
		return page_holds(at, *holds);
	case 3:
	case 4:
		*holds = content;
		return guest_fills(guest, i, 1, SEED + content, 0);
	case 5:
		*holds = content;
		ksm_fill(at, 1, SEED + content, 0);
		return true;
	case 6:
		*holds = EMPTY;
		return !madvise(at, psize(), MADV_DONTNEED);
	default:
		/* Merged pages stay, others go to swap if there is any. */
		return !madvise(at, psize(), MADV_PAGEOUT);
	}
}

static bool guest_and_host_agree(struct ksm_guest *guest, const unsigned char *holds)
{
	if (!guest_reads(guest, 0, PAGES))
		return false;
	for (size_t i = 0; i < PAGES; i++)
		if (!page_holds(page(guest->window, i), holds[i]) ||
		    !page_holds(page(guest->ram, i), holds[i]))
			return false;
	return true;
}

TEST_F(busy_guest, and_host_always_read_what_either_wrote_last)
{
	long before = ksm_vmstat("cow_ksm"), copies;
	struct ksm_wait wait = { 0 };
	unsigned char holds[PAGES];
	unsigned int random = 1;

	ASSERT_TRUE(guest_fills(&self->guest, 0, PAGES, SEED, 0));
	memset(holds, 0, sizeof(holds));
	while ((copies = ksm_vmstat("cow_ksm")) < before + ENOUGH_COPIES &&
	       ksm_may_wait(&wait, copies)) {
		for (unsigned int i = 0; i < 100; i++) {
			unsigned int what, where;

			random = random * 1103515245 + 12345;
			what = (random >> 8) % 8;
			where = (random >> 16) % PAGES;
			ASSERT_TRUE(step_on(&self->guest, what, where,
					    (random >> 24) % CONTENTS, &holds[where]))
				TH_LOG("step %u on page %u", what, where);
		}
		if (random >> 30 == 0)
			ASSERT_EQ(0, ksm_unmergeable(self->ram, PAGES / 2));
		ASSERT_EQ(0, ksm_mergeable(self->ram, PAGES / 2));
		ASSERT_TRUE(guest_and_host_agree(&self->guest, holds));
	}
	EXPECT_GE(ksm_vmstat("cow_ksm"), before + ENOUGH_COPIES);
	EXPECT_EQ(-1, ksm_first_wrong(self->twin, CONTENTS, SEED, 1));
}

/* Adds one to a word of each page; all pages are equal before and after it. */
static bool guest_counts(struct ksm_guest *guest, size_t word)
{
	struct kvm_regs regs = {
		.rip = GUEST_COUNT_CODE,
		.rax = psize(),
		.rdi = GUEST_RAM + word * sizeof(uint32_t),
		.rcx = PAGES,
	};

	return guest_run(guest, &regs);
}

TEST_F(busy_guest, loses_no_count_on_pages_that_merge_between_two_counts)
{
	const size_t words = psize() / sizeof(uint32_t);
	long before = ksm_vmstat("cow_ksm"), copies = before;
	struct ksm_wait wait = { 0 };
	uint32_t counts[4] = { 0 };

	memset(self->ram, 0, PAGES * psize());
	for (size_t round = 0; ksm_may_wait(&wait, copies); round++) {
		ASSERT_TRUE(guest_counts(&self->guest, round % 4 * (words / 4)));
		counts[round % 4]++;
		/* Every now and then some of them get the time to merge. */
		if (round % 50 == 0)
			ASSERT_TRUE(ksm_wait_until(ksm_get("pages_sharing") > 0));
		copies = ksm_vmstat("cow_ksm");
		if (copies >= before + ENOUGH_COPIES)
			break;
	}
	EXPECT_GE(ksm_vmstat("cow_ksm"), before + ENOUGH_COPIES);
	for (size_t i = 0; i < PAGES; i++) {
		uint32_t *word = (uint32_t *)page(self->ram, i);

		for (size_t j = 0; j < words; j++)
			ASSERT_EQ(j % (words / 4) ? 0 : counts[j / (words / 4)], word[j]);
	}
	EXPECT_EQ(-1, ksm_first_wrong(self->twin, CONTENTS, SEED, 1));
}

/* The guest reads all its memory again and again, in a thread of its own. */
struct reader {
	struct ksm_guest *guest;
	bool stop;
	unsigned long rounds;
	long wrong;
};

static void *keep_reading(void *data)
{
	struct reader *reader = data;

	while (!__atomic_load_n(&reader->stop, __ATOMIC_RELAXED) && reader->wrong == -1) {
		reader->wrong = guest_first_wrong(reader->guest, 0, PAGES, SEED, 0);
		__atomic_add_fetch(&reader->rounds, 1, __ATOMIC_RELAXED);
	}
	return NULL;
}

static unsigned long rounds_of(struct reader *reader)
{
	return __atomic_load_n(&reader->rounds, __ATOMIC_RELAXED);
}

TEST_F(busy_guest, reads_the_same_while_pages_merge_and_unmerge_under_it)
{
	struct reader reader = { .guest = &self->guest, .wrong = -1 };
	pthread_t thread;

	ksm_fill(self->ram, PAGES, SEED, 0);
	ASSERT_EQ(0, pthread_create(&thread, NULL, keep_reading, &reader));
	for (unsigned int round = 0; round < 100; round++) {
		unsigned long rounds = rounds_of(&reader);

		ASSERT_TRUE(ksm_wait_until(ksm_count_merged(getpid(), self->ram, PAGES) == PAGES));
		ASSERT_EQ(0, ksm_unmergeable(self->ram, PAGES));
		ASSERT_EQ(PAGES, ksm_count_frames(getpid(), self->ram, PAGES));
		ASSERT_EQ(0, ksm_mergeable(self->ram, PAGES));
		ASSERT_TRUE(ksm_wait_until(rounds_of(&reader) > rounds));
		/* The same bytes once more: to the guest nothing changes. */
		ksm_fill(self->ram, PAGES, SEED, 0);
	}
	__atomic_store_n(&reader.stop, true, __ATOMIC_RELAXED);
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_EQ(-1, reader.wrong);
	EXPECT_EQ(-1, ksm_first_wrong(self->ram, PAGES, SEED, 0));
	EXPECT_EQ(-1, ksm_first_wrong(self->twin, CONTENTS, SEED, 1));
}

TEST_HARNESS_MAIN
