// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of sightings: a key that was noted is always seen again, other
 * keys seldom are, whatever was built anew in between.
 */
#include <kunit/static_stub.h>
#include <kunit/test.h>
#include <linux/cleanup.h>
#include <linux/hash.h>

#include "../ksm.h"

#define NR_KEYS		20000UL
/* Wrong answers in a filter of the right size, in thousandths. */
#define MAX_WRONG	25

/* Spread like checksums are; @series keeps sets of keys apart. */
static u64 nth_key(unsigned int series, unsigned long n)
{
	u64 x = (((u64)series << 32) + n + 1) * GOLDEN_RATIO_64;

	x = (x ^ (x >> 32)) * 0xd6e8feb86659fd93ULL;
	return x ^ (x >> 32);
}

static unsigned long note_all(unsigned int series, unsigned long nr)
{
	unsigned long i, seen = 0;

	for (i = 0; i < nr; i++)
		seen += ksm_sight_note(nth_key(series, i));
	return seen;
}

/* Returns of how many another page was noted already, perhaps. */
static unsigned long renew_all(unsigned int series, unsigned long nr)
{
	unsigned long i, had = 0;

	for (i = 0; i < nr; i++)
		had += ksm_sight_renew(nth_key(series, i));
	return had;
}

static unsigned long count_wanted(unsigned int series, unsigned long nr)
{
	unsigned long i, wanted = 0;

	for (i = 0; i < nr; i++)
		wanted += ksm_sight_wanted(nth_key(series, i));
	return wanted;
}

static void one_pass(unsigned long records)
{
	ksm_sight_begin_pass(records);
	ksm_sight_end_pass();
}

/* No test leaves anything behind, and ksmd keeps out of the way. */
static void alone(struct kunit *test, void (*run)(struct kunit *test))
{
	long bytes;

	guard(mutex)(&ksm_control);
	bytes = atomic_long_read(&ksm_stat.bytes);
	KUNIT_ASSERT_FALSE(test, ksm_sight_in_use());
	run(test);
	ksm_sight_reset();
	KUNIT_EXPECT_FALSE(test, ksm_sight_in_use());
	KUNIT_EXPECT_EQ(test, atomic_long_read(&ksm_stat.bytes), bytes);
}

static void keys_are_seen_once_noted(struct kunit *test)
{
	ksm_sight_begin_pass(NR_KEYS);
	KUNIT_EXPECT_LT(test, note_all(1, NR_KEYS), NR_KEYS * MAX_WRONG / 1000);
	KUNIT_EXPECT_EQ(test, note_all(1, NR_KEYS), NR_KEYS);
	ksm_sight_end_pass();
	KUNIT_EXPECT_EQ(test, note_all(1, NR_KEYS), NR_KEYS);
}

static void noted_keys_are_always_seen_again(struct kunit *test)
{
	alone(test, keys_are_seen_once_noted);
}

static void without_a_filter(struct kunit *test)
{
	KUNIT_EXPECT_EQ(test, note_all(1, 100), 100);
	KUNIT_EXPECT_EQ(test, count_wanted(1, 100), 0);
	ksm_sight_want(nth_key(1, 0));
	KUNIT_EXPECT_TRUE(test, ksm_sight_wanted(nth_key(1, 0)));
	/* Nor is there a way to tell which are wanted but a glance. */
	KUNIT_EXPECT_LT(test, count_wanted(1, 1000), 10);
	ksm_sight_reset();
	KUNIT_EXPECT_FALSE(test, ksm_sight_wanted(nth_key(1, 0)));
}

static void without_memory_all_keys_count_as_seen(struct kunit *test)
{
	alone(test, without_a_filter);
}

static void keys_renewed_while_it_grows(struct kunit *test)
{
	one_pass(NR_KEYS);
	note_all(1, NR_KEYS);
	ksm_sight_begin_pass(16 * NR_KEYS);
	/* New ones do not crowd the old filter, nor are they lost with it. */
	KUNIT_EXPECT_LT(test, note_all(2, 8 * NR_KEYS), 8 * NR_KEYS * 2 * MAX_WRONG / 1000);
	renew_all(1, NR_KEYS);
	ksm_sight_end_pass();
	KUNIT_EXPECT_EQ(test, note_all(1, NR_KEYS), NR_KEYS);
	KUNIT_EXPECT_EQ(test, note_all(2, 8 * NR_KEYS), 8 * NR_KEYS);
	KUNIT_EXPECT_LT(test, note_all(3, NR_KEYS), NR_KEYS * MAX_WRONG / 1000);
}

static void keys_that_are_renewed_survive_a_new_filter(struct kunit *test)
{
	alone(test, keys_renewed_while_it_grows);
}

static void keys_not_renewed(struct kunit *test)
{
	unsigned int series;

	one_pass(NR_KEYS);
	/* So many that a new one of the same size is due. */
	for (series = 1; series <= 4; series++)
		note_all(series, NR_KEYS);
	one_pass(NR_KEYS);
	KUNIT_EXPECT_LT(test, note_all(1, NR_KEYS / 2), NR_KEYS / 2 * MAX_WRONG / 1000);
}

static void keys_that_are_not_renewed_are_forgotten(struct kunit *test)
{
	alone(test, keys_not_renewed);
}

static void shrinks(struct kunit *test)
{
	long large, small;

	one_pass(64 * NR_KEYS);
	note_all(1, 1000);
	large = atomic_long_read(&ksm_stat.bytes);
	ksm_sight_begin_pass(NR_KEYS);
	renew_all(1, 1000);
	ksm_sight_end_pass();
	small = atomic_long_read(&ksm_stat.bytes);
	KUNIT_EXPECT_LT(test, small, large / 16);
	KUNIT_EXPECT_EQ(test, note_all(1, 1000), 1000);
}

static void shrinks_with_what_is_registered(struct kunit *test)
{
	alone(test, shrinks);
}

static void wants(struct kunit *test)
{
	unsigned long i;

	one_pass(NR_KEYS);
	ksm_sight_begin_pass(NR_KEYS);
	KUNIT_EXPECT_EQ(test, count_wanted(1, 1000), 0);
	for (i = 0; i < 100; i++)
		ksm_sight_want(nth_key(1, i));
	KUNIT_EXPECT_EQ(test, count_wanted(1, 100), 100);
	KUNIT_EXPECT_LT(test, count_wanted(2, 1000), 100);
	ksm_sight_end_pass();
	ksm_sight_begin_pass(NR_KEYS);
	KUNIT_EXPECT_EQ(test, count_wanted(1, 100), 100);
	ksm_sight_end_pass();
	ksm_sight_begin_pass(NR_KEYS);
	KUNIT_EXPECT_EQ(test, count_wanted(1, 100), 0);
}

static void keys_are_wanted_until_the_end_of_the_next_pass(struct kunit *test)
{
	alone(test, wants);
}

static void wants_in_a_new_filter(struct kunit *test)
{
	unsigned long i;

	one_pass(NR_KEYS);
	note_all(1, 100);
	ksm_sight_begin_pass(16 * NR_KEYS);
	for (i = 0; i < 100; i++)
		ksm_sight_want(nth_key(1, i));
	ksm_sight_end_pass();
	ksm_sight_begin_pass(16 * NR_KEYS);
	KUNIT_EXPECT_EQ(test, count_wanted(1, 100), 100);
}

static void wanted_keys_survive_a_new_filter(struct kunit *test)
{
	alone(test, wants_in_a_new_filter);
}

/* As the passes of the scanner are. */
static void whole_pass(unsigned long records)
{
	ksm_sight_begin_pass(records);
	if (ksm_sight_renewing())
		renew_all(1, NR_KEYS);
	ksm_sight_end_pass();
	ksm_whole_passes++;
}

static void renews_in_time(struct kunit *test)
{
	unsigned int passes = 0;

	one_pass(NR_KEYS);
	note_all(1, NR_KEYS);
	KUNIT_EXPECT_EQ(test, renew_all(1, NR_KEYS), 0);
	for (; !ksm_sight_renewing() && passes < 2 * KSM_REFRESH_PASSES; passes++) {
		ksm_whole_passes++;
		ksm_sight_begin_pass(NR_KEYS);
	}
	KUNIT_EXPECT_EQ(test, passes, KSM_REFRESH_PASSES);
	/* Of two pages with one key it is the second that is told. */
	KUNIT_EXPECT_LT(test, renew_all(1, NR_KEYS), NR_KEYS * MAX_WRONG / 1000);
	KUNIT_EXPECT_EQ(test, renew_all(1, NR_KEYS), NR_KEYS);
	ksm_sight_end_pass();
	KUNIT_EXPECT_EQ(test, renew_all(1, NR_KEYS), 0);
	KUNIT_EXPECT_EQ(test, note_all(1, NR_KEYS), NR_KEYS);
}

static void a_filter_is_renewed_in_time_and_tells_of_equal_keys(struct kunit *test)
{
	alone(test, renews_in_time);
}

static void renews_in_two_passes(struct kunit *test)
{
	one_pass(NR_KEYS);
	note_all(1, NR_KEYS);
	ksm_sight_begin_pass(16 * NR_KEYS);
	KUNIT_EXPECT_LT(test, renew_all(1, NR_KEYS), NR_KEYS * MAX_WRONG / 1000);
	/* Somebody was left out. */
	atomic_long_inc(&ksm_stat.passes);
	KUNIT_EXPECT_EQ(test, renew_all(1, NR_KEYS), 0);
	ksm_sight_end_pass();
	KUNIT_EXPECT_EQ(test, note_all(1, NR_KEYS), NR_KEYS);
}

static void pages_do_not_meet_their_own_notes(struct kunit *test)
{
	alone(test, renews_in_two_passes);
	atomic_long_dec(&ksm_stat.passes);
}

/* Memory that filters may take, and how often it was asked for in vain. */
static struct {
	long left;
	unsigned int refused;
} room;

static void *alloc_from_room(size_t bytes)
{
	if (room.left < (long)bytes) {
		room.refused++;
		return NULL;
	}
	room.left -= bytes;
	return kvzalloc(bytes, GFP_KERNEL);
}

/* Of several chunks: a key is found in each of them, and is in no other. */
static void spans_chunks(struct kunit *test)
{
	const unsigned long nr = 32 * NR_KEYS;

	one_pass(nr);
	KUNIT_EXPECT_LT(test, note_all(1, nr), nr * MAX_WRONG / 1000);
	KUNIT_EXPECT_EQ(test, note_all(1, nr), nr);
	KUNIT_EXPECT_LT(test, note_all(2, NR_KEYS), NR_KEYS * 2 * MAX_WRONG / 1000);
}

static void a_filter_of_many_chunks_is_one_filter(struct kunit *test)
{
	alone(test, spans_chunks);
}

/* Many times more pages than there is memory for. */
static void short_of_memory(struct kunit *test)
{
	const unsigned int passes = 2 * KSM_REFRESH_PASSES;
	unsigned int i, filled = 0;

	room.left = LONG_MAX;
	one_pass(NR_KEYS);
	note_all(1, NR_KEYS);
	room.left = 3 * NR_KEYS;
	for (i = 0; i < passes; i++) {
		long left = room.left;

		ksm_sight_begin_pass(1024 * NR_KEYS);
		filled += ksm_sight_renewing();
		renew_all(1, ksm_sight_renewing() ? NR_KEYS : 0);
		ksm_sight_end_pass();
		ksm_whole_passes++;
		/* What was given back is there again. */
		room.left = left;
	}
	/* After 2, 4, 8 passes and so on, and each time for each size. */
	KUNIT_EXPECT_GT(test, filled, 0);
	KUNIT_EXPECT_LE(test, filled, 10);
	KUNIT_EXPECT_LE(test, room.refused, 10 * 12);
	KUNIT_EXPECT_EQ(test, note_all(1, NR_KEYS), NR_KEYS);
	room.left = LONG_MAX;
	for (i = 0; i < KSM_REFRESH_PASSES; i++)
		whole_pass(64 * NR_KEYS);
	KUNIT_EXPECT_LT(test, note_all(2, 32 * NR_KEYS), 32 * NR_KEYS * 2 * MAX_WRONG / 1000);
}

static void without_memory_for_a_larger_one_a_filter_is_rarely_renewed(struct kunit *test)
{
	room.refused = 0;
	kunit_activate_static_stub(test, ksm_sight_alloc, alloc_from_room);
	alone(test, short_of_memory);
	kunit_deactivate_static_stub(test, ksm_sight_alloc);
}

static struct kunit_case sight_cases[] = {
	KUNIT_CASE(noted_keys_are_always_seen_again),
	KUNIT_CASE(without_memory_all_keys_count_as_seen),
	KUNIT_CASE(keys_that_are_renewed_survive_a_new_filter),
	KUNIT_CASE(keys_that_are_not_renewed_are_forgotten),
	KUNIT_CASE(shrinks_with_what_is_registered),
	KUNIT_CASE(keys_are_wanted_until_the_end_of_the_next_pass),
	KUNIT_CASE(wanted_keys_survive_a_new_filter),
	KUNIT_CASE(a_filter_is_renewed_in_time_and_tells_of_equal_keys),
	KUNIT_CASE(pages_do_not_meet_their_own_notes),
	KUNIT_CASE(a_filter_of_many_chunks_is_one_filter),
	KUNIT_CASE(without_memory_for_a_larger_one_a_filter_is_rarely_renewed),
	{}
};

static struct kunit_suite sight_suite = {
	.name = "ksm_sight",
	.test_cases = sight_cases,
};

kunit_test_suite(sight_suite);
