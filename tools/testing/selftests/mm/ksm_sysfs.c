// SPDX-License-Identifier: GPL-2.0-only
/*
 * Each file of /sys/kernel/mm/ksm: that it is there, its mode and default, what
 * it takes and refuses, and that run, pages_to_scan and sleep_millisecs do what
 * they say. A new file needs one line in the list of files.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include "ksm_util.h"
#include "vm_util.h"

#define KSM_DIR	"/sys/kernel/mm/ksm/"
#define SEED	1000
#define VALUES	8

/* First of all: what is checked there is only so until KSM is used. */
FIXTURE(boot)
{
};

FIXTURE_SETUP(boot)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
}

FIXTURE_TEARDOWN(boot)
{
}

FIXTURE(file)
{
	struct ksm_test ksm;
	char path[128];
};

/* Without good values a file is read-only. */
FIXTURE_VARIANT(file)
{
	const char *name;
	const char *initially;	/* as the whole file reads after boot */
	const char *good[VALUES];
	const char *bad[VALUES];
	bool may_say_range;	/* a bad number may give ERANGE */
	const char *needs;	/* why a kernel may have no such file */
};

#define UNSIGNED_GOOD	{ "0", "1", "4294967295", "100\n" }
#define UNSIGNED_BAD	{ "\n", "x", "-1", "4294967296", "1 2", "0x10", "1.5", "1e1" }
#define LATER		"is not in all kernels"

#define COUNTER(file_name, why)						\
	FIXTURE_VARIANT_ADD(file, file_name) {				\
		.name = #file_name, .initially = "0\n", .needs = why,	\
	}

#define UNSIGNED(file_name, value, why)					\
	FIXTURE_VARIANT_ADD(file, file_name) {				\
		.name = #file_name, .initially = value "\n",		\
		.good = UNSIGNED_GOOD, .bad = UNSIGNED_BAD,		\
		.needs = why,						\
	}

/* How large a value may be is not the same in all kernels. */
#define ADVISOR(file_name, value)					\
	FIXTURE_VARIANT_ADD(file, file_name) {				\
		.name = #file_name, .initially = value "\n",		\
		.good = { "1", "4294967295", value, "100\n" },		\
		.bad = { "\n", "x", "-1", "1 2", "0x10", "1.5" },	\
		.needs = LATER,						\
	}

FIXTURE_VARIANT_ADD(file, run) {
	.name = "run",
	.initially = "0\n",
	.good = { "1", "2", "0", "1\n" },
	.bad = { "\n", "x", "-1", "3", "4294967295", "4294967296", "1 2", "0x1" },
};

UNSIGNED(pages_to_scan, "100", NULL);
UNSIGNED(sleep_millisecs, "20", NULL);
COUNTER(pages_shared, NULL);
COUNTER(pages_sharing, NULL);
COUNTER(pages_unshared, NULL);
COUNTER(pages_volatile, NULL);
COUNTER(pages_scanned, NULL);
COUNTER(full_scans, NULL);
COUNTER(general_profit, NULL);

FIXTURE_VARIANT_ADD(file, merge_across_nodes) {
	.name = "merge_across_nodes",
	.initially = "1\n",
	.good = { "0", "1" },
	.bad = { "\n", "x", "-1", "2", "4294967296" },
	.may_say_range = true,
	.needs = "needs CONFIG_NUMA, and " LATER,
};

FIXTURE_VARIANT_ADD(file, use_zero_pages) {
	.name = "use_zero_pages",
	.initially = "0\n",
	.good = { "1", "0" },
	.bad = { "\n", "x", "-1", "2" },
	.needs = LATER,
};

FIXTURE_VARIANT_ADD(file, max_page_sharing) {
	.name = "max_page_sharing",
	.initially = "256\n",
	.good = { "2", "1000", "256" },
	.bad = { "\n", "x", "-1", "0", "1", "4294967296", "99999999999999999999" },
	.may_say_range = true,
	.needs = LATER,
};

UNSIGNED(stable_node_chains_prune_millisecs, "2000", LATER);

FIXTURE_VARIANT_ADD(file, smart_scan) {
	.name = "smart_scan",
	.initially = "1\n",
	.good = { "0", "1" },
	.bad = { "\n", "x", "-1", "2" },
	.needs = LATER,
};

FIXTURE_VARIANT_ADD(file, advisor_mode) {
	.name = "advisor_mode",
	.initially = "[none] scan-time\n",
	.good = { "scan-time", "none", "scan-time\n" },
	.bad = { "\n", "x", "scan", "scan-time2", "1" },
	.needs = LATER,
};

ADVISOR(advisor_max_cpu, "70");
ADVISOR(advisor_min_pages_to_scan, "500");
ADVISOR(advisor_max_pages_to_scan, "30000");

FIXTURE_VARIANT_ADD(file, advisor_target_scan_time) {
	.name = "advisor_target_scan_time",
	.initially = "200\n",
	.good = { "1", "4294967295", "200" },
	.bad = { "\n", "x", "-1", "0", "1 2" },
	.needs = LATER,
};

COUNTER(pages_skipped, LATER);
COUNTER(ksm_zero_pages, LATER);
COUNTER(stable_node_chains, LATER);
COUNTER(stable_node_dups, LATER);

FIXTURE_SETUP(file)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	snprintf(self->path, sizeof(self->path), KSM_DIR "%s", variant->name);
	if (variant->needs && access(self->path, F_OK))
		SKIP(return, "no file %s: it %s", variant->name, variant->needs);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	ASSERT_EQ(0, access(self->path, F_OK));
}

FIXTURE_TEARDOWN_PARENT(file)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

static void check_mode(struct __test_metadata *_metadata, const char *path,
		       const FIXTURE_VARIANT(file) *variant)
{
	mode_t mode = S_IFREG | (variant->good[0] ? 0644 : 0444);
	struct stat status;
	char text[128];

	ASSERT_EQ(0, stat(path, &status));
	EXPECT_EQ(mode, status.st_mode);
	EXPECT_EQ(0, status.st_uid);
	ASSERT_EQ(0, seteuid(65534));
	EXPECT_EQ(-EACCES, ksm_set(variant->name, "0"));
	EXPECT_EQ(0, ksm_read_text(path, text, sizeof(text)));
	ASSERT_EQ(0, seteuid(0));
}

static void check_good_values(struct __test_metadata *_metadata,
			      const FIXTURE_VARIANT(file) *variant)
{
	char wanted[128], text[128];

	for (size_t i = 0; i < VALUES && variant->good[i]; i++) {
		EXPECT_EQ(0, ksm_set(variant->name, variant->good[i])) {
			TH_LOG("%s refuses '%s'", variant->name, variant->good[i]);
		}
		ASSERT_EQ(0, ksm_get_text(variant->name, text, sizeof(text)));
		snprintf(wanted, sizeof(wanted), "%s", variant->good[i]);
		wanted[strcspn(wanted, "\n")] = '\0';
		EXPECT_STREQ(wanted, text);
	}
}

static void check_bad_values(struct __test_metadata *_metadata,
			     const FIXTURE_VARIANT(file) *variant)
{
	char before[128], after[128];
	int error;

	for (size_t i = 0; i < VALUES && variant->bad[i]; i++) {
		ASSERT_EQ(0, ksm_get_text(variant->name, before, sizeof(before)));
		error = ksm_set(variant->name, variant->bad[i]);
		EXPECT_TRUE(error == -EINVAL || (variant->may_say_range && error == -ERANGE)) {
			TH_LOG("%s: '%s' gives %d", variant->name, variant->bad[i], error);
		}
		ASSERT_EQ(0, ksm_get_text(variant->name, after, sizeof(after)));
		EXPECT_STREQ(before, after);
	}
}

/* One test for each file, so that a file that is missing is one skip. */
TEST_F(file, has_its_mode_and_takes_only_good_values)
{
	check_mode(_metadata, self->path, variant);
	if (variant->good[0]) {
		check_good_values(_metadata, variant);
		check_bad_values(_metadata, variant);
	} else {
		/* Not even root may open it for writing. */
		EXPECT_EQ(-EACCES, ksm_set(variant->name, "0"));
	}
}

/* Each variant of the fixture "file" is named for its file. */
static const FIXTURE_VARIANT(file) *find_file(const char *name)
{
	struct __fixture_variant_metadata *known;

	for (known = _file_fixture_object.variant; known; known = known->next)
		if (!strcmp(known->name, name))
			return known->data;
	return NULL;
}

TEST_F(boot, leaves_each_file_there_is_documented_and_at_its_default)
{
	const FIXTURE_VARIANT(file) *known;
	char path[NAME_MAX + 64], text[128];
	unsigned int count = 0;
	struct dirent *entry;
	bool unused;
	DIR *dir;

	/* A machine in use has settings of its own, but no other files. */
	unused = !ksm_get("run") && !ksm_get("full_scans") && !ksm_get("pages_scanned");
	dir = opendir(KSM_DIR);
	ASSERT_NE(NULL, dir);
	while ((entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		count++;
		known = find_file(entry->d_name);
		EXPECT_NE(NULL, known) {
			TH_LOG("%s is not documented", entry->d_name);
		}
		snprintf(path, sizeof(path), KSM_DIR "%s", entry->d_name);
		ASSERT_EQ(0, ksm_read_text(path, text, sizeof(text)));
		if (known && unused)
			EXPECT_STREQ(known->initially, text) {
				TH_LOG("that is %s", entry->d_name);
			}
	}
	closedir(dir);
	EXPECT_GE(count, 10);
	/* A skip would hide what failed. */
	if (!unused && _metadata->exit_code == KSFT_PASS)
		SKIP(return, "defaults not checked: KSM was used since boot");
}

FIXTURE(knob)
{
	struct ksm_test ksm;
};

FIXTURE_SETUP(knob)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
}

FIXTURE_TEARDOWN_PARENT(knob)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

/* Unique pages, so many that a pass takes a while. */
static char *map_much(size_t pages)
{
	char *map = ksm_map_registered(pages);

	if (map)
		ksm_fill(map, pages, SEED, 1);
	return map;
}

TEST_F(knob, run_0_stops_within_one_batch)
{
	const long batch = 50;
	long scanned;

	ASSERT_NE(NULL, map_much(4096));
	ASSERT_EQ(0, ksm_set_number("pages_to_scan", batch));
	ASSERT_EQ(0, ksm_set_number("sleep_millisecs", 0));
	scanned = ksm_get("pages_scanned");
	ASSERT_EQ(0, ksm_set("run", "1"));
	ASSERT_TRUE(ksm_wait_until(ksm_get("pages_scanned") > scanned + 4 * batch));
	ASSERT_EQ(0, ksm_set("run", "0"));
	scanned = ksm_get("pages_scanned");
	EXPECT_TRUE(ksm_stays(ksm_get("pages_scanned") <= scanned + batch));
	EXPECT_EQ(0, ksm_get("run"));
}

TEST_F(knob, run_0_keeps_what_is_merged)
{
	const size_t pages = 16;
	char *map = ksm_map_registered(pages);

	ASSERT_NE(NULL, map);
	ksm_fill(map, pages, SEED, 0);
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(0, ksm_set("run", "0"));
	EXPECT_TRUE(ksm_stays(ksm_count_merged(getpid(), map, pages) == pages));
	EXPECT_EQ(1, ksm_get("pages_shared"));
	EXPECT_EQ(pages - 1, ksm_get("pages_sharing"));
	EXPECT_EQ(-1, ksm_first_wrong(map, pages, SEED, 0));
}

TEST_F(knob, pages_to_scan_is_what_a_batch_takes)
{
	const long batch = 50;
	long scanned;

	ASSERT_NE(NULL, map_much(1000));
	ASSERT_EQ(0, ksm_set_number("pages_to_scan", batch));
	ASSERT_EQ(0, ksm_set_number("sleep_millisecs", 3600 * 1000));
	scanned = ksm_get("pages_scanned");
	ASSERT_EQ(0, ksm_set("run", "1"));
	EXPECT_TRUE(ksm_wait_until(ksm_get("pages_scanned") == scanned + batch));
	EXPECT_TRUE(ksm_stays(ksm_get("pages_scanned") == scanned + batch));
}

TEST_F(knob, sleep_millisecs_wakes_a_ksmd_that_sleeps_for_an_hour)
{
	long scanned;

	ASSERT_NE(NULL, map_much(100));
	ASSERT_EQ(0, ksm_set_number("sleep_millisecs", 3600 * 1000));
	scanned = ksm_get("pages_scanned");
	ASSERT_EQ(0, ksm_set("run", "1"));
	ASSERT_TRUE(ksm_wait_until(ksm_get("pages_scanned") > scanned));
	scanned = ksm_get("pages_scanned");
	EXPECT_TRUE(ksm_stays(ksm_get("pages_scanned") == scanned));
	ASSERT_EQ(0, ksm_set_number("sleep_millisecs", 1));
	EXPECT_TRUE(ksm_wait_passes(3));
}

TEST_F(knob, full_scans_and_pages_scanned_count_on)
{
	const long pages = 100, passes = 5;
	long scans, scanned;

	ASSERT_NE(NULL, map_much(pages));
	ASSERT_EQ(0, ksm_set("run", "1"));
	ASSERT_TRUE(ksm_wait_passes(1));
	scans = ksm_get("full_scans");
	scanned = ksm_get("pages_scanned");
	ASSERT_TRUE(ksm_wait_passes(passes));
	EXPECT_GT(ksm_get("full_scans"), scans + passes - 1);
	EXPECT_GE(ksm_get("pages_scanned"), scanned + passes * pages);
}

TEST_F(knob, nothing_is_scanned_when_nothing_is_registered)
{
	long scanned;

	ASSERT_EQ(0, ksm_set("run", "1"));
	scanned = ksm_get("pages_scanned");
	EXPECT_TRUE(ksm_stays(ksm_get("pages_scanned") == scanned));
}

TEST_F(knob, general_profit_is_memory_saved_less_metadata)
{
	const long pages = 1024;
	char *map = ksm_map_registered(pages);
	long saved, profit;

	ASSERT_NE(NULL, map);
	ksm_fill(map, pages, SEED, 1);
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_LT(ksm_get("general_profit"), 0);
	/* Two of each. */
	ksm_fill(map + pages / 2 * psize(), pages / 2, SEED, 1);
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	saved = ksm_get("pages_sharing") * psize();
	profit = ksm_get("general_profit");
	EXPECT_EQ(pages / 2 * psize(), saved);
	EXPECT_LT(profit, saved);
	EXPECT_GT(profit, saved / 2);
	EXPECT_EQ(-1, ksm_first_wrong(map, pages / 2, SEED, 1));
	EXPECT_EQ(-1, ksm_first_wrong(map + pages / 2 * psize(), pages / 2, SEED, 1));
}

TEST_HARNESS_MAIN
