// SPDX-License-Identifier: GPL-2.0-only
/* What the kernel tells about pages and processes; see ksm_util.h. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "ksm_util.h"
#include "vm_util.h"

/* As in linux/kernel-page-flags.h, which cannot be had together with vm_util.h. */
#define KPF_KSM BIT_ULL(21)

/* 0 or -errno; @text is what the file says, and ends with a null byte. */
int ksm_read_text(const char *path, char *text, size_t size)
{
	ssize_t got;
	int fd;

	fd = open(path, O_RDONLY);
	if (fd < 0)
		return -errno;
	got = read(fd, text, size - 1);
	close(fd);
	if (got < 0)
		return -errno;
	text[got] = '\0';
	return 0;
}

uint64_t ksm_pagemap(pid_t pid, const void *addr)
{
	uint64_t entry = 0;
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/pagemap", pid);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		return 0;
	if (pread(fd, &entry, sizeof(entry),
		  (uintptr_t)addr / psize() * sizeof(entry)) != sizeof(entry))
		entry = 0;
	close(fd);
	return entry;
}

uint64_t ksm_page_flags(unsigned long pfn)
{
	uint64_t flags = 0;
	int fd;

	fd = open("/proc/kpageflags", O_RDONLY);
	if (fd < 0)
		return 0;
	if (pread(fd, &flags, sizeof(flags), pfn * sizeof(flags)) != sizeof(flags))
		flags = 0;
	close(fd);
	return flags;
}

unsigned long ksm_pfn(pid_t pid, const void *addr)
{
	uint64_t entry = ksm_pagemap(pid, addr);

	return entry & PM_PRESENT ? PAGEMAP_PFN(entry) : 0;
}

size_t ksm_count_present(pid_t pid, const char *map, size_t pages)
{
	size_t count = 0;

	for (size_t i = 0; i < pages; i++)
		count += ksm_pfn(pid, map + i * psize()) != 0;
	return count;
}

size_t ksm_count_merged(pid_t pid, const char *map, size_t pages)
{
	size_t count = 0;

	for (size_t i = 0; i < pages; i++) {
		unsigned long pfn = ksm_pfn(pid, map + i * psize());

		count += pfn && (ksm_page_flags(pfn) & KPF_KSM);
	}
	return count;
}

/* How many pages have this bit in pagemap? */
size_t ksm_count_marked(pid_t pid, const char *map, size_t pages, uint64_t bit)
{
	size_t count = 0;

	for (size_t i = 0; i < pages; i++)
		count += !!(ksm_pagemap(pid, map + i * psize()) & bit);
	return count;
}

static int compare_pfns(const void *a, const void *b)
{
	unsigned long x = *(const unsigned long *)a, y = *(const unsigned long *)b;

	return x < y ? -1 : x > y;
}

/* How many different page frames back the pages that are present? */
size_t ksm_count_frames(pid_t pid, const char *map, size_t pages)
{
	unsigned long *pfns = calloc(pages, sizeof(*pfns));
	size_t count = 0;

	if (!pfns)
		return 0;
	for (size_t i = 0; i < pages; i++)
		pfns[i] = ksm_pfn(pid, map + i * psize());
	qsort(pfns, pages, sizeof(*pfns), compare_pfns);
	for (size_t i = 0; i < pages; i++)
		count += pfns[i] && (!i || pfns[i] != pfns[i - 1]);
	free(pfns);
	return count;
}

/* The number behind "name " or "name:" in a file of such lines. */
long ksm_number_in(const char *path, const char *name)
{
	size_t length = strlen(name);
	long value = KSM_NONE;
	char line[256];
	FILE *file;

	file = fopen(path, "r");
	if (!file)
		return KSM_NONE;
	while (value == KSM_NONE && fgets(line, sizeof(line), file)) {
		if (!strncmp(line, name, length) && strchr(" :", line[length]))
			value = strtol(line + length + 1, NULL, 10);
	}
	fclose(file);
	return value;
}

long ksm_vmstat(const char *name)
{
	return ksm_number_in("/proc/vmstat", name);
}

long ksm_meminfo(const char *name)
{
	return ksm_number_in("/proc/meminfo", name);
}

long ksm_proc_stat(pid_t pid, const char *name)
{
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/ksm_stat", pid);
	return ksm_number_in(path, name);
}

bool ksm_proc_says(pid_t pid, const char *line)
{
	char path[64], text[512], *at;

	snprintf(path, sizeof(path), "/proc/%d/ksm_stat", pid);
	if (ksm_read_text(path, text, sizeof(text)))
		return false;
	at = strstr(text, line);
	return at && (at == text || at[-1] == '\n') && at[strlen(line)] == '\n';
}

/* Finds the line "name..." of the VMA around @addr. */
static bool smaps_line(pid_t pid, const void *addr, const char *name,
		       char *line, size_t size)
{
	unsigned long from, to;
	bool inside = false, found = false;
	char path[64];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/smaps", pid);
	file = fopen(path, "r");
	if (!file)
		return false;
	while (!found && fgets(line, size, file)) {
		if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
			inside = from <= (uintptr_t)addr && (uintptr_t)addr < to;
		else
			found = inside && !strncmp(line, name, strlen(name));
	}
	fclose(file);
	return found;
}

long ksm_smaps(pid_t pid, const void *addr, const char *name)
{
	char line[512];

	if (!smaps_line(pid, addr, name, line, sizeof(line)))
		return KSM_NONE;
	return strtol(line + strlen(name) + 1, NULL, 10);
}

/* What smaps says behind "VmFlags:", with a blank before and behind each flag. */
bool ksm_vma_flags(pid_t pid, const void *addr, char *text, size_t size)
{
	char line[512];

	if (!smaps_line(pid, addr, "VmFlags:", line, sizeof(line)))
		return false;
	line[strcspn(line, "\n")] = '\0';
	return (size_t)snprintf(text, size, "%s", line + strlen("VmFlags:")) < size;
}

bool ksm_vma_is_mergeable(pid_t pid, const void *addr)
{
	char flags[256];

	return ksm_vma_flags(pid, addr, flags, sizeof(flags)) && strstr(flags, " mg ");
}
