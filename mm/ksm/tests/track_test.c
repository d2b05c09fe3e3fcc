// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of the page records, one thing at a time.
 */
#include <kunit/static_stub.h>
#include <linux/sched.h>
#include <linux/slab.h>

#include "track_test.h"

static struct track_test *current_track_test(void)
{
	return kunit_get_current_test()->priv;
}

static void *counting_alloc(struct kmem_cache *cache, gfp_t gfp)
{
	struct track_test *tt = current_track_test();
	void *object;

	tt->gfp = gfp;
	if (tt->no_memory)
		return NULL;
	object = kmem_cache_alloc(cache, gfp & ~__GFP_ZERO);
	if (!object)
		return NULL;
	/* Memory is not zero by chance. */
	memset(object, gfp & __GFP_ZERO ? 0 : 0xa5, kmem_cache_size(cache));
	tt->nr_live++;
	return object;
}

static void counting_free(struct kmem_cache *cache, void *object)
{
	current_track_test()->nr_live--;
	kmem_cache_free(cache, object);
}

static int failing_store(struct ksm_track *track, unsigned long addr, struct ksm_block *block,
			 gfp_t gfp)
{
	current_track_test()->gfp = gfp;
	return -ENOMEM;
}

int ksm_track_test_init(struct kunit *test)
{
	struct track_test *tt = kunit_kzalloc(test, sizeof(*tt), GFP_KERNEL);

	if (!tt)
		return -ENOMEM;
	/* What setting up must overwrite. */
	memset(&tt->track, 0xa5, sizeof(tt->track));
	ksm_track_init(&tt->track, tt->totals);
	test->priv = tt;
	kunit_activate_static_stub(test, ksm_cache_alloc, counting_alloc);
	kunit_activate_static_stub(test, ksm_cache_free, counting_free);
	return 0;
}

/* Whatever a test left, all blocks can be freed and none was lost. */
void ksm_track_test_exit(struct kunit *test)
{
	struct track_test *tt = test->priv;
	struct ksm_block *block;
	unsigned long index;

	if (!tt)
		return;
	xa_for_each(&tt->track.blocks, index, block)
		block->used = 0;
	ksm_track_trim(&tt->track, 0, ULONG_MAX);
	KUNIT_EXPECT_TRUE(test, xa_empty(&tt->track.blocks));
	KUNIT_EXPECT_EQ(test, tt->track.nr_blocks, 0);
	KUNIT_EXPECT_EQ(test, tt->track.bytes, 0);
	KUNIT_EXPECT_EQ(test, tt->nr_live, 0);
}

static struct ksm_record get_record(struct kunit *test, unsigned long addr)
{
	struct track_test *tt = test->priv;
	struct ksm_record rec = {};

	KUNIT_ASSERT_EQ(test, ksm_track_get(&tt->track, addr, GFP_KERNEL, &rec), 0);
	KUNIT_ASSERT_NOT_NULL(test, rec.block);
	KUNIT_ASSERT_LT(test, rec.slot, KSM_BLOCK_PAGES);
	return rec;
}

static void set_state(struct track_test *tt, struct ksm_record rec, enum ksm_state state)
{
	ksm_track_set(&tt->track, rec, state, (union ksm_word){ .key = state });
}

static void use_page(struct kunit *test, unsigned long addr, enum ksm_state state)
{
	set_state(test->priv, get_record(test, addr), state);
}

static bool is_used(struct track_test *tt, unsigned long addr)
{
	struct ksm_record rec;

	return ksm_track_find(&tt->track, addr, &rec) && ksm_record_state(rec) != KSM_UNSEEN;
}

/* ---- one thing at a time ---- */

static void new_track_has_no_records(struct kunit *test)
{
	struct track_test *tt = test->priv;
	unsigned long addr = nth_page(5);
	struct ksm_record rec;
	unsigned int state;

	KUNIT_EXPECT_EQ(test, ksm_track_records(&tt->track), 0);
	KUNIT_EXPECT_EQ(test, tt->track.nr_blocks, 0);
	for (state = 0; state < KSM_NR_STATES; state++)
		KUNIT_EXPECT_EQ(test, tt->track.nr[state], 0);
	KUNIT_EXPECT_NULL(test, ksm_track_block(&tt->track, 0));
	KUNIT_EXPECT_NULL(test, ksm_track_block(&tt->track, ULONG_MAX));
	KUNIT_EXPECT_FALSE(test, ksm_track_find(&tt->track, addr, &rec));
	KUNIT_EXPECT_FALSE(test, ksm_track_next(&tt->track, &addr, ULONG_MAX, &rec));
	KUNIT_EXPECT_EQ(test, addr, nth_page(5));
	ksm_track_trim(&tt->track, 0, ULONG_MAX);
	KUNIT_EXPECT_EQ(test, tt->nr_live, 0);
}

static void new_records_are_unseen(struct kunit *test)
{
	struct track_test *tt = test->priv;
	struct ksm_record rec;
	unsigned long addr = 0;
	unsigned int i;

	for (i = 0; i < KSM_BLOCK_PAGES; i++) {
		rec = get_record(test, KSM_BLOCK_SIZE + nth_page(i * 37 % KSM_BLOCK_PAGES));
		KUNIT_EXPECT_EQ(test, ksm_record_state(rec), KSM_UNSEEN);
		KUNIT_EXPECT_EQ(test, rec.block->used, 0);
	}
	KUNIT_EXPECT_EQ(test, tt->nr_live, 1);
	KUNIT_EXPECT_EQ(test, tt->track.nr_blocks, 1);
	KUNIT_EXPECT_EQ(test, ksm_track_records(&tt->track), 0);
	KUNIT_EXPECT_FALSE(test, ksm_track_next(&tt->track, &addr, ULONG_MAX, &rec));
	KUNIT_EXPECT_EQ(test, addr, 0);
}

static void block_holds_one_aligned_stretch(struct kunit *test)
{
	struct track_test *tt = test->priv;
	unsigned long base = 77 * KSM_BLOCK_SIZE;
	struct ksm_record made, rec;
	unsigned long page;

	for (page = 0; page < KSM_BLOCK_PAGES; page++)
		use_page(test, base + nth_page(page) + 123, KSM_HASHED);
	made = get_record(test, base);
	for (page = 0; page < KSM_BLOCK_PAGES; page++) {
		unsigned long addr = base + nth_page(page);

		KUNIT_EXPECT_TRUE(test, ksm_track_find(&tt->track, addr, &rec));
		KUNIT_EXPECT_PTR_EQ(test, rec.block, made.block);
		KUNIT_EXPECT_EQ(test, rec.slot, page);
		rec = get_record(test, addr + PAGE_SIZE - 1);
		KUNIT_EXPECT_PTR_EQ(test, rec.block, made.block);
		KUNIT_EXPECT_EQ(test, rec.slot, page);
	}
	KUNIT_EXPECT_PTR_EQ(test, ksm_track_block(&tt->track, base), made.block);
	KUNIT_EXPECT_FALSE(test, ksm_track_find(&tt->track, base - 1, &rec));
	KUNIT_EXPECT_FALSE(test, ksm_track_find(&tt->track, base + KSM_BLOCK_SIZE, &rec));
	KUNIT_EXPECT_EQ(test, tt->track.nr_blocks, 1);
}

/* The nth of a block's pages in an order that is not that of their addresses. */
static unsigned long scattered(unsigned int n)
{
	return nth_page(n * 37 % KSM_BLOCK_PAGES);
}

/* States are from KSM_HASHED on, and keys say whose they are. */
static void use_scattered(struct kunit *test, unsigned int n)
{
	struct track_test *tt = test->priv;
	struct ksm_record rec = get_record(test, scattered(n));

	ksm_track_set(&tt->track, rec, KSM_HASHED + n % (KSM_NR_STATES - KSM_HASHED),
		      (union ksm_word){ .key = n });
	ksm_record_set_tag(rec, 1000 + n);
}

static void expect_scattered(struct kunit *test, unsigned int n)
{
	struct track_test *tt = test->priv;
	struct ksm_record rec;

	KUNIT_ASSERT_TRUE(test, ksm_track_find(&tt->track, scattered(n), &rec));
	KUNIT_EXPECT_EQ(test, ksm_record_state(rec), KSM_HASHED + n % (KSM_NR_STATES - KSM_HASHED));
	KUNIT_EXPECT_EQ(test, ksm_record_word(rec).key, n);
	KUNIT_EXPECT_TRUE(test, ksm_record_has_tag(rec, 1000 + n));
}

/* Nothing gets lost or mixed up while a block grows, record by record. */
static void block_grows_with_its_records(struct kunit *test)
{
	struct track_test *tt = test->priv;
	unsigned int n, i;

	for (n = 0; n < KSM_BLOCK_PAGES; n++) {
		use_scattered(test, n);
		KUNIT_EXPECT_EQ(test, ksm_track_records(&tt->track), n + 1);
		KUNIT_EXPECT_EQ(test, ksm_track_block(&tt->track, 0)->used, n + 1);
		KUNIT_EXPECT_EQ(test, tt->nr_live, 1);
		for (i = 0; i <= n; i++)
			expect_scattered(test, i);
		for (; i < KSM_BLOCK_PAGES; i++)
			KUNIT_EXPECT_FALSE(test, is_used(tt, scattered(i)));
	}
	/* Twelve bytes for each, and little for the block. */
	KUNIT_EXPECT_LE(test, tt->track.bytes, 12 * KSM_BLOCK_PAGES + 16);
}

static void lonely_page_costs_no_more_than_a_cache_line(struct kunit *test)
{
	struct track_test *tt = test->priv;

	use_page(test, nth_page(7), KSM_SETTLED);
	KUNIT_EXPECT_LE(test, tt->track.bytes, 64);
	use_page(test, nth_page(3), KSM_SETTLED);
	use_page(test, nth_page(60), KSM_SETTLED);
	KUNIT_EXPECT_LE(test, tt->track.bytes, 64);
	KUNIT_EXPECT_EQ(test, tt->track.nr_blocks, 1);
}

/* A few pages that come and go all over a stretch do not make its block grow. */
static void block_gets_rid_of_unseen_records(struct kunit *test)
{
	struct track_test *tt = test->priv;
	unsigned int n;

	for (n = 0; n < 20 * KSM_BLOCK_PAGES; n++) {
		use_scattered(test, n % KSM_BLOCK_PAGES);
		if (n >= 2)
			use_page(test, scattered((n - 2) % KSM_BLOCK_PAGES), KSM_UNSEEN);
		KUNIT_EXPECT_LE(test, tt->track.bytes, 64);
		KUNIT_EXPECT_LE(test, ksm_track_records(&tt->track), 2);
		expect_scattered(test, n % KSM_BLOCK_PAGES);
	}
}

static void expect_only(struct kunit *test, enum ksm_state only, unsigned long nr)
{
	struct track_test *tt = test->priv;
	enum ksm_state state;

	for (state = KSM_UNSEEN; state < KSM_NR_STATES; state++) {
		unsigned long want = state == only && state != KSM_UNSEEN ? nr : 0;

		KUNIT_EXPECT_EQ_MSG(test, tt->track.nr[state], want, "state %d", state);
		KUNIT_EXPECT_EQ_MSG(test, atomic_long_read(&tt->totals[state]), want,
				    "state %d", state);
	}
	KUNIT_EXPECT_EQ(test, ksm_track_records(&tt->track), only == KSM_UNSEEN ? 0 : nr);
}

static void counters_follow_every_change_of_state(struct kunit *test)
{
	struct track_test *tt = test->priv;
	struct ksm_record rec = get_record(test, 0);
	enum ksm_state from, to;

	for (from = KSM_UNSEEN; from < KSM_NR_STATES; from++) {
		for (to = KSM_UNSEEN; to < KSM_NR_STATES; to++) {
			set_state(tt, rec, from);
			expect_only(test, from, 1);
			set_state(tt, rec, to);
			expect_only(test, to, 1);
			KUNIT_EXPECT_EQ(test, ksm_record_state(rec), to);
			KUNIT_EXPECT_EQ(test, rec.block->used, to != KSM_UNSEEN);
		}
	}
}

static void record_keeps_its_word(struct kunit *test)
{
	struct track_test *tt = test->priv;
	struct ksm_record a = get_record(test, nth_page(1)), b = get_record(test, nth_page(2));
	union ksm_word word = { .key = 0x123456789abcdef0 };

	ksm_track_set(&tt->track, a, KSM_HASHED, word);
	ksm_track_set(&tt->track, b, KSM_SETTLED, (union ksm_word){ .key = U64_MAX });
	KUNIT_EXPECT_EQ(test, ksm_record_word(a).key, word.key);
	KUNIT_EXPECT_EQ(test, ksm_record_word(b).key, U64_MAX);
	/* The same state with another word. */
	word.key = 1;
	ksm_track_set(&tt->track, a, KSM_HASHED, word);
	KUNIT_EXPECT_EQ(test, ksm_record_word(a).key, 1);
	KUNIT_EXPECT_EQ(test, ksm_record_word(b).key, U64_MAX);
	word.site = (struct ksm_site *)tt;
	ksm_track_set(&tt->track, a, KSM_MERGED, word);
	KUNIT_EXPECT_PTR_EQ(test, ksm_record_word(a).site, (struct ksm_site *)tt);
}

static void full_block_can_be_emptied(struct kunit *test)
{
	struct track_test *tt = test->priv;
	struct ksm_record rec = {};
	unsigned int i;

	for (i = 0; i < KSM_BLOCK_PAGES; i++)
		use_page(test, nth_page(i), KSM_MERGED);
	expect_only(test, KSM_MERGED, KSM_BLOCK_PAGES);
	rec.block = ksm_track_block(&tt->track, 0);
	KUNIT_EXPECT_EQ(test, rec.block->used, KSM_BLOCK_PAGES);
	for (i = 0; i < KSM_BLOCK_PAGES; i++) {
		ksm_track_trim(&tt->track, 0, ULONG_MAX);
		KUNIT_ASSERT_EQ(test, tt->nr_live, 1);
		rec.slot = i;
		set_state(tt, rec, KSM_UNSEEN);
	}
	expect_only(test, KSM_UNSEEN, 0);
	/* It stays until it is trimmed. */
	KUNIT_EXPECT_EQ(test, tt->track.nr_blocks, 1);
	ksm_track_trim(&tt->track, 0, ULONG_MAX);
	KUNIT_EXPECT_EQ(test, tt->track.nr_blocks, 0);
	KUNIT_EXPECT_EQ(test, tt->nr_live, 0);
}

static void first_and_last_page_of_the_address_space_have_records(struct kunit *test)
{
	struct track_test *tt = test->priv;
	unsigned long addr = 0;
	struct ksm_record rec;

	use_page(test, 0, KSM_HASHED);
	use_page(test, ULONG_MAX, KSM_MERGED);
	KUNIT_EXPECT_TRUE(test, ksm_track_next(&tt->track, &addr, ULONG_MAX, &rec));
	KUNIT_EXPECT_EQ(test, addr, 0);
	KUNIT_EXPECT_EQ(test, ksm_record_state(rec), KSM_HASHED);
	addr += PAGE_SIZE;
	KUNIT_EXPECT_FALSE(test, ksm_track_next(&tt->track, &addr, LAST_PAGE - 1, &rec));
	KUNIT_EXPECT_EQ(test, addr, PAGE_SIZE);
	KUNIT_EXPECT_TRUE(test, ksm_track_next(&tt->track, &addr, LAST_PAGE, &rec));
	KUNIT_EXPECT_EQ(test, addr, LAST_PAGE);
	KUNIT_EXPECT_EQ(test, ksm_record_state(rec), KSM_MERGED);
	KUNIT_EXPECT_TRUE(test, ksm_track_next(&tt->track, &addr, ULONG_MAX, &rec));
	KUNIT_EXPECT_EQ(test, addr, LAST_PAGE);
}

/* Every page of four blocks, one missing, as the first and the last of a range. */
static void next_keeps_to_its_range(struct kunit *test)
{
	const unsigned long base = 9 * KSM_BLOCK_SIZE, nr_pages = 4 * KSM_BLOCK_PAGES;
	static const u8 used[] = { 0, 1, 2, 30, 63, 66, 100, 126, 194, 250 };
	struct track_test *tt = test->priv;
	unsigned long first, last, nr_wrong = 0;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(used); i++)
		ksm_track_set(&tt->track, get_record(test, base + nth_page(used[i])), KSM_HASHED,
			      (union ksm_word){ .key = used[i] });
	for (first = 0; first < nr_pages; first++) {
		for (last = first; last < nr_pages; last++) {
			unsigned long start = base + nth_page(first), addr = start;
			/* The last byte may be any byte of its page, the first one too. */
			unsigned long end = base + nth_page(last) + last % 4 * (PAGE_SIZE / 4);
			struct ksm_record rec;
			bool found = ksm_track_next(&tt->track, &addr, end, &rec);

			for (i = 0; i < ARRAY_SIZE(used) && used[i] < first; i++)
				;
			if (i < ARRAY_SIZE(used) && used[i] <= last)
				nr_wrong += !found || addr != base + nth_page(used[i]) ||
					    rec.block != ksm_track_block(&tt->track, addr) ||
					    ksm_record_word(rec).key != used[i];
			else
				nr_wrong += found || addr != start;
		}
		cond_resched();
	}
	KUNIT_EXPECT_EQ(test, nr_wrong, 0);
}

static void trim_frees_only_empty_blocks_of_its_range(struct kunit *test)
{
	struct track_test *tt = test->priv;
	unsigned long i;

	for (i = 0; i < 10; i++) {
		get_record(test, i * KSM_BLOCK_SIZE);
		/* Even ones have their last record in use. */
		if (i % 2 == 0)
			use_page(test, (i + 1) * KSM_BLOCK_SIZE - 1, KSM_CANDIDATE);
	}
	/* Between two bytes of an even block: nothing to free. */
	ksm_track_trim(&tt->track, 2 * KSM_BLOCK_SIZE, 3 * KSM_BLOCK_SIZE - 1);
	KUNIT_EXPECT_EQ(test, tt->nr_live, 10);
	/* Touches blocks 3 and 7 with a byte each, and holds 5. */
	ksm_track_trim(&tt->track, 4 * KSM_BLOCK_SIZE - 1, 7 * KSM_BLOCK_SIZE);
	for (i = 0; i < 10; i++)
		KUNIT_EXPECT_EQ(test, !ksm_track_block(&tt->track, i * KSM_BLOCK_SIZE),
				i == 3 || i == 5 || i == 7);
	KUNIT_EXPECT_EQ(test, tt->track.nr_blocks, 7);
	KUNIT_EXPECT_EQ(test, tt->nr_live, 7);
	for (i = 0; i < 10; i += 2)
		KUNIT_EXPECT_TRUE(test, is_used(tt, (i + 1) * KSM_BLOCK_SIZE - 1));
	expect_only(test, KSM_CANDIDATE, 5);
}

static void totals_sum_over_address_spaces(struct kunit *test)
{
	struct track_test *tt = test->priv;
	struct ksm_track other;
	struct ksm_record rec;
	int err;

	ksm_track_init(&other, tt->totals);
	use_page(test, 0, KSM_HASHED);
	err = ksm_track_get(&other, 0, GFP_KERNEL, &rec);
	KUNIT_ASSERT_EQ(test, err, 0);
	ksm_track_set(&other, rec, KSM_HASHED, (union ksm_word){ .key = 0 });
	KUNIT_EXPECT_EQ(test, tt->track.nr[KSM_HASHED], 1);
	KUNIT_EXPECT_EQ(test, other.nr[KSM_HASHED], 1);
	KUNIT_EXPECT_EQ(test, atomic_long_read(&tt->totals[KSM_HASHED]), 2);
	ksm_track_set(&other, rec, KSM_UNSEEN, (union ksm_word){ .key = 0 });
	ksm_track_trim(&other, 0, ULONG_MAX);
	KUNIT_EXPECT_EQ(test, other.nr_blocks, 0);
	expect_only(test, KSM_HASHED, 1);
}

/* ---- allocation failure ---- */

/* Memory lacks for the block or, if @store, for the index's own nodes. */
int ksm_get_without_memory(struct kunit *test, unsigned long addr, bool store,
			   struct ksm_record *rec)
{
	struct track_test *tt = test->priv;
	int err;

	if (store)
		kunit_activate_static_stub(test, ksm_track_store, failing_store);
	else
		tt->no_memory = true;
	err = ksm_track_get(&tt->track, addr, KSM_GFP, rec);
	if (store)
		kunit_deactivate_static_stub(test, ksm_track_store);
	else
		tt->no_memory = false;
	return err;
}

static void check_failed_allocation(struct kunit *test, bool store)
{
	unsigned long used = 3 * KSM_BLOCK_SIZE, missing = 4 * KSM_BLOCK_SIZE, addr = 0;
	struct track_test *tt = test->priv;
	struct ksm_record rec = {};

	use_page(test, used, KSM_HASHED);
	KUNIT_EXPECT_EQ(test, ksm_get_without_memory(test, missing, store, &rec), -ENOMEM);
	/* Nothing changed, nothing lost. */
	KUNIT_EXPECT_EQ(test, tt->nr_live, 1);
	KUNIT_EXPECT_EQ(test, tt->track.nr_blocks, 1);
	KUNIT_EXPECT_FALSE(test, ksm_track_find(&tt->track, missing, &rec));
	KUNIT_EXPECT_TRUE(test, ksm_track_next(&tt->track, &addr, ULONG_MAX, &rec));
	KUNIT_EXPECT_EQ(test, addr, used);
	expect_only(test, KSM_HASHED, 1);
	/* What is there needs no memory. */
	KUNIT_EXPECT_EQ(test, ksm_get_without_memory(test, used, store, &rec), 0);
	KUNIT_EXPECT_EQ(test, ksm_record_state(rec), KSM_HASHED);
	/* And the next try succeeds. */
	use_page(test, missing, KSM_HASHED);
	KUNIT_EXPECT_EQ(test, tt->nr_live, 2);
	KUNIT_EXPECT_EQ(test, tt->track.nr_blocks, 2);
	expect_only(test, KSM_HASHED, 2);
}

static void no_memory_for_a_block_changes_nothing(struct kunit *test)
{
	check_failed_allocation(test, false);
}

static void no_memory_for_the_index_changes_nothing(struct kunit *test)
{
	check_failed_allocation(test, true);
}

/* Of every size, when it is full. */
static void no_memory_to_grow_loses_nothing(struct kunit *test)
{
	struct track_test *tt = test->priv;
	unsigned int n, i, refused = 0;
	struct ksm_record rec;

	for (n = 0; n < KSM_BLOCK_PAGES; n++) {
		for (i = 0; i < 2; i++) {
			struct ksm_block *block = ksm_track_block(&tt->track, 0);

			if (ksm_get_without_memory(test, scattered(n), i, &rec) == 0)
				continue;
			refused++;
			KUNIT_EXPECT_PTR_EQ(test, ksm_track_block(&tt->track, 0), block);
			KUNIT_EXPECT_FALSE(test, is_used(tt, scattered(n)));
			KUNIT_EXPECT_EQ(test, ksm_track_records(&tt->track), n);
		}
		use_scattered(test, n);
		for (i = 0; i <= n; i++)
			expect_scattered(test, i);
	}
	/* Twice for each of the three sizes. */
	KUNIT_EXPECT_EQ(test, refused, 6);
}

static void caller_decides_how_to_allocate(struct kunit *test)
{
	struct track_test *tt = test->priv;
	struct ksm_record rec;

	KUNIT_EXPECT_EQ(test, ksm_get_without_memory(test, 0, false, &rec), -ENOMEM);
	KUNIT_EXPECT_TRUE(test, (tt->gfp & ~__GFP_ZERO) == KSM_GFP);
	KUNIT_EXPECT_EQ(test, ksm_get_without_memory(test, 0, true, &rec), -ENOMEM);
	KUNIT_EXPECT_TRUE(test, (tt->gfp & ~__GFP_ZERO) == KSM_GFP);
}

static struct kunit_case track_cases[] = {
	KUNIT_CASE(new_track_has_no_records),
	KUNIT_CASE(new_records_are_unseen),
	KUNIT_CASE(block_holds_one_aligned_stretch),
	KUNIT_CASE(block_grows_with_its_records),
	KUNIT_CASE(lonely_page_costs_no_more_than_a_cache_line),
	KUNIT_CASE(block_gets_rid_of_unseen_records),
	KUNIT_CASE(counters_follow_every_change_of_state),
	KUNIT_CASE(record_keeps_its_word),
	KUNIT_CASE(full_block_can_be_emptied),
	KUNIT_CASE(first_and_last_page_of_the_address_space_have_records),
	KUNIT_CASE(next_keeps_to_its_range),
	KUNIT_CASE(trim_frees_only_empty_blocks_of_its_range),
	KUNIT_CASE(totals_sum_over_address_spaces),
	KUNIT_CASE(no_memory_for_a_block_changes_nothing),
	KUNIT_CASE(no_memory_for_the_index_changes_nothing),
	KUNIT_CASE(no_memory_to_grow_loses_nothing),
	KUNIT_CASE(caller_decides_how_to_allocate),
	{}
};

static struct kunit_suite track_suite = {
	.name = "ksm_track",
	.init = ksm_track_test_init,
	.exit = ksm_track_test_exit,
	.test_cases = track_cases,
};

kunit_test_suite(track_suite);
