// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of forgetting records by the block.
 */
#include <linux/sched.h>

#include "track_test.h"

/* What was taken back, in order. */
static struct {
	unsigned int nr;
	unsigned int unsorted;
	unsigned int strangers;		/* of records that own nothing, or another page's */
	unsigned long last;
} taken;

/* Records of these tests know the address of their page. */
static bool note_taken(struct ksm_track *track, unsigned long addr, struct ksm_record rec,
		       void *arg)
{
	enum ksm_state state = ksm_record_state(rec);

	taken.unsorted += taken.nr && addr <= taken.last;
	taken.strangers += (state != KSM_CANDIDATE && state != KSM_MERGED) ||
			   ksm_record_word(rec).key != addr;
	taken.last = addr;
	taken.nr++;
	return true;
}

static bool keep_merged(struct ksm_track *track, unsigned long addr, struct ksm_record rec,
			void *arg)
{
	return ksm_record_state(rec) != KSM_MERGED;
}

static void forget(struct ksm_track *track, unsigned long addr, unsigned long last)
{
	memset(&taken, 0, sizeof(taken));
	ksm_track_forget(track, addr, last, note_taken, NULL);
}

static enum ksm_state state_of(unsigned long addr)
{
	return KSM_HASHED + (addr >> PAGE_SHIFT) % (KSM_NR_STATES - KSM_HASHED);
}

static bool state_owns(enum ksm_state state)
{
	return state == KSM_CANDIDATE || state == KSM_MERGED;
}

static bool use(struct ksm_track *track, unsigned long addr)
{
	struct ksm_record rec;

	if (ksm_track_get(track, addr, GFP_KERNEL, &rec))
		return false;
	ksm_track_set(track, rec, state_of(addr), (union ksm_word){ .key = addr });
	ksm_record_set_tag(rec, addr >> PAGE_SHIFT);
	return true;
}

/* Whether the record is there as use() made it, or is not in use, as is @wanted. */
static bool is_as_wanted(struct ksm_track *track, unsigned long addr, bool wanted)
{
	struct ksm_record rec;

	if (!ksm_track_find(track, addr, &rec) || ksm_record_state(rec) == KSM_UNSEEN)
		return !wanted;
	return wanted && ksm_record_state(rec) == state_of(addr) &&
	       ksm_record_word(rec).key == addr && ksm_record_has_tag(rec, addr >> PAGE_SHIFT);
}

/* Pages of two blocks next to each other: each @step-th has a record. */
static unsigned int fill(struct kunit *test, unsigned long base, unsigned int step)
{
	struct track_test *tt = test->priv;
	unsigned int i, failed = 0;

	for (i = 0; i < 2 * KSM_BLOCK_PAGES; i += step)
		failed += !use(&tt->track, base + nth_page(i));
	return failed;
}

/* Returns how much is not as it should be when pages @first to @last were forgotten. */
static unsigned int count_wrong(struct track_test *tt, unsigned long base, unsigned int step,
				unsigned int first, unsigned int last)
{
	unsigned long nr[KSM_NR_STATES] = {}, left[2] = {};
	unsigned int i, wrong = 0, owners = 0;
	enum ksm_state state;

	for (i = 0; i < 2 * KSM_BLOCK_PAGES; i++) {
		unsigned long addr = base + nth_page(i);
		bool used = i % step == 0, stays = used && (i < first || i > last);

		wrong += !is_as_wanted(&tt->track, addr, stays);
		owners += used && !stays && state_owns(state_of(addr));
		nr[state_of(addr)] += stays;
		left[i / KSM_BLOCK_PAGES] += stays;
	}
	for (state = KSM_UNSEEN; state < KSM_NR_STATES; state++)
		wrong += tt->track.nr[state] != nr[state] ||
			 atomic_long_read(&tt->totals[state]) != nr[state];
	for (i = 0; i < 2; i++) {
		struct ksm_block *block = ksm_track_block(&tt->track, base + i * KSM_BLOCK_SIZE);

		wrong += left[i] ? !block || block->used != left[i] : !!block;
	}
	wrong += tt->nr_live != !!left[0] + !!left[1] || tt->track.nr_blocks != tt->nr_live;
	return wrong + (taken.nr != owners) + taken.unsorted + taken.strangers;
}

static void check_all_ranges(struct kunit *test, unsigned int step)
{
	const unsigned long base = 12 * KSM_BLOCK_SIZE, nr_pages = 2 * KSM_BLOCK_PAGES;
	struct track_test *tt = test->priv;
	unsigned int first, last, wrong = 0;

	for (first = 0; first < nr_pages; first++) {
		for (last = first; last < nr_pages; last++) {
			wrong += fill(test, base, step);
			/* Any byte of the first page, and of the last one. */
			forget(&tt->track, base + nth_page(first) + first % 3,
			       base + nth_page(last) + last % 4 * (PAGE_SIZE / 4));
			wrong += count_wrong(tt, base, step, first, last);
		}
		cond_resched();
	}
	KUNIT_EXPECT_EQ(test, wrong, 0);
}

static void any_range_of_full_blocks(struct kunit *test)
{
	check_all_ranges(test, 1);
}

static void any_range_of_blocks_with_room_for_16(struct kunit *test)
{
	struct track_test *tt = test->priv;

	fill(test, 0, 7);
	KUNIT_ASSERT_EQ(test, ksm_track_block(&tt->track, 0)->room, 16);
	forget(&tt->track, 0, ULONG_MAX);
	check_all_ranges(test, 7);
}

static void any_range_of_blocks_with_room_for_4(struct kunit *test)
{
	struct track_test *tt = test->priv;

	fill(test, 0, 23);
	KUNIT_ASSERT_EQ(test, ksm_track_block(&tt->track, 0)->room, 4);
	forget(&tt->track, 0, ULONG_MAX);
	check_all_ranges(test, 23);
}

/* Blocks whose records are all unseen go, too, and those outside of the range stay. */
static void empty_blocks_of_the_range_go(struct kunit *test)
{
	struct track_test *tt = test->priv;
	struct ksm_record rec;
	unsigned int i;

	for (i = 0; i < 5; i++)
		KUNIT_ASSERT_EQ(test, ksm_track_get(&tt->track, i * KSM_BLOCK_SIZE, GFP_KERNEL,
						    &rec), 0);
	forget(&tt->track, KSM_BLOCK_SIZE, 4 * KSM_BLOCK_SIZE - 1);
	KUNIT_EXPECT_EQ(test, tt->nr_live, 2);
	KUNIT_EXPECT_NOT_NULL(test, ksm_track_block(&tt->track, 0));
	KUNIT_EXPECT_NOT_NULL(test, ksm_track_block(&tt->track, 4 * KSM_BLOCK_SIZE));
	KUNIT_EXPECT_EQ(test, taken.nr, 0);
}

/* What is not taken back stays as it was, and its block with it. */
static void records_may_stay(struct kunit *test)
{
	struct track_test *tt = test->priv;
	unsigned long i, kept = 0;
	enum ksm_state state;

	for (i = 0; i < 40 * KSM_BLOCK_PAGES; i += 1 + i / KSM_BLOCK_PAGES) {
		KUNIT_ASSERT_TRUE(test, use(&tt->track, nth_page(i)));
		kept += state_of(nth_page(i)) == KSM_MERGED;
	}
	KUNIT_ASSERT_GT(test, kept, 0);
	ksm_track_forget(&tt->track, 0, ULONG_MAX, keep_merged, NULL);
	for (i = 0; i < 40 * KSM_BLOCK_PAGES; i += 1 + i / KSM_BLOCK_PAGES)
		KUNIT_EXPECT_TRUE(test, is_as_wanted(&tt->track, nth_page(i),
						     state_of(nth_page(i)) == KSM_MERGED));
	for (state = KSM_UNSEEN + 1; state < KSM_NR_STATES; state++) {
		unsigned long nr = state == KSM_MERGED ? kept : 0;

		KUNIT_EXPECT_EQ(test, tt->track.nr[state], nr);
		KUNIT_EXPECT_EQ(test, atomic_long_read(&tt->totals[state]), nr);
	}
	forget(&tt->track, 0, ULONG_MAX);
	KUNIT_EXPECT_EQ(test, taken.nr, kept);
	KUNIT_EXPECT_EQ(test, tt->nr_live, 0);
}

/* Sums over many blocks, of all sizes, beside another address space's. */
static void sums_of_others_stay(struct kunit *test)
{
	struct track_test *tt = test->priv;
	struct ksm_track other;
	unsigned long i, owners = 0;
	unsigned int failed = 0;
	enum ksm_state state;

	ksm_track_init(&other, tt->totals);
	for (i = 0; i < 300 * KSM_BLOCK_PAGES; i += 1 + i / KSM_BLOCK_PAGES % 20) {
		failed += !use(&tt->track, nth_page(i));
		failed += !use(&other, nth_page(i));
		owners += state_owns(state_of(nth_page(i)));
	}
	failed += !use(&tt->track, LAST_PAGE);
	owners += state_owns(state_of(LAST_PAGE));
	KUNIT_ASSERT_EQ(test, failed, 0);
	forget(&tt->track, 0, ULONG_MAX);
	KUNIT_EXPECT_EQ(test, taken.nr, owners);
	KUNIT_EXPECT_EQ(test, taken.unsorted + taken.strangers, 0);
	KUNIT_EXPECT_EQ(test, ksm_track_records(&tt->track), 0);
	KUNIT_EXPECT_EQ(test, tt->track.bytes, 0);
	KUNIT_EXPECT_TRUE(test, xa_empty(&tt->track.blocks));
	for (state = KSM_UNSEEN + 1; state < KSM_NR_STATES; state++) {
		KUNIT_EXPECT_GT(test, other.nr[state], 0);
		KUNIT_EXPECT_EQ(test, atomic_long_read(&tt->totals[state]), other.nr[state]);
	}
	forget(&other, 0, ULONG_MAX);
	for (state = KSM_UNSEEN; state < KSM_NR_STATES; state++)
		KUNIT_EXPECT_EQ(test, atomic_long_read(&tt->totals[state]), 0);
	KUNIT_EXPECT_EQ(test, tt->nr_live, 0);
}

static struct kunit_case forget_cases[] = {
	KUNIT_CASE(any_range_of_full_blocks),
	KUNIT_CASE(any_range_of_blocks_with_room_for_16),
	KUNIT_CASE(any_range_of_blocks_with_room_for_4),
	KUNIT_CASE(empty_blocks_of_the_range_go),
	KUNIT_CASE(records_may_stay),
	KUNIT_CASE(sums_of_others_stay),
	{}
};

static struct kunit_suite forget_suite = {
	.name = "ksm_track_forget",
	.init = ksm_track_test_init,
	.exit = ksm_track_test_exit,
	.test_cases = forget_cases,
};

kunit_test_suite(forget_suite);
