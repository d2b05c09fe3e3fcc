// SPDX-License-Identifier: GPL-2.0-only
/*
 * Processes that turn all knobs, move memory, and call KSM's own checker; see
 * ksm_torture.h.
 */

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>
#include "ksm_torture.h"
#include "ksm_util.h"
#include "vm_util.h"

#define KSM	"/sys/kernel/mm/ksm/"
#define THP	"/sys/kernel/mm/transparent_hugepage/"
#define CHECKER	"/sys/kernel/debug/ksm/check"
#define POINTS	"/sys/kernel/debug/ksm/points"
#define MEMORY	"/sys/devices/system/memory/"

/* A knob is turned, and memory is moved, every so many operations at most. */
#define TURN_OPS	30
#define MOVE_OPS	1000

/* Beside many workers with 0, who always want to run. */
#define KSMD_NICE	-5
#define KNOBS_NICE	-10

/*
 * Calls of the checker are so many seconds apart, and so many times as long as the call
 * took, as ksmd rests meanwhile.
 */
#define CHECK_SECONDS	3
#define CHECK_REST	10

/* So long it is tried to take a block of memory offline. */
#define TRY_SECONDS	3

/* KSM's own are put back by ksm_end(). */
static const struct {
	const char *path;
	const char *value[6];
	bool put_back;
} knobs[] = {
	{ KSM "run",			{ "0", "2" } },
	{ KSM "run",			{ "1" } },
	{ KSM "pages_to_scan",		{ "10", "500", "2000", "5000", "20000" } },
	{ KSM "sleep_millisecs",	{ "0", "0", "1", "20" } },
	{ KSM "smart_scan",		{ "0", "1" } },
	{ KSM "use_zero_pages",		{ "0", "1" } },
	{ KSM "max_page_sharing",	{ "2", "3", "8", "256" } },
	{ KSM "merge_across_nodes",	{ "0", "1" } },
	{ KSM "stable_node_chains_prune_millisecs", { "0", "10", "2000" } },
	{ KSM "advisor_mode",		{ "none", "none", "none", "scan-time" } },
	{ KSM "advisor_max_cpu",	{ "10", "70", "100" } },
	{ KSM "advisor_min_pages_to_scan", { "10", "500", "3000" } },
	{ KSM "advisor_max_pages_to_scan", { "4000", "30000" } },
	{ KSM "advisor_target_scan_time", { "1", "1", "10" } },
	{ THP "enabled",		{ "always", "madvise", "never" }, true },
	{ THP "hugepages-64kB/enabled",	{ "always", "inherit", "never" }, true },
	{ THP "khugepaged/scan_sleep_millisecs", { "10", "1000" }, true },
	{ "/proc/sys/vm/compact_memory", { "1" } },
	{ TORTURE_GROUP "/memory.max",	{ "2M", "4M", "8M", "16M" } },
	{ TORTURE_GROUP "/memory.high",	{ "4M", "max", "max" } },
	{ TORTURE_GROUP "/memory.swap.max", { "0", "0", "max" } },
};

enum { KNOB_STOP, KNOB_RUN, KNOB_SHARING = 6, KNOB_NODES = 7 };

static char saved[ARRAY_SIZE(knobs)][64];
static int ksmd_nice;

/* ---- knobs ---- */

/* A choice is shown among others, in brackets. */
static void keep_chosen(char *text)
{
	char *from = strchr(text, '['), *to = strchr(text, ']');

	text[strcspn(text, "\n")] = '\0';
	if (!from || !to || to < from)
		return;
	*to = '\0';
	memmove(text, from + 1, to - from);
}

static void set_nice(pid_t pid, int nice)
{
	if (setpriority(PRIO_PROCESS, pid, nice))
		ksft_print_msg("process %d keeps its nice value: %s\n", pid, strerror(errno));
}

void torture_save_knobs(void)
{
	ksmd_nice = getpriority(PRIO_PROCESS, ksm_ksmd());
	set_nice(ksm_ksmd(), KSMD_NICE);
	for (size_t i = 0; i < ARRAY_SIZE(knobs); i++) {
		if (!knobs[i].put_back ||
		    ksm_read_text(knobs[i].path, saved[i], sizeof(saved[i])))
			saved[i][0] = '\0';
		keep_chosen(saved[i]);
	}
}

/* The kernel keeps a block offline in which a page has failed, as tests before may have it. */
static bool stays_offline(int error)
{
	return error == -EHWPOISON;
}

/* Who moved it was killed meanwhile, and may have done so much as that. */
static bool bring_online(void)
{
	char path[64], state[16];
	int error;

	if (torture->offline < 0)
		return true;
	snprintf(path, sizeof(path), MEMORY "memory%d/state", torture->offline);
	if (!ksm_read_text(path, state, sizeof(state)) && !strncmp(state, "online", 6))
		return true;
	error = ksm_write_text(path, "online");
	if (error)
		ksft_print_msg("%s: 'online' is refused: %s\n", path, strerror(-error));
	return !error || stays_offline(error);
}

/* Memory that is offline, too. */
bool torture_restore_knobs(void)
{
	bool good = true;

	set_nice(ksm_ksmd(), ksmd_nice);
	/* From the end: an advisor that is on sets pages_to_scan, and nobody else may. */
	for (size_t i = ARRAY_SIZE(knobs); i-- > 0;) {
		int error = saved[i][0] ? ksm_write_text(knobs[i].path, saved[i]) : 0;

		if (error)
			ksft_print_msg("%s: '%s' is refused: %s\n", knobs[i].path, saved[i],
				       strerror(-error));
		good &= !error;
	}
	return bring_online() && good;
}

static void turn(size_t which, uint64_t *random)
{
	uint64_t start = ksm_now_millisecs();
	const char *value;
	size_t values = 0;
	int error;

	while (values < ARRAY_SIZE(knobs[which].value) && knobs[which].value[values])
		values++;
	value = knobs[which].value[torture_below(random, values)];
	error = ksm_write_text(knobs[which].path, value);
	torture_count(&torture->knob[which], error == -ENOENT ? -EOPNOTSUPP : error, start);
}

/* Until the others have done so much, or all ends. */
static void let_others(unsigned long ops)
{
	unsigned long first = torture->ops;

	while (torture_runs() && __atomic_load_n(&torture->ops, __ATOMIC_RELAXED) < first + ops)
		ksm_pause();
}

/* Two knobs can be turned only when nothing is merged; some time later KSM goes on. */
static void turn_any(uint64_t *random)
{
	size_t which = torture_below(random, ARRAY_SIZE(knobs));

	turn(which, random);
	if (which != KNOB_STOP)
		return;
	if (torture_below(random, 2)) {
		ksm_write_text(KSM "run", "2");
		turn(KNOB_SHARING, random);
		turn(KNOB_NODES, random);
	} else {
		let_others(torture_below(random, TURN_OPS));
	}
	turn(KNOB_RUN, random);
}

/**
 * torture_turn_knobs - start the process that does it until all ends
 *
 * Return: its pid.
 */
pid_t torture_turn_knobs(void)
{
	uint64_t random = torture_mix(torture->seed, 1000);
	pid_t pid = fork();

	if (pid)
		return pid;
	set_nice(getpid(), KNOBS_NICE);
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_DFL);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (torture_runs()) {
		turn_any(&random);
		let_others(torture_below(&random, TURN_OPS));
	}
	_exit(0);
}

void torture_list_knobs(void)
{
	for (size_t i = 0; i < ARRAY_SIZE(knobs); i++)
		torture_list_count(strstr(knobs[i].path, "mm/") ?: knobs[i].path,
				   &torture->knob[i]);
	torture_list_count("memory offline and online", &torture->knob[ARRAY_SIZE(knobs)]);
}

/* ---- points where the kernel waits, or pretends that something failed ---- */

static bool points_are_on;

bool torture_points_on(unsigned int rate)
{
	char text[40];

	snprintf(text, sizeof(text), "%llu %u", (unsigned long long)torture->seed, rate);
	points_are_on = !ksm_write_text(POINTS, text);
	return points_are_on;
}

/* Says how often each was passed, and did something. */
void torture_points_off(void)
{
	char text[2000], *line, *rest = text;

	if (!points_are_on)
		return;
	points_are_on = false;
	if (ksm_read_text(POINTS, text, sizeof(text)) || ksm_write_text(POINTS, "0 0"))
		ksft_print_msg("points cannot be switched off\n");
	while ((line = strsep(&rest, "\n")) && *line)
		ksft_print_msg("point %s\n", line);
}

/* ---- memory that goes offline ---- */

static void wake_up(int number)
{
}

static int set_state(int block, const char *state)
{
	const struct itimerval limit = { { 1, 0 }, { TRY_SECONDS, 0 } }, none = { 0 };
	char path[64];
	int error;

	snprintf(path, sizeof(path), MEMORY "memory%d/state", block);
	setitimer(ITIMER_REAL, &limit, NULL);
	error = ksm_write_text(path, state);
	setitimer(ITIMER_REAL, &none, NULL);
	return error;
}

static int draw_block(uint64_t *random)
{
	unsigned long blocks = 0, number;
	struct dirent *entry;
	DIR *dir = opendir(MEMORY);
	int chosen = -1;

	while (dir && (entry = readdir(dir))) {
		if (sscanf(entry->d_name, "memory%lu", &number) != 1)
			continue;
		if (!torture_below(random, ++blocks))
			chosen = number;
	}
	if (dir)
		closedir(dir);
	return chosen;
}

static void move_block(int block)
{
	uint64_t start = ksm_now_millisecs();
	int error;

	torture->offline = block;
	error = block < 0 ? -EOPNOTSUPP : set_state(block, "offline");
	torture_count(&torture->knob[ARRAY_SIZE(knobs)], error, start);
	if (!error)
		let_others(TURN_OPS);
	while (!error && (error = set_state(block, "online")) && !stays_offline(error)) {
		error = 0;
		ksm_pause();
	}
	torture->offline = -1;
}

/**
 * torture_move_memory - start the process that takes memory away and gives it back
 *
 * Return: its pid.
 */
pid_t torture_move_memory(void)
{
	const struct sigaction action = { .sa_handler = wake_up };
	uint64_t random = torture_mix(torture->seed, 1001);
	pid_t pid = fork();

	if (pid)
		return pid;
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_DFL);
	sigaction(SIGALRM, &action, NULL);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (torture_runs()) {
		let_others(torture_below(&random, MOVE_OPS));
		move_block(draw_block(&random));
	}
	_exit(0);
}

/* ---- the checker, a file that is written to ---- */

/* Why there is none, or NULL. */
const char *torture_no_checker(void)
{
	if (access(CHECKER, F_OK))
		mount("debugfs", "/sys/kernel/debug", "debugfs", 0, NULL);
	return access(CHECKER, F_OK) ? "this kernel has no " CHECKER : NULL;
}

void torture_call_checker(void)
{
	uint64_t start = ksm_now_millisecs();
	int error = ksm_write_text(CHECKER, "1");

	torture_count(&torture->checker, error == -ENOENT ? -EOPNOTSUPP : error, start);
	if (error != -EUCLEAN)
		return;
	torture->checker_found = true;
	torture_fail("KSM is not in order, see the kernel log; seed %llu",
		     (unsigned long long)torture->seed);
}

/**
 * torture_watch_checker - start the process that calls it until all ends
 *
 * Return: its pid, or 0 if there is no checker.
 */
pid_t torture_watch_checker(void)
{
	uint64_t next = ksm_now_millisecs() + CHECK_SECONDS * 1000;
	pid_t pid = torture_no_checker() ? 0 : fork();

	if (pid || torture_no_checker())
		return pid;
	set_nice(getpid(), KNOBS_NICE);
	signal(SIGINT, SIG_IGN);
	signal(SIGTERM, SIG_DFL);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	while (torture_runs()) {
		uint64_t start = ksm_now_millisecs(), took;

		ksm_pause();
		if (start < next)
			continue;
		torture_call_checker();
		took = ksm_now_millisecs() - start;
		next = start + CHECK_SECONDS * 1000 + CHECK_REST * took;
	}
	_exit(0);
}
