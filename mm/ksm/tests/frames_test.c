// SPDX-License-Identifier: GPL-2.0-only
/*
 * KUnit tests of noted frames: one that was noted is known until the end of the next
 * pass, and few others are.
 */
#include <kunit/test.h>
#include <linux/cleanup.h>
#include <linux/gfp.h>
#include <linux/mm.h>

#include "../batch.h"

#define ORDER		4

static void put_folio(void *folio)
{
	folio_put(folio);
}

static struct folio *get_folio(struct kunit *test, unsigned int order)
{
	struct folio *folio = folio_alloc(GFP_KERNEL, order);

	KUNIT_ASSERT_NOT_NULL(test, folio);
	KUNIT_ASSERT_EQ(test, kunit_add_action_or_reset(test, put_folio, folio), 0);
	return folio;
}

static bool is_noted(unsigned long pfn)
{
	return ksm_any_frame_noted() && ksm_frame_noted(ksm_noted_maps(), pfn);
}

static unsigned int count_noted(const struct folio *folio)
{
	unsigned int i, noted = 0;

	for (i = 0; i < folio_nr_pages(folio); i++)
		noted += is_noted(folio_pfn(folio) + i);
	return noted;
}

/* Whatever was noted before is forgotten, and there are bitmaps. */
static void begin(struct kunit *test)
{
	ksm_frames_begin_pass();
	ksm_frames_begin_pass();
	KUNIT_ASSERT_NOT_NULL(test, ksm_noted_maps());
	KUNIT_ASSERT_FALSE(test, ksm_any_frame_noted());
}

static void a_frame_is_noted_for_this_pass_and_the_next(struct kunit *test)
{
	struct folio *folio = get_folio(test, 0), *other = get_folio(test, 0);

	guard(mutex)(&ksm_control);
	begin(test);
	ksm_frame_note(folio);
	KUNIT_EXPECT_TRUE(test, is_noted(folio_pfn(folio)));
	KUNIT_EXPECT_FALSE(test, is_noted(folio_pfn(other)));
	ksm_frames_begin_pass();
	ksm_frame_note(other);
	KUNIT_EXPECT_TRUE(test, is_noted(folio_pfn(folio)));
	KUNIT_EXPECT_TRUE(test, is_noted(folio_pfn(other)));
	ksm_frames_begin_pass();
	KUNIT_EXPECT_FALSE(test, is_noted(folio_pfn(folio)));
	KUNIT_EXPECT_TRUE(test, is_noted(folio_pfn(other)));
	ksm_frames_begin_pass();
	KUNIT_EXPECT_FALSE(test, is_noted(folio_pfn(other)));
	KUNIT_EXPECT_FALSE(test, ksm_any_frame_noted());
}

static void all_frames_of_a_large_folio_are_noted(struct kunit *test)
{
	struct folio *folio = get_folio(test, ORDER);

	guard(mutex)(&ksm_control);
	begin(test);
	KUNIT_EXPECT_EQ(test, count_noted(folio), 0);
	ksm_frame_note(folio);
	KUNIT_EXPECT_EQ(test, count_noted(folio), 1 << ORDER);
	KUNIT_EXPECT_FALSE(test, is_noted(folio_pfn(folio) - 1));
	KUNIT_EXPECT_FALSE(test, is_noted(folio_pfn(folio) + folio_nr_pages(folio)));
	begin(test);
	KUNIT_EXPECT_EQ(test, count_noted(folio), 0);
}

/* There is a bit for each frame, whose PFNs need not be dense. */
static void frames_of_memory_are_told_apart(struct kunit *test)
{
	guard(mutex)(&ksm_control);
	begin(test);
	KUNIT_EXPECT_GE(test, ksm_noted_maps()->mask + 1, totalram_pages());
	KUNIT_EXPECT_LE(test, ksm_noted_maps()->mask + 1,
			max(2 * totalram_pages(), 8UL << KSM_NOTED_SHIFT));
}

static struct kunit_case frames_cases[] = {
	KUNIT_CASE(a_frame_is_noted_for_this_pass_and_the_next),
	KUNIT_CASE(all_frames_of_a_large_folio_are_noted),
	KUNIT_CASE(frames_of_memory_are_told_apart),
	{}
};

static struct kunit_suite frames_suite = {
	.name = "ksm_frames",
	.test_cases = frames_cases,
};

kunit_test_suite(frames_suite);
