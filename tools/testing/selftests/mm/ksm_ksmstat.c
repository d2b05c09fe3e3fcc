// SPDX-License-Identifier: GPL-2.0-only
/*
 * The program ksmstat against this kernel: what it shows is what the kernel tells,
 * and what it changes is changed. It is looked for beside this program, or where the
 * environment variable KSMSTAT says.
 */

#define _GNU_SOURCE
#include "kselftest_harness.h"
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include "ksm_util.h"
#include "vm_util.h"

#define PAGES		200
#define NOBODY		65534
#define MAX_OUTPUT	16384
#define MAX_WORDS	8

/* Set for a copy of this program that shall only say whether merging is on for it. */
#define ASKED		"KSM_KSMSTAT_ASKED"

/**
 * struct outcome - how a run of ksmstat ended
 * @status: its exit status, or -1
 * @text: what it printed, its complaints as well
 */
struct outcome {
	int status;
	char text[MAX_OUTPUT];
};

FIXTURE(ksmstat)
{
	struct ksm_test ksm;
	struct outcome outcome;
};

static char tool[PATH_MAX];

static bool find_tool(void)
{
	const char *named = getenv("KSMSTAT");
	ssize_t len;

	if (named) {
		snprintf(tool, sizeof(tool), "%s", named);
		return !access(tool, X_OK);
	}
	len = readlink("/proc/self/exe", tool, sizeof(tool) - sizeof("ksmstat"));
	if (len <= 0)
		return false;
	tool[len] = '\0';
	strcpy(strrchr(tool, '/') + 1, "ksmstat");
	return !access(tool, X_OK);
}

FIXTURE_SETUP(ksmstat)
{
	const char *missing = ksm_missing();

	if (missing)
		SKIP(return, "%s", missing);
	if (!find_tool())
		SKIP(return, "ksmstat is not beside this program, nor named by KSMSTAT");
	ASSERT_TRUE(ksm_begin(&self->ksm));
}

FIXTURE_TEARDOWN_PARENT(ksmstat)
{
	EXPECT_TRUE(ksm_end(&self->ksm));
}

/* Before main(): ksmstat has run this program to see what it gives it. */
__attribute__((constructor))
static void answer_if_asked(void)
{
	if (!getenv(ASKED))
		return;
	printf("merge_any is %d\n", ksm_get_merge_any());
	fflush(stdout);
	_exit(7);
}

/* Runs in the child. */
static void become_tool(int out, uid_t user, const char *words)
{
	char line[PATH_MAX + 16], *word[MAX_WORDS + 2] = { tool }, *rest = line;

	snprintf(line, sizeof(line), "%s", words);
	for (int i = 1; i <= MAX_WORDS && rest; i++)
		word[i] = strsep(&rest, " ");
	if (dup2(out, STDOUT_FILENO) < 0 || dup2(out, STDERR_FILENO) < 0 ||
	    (user && (setgid(user) || setuid(user))))
		_exit(125);
	execv(tool, word);
	_exit(125);
}

/* Runs ksmstat with @words, which blanks separate, as @user. */
static void run_as(struct outcome *outcome, uid_t user, const char *words)
{
	size_t len = 0;
	ssize_t got;
	int out[2], status;
	pid_t pid;

	outcome->status = -1;
	outcome->text[0] = '\0';
	if (pipe(out))
		return;
	pid = fork();
	if (!pid)
		become_tool(out[1], user, words);
	close(out[1]);
	while (pid > 0 && (got = read(out[0], outcome->text + len, MAX_OUTPUT - 1 - len)) > 0)
		len += got;
	outcome->text[len] = '\0';
	close(out[0]);
	if (pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status))
		outcome->status = WEXITSTATUS(status);
}

static void run(struct outcome *outcome, const char *words)
{
	run_as(outcome, 0, words);
}

static bool says(const struct outcome *outcome, const char *text)
{
	return strstr(outcome->text, text);
}

/* The number after "KEY": in what was printed. */
static long number_of(const struct outcome *outcome, const char *key)
{
	char quoted[64];
	const char *at;

	snprintf(quoted, sizeof(quoted), "\"%s\": ", key);
	at = strstr(outcome->text, quoted);
	return at ? strtol(at + strlen(quoted), NULL, 10) : KSM_NONE;
}

/* PAGES equal pages that are merged, ksmd at rest. */
static char *map_merged(void)
{
	char *map = ksm_map_registered(PAGES);

	if (!map)
		return NULL;
	ksm_fill(map, PAGES, 1, 0);
	if (!ksm_merge_all() || ksm_set("run", "0"))
		return NULL;
	return ksm_get("pages_sharing") >= PAGES / 2 ? map : NULL;
}

TEST_F(ksmstat, on_starts_ksmd_and_off_stops_it)
{
	run(&self->outcome, "on");
	EXPECT_EQ(0, self->outcome.status);
	EXPECT_STREQ("KSM is on.\n", self->outcome.text);
	EXPECT_EQ(1, ksm_get("run"));
	run(&self->outcome, "on");
	EXPECT_EQ(0, self->outcome.status);
	EXPECT_STREQ("KSM is on already.\n", self->outcome.text);
	run(&self->outcome, "off");
	EXPECT_EQ(0, self->outcome.status);
	EXPECT_TRUE(says(&self->outcome, "KSM is off.\n"));
	EXPECT_EQ(0, ksm_get("run"));
}

TEST_F(ksmstat, set_changes_a_setting_and_tells_both_values)
{
	run(&self->outcome, "set pages_to_scan 1234");
	EXPECT_EQ(0, self->outcome.status);
	EXPECT_STREQ("pages_to_scan: 10000 -> 1234\n", self->outcome.text);
	EXPECT_EQ(1234, ksm_get("pages_to_scan"));
	run(&self->outcome, "set sleep_millisecs=33");
	EXPECT_EQ(0, self->outcome.status);
	EXPECT_EQ(33, ksm_get("sleep_millisecs"));
}

TEST_F(ksmstat, set_refuses_what_makes_no_sense_and_writes_nothing)
{
	static const char * const bad[] = {
		"set run 3",
		"set run on",
		"set pages_to_scan 0",
		"set pages_to_scan -1",
		"set pages_to_scan 1k",
		"set pages_to_scan 4294967296",
		"set sleep_millisecs 99999999999999999999",
		"set max_page_sharing 1",
		"set smart_scan 2",
		"set advisor_mode sometimes",
		"set nonsense 1",
	};

	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		run(&self->outcome, bad[i]);
		EXPECT_EQ(2, self->outcome.status)
			TH_LOG("%s", bad[i]);
	}
	EXPECT_EQ(0, ksm_get("run"));
	EXPECT_EQ(10000, ksm_get("pages_to_scan"));
	EXPECT_EQ(1, ksm_get("sleep_millisecs"));
	EXPECT_EQ(256, ksm_get("max_page_sharing"));
	EXPECT_EQ(0, ksm_get("smart_scan"));
}

TEST_F(ksmstat, set_leaves_pages_to_scan_to_an_advisor)
{
	long before;

	if (ksm_get("advisor_max_cpu") == KSM_NONE)
		SKIP(return, "this kernel has no advisor");
	run(&self->outcome, "set advisor_mode scan-time");
	EXPECT_EQ(0, self->outcome.status);
	EXPECT_STREQ("advisor_mode: none -> scan-time\n", self->outcome.text);
	before = ksm_get("pages_to_scan");
	run(&self->outcome, "set pages_to_scan 77");
	EXPECT_EQ(1, self->outcome.status);
	EXPECT_TRUE(says(&self->outcome, "advisor_mode is scan-time"));
	EXPECT_EQ(before, ksm_get("pages_to_scan"));
	run(&self->outcome, "set advisor_mode none");
	EXPECT_EQ(0, self->outcome.status);
}

TEST_F(ksmstat, set_leaves_max_page_sharing_while_pages_are_merged)
{
	ASSERT_NE(NULL, map_merged());
	run(&self->outcome, "set max_page_sharing 100");
	EXPECT_EQ(1, self->outcome.status);
	EXPECT_TRUE(says(&self->outcome, "'ksmstat unmerge' first"));
	EXPECT_EQ(256, ksm_get("max_page_sharing"));
	run(&self->outcome, "set max_page_sharing 256");
	EXPECT_EQ(0, self->outcome.status);
}

TEST_F(ksmstat, unmerge_gives_back_what_was_saved)
{
	char expected[64];
	long saved;

	ASSERT_NE(NULL, map_merged());
	saved = ksm_get("pages_sharing") * psize();
	/* So little that it is shown in KiB. */
	ASSERT_GT(1000 * 1024, saved);
	snprintf(expected, sizeof(expected), " %ld KiB given back.\n", saved / 1024);
	run(&self->outcome, "unmerge");
	EXPECT_EQ(0, self->outcome.status);
	EXPECT_TRUE(says(&self->outcome, expected))
		TH_LOG("%s", self->outcome.text);
	EXPECT_EQ(2, ksm_get("run"));
	EXPECT_EQ(0, ksm_get("pages_shared"));
}

TEST_F(ksmstat, run_offers_all_memory_of_the_program)
{
	char self_path[PATH_MAX] = "", words[PATH_MAX + 16];

	ASSERT_LT(0, readlink("/proc/self/exe", self_path, sizeof(self_path) - 1));
	ASSERT_EQ(0, setenv(ASKED, "1", 1));
	snprintf(words, sizeof(words), "run %s", self_path);
	run(&self->outcome, words);
	EXPECT_EQ(7, self->outcome.status);
	EXPECT_STREQ("ksmstat: KSM is off: nothing will be merged until 'ksmstat on'\n"
		     "merge_any is 1\n", self->outcome.text);
	ASSERT_EQ(0, ksm_set("run", "1"));
	run_as(&self->outcome, NOBODY, words);
	EXPECT_EQ(7, self->outcome.status);
	EXPECT_STREQ("merge_any is 1\n", self->outcome.text);
	run(&self->outcome, "run /nonexistent");
	EXPECT_EQ(127, self->outcome.status);
	run(&self->outcome, "run /proc");
	EXPECT_EQ(126, self->outcome.status);
	run(&self->outcome, "run --nonsense");
	EXPECT_EQ(125, self->outcome.status);
}

TEST_F(ksmstat, json_agrees_with_the_kernel)
{
	long sharing, zero, saved;

	ASSERT_NE(NULL, map_merged());
	sharing = ksm_get("pages_sharing");
	zero = ksm_get("ksm_zero_pages");
	saved = (sharing + (zero == KSM_NONE ? 0 : zero)) * psize();
	run(&self->outcome, "--json -i 0");
	ASSERT_EQ(0, self->outcome.status);
	EXPECT_TRUE(says(&self->outcome, "\"on\": false"));
	EXPECT_EQ(saved, number_of(&self->outcome, "saved_bytes"));
	EXPECT_EQ(ksm_get("general_profit"), number_of(&self->outcome, "net_bytes"));
	EXPECT_EQ(saved - ksm_get("general_profit"),
		  number_of(&self->outcome, "metadata_bytes"));
	EXPECT_EQ(sharing + ksm_get("pages_shared"), number_of(&self->outcome, "merged"));
	EXPECT_EQ(ksm_get("pages_unshared"), number_of(&self->outcome, "unique"));
	EXPECT_EQ(ksm_get("pages_volatile"), number_of(&self->outcome, "changing"));
	EXPECT_EQ(ksm_get("full_scans"), number_of(&self->outcome, "full_scans"));
	EXPECT_EQ(ksm_ksmd(), number_of(&self->outcome, "pid"));
}

TEST_F(ksmstat, measures_passes_that_end_meanwhile)
{
	ASSERT_NE(NULL, map_merged());
	ASSERT_EQ(0, ksm_set("run", "1"));
	run(&self->outcome, "--json -i 0.5");
	ASSERT_EQ(0, self->outcome.status);
	EXPECT_TRUE(says(&self->outcome, "\"on\": true"));
	/* They sleep 1 ms: so at least one digit of a time below a second. */
	EXPECT_TRUE(says(&self->outcome, "\"pass_seconds_most\": 0."));
	EXPECT_LT(0, number_of(&self->outcome, "pages_scanned_per_second"));
}

TEST_F(ksmstat, processes_are_listed_with_what_they_merged)
{
	char expected[128];

	ASSERT_NE(NULL, map_merged());
	ASSERT_EQ(0, prctl(PR_SET_NAME, "a \"name\"\n"));
	run(&self->outcome, "-p --json");
	ASSERT_EQ(0, self->outcome.status);
	EXPECT_EQ(getpid(), number_of(&self->outcome, "pid"));
	EXPECT_TRUE(says(&self->outcome, "\"command\": \"a \\\"name\\\"\\u000a\""));
	EXPECT_EQ(ksm_proc_stat(getpid(), "ksm_merging_pages"),
		  number_of(&self->outcome, "merged_pages"));
	run(&self->outcome, "-p -n 1");
	ASSERT_EQ(0, self->outcome.status);
	snprintf(expected, sizeof(expected), "\n%7d ", getpid());
	EXPECT_TRUE(says(&self->outcome, expected));
	EXPECT_TRUE(says(&self->outcome, " no   a \"name\"\\x0a\n"));
}

TEST_F(ksmstat, without_privilege_it_shows_what_it_can)
{
	ASSERT_NE(NULL, map_merged());
	run_as(&self->outcome, NOBODY, "-i 0");
	EXPECT_EQ(0, self->outcome.status);
	EXPECT_TRUE(says(&self->outcome, "KSM is off.\n"));
	EXPECT_TRUE(says(&self->outcome, "  saved now "));
	EXPECT_FALSE(says(&self->outcome, "not permitted"));
	run_as(&self->outcome, NOBODY, "-p");
	EXPECT_EQ(0, self->outcome.status);
	EXPECT_TRUE(says(&self->outcome, "could not be read; needs root\n"));
	run_as(&self->outcome, NOBODY, "on");
	EXPECT_EQ(1, self->outcome.status);
	EXPECT_STREQ("ksmstat: run: not permitted; needs root\n", self->outcome.text);
	run_as(&self->outcome, NOBODY, "unmerge");
	EXPECT_EQ(1, self->outcome.status);
	EXPECT_STREQ("ksmstat: run: not permitted; needs root\n", self->outcome.text);
	run_as(&self->outcome, NOBODY, "set sleep_millisecs 5");
	EXPECT_EQ(1, self->outcome.status);
	EXPECT_EQ(0, ksm_get("run"));
	EXPECT_EQ(1, ksm_get("sleep_millisecs"));
}

TEST_F(ksmstat, watches_for_as_many_lines_as_it_is_told)
{
	unsigned int lines = 0;

	ASSERT_NE(NULL, map_merged());
	run(&self->outcome, "-w 0.1 -c 3");
	ASSERT_EQ(0, self->outcome.status);
	for (const char *c = self->outcome.text; *c; c++)
		lines += *c == '\n';
	EXPECT_EQ(4, lines);
	EXPECT_EQ(0, strncmp("STATE ", self->outcome.text, 6));
}

TEST_HARNESS_MAIN
