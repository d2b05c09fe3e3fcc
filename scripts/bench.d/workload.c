// SPDX-License-Identifier: GPL-2.0-only
#define _GNU_SOURCE
#include <err.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "ksm.h"
#include "workload.h"

#define WORDS		(PAGE_BYTES / sizeof(uint64_t))
#define MIB_PAGES	((1 << 20) / PAGE_BYTES)

/* ---- contents ---- */

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

bool fill_unique(uint64_t *page, unsigned long i, unsigned int who)
{
	fill_with(page, number(i, who));
	return true;
}

/* Equal but for the last 8 bytes. */
static bool fill_alike(uint64_t *page, unsigned long i, unsigned int who)
{
	fill_with(page, 1);
	page[WORDS - 1] = number(i, who);
	return true;
}

static bool fill_twins(uint64_t *page, unsigned long i, unsigned int who)
{
	(void)who;
	fill_with(page, i);
	return true;
}

/* Half unique, 40 % twins, 5 % zero, 5 % that rewrite_mixed() writes to. */
static bool fill_mixed(uint64_t *page, unsigned long i, unsigned int who)
{
	unsigned int kind = i % 20;

	if (kind < 10 || kind == 19)
		return fill_unique(page, i, who);
	if (kind < 18)
		return fill_twins(page, i, who);
	/* Present, though it is empty. */
	*(volatile uint64_t *)page = 0;
	return true;
}

static bool fill_sparse(uint64_t *page, unsigned long i, unsigned int who)
{
	return i % 64 == 0 && fill_unique(page, i, who);
}

static void rewrite_mixed(uint64_t *map, unsigned long pages, unsigned int who)
{
	static uint64_t turn;

	turn++;
	for (unsigned long i = 19; i < pages; i += 20)
		fill_with(map + i * WORDS, number(i, who) + (turn << 24));
}

/* One page in ten each second, in turn. */
static void rewrite_tenth(uint64_t *map, unsigned long pages, unsigned int who)
{
	static uint64_t turn;
	static unsigned long at;

	turn++;
	for (unsigned long i = 0; i < pages / 100; i++) {
		at = (at + 1) % pages;
		fill_with(map + at * WORDS, number(at, who) + (turn << 24));
	}
}

/* "quiet" is the mixed set with nobody writing, for the co-running thread. */
static const struct workload workloads[] = {
	{ "unique", fill_unique, NULL, 4, 1 },
	{ "look-alike", fill_alike, NULL, 4, 1 },
	{ "twins", fill_twins, NULL, 4, 1 },
	{ "mixed", fill_mixed, rewrite_mixed, 4, 1 },
	{ "churn", fill_unique, rewrite_tenth, 4, 1 },
	{ "sparse", fill_sparse, NULL, 4, 8 },
	{ "small", fill_unique, NULL, 0, 1 },
	{ "quiet", fill_mixed, NULL, 4, 1 },
};

const struct workload *workload_find(const char *name)
{
	for (unsigned int i = 0; i < sizeof(workloads) / sizeof(*workloads); i++)
		if (!strcmp(name, workloads[i].name))
			return &workloads[i];
	errx(1, "no workload '%s'", name);
}

/* ---- processes ---- */

static pid_t children[MAX_PROCESSES];
static unsigned int nr_children;
/* Children say "ready" in one and are told to go on in the other. */
static int ready[2], go[2];

static void say_ready(unsigned long pages)
{
	if (write(ready[1], &pages, sizeof(pages)) != sizeof(pages))
		err(1, "pipe");
}

static void __attribute__((noreturn))
be_child(const struct workload *load, unsigned long pages, unsigned int who)
{
	unsigned long present = 0;
	uint64_t *map;
	char byte;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	map = mmap(NULL, pages * PAGE_BYTES, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (map == MAP_FAILED)
		err(1, "mmap");
	for (unsigned long i = 0; i < pages; i++)
		present += load->fill(map + i * WORDS, i, who);
	say_ready(present);
	if (read(go[0], &byte, 1) != 1)
		err(1, "pipe");
	if (madvise(map, pages * PAGE_BYTES, MADV_MERGEABLE))
		err(1, "MADV_MERGEABLE");
	say_ready(present);
	while (load->rewrite) {
		usleep(100000);
		load->rewrite(map, pages, who);
	}
	for (;;)
		pause();
}

/* Waits for all children; the sum of what they say. */
static unsigned long wait_ready(void)
{
	unsigned long sum = 0, pages;

	for (unsigned int i = 0; i < nr_children; i++) {
		if (read(ready[0], &pages, sizeof(pages)) != sizeof(pages))
			errx(1, "a process of the workload failed");
		sum += pages;
	}
	return sum;
}

unsigned long workload_start(const struct workload *load, unsigned long mib)
{
	unsigned int nr = load->processes;
	unsigned long pages;

	if (!nr)
		nr = mib < MAX_PROCESSES ? mib : MAX_PROCESSES;
	/* Not more than 1 MiB for each of many, unless more than 1 GiB is asked for. */
	pages = load->processes ? mib * MIB_PAGES * load->spread / nr :
				  (mib + 1023) / 1024 * MIB_PAGES;
	if (pipe(ready) || pipe(go))
		err(1, "pipe");
	for (unsigned int who = 0; who < nr; who++) {
		pid_t pid = fork();

		if (pid < 0)
			err(1, "fork");
		if (!pid)
			be_child(load, pages, who);
		children[nr_children++] = pid;
	}
	return wait_ready();
}

void workload_register(void)
{
	for (unsigned int i = 0; i < nr_children; i++)
		if (write(go[1], "", 1) != 1)
			err(1, "pipe");
	wait_ready();
}

void workload_stop(void)
{
	for (unsigned int i = 0; i < nr_children; i++)
		kill(children[i], SIGKILL);
	while (nr_children && waitpid(children[nr_children - 1], NULL, 0) > 0)
		nr_children--;
}
