// SPDX-License-Identifier: GPL-2.0-only
/*
 * What /proc tells about merged pages: ksm_stat and ksm_merging_pages of a
 * process, smaps, kpageflags and kpagecount.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include "ksm_util.h"
#include "vm_util.h"

#define PAGES	512
#define SEED	1000
#define OTHER	5000

FIXTURE(figures)
{
	struct ksm_test ksm;
};

FIXTURE_SETUP(figures)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
}

FIXTURE_TEARDOWN_PARENT(figures)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

static char *page(char *map, size_t index)
{
	return map + index * psize();
}

/* PAGES registered pages, of which the first @equal are merged. */
static char *map_merged(size_t equal)
{
	char *map = ksm_map_fenced(PAGES);

	if (!map || ksm_mergeable(map, PAGES))
		return NULL;
	ksm_fill(map, equal, SEED, 0);
	ksm_fill(page(map, equal), PAGES - equal, OTHER, 1);
	return ksm_merge_all() ? map : NULL;
}

static long merging_pages(pid_t pid)
{
	char path[64], text[64];

	snprintf(path, sizeof(path), "/proc/%d/ksm_merging_pages", pid);
	if (ksm_read_text(path, text, sizeof(text)))
		return KSM_NONE;
	return strtol(text, NULL, 10);
}

TEST_F(figures, of_a_process_that_never_took_part_are_zero)
{
	char text[512];

	ASSERT_EQ(0, ksm_read_text("/proc/self/ksm_stat", text, sizeof(text)));
	EXPECT_STREQ("ksm_rmap_items 0\n"
		     "ksm_zero_pages 0\n"
		     "ksm_merging_pages 0\n"
		     "ksm_process_profit 0\n"
		     "ksm_merge_any: no\n"
		     "ksm_mergeable: no\n", text);
	ASSERT_EQ(0, ksm_read_text("/proc/self/ksm_merging_pages", text, sizeof(text)));
	EXPECT_STREQ("0\n", text);
}

TEST_F(figures, of_ksm_stat_are_exact)
{
	const long equal = PAGES / 2;
	char *map = map_merged(equal);
	long profit;

	ASSERT_NE(NULL, map);
	EXPECT_EQ(PAGES, ksm_proc_stat(getpid(), "ksm_rmap_items"));
	EXPECT_EQ(0, ksm_proc_stat(getpid(), "ksm_zero_pages"));
	EXPECT_EQ(equal, ksm_proc_stat(getpid(), "ksm_merging_pages"));
	EXPECT_EQ(equal, merging_pages(getpid()));
	/* Bytes of the merged pages less metadata, which is not a tenth of them. */
	profit = ksm_proc_stat(getpid(), "ksm_process_profit");
	EXPECT_LT(profit, equal * (long)psize());
	EXPECT_GT(profit, equal * (long)psize() / 10 * 9);
	EXPECT_EQ(-1, ksm_first_wrong(map, equal, SEED, 0));
	EXPECT_EQ(-1, ksm_first_wrong(page(map, equal), PAGES - equal, OTHER, 1));
}

TEST_F(figures, of_ksm_stat_follow_writes_and_unmerging)
{
	char *map = map_merged(PAGES);

	ASSERT_NE(NULL, map);
	ASSERT_EQ(PAGES, merging_pages(getpid()));
	ksm_fill(map, 10, OTHER, 1);
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(PAGES - 10, merging_pages(getpid()));
	EXPECT_EQ(PAGES, ksm_proc_stat(getpid(), "ksm_rmap_items"));
	ASSERT_EQ(0, munmap(map, 20 * psize()));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(PAGES - 20, merging_pages(getpid()));
	EXPECT_EQ(PAGES - 20, ksm_proc_stat(getpid(), "ksm_rmap_items"));
	ASSERT_EQ(0, ksm_set("run", "2"));
	EXPECT_EQ(0, merging_pages(getpid()));
	EXPECT_EQ(0, ksm_proc_stat(getpid(), "ksm_rmap_items"));
	/* No profit now; what being registered costs may be counted. */
	EXPECT_LE(ksm_proc_stat(getpid(), "ksm_process_profit"), 0);
	EXPECT_GT(ksm_proc_stat(getpid(), "ksm_process_profit"), -1024);
}

TEST_F(figures, of_each_process_add_up)
{
	struct ksm_worker *worker = self->ksm.workers;
	const unsigned int count = 3;
	long sum = 0;

	for (unsigned int i = 0; i < count; i++) {
		ASSERT_TRUE(ksm_fork_worker(&self->ksm, i, NULL, 10 * (i + 1)));
		ASSERT_EQ(0, ksm_ask(&worker[i], ksm_job_fill, SEED, 1, 0));
		ASSERT_EQ(0, ksm_ask(&worker[i], ksm_job_advise, MADV_MERGEABLE, 0, 0));
	}
	ASSERT_TRUE(ksm_merge_all());
	/* 10 contents are held by three of them, 10 by two, 10 by one. */
	EXPECT_EQ(10, merging_pages(worker[0].pid));
	EXPECT_EQ(20, merging_pages(worker[1].pid));
	EXPECT_EQ(20, merging_pages(worker[2].pid));
	for (unsigned int i = 0; i < count; i++)
		sum += merging_pages(worker[i].pid);
	EXPECT_EQ(ksm_get("pages_shared") + ksm_get("pages_sharing"), sum);
	EXPECT_EQ(20, ksm_get("pages_shared"));
	EXPECT_EQ(30, ksm_get("pages_sharing"));
	EXPECT_EQ(10, ksm_get("pages_unshared"));
}

TEST_F(figures, are_only_for_the_owner_and_root)
{
	struct stat status;
	char path[64], text[64];
	pid_t test = getppid();

	ASSERT_EQ(0, stat("/proc/self/ksm_stat", &status));
	EXPECT_EQ(S_IFREG | 0400, status.st_mode);
	ASSERT_EQ(0, stat("/proc/self/ksm_merging_pages", &status));
	EXPECT_EQ(S_IFREG | 0400, status.st_mode);
	ASSERT_EQ(0, setresuid(65534, 65534, 65534));
	snprintf(path, sizeof(path), "/proc/%d/ksm_stat", test);
	EXPECT_EQ(-EACCES, ksm_read_text(path, text, sizeof(text)));
	snprintf(path, sizeof(path), "/proc/%d/ksm_merging_pages", test);
	EXPECT_EQ(-EACCES, ksm_read_text(path, text, sizeof(text)));
}

static long rollup_of_self(void)
{
	const char *name = "\nKSM:";
	char text[4096], *line;

	if (ksm_read_text("/proc/self/smaps_rollup", text, sizeof(text)))
		return KSM_NONE;
	line = strstr(text, name);
	return line ? strtol(line + strlen(name), NULL, 10) : KSM_NONE;
}

TEST_F(figures, of_smaps_show_merged_pages_in_kilobytes)
{
	const long equal = 100, per_page = psize() / 1024;
	char *map = map_merged(equal);

	ASSERT_NE(NULL, map);
	ASSERT_EQ(0, ksm_set("run", "0"));
	EXPECT_EQ(equal * per_page, ksm_smaps(getpid(), map, "KSM"));
	EXPECT_EQ(PAGES * per_page, ksm_smaps(getpid(), map, "Rss"));
	EXPECT_EQ(equal * per_page, rollup_of_self());
	ksm_fill(map, 10, OTHER, 1);
	EXPECT_EQ((equal - 10) * per_page, ksm_smaps(getpid(), map, "KSM"));
	EXPECT_EQ((equal - 10) * per_page, rollup_of_self());
	ASSERT_EQ(0, ksm_unmergeable(map, PAGES));
	EXPECT_EQ(0, ksm_smaps(getpid(), map, "KSM"));
	EXPECT_EQ(0, rollup_of_self());
}

static uint64_t map_count(unsigned long pfn)
{
	uint64_t count = 0;
	int fd;

	fd = open("/proc/kpagecount", O_RDONLY);
	if (fd < 0)
		return 0;
	if (pread(fd, &count, sizeof(count), pfn * sizeof(count)) != sizeof(count))
		count = 0;
	close(fd);
	return count;
}

TEST_F(figures, of_a_merged_page_are_its_mappings)
{
	const size_t equal = 20;
	char *map = map_merged(equal);
	unsigned long pfn;

	ASSERT_NE(NULL, map);
	ASSERT_EQ(0, ksm_set("run", "0"));
	pfn = ksm_pfn(getpid(), map);
	EXPECT_EQ(equal, map_count(pfn));
	EXPECT_TRUE(ksm_page_flags(pfn) & BIT_ULL(12 /* KPF_ANON */));
	EXPECT_TRUE(ksm_page_flags(pfn) & BIT_ULL(11 /* KPF_MMAP */));
	EXPECT_FALSE(ksm_page_flags(ksm_pfn(getpid(), page(map, equal))) &
		     BIT_ULL(21 /* KPF_KSM */));
	ksm_fill(map, 1, OTHER, 0);
	EXPECT_EQ(equal - 1, map_count(pfn));
	EXPECT_EQ(1, map_count(ksm_pfn(getpid(), map)));
}

TEST_F(figures, of_anonymous_memory_stay_what_they_were)
{
	char *map = ksm_map_fenced(PAGES);
	unsigned long before;

	ASSERT_NE(NULL, map);
	ASSERT_EQ(0, ksm_mergeable(map, PAGES));
	ksm_fill(map, PAGES, SEED, 0);
	before = rss_anon();
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_EQ(PAGES, ksm_count_merged(getpid(), map, PAGES));
	EXPECT_EQ(before, rss_anon());
	ASSERT_EQ(0, munmap(map, PAGES * psize()));
	EXPECT_EQ(before - PAGES * psize() / 1024, rss_anon());
}

TEST_HARNESS_MAIN
