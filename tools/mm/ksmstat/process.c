// SPDX-License-Identifier: GPL-2.0-only
/*
 * What is known of each process. /proc/PID/ksm_stat tells all, to who owns the
 * process and to root; before Linux 6.4 ksm_merging_pages tells how much is merged.
 * Where they are out of reach, smaps_rollup may be in reach, which tells that and no
 * more.
 */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "ksmstat.h"

#define MAX_PATH	64

static int read_file(long pid, const char *name, char text[SOURCE_TEXT])
{
	char path[MAX_PATH];

	snprintf(path, sizeof(path), "/proc/%ld/%s", pid, name);
	return source_read(path, text, SOURCE_TEXT);
}

/* Kernel threads have no memory that could be merged. */
static bool is_kthread(long pid)
{
	char stat[SOURCE_TEXT];

	return !read_file(pid, "stat", stat) && stat_is_kthread(stat);
}

/* "yes" is 1, "no" is 0. */
static struct figure answer(const char *text, const char *name)
{
	const char *line = strstr(text, name);

	if (!line)
		return figure_unknown(-ENOENT);
	line += strlen(name);
	if (!strncmp(line, " yes", 4))
		return figure_of(1);
	return strncmp(line, " no", 3) ? figure_unknown(NOT_A_NUMBER) : figure_of(0);
}

/* No process has less than no pages. */
static struct figure pages_in(const char *text, const char *name)
{
	struct figure pages = source_line(text, name);

	return !pages.err && pages.value < 0 ? figure_unknown(NEGATIVE) : pages;
}

static void parse_ksm_stat(struct process *p, const char *text)
{
	struct figure zero;

	p->merged = pages_in(text, "ksm_merging_pages");
	p->zero = pages_in(text, "ksm_zero_pages");
	p->known = pages_in(text, "ksm_rmap_items");
	p->net = source_line(text, "ksm_process_profit");
	p->any = answer(text, "ksm_merge_any:");
	p->mergeable = answer(text, "ksm_mergeable:");
	zero = p->zero.err == -ENOENT ? figure_of(0) : p->zero;
	p->saved = figure_mul(figure_add(p->merged, zero), page_size());
}

static void know_nothing(struct process *p)
{
	p->merged = figure_unknown(NOT_MEASURED);
	p->zero = p->merged;
	p->known = p->merged;
	p->net = p->merged;
	p->saved = p->merged;
	p->any = p->merged;
	p->mergeable = p->merged;
}

/* Linux 5.19 to 6.3 have a file of its own for this, and do not count zero pages. */
static int read_merging(struct process *p)
{
	char text[SOURCE_TEXT];
	int err = read_file(p->pid, "ksm_merging_pages", text);

	if (err)
		return err;
	if (!*text)
		return -ESRCH;
	p->merged = figure_parse(text, false);
	p->saved = figure_mul(p->merged, page_size());
	return 0;
}

/* Zero pages that KSM placed are counted as merged here. */
static int read_smaps(struct process *p)
{
	char text[SOURCE_TEXT];
	int err = read_file(p->pid, "smaps_rollup", text);
	struct figure kib;

	if (err)
		return err;
	kib = pages_in(text, "KSM:");
	if (kib.err)
		return kib.err;
	p->saved = figure_mul(kib, figure_of(1024));
	return 0;
}

/* The best of the files that can be read. */
static int read_figures(struct process *p)
{
	char text[SOURCE_TEXT];
	int err = read_file(p->pid, "ksm_stat", text);

	if (!err && !*text)
		return -ESRCH;
	know_nothing(p);
	if (!err) {
		parse_ksm_stat(p, text);
		if (p->merged.err == -ENOENT)
			read_merging(p);
		return 0;
	}
	if (err == -ENOENT && !read_merging(p))
		return 0;
	return read_smaps(p) ? err : 0;
}

/* -ENOENT: the process is gone; -ESRCH: it has no memory, or KSM nothing to do with it. */
static int read_process(struct process *p)
{
	char text[SOURCE_TEXT];
	int err;

	if (is_kthread(p->pid))
		return -ESRCH;
	err = read_figures(p);
	if (err)
		return err;
	if (read_file(p->pid, "comm", text))
		snprintf(text, sizeof(text), "?");
	p->comm_len = strnlen(text, sizeof(p->comm));
	memcpy(p->comm, text, p->comm_len);
	return 0;
}

/* A number that is there and cannot be read is worth showing, too. */
static bool matters(struct figure f)
{
	return f.err ? f.err != -ENOENT && f.err != NOT_MEASURED : f.value != 0;
}

static bool takes_part(const struct process *p)
{
	return matters(p->saved) || matters(p->known) || matters(p->any) ||
	       matters(p->mergeable);
}

static int append(struct process_list *list, const struct process *p)
{
	struct process *bigger;

	if (list->nr == list->room) {
		list->room = list->room ? 2 * list->room : 64;
		bigger = reallocarray(list->process, list->room, sizeof(*bigger));
		if (!bigger)
			return -ENOMEM;
		list->process = bigger;
	}
	list->process[list->nr++] = *p;
	return 0;
}

static int add(struct process_list *list, long pid)
{
	struct process p = { .pid = pid };
	int err = read_process(&p);

	if (err == -EACCES || err == -EPERM)
		list->denied++;
	else if (err && err != -ENOENT && err != -ESRCH)
		list->failed++;
	list->offered |= err != -ENOENT && err != -ESRCH;
	return err || !takes_part(&p) ? 0 : append(list, &p);
}

/* What a process saves, as far as it is known. */
static long long worth(const struct process *p)
{
	return !p->net.err ? p->net.value : p->saved.err ? 0 : p->saved.value;
}

static int saves_more(const void *a, const void *b)
{
	const struct process *p = a, *q = b;

	if (worth(p) != worth(q))
		return worth(p) < worth(q) ? 1 : -1;
	return (p->pid > q->pid) - (p->pid < q->pid);
}

/**
 * processes_read - look through /proc
 * @list: where to; empty
 *
 * Return: 0 or a negative errno.
 */
int processes_read(struct process_list *list)
{
	DIR *proc = source_open_dir("/proc");
	struct dirent *entry;
	int err = 0;

	if (!proc)
		return -errno;
	while (!err && (entry = readdir(proc)))
		if (isdigit((unsigned char)entry->d_name[0]))
			err = add(list, strtol(entry->d_name, NULL, 10));
	closedir(proc);
	if (list->nr)
		qsort(list->process, list->nr, sizeof(*list->process), saves_more);
	return err;
}
