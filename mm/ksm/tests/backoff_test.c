// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of the back-off: how often a page that is written to with a given period
 * is visited, and how often it is merged only to be written to again.
 *
 * A page is played that is written to every @period jiffies; ksmd comes by every @pass
 * jiffies and merges it whenever it has been left alone for long enough.
 */
#include <kunit/test.h>

#include "../ksm.h"

#define UNIT	100U

struct played {
	unsigned int level;
	unsigned long visits;	/* that found it changed */
	unsigned long copies;	/* made because it was merged when it was written to */
	unsigned long merged;	/* jiffies that it was merged for */
};

static bool written_in(unsigned long from, unsigned long to, unsigned long period)
{
	return period && from / period != to / period;
}

static unsigned long last_write(unsigned long now, unsigned long period)
{
	return now / period * period;
}

static void play(struct played *page, unsigned long begin, unsigned long jiffies_to_play,
		 unsigned long period, unsigned long pass)
{
	unsigned long now, seen = begin, merged_at = 0;

	for (now = begin + pass; now < begin + jiffies_to_play; now += pass) {
		if (merged_at && written_in(merged_at, now, period)) {
			u32 lived = last_write(now, period) - merged_at;

			page->level = ksm_backoff_rewritten(UNIT, page->level, lived);
			page->copies++;
			merged_at = 0;
			seen = now;
		} else if (merged_at) {
			page->merged += pass;
		} else if (now - seen >= ksm_backoff_wait(UNIT, page->level)) {
			if (written_in(seen, now, period)) {
				page->level = ksm_backoff_changed(KSM_CLEANED, page->level);
				page->visits++;
				seen = now;
			} else {
				merged_at = now;
			}
		}
	}
}

static void new_page_waits_for_one_pass_only(struct kunit *test)
{
	KUNIT_EXPECT_EQ(test, ksm_backoff_wait(UNIT, 0), 0);
	KUNIT_EXPECT_EQ(test, ksm_backoff_wait(UNIT, ksm_backoff_changed(KSM_CLEANED, 0)), 0);
}

static void without_a_unit_no_page_waits(struct kunit *test)
{
	unsigned int level;

	for (level = 0; level < 1 << KSM_LEVEL_BITS; level++)
		KUNIT_EXPECT_EQ(test, ksm_backoff_wait(0, level), 0);
}

static void waits_double_and_have_an_end(struct kunit *test)
{
	unsigned int level = 0, next, i;

	for (i = 0; i < 100; i++) {
		next = ksm_backoff_changed(KSM_CLEANED, level);
		KUNIT_EXPECT_LE(test, ksm_backoff_wait(UNIT, next),
				max(2 * ksm_backoff_wait(UNIT, level), (unsigned long)UNIT));
		KUNIT_EXPECT_GE(test, next, level);
		level = next;
	}
	KUNIT_EXPECT_EQ(test, ksm_backoff_changed(KSM_CLEANED, level), level);
	KUNIT_EXPECT_EQ(test, ksm_backoff_wait(UNIT, level), 64UL * UNIT);
	for (i = 0; i < 100; i++)
		level = ksm_backoff_rewritten(UNIT, level, 0);
	KUNIT_EXPECT_EQ(test, ksm_backoff_wait(UNIT, level), 256UL * UNIT);
}

/* From 4 a second to one in 8 s: after a few copies it is not merged any more. */
static void page_that_is_rewritten_soon_is_left_alone(struct kunit *test)
{
	static const unsigned long periods[] = { 25, 50, 100, 200, 400, 790 };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(periods); i++) {
		struct played page = {};

		play(&page, 1000, 100000, periods[i], 10);
		KUNIT_EXPECT_LE_MSG(test, page.copies, 6, "period %lu", periods[i]);
		KUNIT_EXPECT_LE_MSG(test, page.visits, 24, "period %lu", periods[i]);
	}
}

static void page_that_is_rewritten_seldom_stays_merged_most_of_the_time(struct kunit *test)
{
	static const unsigned long periods[] = { 10000, 30000 };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(periods); i++) {
		struct played page = {};

		play(&page, 1000, 300000, periods[i], 10);
		KUNIT_EXPECT_GE_MSG(test, page.merged, 240000, "period %lu", periods[i]);
	}
}

static void page_that_comes_to_rest_is_trusted_again(struct kunit *test)
{
	struct played page = {};
	unsigned int level, i;

	/* For a minute it is written to twice a second, then for long not at all. */
	play(&page, 1000, 6000, 50, 10);
	level = page.level;
	KUNIT_EXPECT_GT(test, ksm_backoff_wait(UNIT, level), 0);
	play(&page, 10000, 15000, 0, 10);
	KUNIT_EXPECT_GE(test, page.merged, 8000);

	/* Then seldom: each time it waits less. */
	for (i = 0; i < 16; i++)
		level = ksm_backoff_rewritten(UNIT, level, 100 * UNIT);
	KUNIT_EXPECT_EQ(test, ksm_backoff_wait(UNIT, level), 0);
}

static struct kunit_case backoff_cases[] = {
	KUNIT_CASE(new_page_waits_for_one_pass_only),
	KUNIT_CASE(without_a_unit_no_page_waits),
	KUNIT_CASE(waits_double_and_have_an_end),
	KUNIT_CASE(page_that_is_rewritten_soon_is_left_alone),
	KUNIT_CASE(page_that_is_rewritten_seldom_stays_merged_most_of_the_time),
	KUNIT_CASE(page_that_comes_to_rest_is_trusted_again),
	{}
};

static struct kunit_suite backoff_suite = {
	.name = "ksm_backoff",
	.test_cases = backoff_cases,
};

kunit_test_suite(backoff_suite);
