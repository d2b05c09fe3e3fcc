// SPDX-License-Identifier: GPL-2.0-only
/*
 * The list of processes, for people and as JSON.
 */
#include <errno.h>
#include <stdlib.h>

#include "ksmstat.h"

static const char *or_dash(struct figure f, const char *text)
{
	return f.err ? "-" : text;
}

static const char *yes_or_no(struct figure f)
{
	return or_dash(f, f.value ? "yes" : "no");
}

static void show_one(const struct process *p)
{
	char comm[4 * COMM_SIZE + 1];

	text_escape(comm, sizeof(comm), p->comm, p->comm_len);
	printf("%7ld %10s %10s %12s %12s  %-4s %s\n", p->pid,
	       or_dash(p->saved, text_bytes(p->saved)), or_dash(p->net, text_bytes(p->net)),
	       or_dash(p->merged, text_count(p->merged)), or_dash(p->known, text_count(p->known)),
	       yes_or_no(p->any), comm);
}

static const char *plural(unsigned long nr)
{
	return nr == 1 ? "" : "es";
}

static void show_text(const struct process_list *list, size_t lines)
{
	if (list->nr)
		printf("%7s %10s %10s %12s %12s  %-4s %s\n", "PID", "SAVED", "NET", "MERGED",
		       "KNOWN", "ALL", "COMMAND");
	else
		printf("No process that could be read takes part in merging.\n");
	for (size_t i = 0; i < list->nr && i < lines; i++)
		show_one(&list->process[i]);
	if (list->nr > lines)
		printf("%zu more process%s; see -n\n", list->nr - lines, plural(list->nr - lines));
	if (list->denied)
		printf("%lu process%s could not be read; needs root\n", list->denied,
		       plural(list->denied));
	if (list->failed)
		printf("%lu process%s could not be read\n", list->failed, plural(list->failed));
}

static void show_json_one(const struct process *p)
{
	json_open(NULL, '{');
	json_figure("pid", figure_of(p->pid));
	json_bytes("command", p->comm, p->comm_len);
	json_figure("saved_bytes", p->saved);
	json_figure("net_bytes", p->net);
	json_figure("merged_pages", p->merged);
	json_figure("zero_pages", p->zero);
	json_figure("known_pages", p->known);
	json_truth("merge_any", p->any);
	json_truth("mergeable", p->mergeable);
	json_close('}');
}

static void show_json_list(const struct process_list *list, size_t lines)
{
	json_open(NULL, '{');
	json_open("processes", '[');
	for (size_t i = 0; i < list->nr && i < lines; i++)
		show_json_one(&list->process[i]);
	json_close(']');
	json_figure("processes_total", figure_of(list->nr));
	json_figure("not_permitted", figure_of(list->denied));
	json_figure("unreadable", figure_of(list->failed));
	json_close('}');
}

/**
 * show_processes - list processes by what they save
 * @lines: at most so many
 * @json: as JSON
 *
 * Return: an exit status.
 */
int show_processes(size_t lines, bool json)
{
	struct process_list list = { 0 };
	int err;

	if (!ksm_is_there())
		return EXIT_FAILED;
	err = processes_read(&list);
	if (err)
		complain("/proc: %s", reason(err));
	else if (!list.offered)
		complain("/proc: what KSM is to a process is %s", reason(-ENOENT));
	else if (json)
		show_json_list(&list, lines);
	else
		show_text(&list, lines);
	free(list.process);
	return err || !list.offered ? EXIT_FAILED : EXIT_OK;
}
