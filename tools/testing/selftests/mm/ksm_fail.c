// SPDX-License-Identifier: GPL-2.0-only
/*
 * Allocations that fail at random: nothing breaks and nothing is lost, whoever asked
 * is told, and what ksmd could not do it does when there is memory again. Needs a
 * kernel with CONFIG_FAILSLAB and CONFIG_FAIL_PAGE_ALLOC.
 */
#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/prctl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include "ksm_util.h"
#include "vm_util.h"

#define DEBUGFS		"/sys/kernel/debug/"

#define PAGES		256
#define SEED		1000
#define PASSES		12	/* of ksmd while allocations fail */
#define TRIES		64	/* of calls that may fail */

static int set_fault(const char *what, const char *name, const char *value)
{
	char path[96];

	snprintf(path, sizeof(path), DEBUGFS "%s/%s", what, name);
	return ksm_write_text(path, value);
}

/* For processes that are chosen only; those that may sleep fail, too. */
static int arm(const char *what, const char *percent)
{
	static const char * const settings[][2] = {
		{ "task-filter", "Y" }, { "times", "-1" }, { "interval", "1" },
		{ "verbose", "0" }, { "ignore-gfp-wait", "N" },
	};
	int error = 0;

	for (size_t i = 0; i < ARRAY_SIZE(settings) && !error; i++)
		error = set_fault(what, settings[i][0], settings[i][1]);
	if (!error && !strcmp(what, "fail_page_alloc"))
		error = set_fault(what, "min-order", "0") ?:
			set_fault(what, "ignore-gfp-highmem", "N");
	return error ? error : set_fault(what, "probability", percent);
}

/* The call may fail by what it is to end. */
static bool choose(pid_t pid, bool chosen)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/make-it-fail", pid);
	return ksm_wait_until(!ksm_write_text(path, chosen ? "1" : "0"));
}

FIXTURE(failing)
{
	struct ksm_test ksm;
	char *map, *twin;	/* PAGES each */
};

FIXTURE_VARIANT(failing)
{
	const char *slab;	/* percent of allocations that fail */
	const char *pages;
	bool is_mild;	/* most calls succeed */
};

FIXTURE_VARIANT_ADD(failing, few_objects)
{
	.slab = "5",
	.pages = "0",
	.is_mild = true,
};

FIXTURE_VARIANT_ADD(failing, most_objects)
{
	.slab = "80",
	.pages = "0",
};

FIXTURE_VARIANT_ADD(failing, pages)
{
	.slab = "0",
	.pages = "50",
};

FIXTURE_VARIANT_ADD(failing, both)
{
	.slab = "30",
	.pages = "30",
};

FIXTURE_SETUP(failing)
{
	const char *missing = ksm_missing();

	if (!missing && (access(DEBUGFS "failslab", F_OK) ||
			 access(DEBUGFS "fail_page_alloc", F_OK)))
		missing = "this kernel cannot let allocations fail (CONFIG_FAILSLAB)";
	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	ASSERT_NE(0, ksm_ksmd());
	self->map = ksm_map_pages(PAGES);
	self->twin = ksm_map_pages(PAGES);
	ASSERT_NE(NULL, self->map);
	ASSERT_NE(NULL, self->twin);
	ksm_fill(self->map, PAGES, SEED, 1);
	ksm_fill(self->twin, PAGES, SEED, 1);
	ASSERT_EQ(0, arm("failslab", variant->slab));
	ASSERT_EQ(0, arm("fail_page_alloc", variant->pages));
}

FIXTURE_TEARDOWN_PARENT(failing)
{
	if (ksm_ksmd() && !access(DEBUGFS "failslab", F_OK)) {
		EXPECT_TRUE(choose(ksm_ksmd(), false));
		EXPECT_EQ(0, set_fault("failslab", "probability", "0"));
		EXPECT_EQ(0, set_fault("fail_page_alloc", "probability", "0"));
	}
	EXPECT_TRUE(ksm_end(&self->ksm));
}

#define EXPECT_UNHARMED(self)							\
do {										\
	EXPECT_EQ(-1, ksm_first_wrong((self)->map, PAGES, SEED, 1));		\
	EXPECT_EQ(-1, ksm_first_wrong((self)->twin, PAGES, SEED, 1));		\
} while (0)

/* ksmd alone lacks memory. Then it has it again. */
TEST_F(failing, ksmd_merges_later_what_it_could_not_merge)
{
	ASSERT_EQ(0, ksm_mergeable(self->map, PAGES));
	ASSERT_EQ(0, ksm_mergeable(self->twin, PAGES));
	ASSERT_TRUE(choose(ksm_ksmd(), true));
	ASSERT_EQ(0, ksm_set("run", "1"));
	for (unsigned int pass = 0; pass < PASSES; pass++) {
		ASSERT_TRUE(ksm_wait_passes(1));
		EXPECT_UNHARMED(self);
		/* Pages that part again need new records, too. */
		ksm_fill(self->map + pass * psize(), 1, SEED + pass, 0);
	}
	ASSERT_TRUE(choose(ksm_ksmd(), false));
	ASSERT_TRUE(ksm_wait_passes(KSM_MERGE_PASSES));
	EXPECT_EQ(PAGES, ksm_get("pages_shared"));
	EXPECT_EQ(PAGES, ksm_get("pages_sharing"));
	EXPECT_UNHARMED(self);
}

/* Who has no memory to unmerge is told, and may try again. */
TEST_F(failing, unmerging_says_that_it_failed)
{
	unsigned int failed = 0, done = 0;
	int run = open("/sys/kernel/mm/ksm/run", O_WRONLY);

	ASSERT_GE(run, 0);
	ASSERT_EQ(0, ksm_mergeable(self->map, PAGES));
	ASSERT_EQ(0, ksm_mergeable(self->twin, PAGES));
	for (unsigned int i = 0; i < PASSES; i++) {
		int error;

		ASSERT_TRUE(ksm_merge_all());
		ASSERT_TRUE(choose(getpid(), true));
		error = write(run, "2", 1) < 0 ? -errno : 0;
		ASSERT_TRUE(choose(getpid(), false));
		/* Taking the text may fail: then nothing was begun. */
		EXPECT_TRUE(!error || error == -ENOMEM);
		EXPECT_EQ(!error, ksm_get("run") == 2);
		EXPECT_TRUE(error || !ksm_count_merged(getpid(), self->map, PAGES));
		failed += error != 0;
		done += !error;
		EXPECT_UNHARMED(self);
		ASSERT_TRUE(ksm_check());
		ASSERT_EQ(0, ksm_set("run", "2"));
		EXPECT_EQ(0, ksm_get("pages_shared"));
		EXPECT_EQ(0, ksm_count_merged(getpid(), self->map, PAGES));
		EXPECT_UNHARMED(self);
	}
	close(run);
	TH_LOG("%u times it failed, %u times it did not", failed, done);
	EXPECT_TRUE(done || !variant->is_mild);
	/* Each page needs a copy. */
	EXPECT_TRUE(failed || !strcmp(variant->pages, "0"));
}

/* A call that fails leaves nothing behind; in the end one succeeds. */
TEST_F(failing, registering_fails_or_is_done)
{
	unsigned int failed = 0;
	int error = -1;

	for (unsigned int i = 0; i < TRIES; i++) {
		ASSERT_TRUE(choose(getpid(), true));
		error = ksm_mergeable(self->map, PAGES);
		ASSERT_TRUE(choose(getpid(), false));
		EXPECT_TRUE(!error || error == -ENOMEM || error == -EAGAIN);
		failed += error != 0;
		ASSERT_TRUE(ksm_check());
		ASSERT_EQ(0, ksm_unmergeable(self->map, PAGES));
	}
	TH_LOG("%u of %u times it failed", failed, TRIES);
	ASSERT_EQ(0, ksm_mergeable(self->map, PAGES));
	ASSERT_EQ(0, ksm_mergeable(self->twin, PAGES));
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_EQ(PAGES, ksm_get("pages_sharing"));
	EXPECT_UNHARMED(self);
}

/* 0 when the child had all its bytes; -EAGAIN when there is none for want of memory. */
static int fork_and_look(const char *map, const char *twin)
{
	pid_t pid = fork();
	int status;

	if (pid < 0)
		return errno == ENOMEM || errno == EAGAIN ? -EAGAIN : 1;
	if (!pid)
		_exit(ksm_first_wrong(map, PAGES, SEED, 1) != -1 ||
		      ksm_first_wrong(twin, PAGES, SEED, 1) != -1);
	if (waitpid(pid, &status, 0) != pid)
		return 1;
	return !WIFEXITED(status) || WEXITSTATUS(status);
}

TEST_F(failing, forks_of_merged_memory_fail_or_are_whole)
{
	unsigned int whole = 0, i;

	ASSERT_EQ(0, ksm_mergeable(self->map, PAGES));
	ASSERT_EQ(0, ksm_mergeable(self->twin, PAGES));
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_TRUE(choose(ksm_ksmd(), true));
	/* A mild one is without a failure in one of twenty, or so. */
	for (i = 0; i < TRIES || (variant->is_mild && !whole && i < 20 * TRIES); i++) {
		int wrong;

		ASSERT_TRUE(choose(getpid(), true));
		wrong = fork_and_look(self->map, self->twin);
		ASSERT_TRUE(choose(getpid(), false));
		EXPECT_TRUE(!wrong || wrong == -EAGAIN);
		whole += !wrong;
	}
	TH_LOG("%u of %u forks succeeded", whole, i);
	EXPECT_TRUE(whole || !variant->is_mild);
	ASSERT_TRUE(choose(ksm_ksmd(), false));
	EXPECT_UNHARMED(self);
	ASSERT_TRUE(ksm_merge_all());
	EXPECT_EQ(PAGES, ksm_get("pages_shared"));
	EXPECT_EQ(PAGES, ksm_get("pages_sharing"));
}

/* A parent whose child cannot be registered, and nothing else fails. */
#define SLAB_FAILS	"/sys/kernel/slab/ksm_mm/failslab"
#define FEW		16	/* a merged page has room for those of a child, too */

FIXTURE(left_out)
{
	struct ksm_test ksm;
};

static struct ksm_test *family;

static long job_fork(struct ksm_worker *worker, long who, long unused, long unused2)
{
	return ksm_fork_worker(family, who, worker->map, worker->pages);
}

static long job_merge_any(struct ksm_worker *worker, long unused, long unused2, long unused3)
{
	return ksm_set_merge_any(1);
}

FIXTURE_SETUP(left_out)
{
	const char *missing = ksm_missing();

	if (!missing && (access(DEBUGFS "failslab", F_OK) || access(SLAB_FAILS, F_OK)))
		missing = "this kernel cannot let allocations fail (CONFIG_FAILSLAB)";
	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
	ASSERT_EQ(0, set_fault("failslab", "cache-filter", "Y"));
	ASSERT_EQ(0, ksm_write_text(SLAB_FAILS, "1"));
	ASSERT_EQ(0, arm("failslab", "100"));
	family = &self->ksm;
	ASSERT_TRUE(ksm_fork_worker(family, 0, NULL, FEW));
	ASSERT_EQ(0, ksm_ask(&family->workers[0], ksm_job_fill, SEED, 0, 0));
}

FIXTURE_TEARDOWN_PARENT(left_out)
{
	if (!access(DEBUGFS "failslab", F_OK) && !access(SLAB_FAILS, F_OK)) {
		EXPECT_EQ(0, set_fault("failslab", "probability", "0"));
		EXPECT_EQ(0, ksm_write_text(SLAB_FAILS, "0"));
		EXPECT_EQ(0, set_fault("failslab", "cache-filter", "N"));
	}
	EXPECT_TRUE(ksm_end(&self->ksm));
}

/* Worker 1 is a child of worker 0, and is not registered. */
static bool fork_unregistered(struct ksm_worker *worker)
{
	return choose(worker[0].pid, true) && ksm_ask(&worker[0], job_fork, 1, 0, 0) == 1 &&
	       choose(worker[0].pid, false) && choose(worker[1].pid, false);
}

/* Each page that it maps has its own record then. */
static bool is_known(struct ksm_worker *worker)
{
	return ksm_proc_stat(worker->pid, "ksm_merging_pages") == FEW;
}

TEST_F_TIMEOUT(left_out, child_is_registered_later, 120)
{
	struct ksm_worker *worker = self->ksm.workers;

	ASSERT_EQ(0, ksm_ask(&worker[0], ksm_job_advise, MADV_MERGEABLE, 0, 0));
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_TRUE(fork_unregistered(worker));
	ASSERT_EQ(0, ksm_proc_stat(worker[1].pid, "ksm_rmap_items"));
	EXPECT_TRUE(ksm_wait_until(is_known(&worker[1])));
	EXPECT_EQ(-1, ksm_ask(&worker[1], ksm_job_first_wrong, SEED, 0, 0));
}

TEST_F_TIMEOUT(left_out, child_that_offers_all_is_registered_later, 120)
{
	struct ksm_worker *worker = self->ksm.workers;

	ASSERT_EQ(0, ksm_ask(&worker[0], job_merge_any, 0, 0, 0));
	ASSERT_TRUE(fork_unregistered(worker));
	ASSERT_TRUE(ksm_end_worker(&worker[0]));
	/* Nobody else is registered. */
	ASSERT_EQ(0, ksm_set("run", "1"));
	EXPECT_TRUE(ksm_wait_until(ksm_count_merged(worker[1].pid, worker[1].map, FEW) == FEW));
	EXPECT_EQ(-1, ksm_ask(&worker[1], ksm_job_first_wrong, SEED, 0, 0));
}

TEST_F_TIMEOUT(left_out, child_is_unmerged_with_all_others, 120)
{
	struct ksm_worker *worker = self->ksm.workers;

	ASSERT_EQ(0, ksm_ask(&worker[0], ksm_job_advise, MADV_MERGEABLE, 0, 0));
	ASSERT_TRUE(ksm_merge_all());
	ASSERT_EQ(0, ksm_set("run", "0"));
	ASSERT_TRUE(fork_unregistered(worker));
	ASSERT_EQ(FEW, ksm_count_merged(worker[1].pid, worker[1].map, FEW));
	ASSERT_EQ(0, ksm_set("run", "2"));
	EXPECT_EQ(0, ksm_count_merged(worker[1].pid, worker[1].map, FEW));
	EXPECT_EQ(FEW, ksm_count_frames(worker[1].pid, worker[1].map, FEW));
	EXPECT_EQ(-1, ksm_ask(&worker[1], ksm_job_first_wrong, SEED, 0, 0));
}

TEST_HARNESS_MAIN
