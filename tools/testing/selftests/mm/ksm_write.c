// SPDX-License-Identifier: GPL-2.0-only
/*
 * Writing to merged pages: the writer gets a copy of its own, all others keep
 * what they had, and what is equal again is merged again.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include "ksm_util.h"
#include "ksm_ways.h"
#include "vm_util.h"

#define PAGES	16
#define SEED	1000
#define OTHER	2000

FIXTURE(writing)
{
	struct ksm_test ksm;
};

FIXTURE_SETUP(writing)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
}

FIXTURE_TEARDOWN_PARENT(writing)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

static char *page(char *map, size_t index)
{
	return map + index * psize();
}

static char *map_merged(size_t pages)
{
	char *map = ksm_map_registered(pages);

	if (!map)
		return NULL;
	ksm_fill(map, pages, SEED, 0);
	if (!ksm_merge_all() || ksm_count_frames(getpid(), map, pages) != 1)
		return NULL;
	return map;
}

/* Writes one page anew; b pages from page a on, of content c. */
static long job_write(struct ksm_worker *worker, long first, long pages, long content)
{
	ksm_fill(page(worker->map, first), pages, content, 0);
	return 0;
}

TEST_F(writing, gives_the_writer_a_copy_and_all_others_keep_theirs)
{
	const unsigned int count = 6;
	struct ksm_worker *worker = self->ksm.workers;

	for (unsigned int i = 0; i < count; i++) {
		ASSERT_TRUE(ksm_fork_worker(&self->ksm, i, NULL, PAGES));
		ASSERT_EQ(0, ksm_ask(&worker[i], ksm_job_fill, SEED, 0, 0));
		ASSERT_EQ(0, ksm_ask(&worker[i], ksm_job_advise, MADV_MERGEABLE, 0, 0));
	}
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(PAGES * count - 1, ksm_get("pages_sharing"));

	/* One after the other writes all its pages; nobody else may see that. */
	for (unsigned int i = 0; i < count; i++) {
		ASSERT_EQ(0, ksm_ask(&worker[i], ksm_job_fill, OTHER * (i + 1), 1, 0));
		EXPECT_EQ(0, ksm_count_merged(worker[i].pid, worker[i].map, PAGES));
		for (unsigned int j = 0; j < count; j++)
			EXPECT_EQ(-1, ksm_ask(&worker[j], ksm_job_first_wrong,
					      j <= i ? OTHER * (j + 1) : SEED, j <= i, 0));
	}
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(0, ksm_get("pages_shared"));
	EXPECT_EQ(0, ksm_get("pages_sharing"));
	EXPECT_EQ(PAGES * count, ksm_get("pages_unshared"));
}

TEST_F(writing, counters_follow_each_write)
{
	char *map = map_merged(PAGES);

	ASSERT_NE(NULL, map);
	for (size_t i = 0; i < PAGES; i++) {
		ksm_fill(page(map, i), 1, OTHER + i, 0);
		ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
		/* A page that only one mapping is left of counts as shared still. */
		EXPECT_EQ(i + 1 < PAGES, ksm_get("pages_shared"));
		EXPECT_EQ(i + 2 < PAGES ? PAGES - i - 2 : 0, ksm_get("pages_sharing"));
		EXPECT_EQ(i + 1, ksm_get("pages_unshared"));
		EXPECT_EQ(-1, ksm_first_wrong(map, i + 1, OTHER, 1));
		EXPECT_EQ(-1, ksm_first_wrong(page(map, i + 1), PAGES - i - 1, SEED, 0));
	}
}

TEST_F(writing, counts_in_vmstat_once_for_each_page)
{
	char *map = map_merged(PAGES);
	long before = ksm_vmstat("cow_ksm");

	ASSERT_NE(NULL, map);
	ASSERT_NE(KSM_NONE, before);
	ASSERT_EQ(0, ksm_set("run", "0"));
	ksm_fill(map, 5, OTHER, 0);
	EXPECT_EQ(before + 5, ksm_vmstat("cow_ksm"));
	ksm_fill(map, 5, OTHER + 1, 0);
	EXPECT_EQ(before + 5, ksm_vmstat("cow_ksm"));
	EXPECT_EQ(-1, ksm_first_wrong(map, 5, OTHER + 1, 0));
	EXPECT_EQ(-1, ksm_first_wrong(page(map, 5), PAGES - 5, SEED, 0));
}

TEST_F(writing, reading_copies_nothing)
{
	char *map = map_merged(PAGES);
	long before = ksm_vmstat("cow_ksm");

	ASSERT_NE(NULL, map);
	EXPECT_EQ(-1, ksm_first_wrong(map, PAGES, SEED, 0));
	EXPECT_EQ(before, ksm_vmstat("cow_ksm"));
	EXPECT_EQ(PAGES, ksm_count_merged(getpid(), map, PAGES));
}

TEST_F(writing, old_content_back_merges_again)
{
	char *map = map_merged(PAGES);

	ASSERT_NE(NULL, map);
	ksm_fill(map, PAGES / 2, OTHER, 1);
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(PAGES / 2 - 1, ksm_get("pages_sharing"));
	ksm_fill(map, PAGES / 2, SEED, 0);
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(1, ksm_get("pages_shared"));
	EXPECT_EQ(PAGES - 1, ksm_get("pages_sharing"));
	EXPECT_EQ(1, ksm_count_frames(getpid(), map, PAGES));
	EXPECT_EQ(-1, ksm_first_wrong(map, PAGES, SEED, 0));
}

TEST_F(writing, one_byte_of_the_same_value_copies_and_merges_again)
{
	char *map = map_merged(2);

	ASSERT_NE(NULL, map);
	ASSERT_EQ(0, ksm_set("run", "0"));
	*(volatile char *)map = *map;
	EXPECT_EQ(2, ksm_count_frames(getpid(), map, 2));
	EXPECT_EQ(-1, ksm_first_wrong(map, 2, SEED, 0));
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_EQ(1, ksm_count_frames(getpid(), map, 2));
	EXPECT_EQ(-1, ksm_first_wrong(map, 2, SEED, 0));
}

/* All pages of a merged page get a new content at once, and again. */
TEST_F(writing, new_equal_content_merges_each_time)
{
	char *map = map_merged(PAGES);

	ASSERT_NE(NULL, map);
	for (unsigned int round = 1; round <= 4; round++) {
		ksm_fill(map, PAGES, OTHER + round, 0);
		ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
		EXPECT_EQ(1, ksm_get("pages_shared"));
		EXPECT_EQ(PAGES - 1, ksm_get("pages_sharing"));
		EXPECT_EQ(1, ksm_count_frames(getpid(), map, PAGES));
		EXPECT_EQ(-1, ksm_first_wrong(map, PAGES, OTHER + round, 0));
	}
}

/* The ways to write to a page that are not a store of its own process. */
FIXTURE(written)
{
	struct ksm_test ksm;
};

FIXTURE_VARIANT(written)
{
	ksm_way write;
};

FIXTURE_VARIANT_ADD(written, by_read)		{ .write = ksm_write_by_read };
FIXTURE_VARIANT_ADD(written, by_process_vm)	{ .write = ksm_write_by_process_vm };
FIXTURE_VARIANT_ADD(written, by_proc_mem)	{ .write = ksm_write_by_proc_mem };

FIXTURE_SETUP(written)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
}

FIXTURE_TEARDOWN_PARENT(written)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

TEST_F(written, page_is_copied_and_its_twins_are_not_touched)
{
	struct ksm_worker *worker = self->ksm.workers;
	char *map, *content = ksm_map_pages(1);
	long done;

	ASSERT_NE(NULL, content);
	ksm_fill(content, 1, OTHER, 0);
	map = ksm_map_registered(PAGES);
	ASSERT_NE(NULL, map);
	ksm_fill(map, PAGES, SEED, 0);
	ASSERT_EQ(0, madvise(map, PAGES * psize(), MADV_DONTFORK));
	ASSERT_TRUE(ksm_fork_worker(&self->ksm, 0, NULL, PAGES));
	ASSERT_EQ(0, ksm_ask(worker, ksm_job_fill, SEED, 0, 0));
	ASSERT_EQ(0, ksm_ask(worker, ksm_job_advise, MADV_MERGEABLE, 0, 0));
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(2 * PAGES - 1, ksm_get("pages_sharing"));

	done = variant->write(worker, page(worker->map, 3), content);
	if (done == -ENOSYS)
		SKIP(return, "this kernel has no such call");
	ASSERT_EQ(0, done);
	EXPECT_EQ(PAGES - 1, ksm_count_merged(worker->pid, worker->map, PAGES));
	EXPECT_EQ(-1, ksm_first_wrong(map, PAGES, SEED, 0));
	EXPECT_EQ(3, ksm_ask(worker, ksm_job_first_wrong, SEED, 0, 0));
	ASSERT_EQ(0, ksm_ask(worker, job_write, 0, 3, OTHER));
	ASSERT_EQ(0, ksm_ask(worker, job_write, 4, PAGES - 4, OTHER));
	EXPECT_EQ(-1, ksm_ask(worker, ksm_job_first_wrong, OTHER, 0, 0));
	EXPECT_EQ(-1, ksm_first_wrong(map, PAGES, SEED, 0));
}

/* Pages that change while ksmd looks. */
static volatile bool stop_changing;

static void *keep_changing(void *map)
{
	volatile uint64_t *word = map;

	while (!stop_changing)
		word[100]++;
	return NULL;
}

TEST_F(writing, all_the_time_keeps_a_page_from_merging_until_it_rests)
{
	char *map = ksm_map_registered(2);
	pthread_t thread;

	ASSERT_NE(NULL, map);
	ksm_fill(map, 2, SEED, 0);
	stop_changing = false;
	ASSERT_EQ(0, pthread_create(&thread, NULL, keep_changing, map));
	ASSERT_EQ(0, ksm_set_number("sleep_millisecs", 20));
	ASSERT_EQ(0, ksm_set("run", "1"));
	EXPECT_TRUE(ksm_wait_until(ksm_get("pages_volatile") == 1));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(0, ksm_get("pages_shared"));
	EXPECT_EQ(2, ksm_count_frames(getpid(), map, 2));

	stop_changing = true;
	ASSERT_EQ(0, pthread_join(thread, NULL));
	EXPECT_EQ(0, ksm_first_wrong(map, 2, SEED, 0));
	ksm_fill(map, 1, SEED, 0);
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(1, ksm_get("pages_sharing"));
	EXPECT_EQ(0, ksm_get("pages_volatile"));
	EXPECT_EQ(-1, ksm_first_wrong(map, 2, SEED, 0));
}

#define CHURN_PAGES	64
#define CHURN_CONTENTS	4

/*
 * Rewrites pages at random out of few contents, so that they merge and part all
 * the time, and knows what each page must hold. Says the page that was wrong.
 */
static long job_churn(struct ksm_worker *worker, long operations, long seed, long unused)
{
	static unsigned char holds[CHURN_PAGES];
	unsigned int random = seed;
	static bool filled;

	if (!filled)
		ksm_fill(worker->map, worker->pages, SEED, 0);
	filled = true;
	while (operations--) {
		size_t i;

		random = random * 1103515245 + 12345;
		i = (random >> 8) % CHURN_PAGES;
		if (ksm_first_wrong(page(worker->map, i), 1, SEED + holds[i], 0) != -1)
			return i;
		holds[i] = (random >> 24) % CHURN_CONTENTS;
		ksm_fill(page(worker->map, i), 1, SEED + holds[i], 0);
	}
	for (size_t i = 0; i < CHURN_PAGES; i++)
		if (ksm_first_wrong(page(worker->map, i), 1, SEED + holds[i], 0) != -1)
			return i;
	return -1;
}

TEST_F(writing, is_never_lost_while_ksmd_runs)
{
	const unsigned int count = 4, enough_copies = 300;
	struct ksm_worker *worker = self->ksm.workers;
	long before = ksm_vmstat("cow_ksm"), copies = before;
	struct ksm_wait wait = { 0 };

	ASSERT_EQ(0, ksm_set_number("sleep_millisecs", 0));
	ASSERT_EQ(0, ksm_set("run", "1"));
	for (unsigned int i = 0; i < count; i++) {
		ASSERT_TRUE(ksm_fork_worker(&self->ksm, i, NULL, CHURN_PAGES));
		ASSERT_EQ(0, ksm_ask(&worker[i], ksm_job_advise, MADV_MERGEABLE, 0, 0));
	}
	for (unsigned int round = 1; ksm_may_wait(&wait, copies); round++) {
		for (unsigned int i = 0; i < count; i++)
			ASSERT_EQ(0, ksm_send(&worker[i], job_churn, 200,
					      round * count + i, 0));
		for (unsigned int i = 0; i < count; i++)
			ASSERT_EQ(-1, ksm_receive(&worker[i]));
		copies = ksm_vmstat("cow_ksm");
		if (copies >= before + enough_copies && round >= 10)
			break;
	}
	EXPECT_GE(ksm_vmstat("cow_ksm"), before + enough_copies);
}

TEST_HARNESS_MAIN
