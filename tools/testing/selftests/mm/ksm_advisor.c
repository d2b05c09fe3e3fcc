// SPDX-License-Identifier: GPL-2.0-only
/*
 * The scan-time advisor: how it is switched on and off, what its settings take,
 * that pages_to_scan is its own while it is on, and that it goes as fast as the
 * target time asks for, within its limits and only with time that ksmd was at work.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include "ksm_util.h"
#include "vm_util.h"

#define KSM_DIR	"/sys/kernel/mm/ksm/"
#define SEED	1000
#define VALUES	8
#define PAGES	2000

static const char *advisor_missing(void)
{
	const char *missing = ksm_missing();

	if (missing)
		return missing;
	return access(KSM_DIR "advisor_mode", F_OK) ?
	       "this kernel has no advisor (" KSM_DIR "advisor_mode)" : NULL;
}

FIXTURE(mode)
{
	struct ksm_test ksm;
};

FIXTURE_SETUP(mode)
{
	const char *missing = advisor_missing();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
}

FIXTURE_TEARDOWN_PARENT(mode)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

static bool mode_reads(const char *wanted)
{
	char text[128];

	return !ksm_read_text(KSM_DIR "advisor_mode", text, sizeof(text)) &&
	       !strcmp(text, wanted);
}

TEST_F(mode, shows_all_modes_and_which_is_chosen)
{
	EXPECT_TRUE(mode_reads("[none] scan-time\n"));
	ASSERT_EQ(0, ksm_set("advisor_mode", "scan-time"));
	EXPECT_TRUE(mode_reads("none [scan-time]\n"));
	ASSERT_EQ(0, ksm_set("advisor_mode", "none\n"));
	EXPECT_TRUE(mode_reads("[none] scan-time\n"));
	ASSERT_EQ(0, ksm_set("advisor_mode", "scan-time\n"));
	EXPECT_TRUE(mode_reads("none [scan-time]\n"));
}

TEST_F(mode, refuses_what_is_no_mode_and_keeps_the_one_it_has)
{
	static const char * const bad[] = {
		"\n", "0", "1", "scan", "scan-time ", " none", "scan_time", "NONE",
		"[none]", "none scan-time", "none\nscan-time", "nonee",
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		EXPECT_EQ(-EINVAL, ksm_set("advisor_mode", bad[i])) {
			TH_LOG("that was '%s'", bad[i]);
		}
	}
	EXPECT_TRUE(mode_reads("[none] scan-time\n"));
	ASSERT_EQ(0, ksm_set("advisor_mode", "scan-time"));
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		EXPECT_EQ(-EINVAL, ksm_set("advisor_mode", bad[i]));
	EXPECT_TRUE(mode_reads("none [scan-time]\n"));
}

TEST_F(mode, change_resets_pages_to_scan)
{
	ASSERT_EQ(0, ksm_set("advisor_min_pages_to_scan", "321"));
	ASSERT_EQ(0, ksm_set("pages_to_scan", "777"));
	ASSERT_EQ(0, ksm_set("advisor_mode", "scan-time"));
	EXPECT_EQ(321, ksm_get("pages_to_scan"));
	ASSERT_EQ(0, ksm_set("advisor_mode", "none"));
	EXPECT_EQ(100, ksm_get("pages_to_scan"));
	/* What is no change resets nothing. */
	ASSERT_EQ(0, ksm_set("pages_to_scan", "777"));
	ASSERT_EQ(0, ksm_set("advisor_mode", "none"));
	EXPECT_EQ(777, ksm_get("pages_to_scan"));
}

TEST_F(mode, scan_time_keeps_pages_to_scan_for_itself)
{
	long pages;

	ASSERT_EQ(0, ksm_set("advisor_mode", "scan-time"));
	pages = ksm_get("pages_to_scan");
	EXPECT_EQ(-EINVAL, ksm_set("pages_to_scan", "1234"));
	EXPECT_EQ(-EINVAL, ksm_set_number("pages_to_scan", pages));
	EXPECT_EQ(pages, ksm_get("pages_to_scan"));
	ASSERT_EQ(0, ksm_set("advisor_mode", "none"));
	EXPECT_EQ(0, ksm_set("pages_to_scan", "1234"));
	EXPECT_EQ(1234, ksm_get("pages_to_scan"));
}

/* The settings of the advisor; they can be changed whether it is on or not. */
FIXTURE(setting)
{
	struct ksm_test ksm;
};

FIXTURE_VARIANT(setting)
{
	const char *name;
	unsigned long good[VALUES];	/* ends with the default */
	const char *bad[VALUES];
};

#define BAD_NUMBERS	"\n", "x", "-1", "1 2", "0x10", "1.5", "99999999999999999999"

FIXTURE_VARIANT_ADD(setting, advisor_max_cpu) {
	.name = "advisor_max_cpu",
	.good = { 1, 50, 99, 100, 70 },
	.bad = { BAD_NUMBERS },
};

FIXTURE_VARIANT_ADD(setting, advisor_min_pages_to_scan) {
	.name = "advisor_min_pages_to_scan",
	.good = { 1, 29999, 4294967295, 500 },
	.bad = { BAD_NUMBERS },
};

FIXTURE_VARIANT_ADD(setting, advisor_max_pages_to_scan) {
	.name = "advisor_max_pages_to_scan",
	.good = { 1, 501, 4294967295, 30000 },
	.bad = { BAD_NUMBERS },
};

FIXTURE_VARIANT_ADD(setting, advisor_target_scan_time) {
	.name = "advisor_target_scan_time",
	.good = { 1, 3600, 4294967295, 200 },
	.bad = { "0", BAD_NUMBERS },
};

FIXTURE_SETUP(setting)
{
	const char *missing = advisor_missing();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
}

FIXTURE_TEARDOWN_PARENT(setting)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

static void check_values(struct __test_metadata *_metadata,
			 const FIXTURE_VARIANT(setting) *variant)
{
	char wanted[32], text[32];

	for (size_t i = 0; i < VALUES && variant->good[i]; i++) {
		snprintf(wanted, sizeof(wanted), "%lu", variant->good[i]);
		EXPECT_EQ(0, ksm_set(variant->name, wanted));
		ASSERT_EQ(0, ksm_get_text(variant->name, text, sizeof(text)));
		EXPECT_STREQ(wanted, text);
	}
	for (size_t i = 0; i < VALUES && variant->bad[i]; i++) {
		EXPECT_EQ(-EINVAL, ksm_set(variant->name, variant->bad[i])) {
			TH_LOG("that was '%s'", variant->bad[i]);
		}
		ASSERT_EQ(0, ksm_get_text(variant->name, text, sizeof(text)));
		EXPECT_STREQ(wanted, text);
	}
}

TEST_F(setting, takes_and_shows_only_good_values_in_either_mode)
{
	check_values(_metadata, variant);
	ASSERT_EQ(0, ksm_set("advisor_mode", "scan-time"));
	check_values(_metadata, variant);
}

/* Too large may be refused; what is taken must be shown as it was written. */
TEST_F(setting, does_not_cut_off_what_is_large)
{
	char text[32];
	int error;

	error = ksm_set(variant->name, "4294967296");
	ASSERT_EQ(0, ksm_get_text(variant->name, text, sizeof(text)));
	if (error == -EINVAL) {
		EXPECT_STRNE("4294967296", text);
		EXPECT_STRNE("0", text);
	} else {
		EXPECT_EQ(0, error);
		EXPECT_STREQ("4294967296", text);
	}
}

/*
 * Memory of which a pass takes as long as the test wants: the pages are few, and
 * ksmd sleeps long after each few of them.
 */
FIXTURE(pace)
{
	struct ksm_test ksm;
	char *map;
};

FIXTURE_SETUP(pace)
{
	const char *missing = advisor_missing();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	self->map = ksm_map_registered(PAGES);
	ASSERT_NE(NULL, self->map);
	ksm_fill(self->map, PAGES, SEED, 1);
	ASSERT_EQ(0, ksm_set("advisor_max_cpu", "100"));
}

FIXTURE_TEARDOWN_PARENT(pace)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

static bool pace(long min, long max, long target, long sleep)
{
	return !ksm_set_number("advisor_min_pages_to_scan", min) &&
	       !ksm_set_number("advisor_max_pages_to_scan", max) &&
	       !ksm_set_number("advisor_target_scan_time", target) &&
	       !ksm_set_number("sleep_millisecs", sleep) &&
	       !ksm_set("advisor_mode", "scan-time") && !ksm_set("run", "1");
}

static bool speed_is_within(long min, long max)
{
	long pages = ksm_get("pages_to_scan");

	return min <= pages && pages <= max;
}

TEST_F(pace, rises_to_the_maximum_and_no_further_for_a_short_target)
{
	const long min = 40, max = 60;

	/* A pass takes two seconds at first and over one in the end. */
	ASSERT_TRUE(pace(min, max, 1, 40));
	EXPECT_EQ(min, ksm_get("pages_to_scan"));
	EXPECT_TRUE(ksm_wait_until(ksm_get("pages_to_scan") == max));
	ASSERT_TRUE(ksm_wait_passes(2));
	EXPECT_EQ(max, ksm_get("pages_to_scan"));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 1));
}

TEST_F(pace, falls_to_the_minimum_and_no_further_for_a_long_target)
{
	const long min = 200, start = 1000;

	/* It begins at the minimum, which is lowered then. */
	ASSERT_TRUE(pace(start, start, 1000, 10));
	ASSERT_TRUE(ksm_wait_passes(2));
	EXPECT_EQ(start, ksm_get("pages_to_scan"));
	ASSERT_EQ(0, ksm_set_number("advisor_min_pages_to_scan", min));
	EXPECT_TRUE(ksm_wait_until(ksm_get("pages_to_scan") == min));
	ASSERT_TRUE(ksm_wait_passes(3));
	EXPECT_EQ(min, ksm_get("pages_to_scan"));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 1));
}

TEST_F(pace, stays_at_the_minimum_when_hardly_any_cpu_time_is_allowed)
{
	const long min = 40;

	ASSERT_EQ(0, ksm_set("advisor_max_cpu", "0"));
	ASSERT_TRUE(pace(min, 1000, 1, 40));
	/* With more it would rise at the end of the first pass. */
	ASSERT_TRUE(ksm_wait_passes(1));
	EXPECT_EQ(min, ksm_get("pages_to_scan"));
	ASSERT_EQ(0, ksm_set("advisor_max_cpu", "100"));
	EXPECT_TRUE(ksm_wait_until(ksm_get("pages_to_scan") > min));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 1));
}

/* On a machine that stands still now and then many are too long. */
static void passes_come_to_take(struct __test_metadata *_metadata, long target)
{
	const uint64_t three = 3 * target * 1000;
	unsigned int good = 0;
	uint64_t start, millisecs;

	ASSERT_TRUE(ksm_wait_passes(3));
	/* A pass has just ended: three whole ones follow, each time. */
	for (unsigned int i = 0; i < 40 && good < 2; i++) {
		start = ksm_now_millisecs();
		ASSERT_TRUE(ksm_wait_passes(2));
		millisecs = ksm_now_millisecs() - start;
		TH_LOG("three passes in %llu ms", (unsigned long long)millisecs);
		good += millisecs >= three * 3 / 4 && millisecs <= three * 5 / 4;
	}
	EXPECT_EQ(2, good);
}

TEST_F(pace, makes_a_pass_take_the_target_time)
{
	const long min = 20, target = 2;

	/* Twice as long at first. */
	ASSERT_TRUE(pace(min, 1000, target, 40));
	ASSERT_TRUE(ksm_wait_until(ksm_get("pages_to_scan") > min));
	passes_come_to_take(_metadata, target);
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 1));
}

/* Pages that are passed over take next to no time, but what the settings say. */
TEST_F(pace, makes_a_pass_over_settled_pages_take_the_target_time)
{
	const long min = 20, target = 2;

	if (ksm_set("smart_scan", "1"))
		SKIP(return, "this kernel has no smart_scan");
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_TRUE(ksm_wait_until(ksm_get("pages_unshared") == PAGES));
	ASSERT_TRUE(ksm_wait_passes(4));
	ASSERT_TRUE(pace(min, 1000, target, 40));
	ASSERT_TRUE(ksm_wait_until(ksm_get("pages_to_scan") > min));
	passes_come_to_take(_metadata, target);
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 1));
}

/* A pass takes a fraction of a second, and far less than its target. */
TEST_F(pace, does_not_count_time_that_ksmd_was_off_for)
{
	const long min = 200;
	long scans, scanned;
	uint64_t end;

	ASSERT_TRUE(pace(min, 1000, 3, 20));
	ASSERT_TRUE(ksm_wait_passes(2));
	EXPECT_EQ(min, ksm_get("pages_to_scan"));
	scans = ksm_get("full_scans");
	ASSERT_TRUE(ksm_wait_until(ksm_get("full_scans") > scans));
	scanned = ksm_get("pages_scanned");
	ASSERT_TRUE(ksm_wait_until(ksm_get("pages_scanned") > scanned));
	/* In the middle of a pass. */
	ASSERT_EQ(0, ksm_set("run", "0"));
	scans = ksm_get("full_scans");
	end = ksm_now_millisecs() + 8000;
	ASSERT_TRUE(ksm_wait_until(ksm_now_millisecs() >= end));
	EXPECT_EQ(scans, ksm_get("full_scans"));
	ASSERT_EQ(0, ksm_set("run", "1"));
	ASSERT_TRUE(ksm_wait_until(!speed_is_within(min, min) ||
				   ksm_get("full_scans") > scans + 2));
	EXPECT_EQ(min, ksm_get("pages_to_scan"));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 1));
}

TEST_F(pace, minimum_of_0_does_not_bring_the_scan_to_a_halt)
{
	const size_t left = 20;

	ASSERT_EQ(0, munmap(self->map + left * psize(), (PAGES - left) * psize()));
	ASSERT_TRUE(pace(0, 1000, 1, 10));
	EXPECT_TRUE(ksm_wait_passes(3));
	/* And when ksmd comes to it from above. */
	ASSERT_EQ(0, ksm_set("advisor_mode", "none"));
	ASSERT_TRUE(pace(10, 1000, 1000, 1));
	ASSERT_TRUE(ksm_wait_passes(1));
	ASSERT_EQ(0, ksm_set("advisor_max_cpu", "0"));
	ASSERT_EQ(0, ksm_set("advisor_min_pages_to_scan", "0"));
	EXPECT_TRUE(ksm_wait_passes(2));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, left, SEED, 1));
}

TEST_HARNESS_MAIN
