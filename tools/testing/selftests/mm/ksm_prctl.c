// SPDX-License-Identifier: GPL-2.0-only
/*
 * Which processes take part: prctl(PR_SET_MEMORY_MERGE), fork and exec. ksmd is
 * off in all of these tests. ksm_register.c tells which memory of a process it is.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include "ksm_util.h"
#include "vm_util.h"

#define PAGES 4

FIXTURE(merge_any)
{
	struct ksm_test ksm;
};

FIXTURE_SETUP(merge_any)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	ASSERT_TRUE(ksm_begin(&self->ksm));
}

FIXTURE_TEARDOWN_PARENT(merge_any)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

static bool is_mergeable(const char *addr)
{
	return ksm_vma_is_mergeable(getpid(), addr);
}

TEST_F(merge_any, reads_back_what_was_set)
{
	EXPECT_EQ(0, ksm_get_merge_any());
	EXPECT_EQ(0, ksm_set_merge_any(1));
	EXPECT_EQ(1, ksm_get_merge_any());
	EXPECT_EQ(0, ksm_set_merge_any(1));
	EXPECT_EQ(1, ksm_get_merge_any());
	EXPECT_EQ(0, ksm_set_merge_any(0));
	EXPECT_EQ(0, ksm_get_merge_any());
	EXPECT_EQ(0, ksm_set_merge_any(0));
	EXPECT_EQ(0, ksm_get_merge_any());
}

TEST_F(merge_any, refuses_unused_arguments)
{
	for (int on = 0; on <= 1; on++) {
		EXPECT_EQ(-1, prctl(PR_SET_MEMORY_MERGE, on, 1, 0, 0));
		EXPECT_EQ(EINVAL, errno);
		EXPECT_EQ(-1, prctl(PR_SET_MEMORY_MERGE, on, 0, 1, 0));
		EXPECT_EQ(EINVAL, errno);
		EXPECT_EQ(-1, prctl(PR_SET_MEMORY_MERGE, on, 0, 0, 1));
		EXPECT_EQ(EINVAL, errno);
	}
	EXPECT_EQ(0, ksm_get_merge_any());
	EXPECT_EQ(-1, prctl(PR_GET_MEMORY_MERGE, 1, 0, 0, 0));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, prctl(PR_GET_MEMORY_MERGE, 0, 1, 0, 0));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, prctl(PR_GET_MEMORY_MERGE, 0, 0, 1, 0));
	EXPECT_EQ(EINVAL, errno);
	EXPECT_EQ(-1, prctl(PR_GET_MEMORY_MERGE, 0, 0, 0, 1));
	EXPECT_EQ(EINVAL, errno);
}

TEST_F(merge_any, is_inherited_by_fork_and_then_independent)
{
	char *map = ksm_map_fenced(PAGES);
	int status;
	pid_t pid;

	ASSERT_NE(NULL, map);
	ASSERT_EQ(0, ksm_set_merge_any(1));
	pid = fork();
	ASSERT_GE(pid, 0);
	if (!pid) {
		bool good = ksm_get_merge_any() == 1 && is_mergeable(map) &&
			    is_mergeable(ksm_map_fenced(PAGES));

		good &= !ksm_set_merge_any(0) && !is_mergeable(map);
		_exit(!good);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_EQ(0, status);
	EXPECT_EQ(1, ksm_get_merge_any());
	EXPECT_TRUE(is_mergeable(map));
	ASSERT_EQ(0, ksm_set_merge_any(0));
}

TEST_F(merge_any, new_memory_next_to_a_registered_vma_takes_part_too)
{
	char *map = ksm_map_fenced(2);

	ASSERT_NE(NULL, map);
	ASSERT_EQ(0, munmap(map + psize(), psize()));
	ASSERT_EQ(0, ksm_set_merge_any(1));
	ASSERT_EQ(map + psize(),
		  mmap(map + psize(), psize(), PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0));
	EXPECT_TRUE(is_mergeable(map + psize()));
	ASSERT_EQ(0, ksm_set_merge_any(0));
}

static void *switch_merge_any_on(void *unused)
{
	return (void *)(long)ksm_set_merge_any(1);
}

TEST_F(merge_any, in_a_thread_counts_for_the_whole_process)
{
	pthread_t thread;
	void *result;

	ASSERT_EQ(0, pthread_create(&thread, NULL, switch_merge_any_on, NULL));
	ASSERT_EQ(0, pthread_join(thread, &result));
	EXPECT_EQ(NULL, result);
	EXPECT_EQ(1, ksm_get_merge_any());
	ASSERT_EQ(0, ksm_set_merge_any(0));
}

TEST_F(merge_any, ksm_stat_tells_how_a_process_takes_part)
{
	char *map = ksm_map_fenced(PAGES);

	ASSERT_NE(NULL, map);
	EXPECT_TRUE(ksm_proc_says(getpid(), "ksm_merge_any: no"));
	EXPECT_TRUE(ksm_proc_says(getpid(), "ksm_mergeable: no"));
	ASSERT_EQ(0, ksm_mergeable(map, PAGES));
	EXPECT_TRUE(ksm_proc_says(getpid(), "ksm_merge_any: no"));
	EXPECT_TRUE(ksm_proc_says(getpid(), "ksm_mergeable: yes"));
	ASSERT_EQ(0, ksm_unmergeable(map, PAGES));
	EXPECT_TRUE(ksm_proc_says(getpid(), "ksm_mergeable: no"));
	ASSERT_EQ(0, ksm_set_merge_any(1));
	EXPECT_TRUE(ksm_proc_says(getpid(), "ksm_merge_any: yes"));
	EXPECT_TRUE(ksm_proc_says(getpid(), "ksm_mergeable: yes"));
	ASSERT_EQ(0, ksm_set_merge_any(0));
	EXPECT_TRUE(ksm_proc_says(getpid(), "ksm_merge_any: no"));
	EXPECT_TRUE(ksm_proc_says(getpid(), "ksm_mergeable: no"));
}

/* Set in the environment of the program that replaces the test's. */
#define AFTER_EXEC "KSM_PRCTL_AFTER_EXEC"

static void __attribute__((constructor)) report_after_exec(void)
{
	char *map;

	if (!getenv(AFTER_EXEC))
		return;
	map = ksm_map_fenced(PAGES);
	_exit(ksm_get_merge_any() * 4 + is_mergeable(map) * 2 +
	      ksm_proc_says(getpid(), "ksm_merge_any: yes"));
}

static int state_after_exec(void)
{
	char *const arguments[] = { "ksm_prctl", NULL };
	char *const environment[] = { AFTER_EXEC "=1", NULL };
	int status;
	pid_t pid;

	pid = fork();
	if (!pid) {
		execve("/proc/self/exe", arguments, environment);
		_exit(64);
	}
	if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
		return -1;
	return WEXITSTATUS(status);
}

TEST_F(merge_any, is_kept_over_exec)
{
	EXPECT_EQ(0, state_after_exec());
	ASSERT_EQ(0, ksm_set_merge_any(1));
	EXPECT_EQ(7, state_after_exec());
	ASSERT_EQ(0, ksm_set_merge_any(0));
	EXPECT_EQ(0, state_after_exec());
}

TEST_F(merge_any, madvise_is_not_kept_over_exec)
{
	char *map = ksm_map_fenced(PAGES);

	ASSERT_NE(NULL, map);
	ASSERT_EQ(0, ksm_mergeable(map, PAGES));
	EXPECT_EQ(0, state_after_exec());
}

TEST_HARNESS_MAIN
