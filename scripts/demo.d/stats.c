// SPDX-License-Identifier: GPL-2.0-only
#include <dirent.h>
#include <err.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "stats.h"

#define KSM_DIR "/sys/kernel/mm/ksm/"

static double seconds_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return now.tv_sec + now.tv_nsec / 1e9;
}

static unsigned long ksm_file(const char *name)
{
	char path[128];
	unsigned long value;
	FILE *file;

	snprintf(path, sizeof(path), KSM_DIR "%s", name);
	file = fopen(path, "r");
	if (!file || fscanf(file, "%lu", &value) != 1)
		err(1, "%s", path);
	fclose(file);
	return value;
}

/* A figure of /proc/meminfo in MiB. */
static double meminfo(const char *name)
{
	char line[128];
	unsigned long kib;
	size_t len = strlen(name);
	FILE *file = fopen("/proc/meminfo", "r");

	if (!file)
		err(1, "/proc/meminfo");
	while (fgets(line, sizeof(line), file)) {
		if (strncmp(line, name, len) || line[len] != ':')
			continue;
		kib = strtoul(line + len + 1, NULL, 10);
		fclose(file);
		return kib / 1024.0;
	}
	errx(1, "/proc/meminfo has no %s", name);
}

static bool read_first_line(const char *pid, const char *name, char *line, int len)
{
	char path[288];
	FILE *file;
	bool read;

	snprintf(path, sizeof(path), "/proc/%s/%s", pid, name);
	file = fopen(path, "r");
	if (!file)
		return false;
	read = fgets(line, len, file);
	fclose(file);
	return read;
}

/* CPU seconds of all kernel threads whose name begins with "ksmd". */
static double ksmd_cpu(void)
{
	double nanoseconds = 0;
	struct dirent *entry;
	char line[128];
	DIR *proc = opendir("/proc");

	if (!proc)
		err(1, "/proc");
	while ((entry = readdir(proc))) {
		const char *pid = entry->d_name;

		if (*pid < '0' || *pid > '9' ||
		    !read_first_line(pid, "comm", line, sizeof(line)) ||
		    strncmp(line, "ksmd", 4))
			continue;
		if (!read_first_line(pid, "schedstat", line, sizeof(line)))
			err(1, "/proc/%s/schedstat", pid);
		nanoseconds += strtod(line, NULL);
	}
	closedir(proc);
	return nanoseconds / 1e9;
}

struct stats stats_now(void)
{
	struct stats now = {
		.seconds = seconds_now(),
		.shared = ksm_file("pages_shared"),
		.sharing = ksm_file("pages_sharing"),
		.passes = ksm_file("full_scans"),
		.total = meminfo("MemTotal"),
		.available = meminfo("MemAvailable"),
		.cpu = ksmd_cpu(),
	};

	now.saved = now.sharing * (double)sysconf(_SC_PAGESIZE) / (1 << 20);
	return now;
}
