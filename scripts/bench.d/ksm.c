// SPDX-License-Identifier: GPL-2.0-only
#define _GNU_SOURCE
#include <dirent.h>
#include <err.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "ksm.h"

#define KSM_DIR		"/sys/kernel/mm/ksm/"
#define MAX_THREADS	16

static int passes_fd, sharing_fd, zero_fd;
static pid_t threads[MAX_THREADS];
static unsigned int nr_threads;

uint64_t clock_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000000ULL + t.tv_nsec;
}

static int open_ksm_file(const char *name, int flags)
{
	char path[128];
	int fd;

	snprintf(path, sizeof(path), KSM_DIR "%s", name);
	fd = open(path, flags | O_CLOEXEC);
	if (fd < 0)
		err(1, "%s", path);
	return fd;
}

static long read_number(int fd)
{
	char text[64] = "";

	if (pread(fd, text, sizeof(text) - 1, 0) <= 0)
		err(1, "reading a number of KSM");
	return strtol(text, NULL, 10);
}

void ksm_set(const char *name, const char *value)
{
	int fd = open_ksm_file(name, O_WRONLY);

	if (write(fd, value, strlen(value)) < 0)
		err(1, "%s: writing %s", name, value);
	close(fd);
}

struct stand ksm_stand(void)
{
	struct stand s;

	s.passes = read_number(passes_fd);
	s.ns = clock_ns();
	s.merged = read_number(sharing_fd) + read_number(zero_fd);
	return s;
}

/* Takes the thread if it is one of KSM's. */
static void look_at_thread(pid_t pid)
{
	char path[64], name[32] = "";
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		return;
	if (read(fd, name, sizeof(name) - 1) > 0 && !strncmp(name, "ksm", 3)) {
		if (nr_threads == MAX_THREADS)
			errx(1, "more than %d threads of KSM", MAX_THREADS);
		threads[nr_threads++] = pid;
	}
	close(fd);
}

void ksm_open(void)
{
	DIR *proc = opendir("/proc");
	struct dirent *entry;

	if (!proc)
		err(1, "/proc");
	while ((entry = readdir(proc)))
		if (*entry->d_name > '0' && *entry->d_name <= '9')
			look_at_thread(atoi(entry->d_name));
	closedir(proc);
	if (!nr_threads)
		errx(1, "there is no ksmd");
	passes_fd = open_ksm_file("full_scans", O_RDONLY);
	sharing_fd = open_ksm_file("pages_sharing", O_RDONLY);
	zero_fd = open_ksm_file("ksm_zero_pages", O_RDONLY);
}

static void set_cpu(pid_t pid, int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	if (sched_setaffinity(pid, sizeof(set), &set))
		err(1, "moving %d to CPU %d", pid, cpu);
}

void run_on(int cpu)
{
	set_cpu(0, cpu);
}

void ksm_run_on(int cpu)
{
	for (unsigned int i = 0; i < nr_threads; i++)
		set_cpu(threads[i], cpu);
}

uint64_t ksm_sched_ns(void)
{
	uint64_t sum = 0;

	for (unsigned int i = 0; i < nr_threads; i++) {
		char path[64];
		int fd;

		snprintf(path, sizeof(path), "/proc/%d/schedstat", threads[i]);
		fd = open(path, O_RDONLY);
		if (fd < 0)
			err(1, "%s", path);
		sum += read_number(fd);
		close(fd);
	}
	return sum;
}

/* The sum of the numbers behind @name in the lines of a file that begin with it. */
static long sum_lines(const char *path, const char *name)
{
	FILE *file = fopen(path, "r");
	size_t len = strlen(name);
	char line[256];
	long sum = 0;

	if (!file)
		err(1, "%s", path);
	while (fgets(line, sizeof(line), file)) {
		const char *at = line + strspn(line, " ");

		if (!strncmp(at, name, len))
			sum += strtol(at + len, NULL, 10);
	}
	fclose(file);
	return sum;
}

long meminfo_kib(const char *name)
{
	return sum_lines("/proc/meminfo", name);
}

long vmstat(const char *name)
{
	return sum_lines("/proc/vmstat", name);
}

static long free_kib(void)
{
	return meminfo_kib("MemFree:") + 4 * sum_lines("/proc/zoneinfo", "count:");
}

long settled_free_kib(void)
{
	long before, now = free_kib();

	for (int tries = 0; tries < 50; tries++) {
		before = now;
		usleep(100000);
		now = free_kib();
		if (labs(now - before) <= 16)
			break;
	}
	return now;
}

void touch_free_memory(void)
{
	size_t len = (meminfo_kib("MemAvailable:") - (64 << 10)) << 10;
	pid_t child = fork();
	int status;
	char *map;

	if (child < 0)
		err(1, "fork");
	if (!child) {
		map = mmap(NULL, len, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_POPULATE, -1, 0);
		_exit(map == MAP_FAILED);
	}
	if (waitpid(child, &status, 0) != child || status)
		errx(1, "touching %zu MiB of memory failed", len >> 20);
}
