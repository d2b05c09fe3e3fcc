// SPDX-License-Identifier: GPL-2.0-only
/*
 * Pages that differ and have one checksum all the same, as somebody may build them. A
 * checksum finds pages to compare, it never merges
 * them; and work for each page stays bounded. CONFIG_KSM_DEBUG can weaken it.
 */
#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "ksm_util.h"
#include "vm_util.h"

#define WEAKEN		"/sys/kernel/debug/ksm/checksum_mask"
#define COUNTS		"/sys/kernel/debug/ksm/work"

#define PAGES		512
#define SEED		1000
#define WHOLE_MASK	"0xffffffffffffffff"

/*
 * A page is compared with the candidate that is found first and with so many merged
 * ones; each comparison is made twice, before and after pages cannot change any more.
 */
#define MOST_COMPARED	(2 * (8 + 1))

/* Pages of one checksum that become merged ones before they have a partner. */
#define MOST_ALONE	(8 + 1)

FIXTURE(crowd)
{
	struct ksm_test ksm;
	char *map, *twin;	/* PAGES each */
};

FIXTURE_VARIANT(crowd)
{
	const char *mask;
	unsigned int sums;	/* how many checksums there are */
};

FIXTURE_VARIANT_ADD(crowd, of_one_checksum)
{
	.mask = "0x0",
	.sums = 1,
};

FIXTURE_VARIANT_ADD(crowd, of_sixteen_checksums)
{
	.mask = "0xf",
	.sums = 16,
};

FIXTURE_SETUP(crowd)
{
	const char *missing = ksm_missing();

	if (!missing && access(WEAKEN, W_OK))
		missing = "this kernel cannot weaken checksums (CONFIG_KSM_DEBUG, " WEAKEN ")";
	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	ASSERT_EQ(0, ksm_write_text(WEAKEN, variant->mask));
	self->map = ksm_map_registered(PAGES);
	self->twin = ksm_map_pages(PAGES);
	ASSERT_NE(NULL, self->map);
	ASSERT_NE(NULL, self->twin);
	ksm_fill(self->map, PAGES, SEED, 1);
}

/* Whoever was registered is gone, but for an instant. */
FIXTURE_TEARDOWN_PARENT(crowd)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
	if (!access(WEAKEN, W_OK))
		EXPECT_TRUE(ksm_wait_until(ksm_write_text(WEAKEN, WHOLE_MASK) == 0));
}

/* Counters at rest: a merge under way counts until the pages are seen to differ. */
static bool merge_all_and_stop(void)
{
	return ksm_merge_all() && !ksm_set("run", "0");
}

TEST_F(crowd, keeps_its_checksums_while_somebody_takes_part)
{
	EXPECT_EQ(-EBUSY, ksm_write_text(WEAKEN, WHOLE_MASK));
	ASSERT_EQ(0, ksm_unmergeable(self->map, PAGES));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 1));
}

TEST_F(crowd, different_pages_stay_apart)
{
	ASSERT_TRUE(merge_all_and_stop());
	EXPECT_EQ(0, ksm_get("pages_sharing"));
	EXPECT_LE(ksm_get("pages_shared"), variant->sums * MOST_ALONE);
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 1));
}

TEST_F(crowd, equal_pages_merge_with_none_but_equal_ones)
{
	ksm_fill(self->twin, PAGES, SEED, 1);
	ASSERT_EQ(0, ksm_mergeable(self->twin, PAGES));
	ASSERT_TRUE(merge_all_and_stop());
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 1));
	EXPECT_EQ(-1, ksm_first_wrong(self->twin, PAGES, SEED, 1));
	/* Who is in the crowd's first rows finds its twin; the others may wait for ever. */
	EXPECT_GE(ksm_get("pages_sharing"), 1);
	EXPECT_LE(ksm_get("pages_shared"), ksm_get("pages_sharing") + variant->sums * MOST_ALONE);
}

TEST_F(crowd, one_page_many_times_merges)
{
	ksm_fill(self->map, PAGES, SEED, 0);
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_EQ(PAGES, ksm_count_merged(getpid(), self->map, PAGES));
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 0));
}

/* Bounded by the pages that are looked at, however many others have their checksum. */
TEST_F(crowd, costs_a_bounded_number_of_comparisons)
{
	long all = 0;

	ksm_fill(self->twin, PAGES, SEED, 1);
	ASSERT_EQ(0, ksm_mergeable(self->twin, PAGES));
	for (unsigned int pass = 0; pass < 8; pass++) {
		long compared = ksm_number_in(COUNTS, "pages_compared");
		long hashed = ksm_number_in(COUNTS, "pages_hashed");

		ASSERT_LE(0, compared);
		ASSERT_LE(0, hashed);
		ASSERT_TRUE(ksm_one_pass());
		compared = ksm_number_in(COUNTS, "pages_compared") - compared;
		hashed = ksm_number_in(COUNTS, "pages_hashed") - hashed;
		EXPECT_LE(compared, hashed * MOST_COMPARED);
		all += compared;
	}
	EXPECT_LT(0, all);
	EXPECT_EQ(-1, ksm_first_wrong(self->map, PAGES, SEED, 1));
	EXPECT_EQ(-1, ksm_first_wrong(self->twin, PAGES, SEED, 1));
}

TEST_HARNESS_MAIN
