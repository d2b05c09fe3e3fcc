// SPDX-License-Identifier: GPL-2.0-only
/*
 * Processes that know what each page of theirs must hold, and look all the time, while
 * they do at random all that an application may do to memory, and others turn each knob
 * of KSM's. No byte may be lost, and nothing may be left when they are gone.
 *
 * usage: ksm_torture [-opqx] [-s SEED] [-t SECONDS | -n OPERATIONS] [-w WORKERS]
 *
 *   -o  leave points off where the kernel waits, or fails, at random (CONFIG_KSM_DEBUG)
 *   -p  panic when a page is wrong, so that nothing moves any more
 *   -q  no line every ten seconds, no list at the end
 *   -x  test of the test: a page is changed that should not be
 *
 * KSM_TORTURE_SEED and KSM_TORTURE_SECONDS in the environment do as -s and -t.
 */

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include "ksm_numa.h"
#include "ksm_torture.h"
#include "ksm_util.h"

#define USAGE	"ksm_torture [-opqx] [-s SEED] [-t SECONDS | -n OPERATIONS] [-w WORKERS]"

#define DEFAULT_SECONDS	60
#define DEFAULT_WORKERS	4
#define TOLD_SECONDS	10	/* between two lines */

#define LAST_PASSES	2

/* At one point in so many the kernel waits, or pretends that something failed. */
#define POINTS_RATE	32

/* What nothing points to counts as lost when it is so old. */
#define LEAKS		"/sys/kernel/debug/kmemleak"
#define LEAK_SECONDS	6

struct torture *torture;
int torture_file;

static struct {
	uint64_t seed;
	unsigned long seconds;
	unsigned long ops;
	unsigned int workers;
	bool quiet;
	bool panic;
	bool self_test;
	bool points_off;
} options = { .seconds = DEFAULT_SECONDS, .workers = DEFAULT_WORKERS };

static struct ksm_test ksm;
static unsigned int lives[KSM_MAX_WORKERS];
static pid_t helpers[3];
static long most_sharing, cow_before, swpin_before;

/* ---- options ---- */

static void read_environment(void)
{
	const char *seed = getenv("KSM_TORTURE_SEED"), *seconds = getenv("KSM_TORTURE_SECONDS");

	if (getrandom(&options.seed, sizeof(options.seed), 0) != sizeof(options.seed))
		options.seed = ksm_now_millisecs();
	options.seed %= 1000000000;	/* to be typed by people */
	if (seed)
		options.seed = strtoull(seed, NULL, 0);
	if (seconds)
		options.seconds = strtoul(seconds, NULL, 0);
}

static void read_option(int option)
{
	unsigned long long number = optarg ? strtoull(optarg, NULL, 0) : 0;

	options.points_off |= option == 'o';
	options.panic |= option == 'p';
	options.quiet |= option == 'q';
	options.self_test |= option == 'x';
	if (option == 's')
		options.seed = number;
	if (option == 't')
		options.seconds = number;
	if (option == 'n')
		options.ops = number;
	if (option == 'w')
		options.workers = number;
}

static void read_options(int argc, char **argv)
{
	int option;

	read_environment();
	while ((option = getopt(argc, argv, "opqxs:t:n:w:")) != -1) {
		if (option == '?')
			ksft_exit_fail_msg("usage: " USAGE "\n");
		read_option(option);
	}
	if (!options.workers || options.workers > KSM_MAX_WORKERS)
		ksft_exit_fail_msg("1 to %d workers\n", KSM_MAX_WORKERS);
}

/* ---- before and after ---- */

static void map_torture(void)
{
	torture = mmap(NULL, torture_size(), PROT_READ | PROT_WRITE, MAP_SHARED, torture_file, 0);
	if (torture == MAP_FAILED)
		ksft_exit_fail_perror("mmap");
}

static unsigned int count_nodes(void)
{
	int node[2];

	return ksm_find_two_nodes(node) ? 2 : 1;
}

/* One that is too small for what is in it. */
static bool make_group(void)
{
	ksm_write_text("/sys/fs/cgroup/cgroup.subtree_control", "+memory");
	if (mkdir(TORTURE_GROUP, 0755) && errno != EEXIST)
		return false;
	/* Else it spends its time swapping. */
	ksm_write_text(TORTURE_GROUP "/memory.swap.max", "0");
	return !ksm_write_text(TORTURE_GROUP "/memory.max", "4M");
}

static void stop_early(int number)
{
	if (torture_runs())
		torture->state = TORTURE_STOPS;
}

static void prepare(void)
{
	torture_file = memfd_create("ksm_torture", 0);
	if (torture_file < 0 || ftruncate(torture_file, torture_size()))
		ksft_exit_fail_perror("memfd");
	map_torture();
	cow_before = ksm_vmstat("cow_ksm");
	swpin_before = ksm_vmstat("ksm_swpin_copy");
	torture->main = getpid();
	torture->seed = options.seed;
	torture->most = options.workers < TORTURE_PROCS / 3 ? 3 * options.workers : TORTURE_PROCS;
	torture->panic = options.panic;
	torture->self_test = options.self_test;
	torture->offline = -1;
	torture->nodes = count_nodes();
	torture->has_group = make_group();
	torture_make_contents();
	torture_save_knobs();
	if (!ksm_begin(&ksm))
		ksft_exit_fail_msg("KSM's settings are refused\n");
	if (ksm_set("run", "1"))
		ksft_exit_fail_msg("KSM cannot be started\n");
	if (!options.points_off && !torture_points_on(POINTS_RATE))
		ksft_print_msg("points stay off\n");
	/* What was lost before is not KSM's. */
	ksm_write_text(LEAKS, "clear");
	signal(SIGINT, stop_early);
	signal(SIGTERM, stop_early);
}

/* ---- while it runs ---- */

static void tell(uint64_t start)
{
	if (options.quiet)
		return;
	ksft_print_msg("%llu s: %lu operations, %lu pages checked, pages_sharing %ld, passes %ld\n",
		       (unsigned long long)(ksm_now_millisecs() - start) / 1000, torture->ops,
		       torture->checked, ksm_get("pages_sharing"), ksm_get("full_scans"));
}

static void list_file(const char *dir, const char *thread, const char *name)
{
	char path[300], text[2000];

	snprintf(path, sizeof(path), "%s/%s/%s", dir, thread, name);
	if (!ksm_read_text(path, text, sizeof(text)))
		ksft_print_msg("%s: %s\n", path, text);
}

/* Where all threads of a process are. One that has ended has no stack, but a state. */
static void list_stack(const char *who, pid_t pid)
{
	struct dirent *entry;
	char path[32];
	DIR *dir;

	if (pid <= 0)
		return;
	snprintf(path, sizeof(path), "/proc/%d/task", pid);
	dir = opendir(path);
	if (!dir)
		ksft_print_msg("%s %d is gone\n", who, pid);
	while (dir && (entry = readdir(dir))) {
		if (entry->d_name[0] == '.')
			continue;
		list_file(path, entry->d_name, "stat");
		list_file(path, entry->d_name, "stack");
	}
	if (dir)
		closedir(dir);
}

/* Where all the processes are. The kernel's log tells of those that wait. */
static void list_procs(void)
{
	ksm_write_text("/proc/sys/kernel/sysrq", "1");
	ksm_write_text("/proc/sysrq-trigger", "w");
	ksm_write_text("/proc/sysrq-trigger", "l");
	for (size_t i = 0; i < ARRAY_SIZE(helpers); i++)
		list_stack("helper", helpers[i]);
	for (size_t i = 0; i < TORTURE_PROCS; i++) {
		const struct torture_proc *proc = &torture->proc[i];

		if (proc->pid <= 0)
			continue;
		ksft_print_msg("process %d of worker %u, operation %u: %s\n", proc->pid,
			       proc->worker, proc->op, torture_ops[proc->kind].name);
		list_stack("process", proc->pid);
	}
}

/* A parent may be killed when it has reaped a child, but not noted that. */
static void reap(void)
{
	torture_reap();
	for (size_t i = 0; i < TORTURE_PROCS; i++) {
		pid_t pid = torture->proc[i].pid;

		if (pid > 0 && kill(pid, 0) && errno == ESRCH)
			__atomic_compare_exchange_n(&torture->proc[i].pid, &pid, 0, false,
						    __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
	}
}

static bool is_alive(unsigned int worker)
{
	for (size_t i = 0; i < TORTURE_PROCS; i++) {
		const struct torture_proc *proc = &torture->proc[i];

		if (proc->pid && !proc->depth && proc->worker == worker)
			return true;
	}
	return false;
}

static void keep_workers(void)
{
	reap();
	for (unsigned int i = 0; i < options.workers; i++)
		if (!is_alive(i))
			torture_start(i, lives[i]++);
}

static bool is_over(uint64_t start)
{
	if (options.ops)
		return torture->ops >= options.ops;
	return ksm_now_millisecs() >= start + options.seconds * 1000;
}

/* Looks after the workers until @done(@start), or all ends. */
static void look_after(bool (*done)(uint64_t start), uint64_t start)
{
	uint64_t told = ksm_now_millisecs(), moved = told;
	unsigned long ops = torture->ops;

	while (torture_runs() && !done(start)) {
		uint64_t now = ksm_now_millisecs();

		long sharing = ksm_get("pages_sharing");

		most_sharing = sharing > most_sharing ? sharing : most_sharing;
		keep_workers();
		if (now >= told + TOLD_SECONDS * 1000) {
			tell(start);
			told = now;
		}
		if (torture->ops != ops) {
			ops = torture->ops;
			moved = now;
		} else if (now >= moved + KSM_STILL_SECONDS * 1000) {
			list_procs();
			torture_fail("no operation for %d s; seed %llu", KSM_STILL_SECONDS,
				     (unsigned long long)torture->seed);
		}
		ksm_pause();
	}
}

/* ---- at the end ---- */

static void end_helpers(void)
{
	uint64_t limit = ksm_now_millisecs() + KSM_STILL_SECONDS * 1000;

	for (size_t i = 0; i < ARRAY_SIZE(helpers); i++) {
		if (!helpers[i])
			continue;
		kill(helpers[i], SIGKILL);
		while (!waitpid(helpers[i], NULL, WNOHANG) && ksm_now_millisecs() < limit)
			ksm_pause();
		if (!kill(helpers[i], 0)) {
			list_procs();
			torture_fail("helper %zu does not come to an end; seed %llu", i,
				     (unsigned long long)torture->seed);
		}
		helpers[i] = 0;
	}
}

static long last_scan;

static bool passes_went_by(uint64_t start)
{
	return ksm_get("full_scans") >= last_scan + LAST_PASSES;
}

/* With all processes still at work. */
static void wait_for_passes(uint64_t start)
{
	end_helpers();
	torture_points_off();
	/* Or else some could not get at their pages: see without_rseq(). */
	ksm_write_text(TORTURE_GROUP "/memory.max", "max");
	if (ksm_set("advisor_mode", "none") && ksm_get("advisor_max_cpu") != KSM_NONE)
		ksft_print_msg("advisor_mode is refused\n");
	if (ksm_set("pages_to_scan", "20000") || ksm_set("sleep_millisecs", "0") ||
	    ksm_set("run", "1"))
		torture_fail("KSM's settings are refused");
	last_scan = ksm_get("full_scans");
	look_after(passes_went_by, start);
}

static unsigned int count_procs(void)
{
	unsigned int count = 0;

	reap();
	for (size_t i = 0; i < TORTURE_PROCS; i++)
		count += torture->proc[i].pid > 0;
	return count;
}

/* They look at all their pages once more before they go. */
static void end_workers(void)
{
	uint64_t limit = ksm_now_millisecs() + KSM_STILL_SECONDS * 1000;

	if (torture_runs())
		torture->state = TORTURE_STOPS;
	while (torture->state == TORTURE_STOPS && count_procs() && ksm_now_millisecs() < limit)
		ksm_pause();
	if (torture->state == TORTURE_STOPS && count_procs()) {
		list_procs();
		torture_fail("processes do not come to an end; seed %llu",
			     (unsigned long long)torture->seed);
	}
}

static void kill_all(void)
{
	end_helpers();
	for (size_t i = 0; i < TORTURE_PROCS; i++)
		if (torture->proc[i].pid > 0)
			kill(torture->proc[i].pid, SIGKILL);
}

static void list_counts(void)
{
	if (options.quiet)
		return;
	ksft_print_msg("%-40s %8s %8s %8s %8s\n", "", "done", "refused", "not poss.", "longest");
	for (unsigned int i = 0; i < torture_nr_ops; i++)
		torture_list_count(torture_ops[i].name, &torture->count[i]);
	torture_list_knobs();
	torture_list_count("checker", &torture->checker);
	ksft_print_msg("at most %ld pages_sharing; cow_ksm %ld, ksm_swpin_copy %ld\n", most_sharing,
		       ksm_vmstat("cow_ksm") - cow_before,
		       ksm_vmstat("ksm_swpin_copy") - swpin_before);
	ksft_print_msg("%lu operations, %lu pages checked\n", torture->ops, torture->checked);
	ksft_print_msg("%lu processes, of which %lu were killed and %lu gave up\n", torture->lives,
		       torture->killed, torture->given_up);
}

/* Nothing else is touched, so that it can be looked at. */
static __noreturn void give_up(void)
{
	static const char lost[] = "no byte was lost";

	kill_all();
	torture_points_off();
	ksm_set("run", "0");
	list_counts();
	ksft_print_msg("KSM's settings are not put back\n");
	if (torture->checker_found)
		ksft_test_result_skip("%s # the checker found something\n", lost);
	else
		ksft_test_result_fail("%s\n", lost);
	ksft_test_result_skip("counters are zero at the end # it was not the end\n");
	if (torture->checker_found)
		ksft_test_result_fail("the checker found nothing\n");
	else
		ksft_test_result_skip("the checker found nothing # it was not the end\n");
	ksft_test_result_skip("all that is to be tested happened # it was not the end\n");
	ksft_test_result_skip("settings are put back # it was not the end\n");
	ksft_test_result_skip("no memory of the kernel's is lost # it was not the end\n");
	ksft_finished();
}

static void look_for_leaks(void)
{
	static const char name[] = "no memory of the kernel's is lost";
	char text[4000];

	if (access(LEAKS, F_OK)) {
		ksft_test_result_skip("%s # needs CONFIG_DEBUG_KMEMLEAK\n", name);
		return;
	}
	sleep(LEAK_SECONDS);
	/* What only moves while it is looked at is found by the second. */
	if (ksm_write_text(LEAKS, "scan") || ksm_write_text(LEAKS, "scan") ||
	    ksm_read_text(LEAKS, text, sizeof(text))) {
		ksft_test_result_fail("%s: kmemleak cannot be asked\n", name);
		return;
	}
	if (*text)
		ksft_print_msg("%s\n", text);
	ksft_test_result(!*text, "%s\n", name);
}

static bool remove_group(void)
{
	if (!torture->has_group || ksm_wait_until(!rmdir(TORTURE_GROUP)))
		return true;
	ksft_print_msg(TORTURE_GROUP " cannot be removed: %s\n", strerror(errno));
	return false;
}

static void finish(void)
{
	bool zero, good;

	ksft_test_result_pass("no byte was lost\n");
	torture_points_off();
	zero = !ksm_set("run", "2");
	ksm_wait_until(!ksm_get("pages_shared") && !ksm_get("ksm_zero_pages") &&
		       !ksm_get("stable_node_chains") && !ksm_get("pages_unshared"));
	zero = ksm_counters_are_zero() && zero;
	torture_call_checker();
	ksft_test_result(zero, "counters are zero at the end\n");
	if (torture_no_checker())
		ksft_test_result_skip("the checker found nothing # %s\n", torture_no_checker());
	else
		ksft_test_result(!torture->checker_found, "the checker found nothing\n");
	ksft_test_result(most_sharing > 0 && ksm_vmstat("cow_ksm") > cow_before &&
			 (torture->checker.done || torture_no_checker()),
			 "all that is to be tested happened\n");
	good = torture_restore_knobs();
	good = ksm_end(&ksm) && good;
	good = remove_group() && good;
	ksft_test_result(good, "settings are put back\n");
	look_for_leaks();
	list_counts();
	ksft_finished();
}

/*
 * What a process leaves in a group is charged to the group when it is swapped in again. If
 * the group has no room, and nobody in it to be killed, the process cannot get at its page
 * until there is room. But where the kernel has to write to it, as to struct rseq, it ends
 * the process with SIGSEGV, and its handler is not called. So the C library is not to
 * register any.
 */
static void without_rseq(char **argv)
{
	static const char tunable[] = "glibc.pthread.rseq=0";
	const char *others = getenv("GLIBC_TUNABLES");
	char all[1000];

	if (others && strstr(others, tunable))
		return;
	if (snprintf(all, sizeof(all), "%s%s%s", others ?: "", others ? ":" : "", tunable) >=
	    (int)sizeof(all))
		ksft_exit_fail_msg("GLIBC_TUNABLES is too long\n");
	setenv("GLIBC_TUNABLES", all, 1);
	execv("/proc/self/exe", argv);
	ksft_exit_fail_perror("exec");
}

int main(int argc, char **argv)
{
	uint64_t start = ksm_now_millisecs();

	without_rseq(argv);
	if (argc == 4 && !strcmp(argv[1], "child")) {
		torture_file = atoi(argv[2]);
		map_torture();
		torture_live(&torture->proc[atoi(argv[3])]);
	}
	read_options(argc, argv);
	ksft_print_header();
	if (ksm_missing())
		ksft_exit_skip("%s\n", ksm_missing());
	ksft_set_plan(6);
	ksft_print_msg("seed %llu, %u workers\n", (unsigned long long)options.seed,
		       options.workers);
	prepare();
	helpers[0] = torture_turn_knobs();
	helpers[1] = torture_move_memory();
	helpers[2] = torture_watch_checker();
	look_after(is_over, start);
	if (torture_runs())
		wait_for_passes(start);
	end_workers();
	if (torture->state == TORTURE_FAILED)
		give_up();
	end_helpers();
	finish();
}
