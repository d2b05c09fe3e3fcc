// SPDX-License-Identifier: GPL-2.0-only
/*
 * A measured workload for KSM: fills memory in some processes, lets ksmd run
 * over it without sleeping, and prints what that cost.
 *
 * usage: load WORKLOAD MIB [PASSES]
 *
 * Prints lines "WORKLOAD FIGURE VALUE". CPU time is ksmd's own, as the scheduler
 * counts it, in nanoseconds per registered page.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define KSM		"/sys/kernel/mm/ksm/"
#define PAGE		4096UL
#define WORDS		(PAGE / 8)
#define STEADY_PASSES	100
#define GIVE_UP_SECONDS	600

struct workload {
	const char *name;
	unsigned int processes;
	/* Fills page @i of @pages in process @who; false: leave it untouched. */
	bool (*fill)(uint64_t *page, unsigned long i, unsigned int who);
	/* Percent of pages rewritten each second. */
	unsigned int churn;
};

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15;
	x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
	x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
	return x ^ (x >> 31);
}

static void fill_with(uint64_t *page, uint64_t seed)
{
	for (unsigned int i = 0; i < WORDS; i++)
		page[i] = mix(seed * WORDS + i);
}

static uint64_t number(unsigned long i, unsigned int who)
{
	return ((uint64_t)(who + 1) << 40) + i;
}

static bool fill_unique(uint64_t *page, unsigned long i, unsigned int who)
{
	fill_with(page, number(i, who));
	return true;
}

static bool fill_alike(uint64_t *page, unsigned long i, unsigned int who)
{
	fill_with(page, 1);
	page[WORDS - 1] = number(i, who);
	return true;
}

static bool fill_twins(uint64_t *page, unsigned long i, unsigned int who)
{
	fill_with(page, i);
	return true;
}

/* Half unique, 40 % twins, 5 % zero, 5 % that churn() rewrites. */
static bool fill_mixed(uint64_t *page, unsigned long i, unsigned int who)
{
	unsigned int kind = i % 20;

	if (kind < 10 || kind == 19)
		return fill_unique(page, i, who);
	if (kind < 18)
		return fill_twins(page, i, who);
	memset(page, 0, PAGE);
	/* Present, though it is empty. */
	*(volatile uint64_t *)page = 0;
	return true;
}

static bool fill_sparse(uint64_t *page, unsigned long i, unsigned int who)
{
	return i % 64 == 0 && fill_unique(page, i, who);
}

static const struct workload workloads[] = {
	{ "unique", 4, fill_unique },
	{ "look-alike", 4, fill_alike },
	{ "twins", 4, fill_twins },
	{ "mixed", 4, fill_mixed, 1 },
	{ "churn", 4, fill_unique, 10 },
	{ "sparse", 4, fill_sparse },
	{ "small", 500, fill_unique },
};

static void write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		err(1, "%s", path);
	close(fd);
}

static void set(const char *name, const char *value)
{
	char path[128];

	snprintf(path, sizeof(path), KSM "%s", name);
	write_file(path, value);
}

static long read_long(const char *path)
{
	char text[64] = "";
	int fd = open(path, O_RDONLY);

	if (fd < 0 || read(fd, text, sizeof(text) - 1) < 0)
		err(1, "%s", path);
	close(fd);
	return strtol(text, NULL, 10);
}

static long get(const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), KSM "%s", name);
	return read_long(path);
}

static long meminfo_kib(const char *name)
{
	char line[128];
	long value = -1;
	FILE *f = fopen("/proc/meminfo", "r");

	while (f && fgets(line, sizeof(line), f)) {
		if (!strncmp(line, name, strlen(name)))
			value = strtol(line + strlen(name) + 1, NULL, 10);
	}
	fclose(f);
	return value;
}

static char ksmd_path[64];

static void find_ksmd(void)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;
	char path[300], name[32];

	while ((entry = readdir(proc))) {
		int fd;

		snprintf(path, sizeof(path), "/proc/%s/comm", entry->d_name);
		fd = open(path, O_RDONLY);
		if (fd < 0)
			continue;
		memset(name, 0, sizeof(name));
		if (read(fd, name, sizeof(name) - 1) > 0 && !strcmp(name, "ksmd\n"))
			snprintf(ksmd_path, sizeof(ksmd_path), "/proc/%.20s/schedstat",
				 entry->d_name);
		close(fd);
	}
	closedir(proc);
	if (!ksmd_path[0])
		errx(1, "no ksmd");
}

static uint64_t ksmd_ns(void)
{
	return read_long(ksmd_path);
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

/* ---- the processes ---- */

static void rewrite_some(const struct workload *load, uint64_t *map, unsigned long pages,
			 unsigned int who)
{
	/* The mixed set's own: every twentieth page, all the time. */
	static unsigned long turn, at;
	unsigned long step = load->fill == fill_mixed ? 20 : 1;
	unsigned long nr = load->fill == fill_mixed ? pages / 20 : pages * load->churn / 1000;

	turn++;
	for (unsigned long i = 0; i < nr; i++) {
		at = step == 20 ? i * 20 + 19 : (at + 1) % pages;
		fill_with(map + at * WORDS, mix(number(at, who)) + turn);
	}
}

static void work(const struct workload *load, unsigned long pages, unsigned int who, int ready)
{
	uint64_t *map = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (map == MAP_FAILED || madvise(map, pages * PAGE, MADV_NOHUGEPAGE) == -2)
		err(1, "mmap");
	for (unsigned long i = 0; i < pages; i++)
		load->fill(map + i * WORDS, i, who);
	if (madvise(map, pages * PAGE, MADV_MERGEABLE))
		err(1, "madvise");
	if (write(ready, "", 1) != 1)
		err(1, "pipe");
	while (load->churn) {
		usleep(100000);
		rewrite_some(load, map, pages, who);
	}
	pause();
	_exit(0);
}

static pid_t children[1000];

static void start(const struct workload *load, unsigned long pages)
{
	int ready[2];
	char byte;

	if (pipe(ready))
		err(1, "pipe");
	for (unsigned int who = 0; who < load->processes; who++) {
		children[who] = fork();
		if (children[who] < 0)
			err(1, "fork");
		if (!children[who]) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			close(ready[0]);
			work(load, pages, who, ready[1]);
		}
	}
	close(ready[1]);
	for (unsigned int who = 0; who < load->processes; who++)
		if (read(ready[0], &byte, 1) != 1)
			errx(1, "a process failed");
}

static void stop(const struct workload *load)
{
	for (unsigned int who = 0; who < load->processes; who++)
		kill(children[who], SIGKILL);
	while (wait(NULL) > 0)
		;
}

/* ---- measuring ---- */

static void print(const struct workload *load, const char *figure, double value)
{
	printf("%s %s %.2f\n", load->name, figure, value);
	fflush(stdout);
}

struct stand {
	long passes;
	uint64_t ns;
};

/* CPU time of the passes from @from until @passes more are complete; mean. */
static double measure(struct stand *from, long passes, double pages)
{
	double end = now() + GIVE_UP_SECONDS, mean;
	struct stand to;

	do {
		usleep(200);
		to.passes = get("full_scans");
		to.ns = ksmd_ns();
		if (now() > end)
			errx(1, "no %ld passes in %d s", passes, GIVE_UP_SECONDS);
	} while (to.passes - from->passes < passes);
	mean = (to.ns - from->ns) / (double)(to.passes - from->passes) / pages;
	*from = to;
	return mean;
}

static void run(const struct workload *load, unsigned long mib, long steady)
{
	unsigned long pages = mib * 256 / load->processes, all = pages * load->processes;
	unsigned long present = load->fill == fill_sparse ? all / 64 : all;
	struct stand at;
	long free_kib, merged;
	uint64_t begun;

	start(load, pages);
	free_kib = meminfo_kib("MemFree");
	at.passes = get("full_scans");
	at.ns = begun = ksmd_ns();
	set("run", "1");
	print(load, "pass1_ns", measure(&at, 1, present));
	print(load, "pass2_ns", measure(&at, 1, present));
	print(load, "pass3_ns", measure(&at, 1, present));
	merged = get("pages_sharing");
	print(load, "merged_pages_pass3", merged);
	print(load, "cpu_s_pass3", (at.ns - begun) / 1e9);
	print(load, "saved_mib_per_cpu_s", merged / 256.0 / ((at.ns - begun) / 1e9));
	measure(&at, 2, present);
	print(load, "steady_ns", measure(&at, steady, present));
	print(load, "merged_pages_end", get("pages_sharing"));
	/* What merging freed came back; the rest went into metadata. */
	print(load, "metadata_bytes",
	      (free_kib - meminfo_kib("MemFree") + get("pages_sharing") * 4) * 1024.0 / present);
	set("run", "0");
	stop(load);
	set("run", "2");
	set("run", "0");
}

int main(int argc, char **argv)
{
	unsigned long mib = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
	long steady = argc > 3 ? strtol(argv[3], NULL, 10) : STEADY_PASSES;

	if (!mib || steady < 1)
		errx(1, "usage: load WORKLOAD MIB [PASSES]");
	find_ksmd();
	set("sleep_millisecs", "0");
	set("pages_to_scan", "100000");
	for (unsigned int i = 0; i < sizeof(workloads) / sizeof(*workloads); i++) {
		if (!strcmp(argv[1], workloads[i].name)) {
			run(&workloads[i], mib, steady);
			return 0;
		}
	}
	errx(1, "no workload %s", argv[1]);
}
